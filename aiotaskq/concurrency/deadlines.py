"""Timeouts of running tasks, with one timer for all of them.

It exists for its speed: with a timer of the loop for each task, a task with a timeout takes over 5 % longer to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.task import SECOND

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls a function at deadlines, on the running loop.

    Most items have one of a few timeouts. Those of the same timeout are due in the order in which they come, so that
    none has to be compared with others. A timer that is set rings although its deadline was cancelled.
    """

    def __init__(self, clock: Clock, expired: Callable[[T], object]) -> None:
        """``expired`` is called with each item whose deadline has passed."""
        self._clock = clock
        self._expired = expired
        self._lines: dict[float, dict[T, int]] = {}  # the ticks at which items are due, by timeout
        self._most = 100  # lines, after which the empty ones are removed
        self._due = 0  # ticks for which the timer is set, 0 if it is not
        self._stop: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def add(self, seconds: float, item: T, since: int) -> None:
        """Set a deadline for an item, which has none: so many seconds after ``since``, in ticks of the clock."""
        due = since + int(seconds * SECOND)
        line = self._lines.get(seconds)
        if line is None:
            line = self._line(seconds)
        line[item] = due
        if not self._due or due < self._due:
            self._set_timer(due)

    def cancel(self, seconds: float, item: T) -> None:
        """Cancel the deadline of an item; idempotent."""
        self._lines.get(seconds, {}).pop(item, None)

    def close(self) -> None:
        """Cancel all deadlines."""
        self._stop()
        self._lines.clear()
        self._due = 0

    def _line(self, seconds: float) -> dict[T, int]:
        if len(self._lines) >= self._most:
            self._lines = {timeout: line for timeout, line in self._lines.items() if line}
            self._most = 100 + 2 * len(self._lines)
        return self._lines.setdefault(seconds, {})

    def _set_timer(self, due: int) -> None:
        self._stop()
        self._due = due
        self._stop = self._clock.call_later(max(0.0, (due - self._clock.ticks()) / SECOND), self._look)

    def _look(self) -> None:
        self._due = 0
        passed: list[tuple[int, float, T]] = []
        for seconds, line in self._lines.items():
            for item, due in line.items():
                if due > self._clock.ticks():
                    break
                passed.append((due, seconds, item))
        for _, seconds, item in sorted(passed, key=lambda entry: entry[0]):
            if self._lines.get(seconds, {}).pop(item, None) is not None:  # it may be cancelled by then
                self._expired(item)
        firsts = [next(iter(line.values())) for line in self._lines.values() if line]
        if firsts and not self._due:
            self._set_timer(min(firsts))
