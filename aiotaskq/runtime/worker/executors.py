"""Runs ``def`` handlers outside of the event loop: in a thread, in another process or in another interpreter."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from aiotaskq.runtime.current import apart, batch, current
from aiotaskq.runtime.handler import Handler

# Raised in a thread or a child process, these end neither the program nor the loop: the task fails.
EXITS = (StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit)
CLOSE_TIMEOUT = 5.0  # seconds that ``close`` waits for child processes


class Executors:
    """The threads, child processes and interpreters of one worker, created when the first handler needs one."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        """How many threads there may be."""
        self._threads: DaemonThreads | None = None
        self._pools: dict[str, Executor] = {}  # by the kind of the handler
        self.threads: dict[str, int] = {}
        """The identifiers of the threads in which handlers run, by task id."""

    def resize(self, concurrency: int) -> None:
        """Have so many threads, and pools of the size that follows. What runs goes on, in the former pools."""
        before, self.concurrency = self.pool_size, concurrency
        if self._threads is not None:
            self._threads.resize(concurrency)
        if self.pool_size != before:
            for pool in self._pools.values():
                pool.shutdown(wait=False)
            self._pools = {}

    @property
    def pids(self) -> tuple[int, ...]:
        """The child processes for handlers."""
        pool: Any = self._pools.get("process")
        return () if pool is None else tuple(pool._processes or ())

    @property
    def pool_size(self) -> int:
        """How many processes or interpreters there may be: a pool starts all at once, so not more than processors."""
        return min(self.concurrency, os.cpu_count() or 1)

    def start(self, handler: Handler, params: Mapping[str, Any]) -> Future[Any]:
        """Start a ``def`` handler; return its future. One in a thread has the context of the caller."""
        if handler.executor == "interpreter":
            return self._in_interpreter(handler, params)
        if handler.executor == "process":
            if (processes := self._pools.get("process")) is None:
                import multiprocessing  # on use, as it takes long
                from concurrent.futures import ProcessPoolExecutor

                # Spawn: a fork of a process with threads may hang.
                spawn = multiprocessing.get_context("spawn")
                processes = ProcessPoolExecutor(self.pool_size, mp_context=spawn, initializer=_begin_child)
                self._pools["process"] = processes
            # By name: a decorator has replaced the function in its module, so it could not be pickled.
            location = (handler.function.__module__, handler.function.__qualname__)
            try:
                return processes.submit(_call_by_name, *location, dict(params))
            except BrokenExecutor:
                self.renew_processes()
                raise
        if self._threads is None:
            # Not a ThreadPoolExecutor: a handler that never returns must not keep the process from ending.
            self._threads = DaemonThreads(self.concurrency, "aiotaskq-handler")
        return self._threads.submit(contextvars.copy_context().run, self._call_here, handler.function, params)

    def _call_here(self, function: Callable[..., Any], params: Mapping[str, Any]) -> Any:
        known = batch.get() or (current.get(),)
        ids = [context.task.task_id for context in known if context is not None]
        here = threading.get_ident()
        self.threads.update(dict.fromkeys(ids, here))
        try:
            return _call(function, params)
        finally:
            for task_id in ids:
                if self.threads.get(task_id) == here:  # else the task runs again, and this run was given up
                    del self.threads[task_id]

    def _in_interpreter(self, handler: Handler, params: Mapping[str, Any]) -> Future[Any]:
        if (interpreters := self._pools.get("interpreter")) is None:
            from concurrent.futures import InterpreterPoolExecutor  # type: ignore[attr-defined, unused-ignore]  # 3.14

            # A new interpreter would look for modules where the program did at its start. By text, since nothing of
            # aiotaskq can be loaded there.
            paths = f"import sys; sys.path[:] = {sys.path!r}"
            interpreters = InterpreterPoolExecutor(self.pool_size, "aiotaskq-interpreter", exec, (paths,))
            self._pools["interpreter"] = interpreters
        return _Tamed(interpreters.submit(handler.function, **params))

    def renew_processes(self) -> None:
        """Drop a pool in which a process died: it accepts no more work. The next handler gets a new one."""
        self._pools.pop("process", None)

    async def close(self, wait: bool) -> None:
        """End idle threads, processes and interpreters; with ``wait``, until the latter two have ended, at most 5 s."""
        threads, pools = self._threads, list(self._pools.values())
        self._threads, self._pools = None, {}
        if pools:
            # In daemon threads: the interpreter waits for the threads of the loop's default executor.
            ending = DaemonThreads(len(pools), "aiotaskq-shutdown")
            shutdowns = [ending.submit(each.shutdown, wait, cancel_futures=True) for each in pools]
            await asyncio.wait({*map(asyncio.wrap_future, shutdowns)}, timeout=CLOSE_TIMEOUT)
        if threads is not None:
            threads.shutdown(wait=False)


class _Tamed(Future[Any]):
    """The future of a call in another interpreter; an exit that was raised there fails the task alone."""

    def __init__(self, work: Future[Any]) -> None:
        super().__init__()
        self._work = work
        work.add_done_callback(self._ended)

    def cancel(self) -> bool:
        """Take the call back, if it has not begun; return whether that was so."""
        return self._work.cancel() and super().cancel()

    def _ended(self, work: Future[Any]) -> None:
        if work.cancelled():
            super().cancel()
        elif (error := work.exception()) is None:
            self.set_result(work.result())
        elif isinstance(error, EXITS):
            self.set_exception(RuntimeError(f"the handler raised {type(error).__name__}: {error}"))
        else:
            self.set_exception(error)


def _call(function: Callable[..., Any], params: Mapping[str, Any]) -> Any:
    try:
        return function(**params)
    except EXITS as error:
        raise RuntimeError(f"the handler raised {type(error).__name__}: {error}") from None


CALLER = _call.__code__
"""What calls a handler in a thread, by which its frames are told from those of the thread."""


def _call_by_name(module: str, qualname: str, params: dict[str, Any]) -> Any:
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    apart.set(True)
    return _call(inspect.unwrap(found), params)


def _begin_child() -> None:
    # A terminal sends Ctrl-C to child processes as well; the worker alone decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="aiotaskq-parent", daemon=True).start()


def _end_with_parent() -> None:
    # The pool's children hold both ends of its pipes, so they do not notice that a worker was killed.
    import multiprocessing  # it is loaded in a child

    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


class DaemonThreads(Executor):
    """An executor of up to ``size`` daemon threads, made on demand; a call that never returns ends with the process."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the fields below
        self._threads: list[threading.Thread] = []
        self._made = 0
        self._open_calls = 0  # that have not ended

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._work.put(run)
        with self._lock:
            self._open_calls += 1
            if self._open_calls > len(self._threads) < self._size:
                self._made += 1
                thread = threading.Thread(target=self._serve, name=f"{self._name}-{self._made}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def resize(self, size: int) -> None:
        """Have no more than ``size`` threads: idle ones end now, and busy ones when their call has ended."""
        with self._lock:
            self._size = size
            for _ in range(min(len(self._threads) - size, len(self._threads) - self._open_calls)):
                self._work.put(_look)

    def _serve(self) -> None:
        ended = 0
        while True:
            with self._lock:
                self._open_calls -= ended
                if len(self._threads) > self._size:  # others are left for what is queued
                    self._threads.remove(threading.current_thread())
                    return
            run = self._work.get()
            if run is None:
                return
            run()
            ended = int(run is not _look)
            del run  # an idle thread keeps no arguments alive

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after all submitted calls; with ``wait``, return when they have ended."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
        for thread in threads if wait else ():
            thread.join()


def _look() -> None:
    """Let an idle thread look whether there are too many."""
