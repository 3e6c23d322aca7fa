"""Timeouts of what runs, in one heap with one timer: a timer for each task would cost as much as the task."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.task import SECOND

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls back at deadlines, on the running loop. Most are taken back long before: those leave the heap lazily."""

    def __init__(self, clock: Clock, ring: Callable[[T], object]) -> None:
        """``ring`` is called with what has passed its deadline."""
        self._clock = clock
        self._ring = ring
        self._heap: list[tuple[int, int]] = []  # ticks and number
        self._set: dict[int, T] = {}  # by number
        self._numbers = count(1)
        self._due = 0  # ticks for which the timer is set, 0 for none
        self._stop: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._set)

    def add(self, seconds: float, what: T) -> int:
        """Ring for it after so many seconds, unless ``cancel`` is called with the number that this returns."""
        due = self._clock.ticks() + int(seconds * SECOND)
        number = next(self._numbers)
        self._set[number] = what
        heappush(self._heap, (due, number))
        if not self._due or due < self._due:
            self._set_timer(due)
        elif len(self._heap) > 1000 + 2 * len(self._set):
            self._heap = [entry for entry in self._heap if entry[1] in self._set]
            heapify(self._heap)
        return number

    def cancel(self, number: int) -> None:
        """Take a deadline back; idempotent."""
        self._set.pop(number, None)

    def close(self) -> None:
        """Ring no more."""
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
            if (what := self._set.pop(heappop(self._heap)[1], None)) is not None:
                self._ring(what)
        if self._heap and not self._due:
            self._set_timer(self._heap[0][0])
