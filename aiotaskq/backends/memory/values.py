"""Public values in memory: a dict, and the keys of each second of expiry together, so that a sweep is short."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from aiotaskq.backends.base import PlainValues
from aiotaskq.core.task import SECOND
from aiotaskq.core.validation import INT64

NEVER = INT64  # microseconds: later than any instant
CHUNK = 1_000  # keys looked at by a sweep before the event loop runs other coroutines

Entry = tuple[Any, int, int]
"""A value, when it expires, and the second under which its key is listed, both in microseconds."""


class MemoryValues(PlainValues):
    """Values of this process, kept as the Python objects they are. Thread-safe.

    A key is listed under the second in which its value expires, or under an earlier one: a value that is set again with
    a later end stays where it is listed, and the sweep of that second moves it on. So to set a value again is one write
    into one dict.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._values: dict[str, Entry] = {}
        self._listed: dict[int, set[str]] = {}  # keys by the first instant of a second
        self._seconds: list[int] = []  # a heap of the seconds in `_listed`

    def set(self, key: str, value: Any, expires_at: int) -> None:
        values = self._values
        with self._lock:
            second = values[key][2] if key in values else NEVER
            if expires_at < second:
                self._unlist(key, second)
                second = self._list(key, expires_at)
            values[key] = (value, expires_at, second)

    def read(self, key: str, now: int) -> Any:
        entry = self._values.get(key)
        return None if entry is None or entry[1] <= now else entry[0]

    def _list(self, key: str, expires_at: int) -> int:
        """List a key under its second, and return that."""
        if expires_at >= NEVER:
            return NEVER
        second = expires_at - expires_at % SECOND
        if second not in self._listed:
            self._listed[second] = set()
            heappush(self._seconds, second)
        self._listed[second].add(key)
        return second

    def _unlist(self, key: str, second: int) -> None:
        if second in self._listed:
            self._listed[second].discard(key)

    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        with self._lock:
            for key, value, expires_at in items:
                self.set(key, value, NEVER if expires_at is None else expires_at)

    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        entries = [self._values.get(key) for key in keys]
        return [None if entry is None or entry[1] <= now else (entry[0],) for entry in entries]

    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        live = []
        with self._lock:
            for key in keys:
                _, expires_at, second = self._values.pop(key, (None, 0, NEVER))
                self._unlist(key, second)
                live.append(expires_at > now)
        return live

    async def keys(self, now: int) -> list[str]:
        with self._lock:
            live = [key for key, (_, expires_at, _) in self._values.items() if expires_at > now]
        try:
            return sorted(live)
        except TypeError:  # a key in memory may be any hashable value
            return sorted(live, key=str)

    async def count(self, now: int) -> int:
        with self._lock:
            due = [keys for second, keys in self._listed.items() if second <= now]
            return len(self._values) - sum(self._values[key][1] <= now for keys in due for key in keys)

    async def expire(self, now: int, limit: int) -> int:
        removed = 0
        while True:
            with self._lock:
                more, left = self._sweep(now, limit - removed)
            removed += more
            if removed == limit or not left:
                return removed
            await asyncio.sleep(0)

    def _sweep(self, now: int, limit: int) -> tuple[int, bool]:
        """Look at some of the due keys; return how many were removed, and whether others are left."""
        removed, looks = 0, CHUNK
        while self._seconds and (second := self._seconds[0]) <= now:
            keys = self._listed[second]
            if second + SECOND > now:  # it is not over: the keys that expire later in it stay listed
                some = islice(keys, 10 * CHUNK)  # of a second with more keys, the others are removed when it is over
                expired = [key for key in some if self._values[key][1] <= now][: min(limit - removed, looks)]
                for key in expired:
                    keys.discard(key)
                    del self._values[key]
                removed += len(expired)
                if keys:
                    return removed, len(expired) == looks
                looks -= len(expired)
            while keys:
                if removed == limit or not looks:
                    return removed, True
                looks -= 1
                key = keys.pop()
                value, expires_at, _ = self._values[key]
                if expires_at <= now:
                    del self._values[key]
                    removed += 1
                else:
                    self._values[key] = (value, expires_at, self._list(key, expires_at))
            del self._listed[heappop(self._seconds)]
        return removed, False

    async def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._listed, self._seconds = {}, []
