"""Runs ``def`` handlers outside of the event loop: in a thread or in another process."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Future
from typing import TYPE_CHECKING, Any

from aiotaskq.concurrency.daemon_threads import DaemonThreads
from aiotaskq.runtime.handler import Handler

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

# Raised in a thread or a child process, these end neither the program nor the loop: the task fails.
EXITS = (StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit)
CLOSE_TIMEOUT = 5.0  # seconds that ``close`` waits for child processes


class Executors:
    """The threads and child processes of one worker, created when the first handler needs one."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._threads: DaemonThreads | None = None
        self._processes: ProcessPoolExecutor | None = None

    def resize(self, concurrency: int) -> None:
        """Have so many threads at most from now on; those that are there stay, and so does the pool of processes."""
        self._concurrency = concurrency
        if self._threads is not None:
            self._threads.resize(concurrency)

    def start(self, handler: Handler, params: Mapping[str, Any]) -> Future[Any]:
        """Start a ``def`` handler in a thread (with the caller's context) or a process; return its future."""
        if handler.executor == "process":
            if self._processes is None:
                import multiprocessing  # on use, as it takes long
                from concurrent.futures import ProcessPoolExecutor

                # Spawn: a fork of a process with threads may hang.
                spawn = multiprocessing.get_context("spawn")
                # A pool starts all of its processes at once: no more than there are processors.
                size = min(self._concurrency, os.cpu_count() or 1)
                self._processes = ProcessPoolExecutor(size, mp_context=spawn, initializer=_ignore_sigint)
            # By name: a decorator has replaced the function in its module, so it could not be pickled.
            location = (handler.function.__module__, handler.function.__qualname__)
            try:
                return self._processes.submit(_call_by_name, *location, dict(params))
            except BrokenExecutor:
                self.renew_processes()
                raise
        if self._threads is None:
            # Not a ThreadPoolExecutor: a handler that never returns must not keep the process from ending.
            self._threads = DaemonThreads(self._concurrency, "aiotaskq-handler")
        return self._threads.submit(contextvars.copy_context().run, _call, handler.function, params)

    def renew_processes(self) -> None:
        """Drop a pool in which a process died: it accepts no more work. The next handler gets a new one."""
        self._processes = None

    async def close(self, wait: bool) -> None:
        """End idle threads and processes; with ``wait``, until the processes have ended, at most 5 s."""
        threads, processes, self._threads, self._processes = self._threads, self._processes, None, None
        if processes is not None:
            # In a daemon thread: the interpreter waits for the threads of the loop's default executor.
            shutdown = DaemonThreads(1, "aiotaskq-shutdown").submit(processes.shutdown, wait, cancel_futures=True)
            await asyncio.wait({asyncio.wrap_future(shutdown)}, timeout=CLOSE_TIMEOUT)
        if threads is not None:
            threads.shutdown(wait=False)


def _call(function: Callable[..., Any], params: Mapping[str, Any]) -> Any:
    try:
        return function(**params)
    except EXITS as error:
        raise RuntimeError(f"the handler raised {type(error).__name__}: {error}") from None


def _call_by_name(module: str, qualname: str, params: dict[str, Any]) -> Any:
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return _call(inspect.unwrap(found), params)


def _ignore_sigint() -> None:
    # A terminal sends Ctrl-C to child processes as well; the worker alone decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
