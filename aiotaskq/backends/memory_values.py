"""Public values in memory: dicts, with the keys of each second of expiry together, so that no sweep is long."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from aiotaskq.backends.base import Values
from aiotaskq.task import SECOND


class MemoryValues(Values):
    """Values of this process, kept as the Python objects they are. Thread-safe; no verb suspends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, tuple[Any, int | None]] = {}
        self._expiry: dict[int, set[str]] = {}  # a key moves between seconds when it is set again: nothing goes stale
        self._seconds: list[int] = []  # heap of the seconds in `_expiry`

    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        with self._lock:
            for key, value, expires_at in items:
                self._drop(key)
                self._values[key] = (value, expires_at)
                if expires_at is not None:
                    second = expires_at // SECOND
                    if second not in self._expiry:
                        self._expiry[second] = set()
                        heappush(self._seconds, second)
                    self._expiry[second].add(key)

    def _drop(self, key: str) -> None:
        _, expires_at = self._values.pop(key, (None, None))
        if expires_at is not None:
            self._expiry[expires_at // SECOND].discard(key)

    def _live(self, key: str, now: int) -> bool:
        entry = self._values.get(key)
        return entry is not None and (entry[1] is None or entry[1] > now)

    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        entries = [self._values.get(key) for key in keys]
        return [(e[0],) if e is not None and (e[1] is None or e[1] > now) else None for e in entries]

    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        with self._lock:
            live = []
            for key in keys:
                live.append(self._live(key, now))
                self._drop(key)
        return live

    async def keys(self, now: int) -> list[str]:
        with self._lock:
            return sorted(key for key, (_, until) in self._values.items() if until is None or until > now)

    async def count(self, now: int) -> int:
        with self._lock:
            gone = sum(len(keys) for second, keys in self._expiry.items() if second < now // SECOND)
            gone += sum(not self._live(key, now) for key in self._expiry.get(now // SECOND, ()))
            return len(self._values) - gone

    async def expire(self, now: int, limit: int) -> int:
        removed = 0
        with self._lock:
            while self._seconds and removed < limit and (second := self._seconds[0]) <= now // SECOND:
                keys = self._expiry[second]
                if second < now // SECOND:  # in the past none is alive
                    due = [keys.pop() for _ in range(min(len(keys), limit - removed))]
                else:  # a look at some of them, so that the loop is not held; the others are in the past soon
                    gone = (key for key in islice(keys, 10 * limit) if not self._live(key, now))
                    due = list(islice(gone, limit - removed))
                for key in due:
                    self._drop(key)
                removed += len(due)
                if keys:
                    break
                del self._expiry[heappop(self._seconds)]
        return removed

    async def clear(self) -> None:
        with self._lock:
            self._values, self._expiry, self._seconds = {}, {}, []
