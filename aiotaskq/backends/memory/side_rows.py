"""Side rows in memory: of each kind and owner a dict, and the names in their order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.side_rows import OF_TASKS, OwnedRows, Range, SideRow, SideRows


class _Rows:
    """The rows of one kind and one owner."""

    def __init__(self) -> None:
        self.rows: dict[str, SideRow] = {}
        self._names: list[str] = []
        self._sorted = True

    @property
    def names(self) -> list[str]:
        """The names in their order."""
        if not self._sorted:
            self._names.sort()
            self._sorted = True
        return self._names

    def live(self, now: int) -> Iterator[SideRow]:
        return (row for row in self.rows.values() if _is_live(row, now))

    def put(self, row: SideRow) -> None:
        if row.name in self.rows:
            self.rows[row.name] = row
        else:
            self.add(row)

    def add(self, row: SideRow) -> None:
        """Store a row whose name is new."""
        if self._sorted and self._names and row.name < self._names[-1]:
            self._sorted = False
        self._names.append(row.name)
        self.rows[row.name] = row

    def remove(self, names: Sequence[str]) -> None:
        gone = {name for name in names if self.rows.pop(name, None) is not None}
        if gone:
            self._names = [name for name in self._names if name not in gone]


class MemorySideRows(SideRows):
    """The side rows of this process."""

    def __init__(self, lock: BriefLock) -> None:
        self._lock = lock
        self._kinds: defaultdict[str, defaultdict[str, _Rows]] = defaultdict(lambda: defaultdict(_Rows))
        self.owned = MemoryOwnedRows(self._kinds)
        self._of_tasks = [self._kinds[kind] for kind in OF_TASKS]

    def drop_of(self, task_id: str) -> None:
        """Delete the rows of a task, under the lock."""
        for rows in self._of_tasks:
            if rows:
                rows.pop(task_id, None)

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        with self._lock:
            found = [self._kinds[kind][""].rows.get(name) for name in names]
        return [row.text if row is not None and _is_live(row, now) else None for row in found]

    async def read(self, wanted: Range) -> list[SideRow]:
        kind, now, limit, prefix, after, before, newest, texts, owner = wanted
        with self._lock:
            if (there := self._kinds[kind].get(owner)) is None:
                return []
            rows, names = there.rows, there.names
            first = max(bisect_right(names, after), bisect_left(names, prefix))
            stop = len(names) if before is None else bisect_left(names, before)
            places = range(stop - 1, first - 1, -1) if newest else range(first, stop)
            every = (rows[names[place]] for place in places)
            found = list(islice((row for row in every if row.name.startswith(prefix) and _is_live(row, now)), limit))
        return found if texts else [SideRow(row.name, "", row.until, row.owner) for row in found]

    async def count(self, kind: str, now: int) -> int:
        with self._lock:
            return sum(1 for _ in self._kinds[kind][""].live(now))

    async def expire(self, kind: str, now: int, limit: int) -> int:
        with self._lock:
            there = self._kinds[kind][""]
            late = [row.name for row in there.rows.values() if not _is_live(row, now)][:limit]
            there.remove(late)
        return len(late)


class MemoryOwnedRows(OwnedRows):
    """The same rows, under the lock of the backend."""

    def __init__(self, kinds: defaultdict[str, defaultdict[str, _Rows]]) -> None:
        self.kinds = kinds

    def last(self, kind: str, owners: Sequence[str]) -> dict[str, str]:
        there = self.kinds[kind]
        return {owner: rows.names[-1] for owner in owners if (rows := there.get(owner)) is not None and rows.names}

    def of(self, kind: str, owners: Sequence[str], *, texts: bool = True) -> list[SideRow]:
        there = self.kinds[kind]
        return [rows.rows[name] for owner in owners if (rows := there.get(owner)) is not None for name in rows.names]

    def owners(self, kind: str, limit: int, *, prefix: str = "", after: str = "") -> list[str]:
        return sorted(owner for owner in self.kinds[kind] if owner > after and owner.startswith(prefix))[:limit]

    def take(self, other: MemoryOwnedRows) -> None:
        """Take over the rows of another store."""
        for kind, owners in other.kinds.items():
            self.put(kind, [row for there in owners.values() for row in there.rows.values()])

    def lock(self, kind: str, names: Sequence[str], owner: str = "") -> dict[str, str]:
        there = found.rows if (found := self.kinds[kind].get(owner)) is not None else {}
        return {name: there[name].text for name in names if name in there}

    def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        for row in rows:
            self.kinds[kind][row.owner].put(row)

    def delete_of(self, kind: str, owners: Sequence[str]) -> None:
        for owner in owners:
            self.kinds[kind].pop(owner, None)

    def add(self, kind: str, rows: Sequence[SideRow]) -> None:
        for row in rows:
            self.first(kind, row)

    def first(self, kind: str, row: SideRow) -> SideRow:
        """Store a row unless there is one; return the one that is there now."""
        there = self.kinds[kind][row.owner]
        if (stored := there.rows.get(row.name)) is not None:
            return stored
        there.add(row)
        return row

    def delete(self, kind: str, owner: str, names: Sequence[str]) -> None:
        there = self.kinds[kind][owner]
        there.remove(names)
        if not there.rows:
            del self.kinds[kind][owner]


def _is_live(row: SideRow, now: int) -> bool:
    return row.until is None or row.until > now
