"""Public values in memory: a dict, and the keys of each second of expiry together, so that a sweep is short."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from aiotaskq.backends.values import Values
from aiotaskq.core.errors import INT64
from aiotaskq.core.task import SECOND

NEVER = INT64  # microseconds: later than any instant
CHUNK = 500  # keys looked at by a sweep before the event loop runs other coroutines

Entry = tuple[Any, int]
"""A value, and when it expires, in microseconds."""


class MemoryValues(Values):
    """Values of this process, kept as the Python objects they are. Thread-safe.

    To set a value is one write into each of two dicts, and takes no lock, which would take longer than the rest. The
    next sweep lists the key, under the second in which the value expires. A key that is listed under an earlier second
    stays there, and the sweep of that second moves it on.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # held for all but setting and reading one value
        self._values: dict[str, Entry] = {}
        self._unlisted: dict[str, None] = {}  # keys that were set since the last sweep
        self._listed: dict[int, set[str]] = {}  # the other keys that expire, by the first instant of a second
        self._second: dict[str, int] = {}  # by key, where it is listed
        self._seconds: list[int] = []  # a heap of the seconds in `_listed`
        self._removing: Any = self  # the key that a sweep removes just now

    def set(self, key: str, value: Any, expires_at: int) -> None:
        """Store one value, in any thread; ``expires_at`` in microseconds. Raises TypeError for a key without a hash."""
        self._values[key] = (value, expires_at)  # first, since a key without a value is not listed
        if expires_at < NEVER:
            self._unlisted[key] = None

    def read(self, key: str, now: int) -> Any:
        """Return the value, or None where it is missing or expired. Raises TypeError as ``set``."""
        entry = self._values.get(key) or self._after_sweep(key)
        return None if entry is None or entry[1] <= now else entry[0]

    def _after_sweep(self, key: str) -> Entry | None:
        """Return the value of a key that seems to have none; see ``_remove``."""
        while self._removing == key:
            time.sleep(0)  # yields to the thread that sweeps
        return self._values.get(key)

    def _remove(self, key: str, now: int) -> bool:
        """Remove a key if it has expired, else list it again; return whether it was removed."""
        entry = self._values[key]
        if entry[1] > now:
            self._list(key)
            return False
        self._removing = key
        try:
            latest = self._values.pop(key)
            if latest is not entry:  # it was set in between
                self._values.setdefault(key, latest)
        finally:
            self._removing = self
        return latest is entry

    def _list(self, key: str) -> None:
        """List a key under the second in which its value expires, unless it is listed under an earlier one."""
        expires_at = self._values.get(key, (None, NEVER))[1]
        second = expires_at - expires_at % SECOND
        if expires_at >= NEVER or second >= self._second.get(key, NEVER):
            return
        self._unlist(key)
        self._second[key] = second
        if second not in self._listed:
            self._listed[second] = set()
            heappush(self._seconds, second)
        self._listed[second].add(key)

    def _unlist(self, key: str) -> None:
        self._unlisted.pop(key, None)
        if (second := self._second.pop(key, None)) is not None:
            self._listed[second].discard(key)

    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        for key, value, expires_at in items:
            self.set(key, value, NEVER if expires_at is None else expires_at)

    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        entries = [self._values.get(key) or self._after_sweep(key) for key in keys]
        return [None if entry is None or entry[1] <= now else (entry[0],) for entry in entries]

    async def expires_at(self, key: str, now: int) -> int | None:
        _, expires_at = self._values.get(key) or self._after_sweep(key) or (None, NEVER)
        return expires_at if now < expires_at < NEVER else None

    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        live = []
        with self._lock:
            for key in keys:
                live.append(self._values.pop(key, (None, 0))[1] > now)
                self._unlist(key)
        return live

    async def keys(self, now: int) -> list[str]:
        with self._lock:
            live = [key for key, (_, expires_at) in self._values.copy().items() if expires_at > now]
        try:
            return sorted(live)
        except TypeError:  # a key in memory may be any hashable value
            return sorted(live, key=str)

    async def page(
        self, now: int, limit: int, *, prefix: str = "", after: str | None = None
    ) -> list[tuple[str, int | None]]:
        known = {str(key): key for key in await self.keys(now)}  # a key need not be a string
        found = [key for key in sorted(known) if key.startswith(prefix) and (after is None or key > after)]
        return [(key, await self.expires_at(known[key], now)) for key in found[:limit]]

    async def count(self, now: int) -> int:
        with self._lock:
            due = [keys for second, keys in self._listed.items() if second <= now]
            keys = set(self._unlisted).union(*due)
            return len(self._values) - sum(self._values.get(key, (None, NEVER))[1] <= now for key in keys)

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
        while self._unlisted:
            if not looks:
                return removed, True
            looks -= 1
            self._list(self._unlisted.popitem()[0])
        while self._seconds and (second := self._seconds[0]) <= now:
            keys = self._listed[second]
            if second + SECOND > now:  # it is not over: the keys that expire later in it stay listed
                some = islice(keys, 10 * CHUNK)  # of a second with more keys, the others are removed when it is over
                expired = [key for key in some if self._values[key][1] <= now][: min(limit - removed, looks)]
                for key in expired:
                    keys.discard(key)
                    del self._second[key]
                    removed += self._remove(key, now)
                if keys:
                    return removed, len(expired) == looks
                looks -= len(expired)
            while keys:
                if removed == limit or not looks:
                    return removed, True
                looks -= 1
                del self._second[key := keys.pop()]
                removed += self._remove(key, now)
            del self._listed[heappop(self._seconds)]
        return removed, False

    async def clear(self) -> None:
        with self._lock:
            for index in (self._unlisted, self._listed, self._second, self._seconds, self._values):
                index.clear()  # the values last: what is set meanwhile is listed by the next sweep, or gone
