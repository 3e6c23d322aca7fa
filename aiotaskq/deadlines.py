"""Timeouts of what runs, in one heap with one timer: a timer for each task would cost as much as the task."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from aiotaskq.clock import Clock
from aiotaskq.task import SECOND


class Deadline:
    """One timeout that was set; ``cancel`` takes it back."""

    __slots__ = ("_owner", "ring")

    def __init__(self, owner: Deadlines, ring: Callable[[], object]) -> None:
        self._owner = owner
        self.ring: Callable[[], object] | None = ring

    def cancel(self) -> None:
        """Take it back; idempotent."""
        if self.ring is not None:
            self.ring = None
            self._owner.live -= 1


class Deadlines:
    """Calls back at deadlines, on the running loop. Most are taken back long before: those leave the heap lazily."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Deadline]] = []
        self._ties = count()
        self._due = 0  # ticks for which the timer is set, 0 for none
        self._stop: Callable[[], object] = lambda: None
        self.live = 0
        """How many are set."""

    def add(self, seconds: float, ring: Callable[[], object]) -> Deadline:
        """Call ``ring`` after so many seconds, unless it is cancelled."""
        deadline = Deadline(self, ring)
        due = self._clock.ticks() + int(seconds * SECOND)
        heappush(self._heap, (due, next(self._ties), deadline))
        self.live += 1
        if not self._due or due < self._due:
            self._set(due)
        elif len(self._heap) > 1000 + 2 * self.live:
            self._heap = [each for each in self._heap if each[2].ring is not None]
            heapify(self._heap)
        return deadline

    def close(self) -> None:
        """Ring no more."""
        self._stop()
        self._heap.clear()
        self._due = self.live = 0

    def _set(self, due: int) -> None:
        self._stop()
        self._due = due
        self._stop = self._clock.call_later(max(0.0, (due - self._clock.ticks()) / SECOND), self._ring)

    def _ring(self) -> None:
        self._due = 0
        while self._heap and (self._heap[0][2].ring is None or self._heap[0][0] <= self._clock.ticks()):
            deadline = heappop(self._heap)[2]
            if (ring := deadline.ring) is not None:
                deadline.cancel()
                ring()
        if self._heap and not self._due:
            self._set(self._heap[0][0])
