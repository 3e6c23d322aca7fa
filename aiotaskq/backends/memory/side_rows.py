"""Side rows in memory: of each kind and owner a dict by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.side_rows import OF_TASKS, OwnedRows, Range, SideRow, SideRows

Kind = defaultdict[str, dict[str, SideRow]]
"""The rows of one kind, by owner and name. An owner has rows."""


class MemorySideRows(SideRows):
    """The side rows of this process."""

    def __init__(self, lock: BriefLock) -> None:
        self._lock = lock
        self._kinds: defaultdict[str, Kind] = defaultdict(lambda: defaultdict(dict))
        self.owned = MemoryOwnedRows(self._kinds)
        self._of_tasks = [self._kinds[kind] for kind in OF_TASKS]

    def drop_of(self, task_id: str) -> None:
        """Delete the rows of a task, under the lock."""
        for rows in self._of_tasks:
            if rows:
                rows.pop(task_id, None)

    def _rows(self, kind: str, owner: str = "") -> dict[str, SideRow]:
        return self._kinds[kind].get(owner, {})

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        with self._lock:
            rows = self._rows(kind)
            found = [rows.get(name) for name in names]
        return [row.text if row is not None and _is_live(row, now) else None for row in found]

    async def read(self, wanted: Range) -> list[SideRow]:
        kind, now, limit, prefix, after, before, newest, texts, owner = wanted
        with self._lock:
            rows = self._rows(kind, owner)
            inside = (name for name in rows if name > after and (before is None or name < before))
            names = sorted((name for name in inside if name.startswith(prefix)), reverse=newest)
            found = list(islice((row for name in names if _is_live(row := rows[name], now)), limit))
        return found if texts else [SideRow(row.name, "", row.until, row.owner) for row in found]

    async def count(self, kind: str, now: int) -> int:
        with self._lock:
            return sum(_is_live(row, now) for row in self._rows(kind).values())

    async def expire(self, kind: str, now: int, limit: int) -> int:
        with self._lock:
            late = [name for name, row in self._rows(kind).items() if not _is_live(row, now)][:limit]
            self.owned.delete(kind, "", late)
        return len(late)


class MemoryOwnedRows(OwnedRows):
    """The same rows, under the lock of the backend."""

    def __init__(self, kinds: defaultdict[str, Kind]) -> None:
        self.kinds = kinds

    def last(self, kind: str, owners: Sequence[str]) -> dict[str, str]:
        there = self.kinds[kind]
        return {owner: max(there[owner]) for owner in owners if owner in there}

    def of(self, kind: str, owners: Sequence[str], *, texts: bool = True) -> list[SideRow]:
        there = self.kinds[kind]
        return [row for owner in owners if owner in there for _, row in sorted(there[owner].items())]

    def owners(self, kind: str, limit: int, *, prefix: str = "", after: str = "") -> list[str]:
        return sorted(owner for owner in self.kinds[kind] if owner > after and owner.startswith(prefix))[:limit]

    def take(self, other: MemoryOwnedRows) -> None:
        """Take over the rows of another store."""
        for kind, owners in other.kinds.items():
            self.put(kind, [row for there in owners.values() for row in there.values()])

    def lock(self, kind: str, names: Sequence[str], owner: str = "") -> dict[str, str]:
        there = self.kinds[kind].get(owner, {})
        return {name: there[name].text for name in names if name in there}

    def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        for row in rows:
            self.kinds[kind][row.owner][row.name] = row

    def delete_of(self, kind: str, owners: Sequence[str]) -> None:
        for owner in owners:
            self.kinds[kind].pop(owner, None)

    def add(self, kind: str, rows: Sequence[SideRow]) -> None:
        for row in rows:
            self.kinds[kind][row.owner].setdefault(row.name, row)

    def delete(self, kind: str, owner: str, names: Sequence[str]) -> None:
        there = self.kinds[kind][owner]
        for name in names:
            there.pop(name, None)
        if not there:
            del self.kinds[kind][owner]


def _is_live(row: SideRow, now: int) -> bool:
    return row.until is None or row.until > now
