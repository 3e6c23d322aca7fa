"""The history in memory: a dict of periods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest

from aiotaskq.backends.history import History
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.core.history import Key, Period, Roll, added_up, widened


class MemoryHistory(History):
    """The periods of this process."""

    def __init__(self, lock: BriefLock) -> None:
        self._lock = lock
        self._periods: dict[Key, Period] = {}
        self._oldest: dict[int, int] = {}  # by the length of periods: no period begins earlier

    async def add(self, periods: Sequence[Period]) -> None:
        with self._lock:
            self._add(periods)

    def _add(self, periods: Iterable[Period]) -> None:
        for period in added_up(periods):
            at, seconds = period.key[:2]
            self._oldest[seconds] = min(at, self._oldest.get(seconds, at))
            there = self._periods.get(period.key)
            self._periods[period.key] = period if there is None else added_up([there, period])[0]

    async def read(self, since: int, until: int, *, queue: str | None = None, type: str | None = None) -> list[Period]:
        with self._lock:
            found = [period for period in self._periods.values() if since <= period.at < until]
        wanted = [p for p in found if queue in (None, p.queue) and type in (None, p.type)]
        return sorted(wanted, key=lambda period: period.key)

    async def roll(self, roll: Roll, limit: int) -> int:
        with self._lock:
            if self._oldest.get(roll.seconds, roll.before) >= roll.before:
                return 0
            old = (key for key in self._periods if key[1] == roll.seconds and key[0] < roll.before)
            taken = [self._periods.pop(key) for key in nsmallest(limit, old)]
            left = (key[0] for key in self._periods if key[1] == roll.seconds)
            self._oldest[roll.seconds] = min(left, default=roll.before)
            if roll.into is not None:
                self._add([widened(period, roll.into) for period in taken])
        return len(taken)
