"""The audit log in memory: a sorted list."""

from __future__ import annotations

import bisect

from aiotaskq.backends.audit import AuditLog
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.core.audit import AuditEntry


class MemoryAuditLog(AuditLog):
    """The entries of this process."""

    def __init__(self, lock: BriefLock) -> None:
        self._lock = lock
        self._entries: list[AuditEntry] = []  # the oldest first

    async def add(self, entry: AuditEntry, before: int, most: int) -> None:
        with self._lock:
            bisect.insort(self._entries, entry, key=_place)
            self._entries = [each for each in self._entries[-most:] if each.at >= before]

    async def read(self, limit: int) -> list[AuditEntry]:
        with self._lock:
            return self._entries[::-1][:limit]


def _place(entry: AuditEntry) -> tuple[int, str]:
    return entry.at, entry.id
