"""Public values in memory: dicts, with the keys of each second of expiry together, so that no sweep is long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from aiotaskq.backends.base import Held, Values
from aiotaskq.backends.memory.lock import BriefLock

SECOND = 1_000_000_000  # nanoseconds
NEVER = 2**80  # nanoseconds: later than any instant
LOOKS = 1_000  # keys looked at in one go, so that the loop is not held


class _Alone(BriefLock):
    """A lock that tells who does without it whether anybody had it meanwhile: ``turns`` is odd while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0

    def __enter__(self) -> None:
        super().__enter__()
        self.turns += 1

    def __exit__(self, *error: object) -> None:
        self.turns += 1
        super().__exit__()


class MemoryValues(Values):
    """Values of this process, kept as the Python objects they are. Thread-safe.

    A key is listed under a second in which it expires, or an earlier one: what is set again with a later end stays
    where it is, and moves on when the sweep comes by. So the usual ``keep`` is one write into one dict. The value says
    under which second its key is listed; a key that a race of threads has left under another one too is passed over.
    """

    def __init__(self) -> None:
        self._alone = _Alone()
        self._values: dict[str, Held] = {}
        self.held = self._values
        self._expiry: dict[int, set[str]] = {}  # by the second's first instant: each key with an end is in one of them
        self._seconds: list[int] = []  # heap of the seconds in `_expiry`

    def keep(self, key: str, value: Any, until: int) -> bool:
        # Without the lock, which takes longer than all the rest: whoever changes more than a value has it, and is seen.
        alone, values = self._alone, self._values
        turns = alone.turns
        try:
            listed = values[key][2]
        except KeyError:
            return False
        if until < listed or turns & 1:
            return False
        values[key] = (value, until, listed)
        return alone.turns == turns

    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        with self._alone:
            for key, value, expires_at in items:
                until = NEVER if expires_at is None else expires_at * 1000
                listed = self._values[key][2] if key in self._values else NEVER
                lost = listed < NEVER and key not in self._expiry.get(listed, ())  # `keep` was a moment too late
                if until < listed or lost:
                    self._unlist(key, listed)
                    listed = self._list(key, until)
                self._values[key] = (value, until, listed)

    def _list(self, key: str, until: int) -> int:
        """Put the key to those of its second; return that."""
        if until >= NEVER:
            return NEVER
        second = until - until % SECOND
        if second not in self._expiry:
            self._expiry[second] = set()
            heappush(self._seconds, second)
        self._expiry[second].add(key)
        return second

    def _unlist(self, key: str, second: int) -> None:
        if second in self._expiry:
            self._expiry[second].discard(key)

    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        entries = [self._values.get(key) for key in keys]
        return [(e[0],) if e is not None and e[1] > now * 1000 else None for e in entries]

    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        live = []
        with self._alone:
            for key in keys:
                _, until, second = self._values.pop(key, (None, 0, NEVER))
                self._unlist(key, second)
                live.append(until > now * 1000)
        return live

    async def keys(self, now: int) -> list[str]:
        with self._alone:
            live = [key for key, (_, until, _) in self._values.items() if until > now * 1000]
        try:
            return sorted(live)
        except TypeError:  # a key in memory may be any hashable value
            return sorted(live, key=str)

    async def count(self, now: int) -> int:
        with self._alone:
            due = [(second, keys) for second, keys in self._expiry.items() if second <= now * 1000]
            dead = sum(self._is_over(key, second, now * 1000) for second, keys in due for key in keys)
            return len(self._values) - dead

    def _is_over(self, key: str, second: int, now: int) -> bool:
        held = self._values.get(key)
        return held is not None and held[2] == second and held[1] <= now

    async def expire(self, now: int, limit: int) -> int:
        removed = 0
        while True:
            with self._alone:
                swept, more = self._sweep(now * 1000, limit - removed)
            removed += swept
            if removed == limit or not more:
                return removed
            await asyncio.sleep(0)

    def _sweep(self, now: int, limit: int) -> tuple[int, bool]:
        """Look at some of the keys whose second has come; return how many were removed, and whether others are left."""
        removed, looks = 0, LOOKS
        while self._seconds and (second := self._seconds[0]) <= now:
            keys = self._expiry[second]
            if second + SECOND > now:  # it is not over; who lives on in it is in the past soon, and so are the others
                for key in list(islice(keys, 10 * looks)):
                    if removed < limit and self._is_over(key, second, now):
                        keys.discard(key)
                        del self._values[key]
                        removed += 1
                if keys:
                    return removed, False
            while keys:
                if removed == limit or not looks:
                    return removed, True
                looks -= 1
                key = keys.pop()
                if self._is_over(key, second, now):
                    del self._values[key]
                    removed += 1
                elif (held := self._values.get(key)) is not None and held[2] == second:
                    self._values[key] = (held[0], held[1], self._list(key, held[1]))
            del self._expiry[heappop(self._seconds)]
        return removed, False

    async def clear(self) -> None:
        with self._alone:
            self._values.clear()
            self._expiry, self._seconds = {}, []
