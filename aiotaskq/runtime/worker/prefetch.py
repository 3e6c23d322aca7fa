"""Computes how many tasks to claim beyond the free slots, from how long tasks have taken here. It claims nothing.

A tick is one microsecond of ``Clock.ticks``, which measures durations, since the time of day may be set.
"""

from __future__ import annotations

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
