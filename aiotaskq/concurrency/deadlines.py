"""Timeouts of running tasks, in one heap with one timer.

It exists for its speed: with a timer of the loop for each task, a task with a timeout takes over 5 % longer to run.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.task import SECOND

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls a function at deadlines, on the running loop. A cancelled deadline stays in the heap until its time."""

    def __init__(self, clock: Clock, expired: Callable[[T], object]) -> None:
        """``expired`` is called with each item whose deadline has passed."""
        self._clock = clock
        self._expired = expired
        self._heap: list[tuple[int, int]] = []  # ticks and number
        self._set: dict[int, T] = {}  # by number
        self._numbers = count(1)
        self._due = 0  # ticks for which the timer is set, 0 if it is not
        self._stop: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._set)

    def add(self, seconds: float, item: T) -> int:
        """Set a deadline for an item, in so many seconds; return its number, for ``cancel``."""
        due = self._clock.ticks() + int(seconds * SECOND)
        number = next(self._numbers)
        self._set[number] = item
        heappush(self._heap, (due, number))
        if not self._due or due < self._due:
            self._set_timer(due)
        elif len(self._heap) > 1000 + 2 * len(self._set):
            self._heap = [entry for entry in self._heap if entry[1] in self._set]
            heapify(self._heap)
        return number

    def cancel(self, number: int) -> None:
        """Cancel a deadline; idempotent."""
        self._set.pop(number, None)

    def close(self) -> None:
        """Cancel all deadlines."""
        self._stop()
        self._heap.clear()
        self._set.clear()
        self._due = 0

    def _set_timer(self, due: int) -> None:
        self._stop()
        self._due = due
        self._stop = self._clock.call_later(max(0.0, (due - self._clock.ticks()) / SECOND), self._look)

    def _look(self) -> None:
        self._due = 0
        while self._heap and (self._heap[0][1] not in self._set or self._heap[0][0] <= self._clock.ticks()):
            if (item := self._set.pop(heappop(self._heap)[1], None)) is not None:
                self._expired(item)
        if self._heap and not self._due:
            self._set_timer(self._heap[0][0])
