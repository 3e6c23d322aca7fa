"""The history in memory: a dict of periods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from aiotaskq.backends.history import History
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.core.history import Key, Period, Roll, added_up, widened


class MemoryHistory(History):
    """The periods of this process."""

    def __init__(self, lock: BriefLock) -> None:
        self._lock = lock
        self._periods: dict[Key, Period] = {}
        self._by_age: dict[int, list[Key]] = {}  # a heap of keys for each length of periods

    async def add(self, periods: Sequence[Period]) -> None:
        with self._lock:
            self._add(periods)

    def _add(self, periods: Iterable[Period]) -> None:
        for period in periods:
            there = self._periods.get(period.key)
            if there is None:
                heappush(self._by_age.setdefault(period.key[1], []), period.key)
            self._periods[period.key] = period if there is None else added_up([there, period])[0]

    async def read(self, since: int, until: int, *, queue: str | None = None, type: str | None = None) -> list[Period]:
        with self._lock:
            found = [period for period in self._periods.values() if since <= period.at < until]
        wanted = [p for p in found if queue in (None, p.queue) and type in (None, p.type)]
        return sorted(wanted, key=lambda period: period.key)

    async def roll(self, roll: Roll, limit: int) -> int:
        with self._lock:
            keys = self._by_age.get(roll.seconds, [])
            taken: list[Period] = []
            while keys and len(taken) < limit and keys[0][0] < roll.before:
                taken.append(self._periods.pop(heappop(keys)))
            if roll.into is not None:
                self._add(added_up([widened(period, roll.into) for period in taken]))
        return len(taken)
