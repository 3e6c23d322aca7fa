"""Wakes coroutines that wait for a change in a store: for ready tasks, for room, or for the end of one task."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from aiotaskq.backends.base import Backend
from aiotaskq.backends.listeners import ENDED, GATES, READY
from aiotaskq.concurrency.wakeup import LoopWakeup, Wakeup


class Waiters:
    """Wakes waiting coroutines in their own loops. A wakeup is only a hint: the coroutine looks itself, and polls."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._listeners = backend.listeners
        self._ends: dict[str, tuple[Wakeup, ...]] = {}  # by task id, so that a hint finds its waiters directly
        self._stop: Callable[[], None] | None = None
        self._lock = threading.Lock()  # threads and event loops may share a queue in memory

    @contextlib.contextmanager
    def woken_by(self, *kinds: str) -> Iterator[Wakeup]:
        """Yield a wakeup that hints of these kinds set."""
        wakeup = LoopWakeup()
        stop = self._listeners.listen(lambda _kind, _names: wakeup(), *kinds)
        try:
            yield wakeup
        finally:
            stop()

    @contextlib.contextmanager
    def woken_by_tasks(self) -> Iterator[Wakeup]:
        """Yield a wakeup that tasks set which can be claimed, or for which the time at a gate has changed."""
        arrivals = self._backend.arrivals()
        if arrivals is None:
            with self.woken_by(READY, GATES) as wakeup:
                yield wakeup
        else:
            with contextlib.closing(arrivals), self._calling(arrivals):
                yield arrivals

    @contextlib.contextmanager
    def _calling(self, wakeup: Wakeup) -> Iterator[None]:
        stop = self._listeners.listen(lambda _kind, _names: wakeup(), GATES)
        try:
            yield
        finally:
            stop()

    @contextlib.contextmanager
    def woken_at_end(self, task_id: str) -> Iterator[Wakeup]:
        """Yield a wakeup that the end of one task sets."""
        wakeup = LoopWakeup()
        with self._lock:
            self._ends[task_id] = (*self._ends.get(task_id, ()), wakeup)
            if self._stop is None:
                self._stop = self._listeners.listen(self._hear_end, ENDED)
        try:
            yield wakeup
        finally:
            with self._lock:
                left = tuple(other for other in self._ends.pop(task_id) if other is not wakeup)
                if left:
                    self._ends[task_id] = left
                if not self._ends and self._stop is not None:
                    self._stop()
                    self._stop = None

    def _hear_end(self, _kind: str, names: Sequence[str]) -> None:
        for task_id in names or list(self._ends):
            for wakeup in self._ends.get(task_id, ()):
                wakeup()
