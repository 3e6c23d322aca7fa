"""How long tasks take here, and so how many may be claimed before there is a slot for them."""

from __future__ import annotations

HORIZON = 20_000  # ticks: no task should be kept from other processes for longer than this by being claimed early
MOST = 500  # claimed ahead, however quick they are: as many as one transaction writes
WEIGHT = 0.1  # of the newest in the mean: ten quick tasks do not hide that one was slow


class Pace:
    """A moving mean. Batches must not be as small as concurrency where tasks are quick, nor make others wait for what
    is slow: at 40 µs a task 500 are claimed ahead, at 20 ms one, and above that none."""

    def __init__(self) -> None:
        self._mean = 2.0 * HORIZON  # nothing is claimed ahead until they are known to be quick

    def took(self, ticks: int) -> None:
        """Say how long a task has run, in ticks (microseconds)."""
        self._mean += (ticks - self._mean) * WEIGHT

    def stalled(self) -> None:
        """Say that tasks which run now have taken far longer than those before."""
        self._mean = max(self._mean, 2.0 * HORIZON)

    def lasts(self, tasks: int) -> float:
        """For how many ticks so many tasks would run, one after the other."""
        return tasks * self._mean

    @property
    def ahead(self) -> int:
        """How many to claim beyond the free slots."""
        return min(MOST, int(HORIZON / max(self._mean, 1.0)))
