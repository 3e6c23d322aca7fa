"""Side rows in memory: of each kind a dict, and the names in their order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence

from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.side_rows import SideRow, SideRows


class _Kind:
    """The rows of one kind."""

    def __init__(self) -> None:
        self.rows: dict[str, SideRow] = {}
        self.names: list[str] = []  # sorted

    def live(self, now: int) -> Iterator[SideRow]:
        return (row for row in self.rows.values() if _is_live(row, now))

    def put(self, rows: Sequence[SideRow]) -> None:
        for row in rows:
            if row.name not in self.rows:
                insort(self.names, row.name)
            self.rows[row.name] = row

    def remove(self, names: Sequence[str]) -> None:
        gone = {name for name in names if self.rows.pop(name, None) is not None}
        if gone:
            self.names = [name for name in self.names if name not in gone]


class MemorySideRows(SideRows):
    """The side rows of this process."""

    def __init__(self, lock: BriefLock) -> None:
        self._lock = lock
        self._kinds: defaultdict[str, _Kind] = defaultdict(_Kind)

    async def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        with self._lock:
            self._kinds[kind].put(rows)

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        with self._lock:
            found = [self._kinds[kind].rows.get(name) for name in names]
        return [row.text if row is not None and _is_live(row, now) else None for row in found]

    async def range(
        self,
        kind: str,
        now: int,
        limit: int | None = None,
        *,
        prefix: str = "",
        after: str = "",
        before: str | None = None,
        newest: bool = False,
        texts: bool = True,
    ) -> list[SideRow]:
        with self._lock:
            rows, names = self._kinds[kind].rows, self._kinds[kind].names
            first = max(bisect_right(names, after), bisect_left(names, prefix))
            stop = len(names) if before is None else bisect_left(names, before)
            found = [rows[name] for name in names[first:stop] if name.startswith(prefix) and _is_live(rows[name], now)]
        found = (found[::-1] if newest else found)[:limit]
        return found if texts else [SideRow(row.name, "", row.until) for row in found]

    async def count(self, kind: str, now: int) -> int:
        with self._lock:
            return sum(1 for _ in self._kinds[kind].live(now))

    async def delete(self, kind: str, names: Sequence[str], now: int) -> list[bool]:
        with self._lock:
            found = [self._kinds[kind].rows.get(name) for name in names]
            self._kinds[kind].remove(names)
        return [row is not None and _is_live(row, now) for row in found]

    async def swap(self, kind: str, gone: Sequence[str], rows: Sequence[SideRow]) -> bool:
        with self._lock:
            there = self._kinds[kind]
            if not all(name in there.rows for name in gone):
                return False
            there.remove(gone)
            there.put(rows)
        return True

    async def expire(self, kind: str, now: int, limit: int) -> int:
        with self._lock:
            late = [row.name for row in self._kinds[kind].rows.values() if not _is_live(row, now)][:limit]
            self._kinds[kind].remove(late)
        return len(late)

    async def trim(self, kind: str, most: int) -> None:
        with self._lock:
            there = self._kinds[kind]
            there.remove(there.names[: max(0, len(there.names) - most)])

    async def clear(self, kind: str) -> None:
        with self._lock:
            self._kinds.pop(kind, None)


def _is_live(row: SideRow, now: int) -> bool:
    return row.until is None or row.until > now
