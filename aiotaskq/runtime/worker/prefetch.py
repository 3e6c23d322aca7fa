"""Computes how many tasks to claim beyond the free slots, from how long tasks have taken here; buffers claimed ones.

A tick is one microsecond of ``Clock.ticks``, which measures durations, since the time of day may be set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from aiotaskq.core.task import Task


class Buffer(deque[Task]):
    """Tasks in the order in which they were claimed."""

    moved = 0
    """The clock's ticks when a task last came into the empty buffer, or a slot became free."""

    def take(self, which: Callable[[Task], bool] = lambda _task: True) -> list[Task]:
        """Take out the tasks for which ``which`` is true."""
        taken = [task for task in self if which(task)]
        if taken:
            kept = [task for task in self if not which(task)]
            self.clear()
            self.extend(kept)
        return taken

    def take_last(self, keep: int) -> list[Task]:
        """Take out all but the first ``keep`` tasks."""
        return [self.pop() for _ in range(len(self) - keep)][::-1]

    def waited(self, ticks: int) -> int:
        """Return for how many ticks tasks have waited while no slot became free."""
        return ticks - self.moved if self else 0


HORIZON = 20_000  # ticks: the longest that a task should wait in a worker's buffer
MOST = 500  # claimed ahead at most: as many as one transaction writes
WEIGHT = 0.1  # of the newest duration in the mean: ten quick tasks do not hide a slow one


class Prefetch:
    """A moving mean of run times, and the number of tasks that follows from it.

    Quick tasks need batches larger than the concurrency; slow ones must not keep others from free slots elsewhere.
    """

    def __init__(self) -> None:
        self._mean = 2.0 * HORIZON  # nothing is claimed ahead until tasks are known to be quick

    def took(self, ticks: int) -> None:
        """Record how long a task has run, in ticks (microseconds)."""
        self._mean += (ticks - self._mean) * WEIGHT

    def stalled(self) -> None:
        """Record that the tasks that run now take far longer than earlier ones."""
        self._mean = max(self._mean, 2.0 * HORIZON)

    def duration(self, tasks: int) -> float:
        """Return the ticks that so many tasks take, one after the other."""
        return tasks * self._mean

    @property
    def ahead(self) -> int:
        """How many tasks to claim beyond the free slots."""
        return min(MOST, int(HORIZON / max(self._mean, 1.0)))
