"""An executor whose threads do not keep a process from ending, and can still be used while it ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class DaemonThreads(Executor):
    """An executor of up to ``size`` daemon threads, made on demand; a call that never returns ends with the process."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._shrinking = threading.Lock()

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
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
            name = f"{self._name}-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def resize(self, size: int) -> None:
        """Have no more than ``size`` threads: idle ones end now, and busy ones when their call has ended."""
        self._size = size
        for _ in range(len(self._threads) - size):
            if self._idle.acquire(blocking=False):
                self._work.put(None)

    def _serve(self) -> None:
        while (run := self._work.get()) is not None:
            run()
            del run  # an idle thread keeps no arguments alive
            if len(self._threads) > self._size and self._left():
                return
            self._idle.release()
        self._left(always=True)

    def _left(self, always: bool = False) -> bool:
        """Take the calling thread off the list if there are too many; return whether it is to end."""
        with self._shrinking:
            leaves = always or len(self._threads) > self._size
            if leaves:
                self._threads.remove(threading.current_thread())
            return leaves

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads after all submitted calls; with ``wait``, return when they have ended."""
        threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
        for thread in threads if wait else ():
            thread.join()
