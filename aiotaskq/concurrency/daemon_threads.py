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
