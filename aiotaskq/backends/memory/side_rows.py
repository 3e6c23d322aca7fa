"""Side rows in memory: of each kind and owner a dict, and the names in their order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.side_rows import OF_TASKS, OwnedRows, SideRow, SideRows


class _Rows:
    """The rows of one kind and one owner."""

    def __init__(self) -> None:
        self.rows: dict[str, SideRow] = {}
        self.names: list[str] = []  # sorted

    def live(self, now: int) -> Iterator[SideRow]:
        return (row for row in self.rows.values() if _is_live(row, now))

    def put(self, row: SideRow) -> None:
        if row.name not in self.rows:
            if not self.names or row.name > self.names[-1]:
                self.names.append(row.name)
            else:
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
        self._kinds: defaultdict[str, defaultdict[str, _Rows]] = defaultdict(lambda: defaultdict(_Rows))
        self.owned = MemoryOwnedRows(self._kinds)
        self._of_tasks = [self._kinds[kind] for kind in OF_TASKS]

    def drop_of(self, task_id: str) -> None:
        """Delete the rows of a task, under the lock."""
        for rows in self._of_tasks:
            if rows:
                rows.pop(task_id, None)

    async def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        with self._lock:
            for row in rows:
                self._kinds[kind][row.owner].put(row)

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        with self._lock:
            found = [self._kinds[kind][""].rows.get(name) for name in names]
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
        owner: str = "",
    ) -> list[SideRow]:
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

    async def delete(self, kind: str, names: Sequence[str], now: int) -> list[bool]:
        with self._lock:
            there = self._kinds[kind][""]
            found = [there.rows.get(name) for name in names]
            there.remove(names)
        return [row is not None and _is_live(row, now) for row in found]

    async def swap(self, kind: str, gone: Sequence[str], rows: Sequence[SideRow]) -> bool:
        with self._lock:
            there = self._kinds[kind][""]
            if not all(name in there.rows for name in gone):
                return False
            there.remove(gone)
            for row in rows:
                there.put(row)
        return True

    async def expire(self, kind: str, now: int, limit: int) -> int:
        with self._lock:
            there = self._kinds[kind][""]
            late = [row.name for row in there.rows.values() if not _is_live(row, now)][:limit]
            there.remove(late)
        return len(late)

    async def trim(self, kind: str, most: int) -> None:
        with self._lock:
            there = self._kinds[kind][""]
            there.remove(there.names[: max(0, len(there.names) - most)])

    async def clear(self, kind: str) -> None:
        with self._lock:
            self._kinds[kind].pop("", None)


class MemoryOwnedRows(OwnedRows):
    """The same rows, under the lock of the backend."""

    def __init__(self, kinds: defaultdict[str, defaultdict[str, _Rows]]) -> None:
        self._kinds = kinds

    def last(self, kind: str, owners: Sequence[str]) -> dict[str, str]:
        there = self._kinds[kind]
        return {owner: rows.names[-1] for owner in owners if (rows := there.get(owner)) is not None and rows.names}

    def names(self, kind: str, owner: str, limit: int, after: str = "") -> list[str]:
        if (there := self._kinds[kind].get(owner)) is None:
            return []
        first = bisect_right(there.names, after)
        return there.names[first : first + limit]

    def get(self, kind: str, owner: str, name: str) -> str | None:
        there = self._kinds[kind].get(owner)
        return None if there is None or (row := there.rows.get(name)) is None else row.text

    def add(self, kind: str, rows: Sequence[SideRow]) -> None:
        for row in rows:
            if row.name not in (there := self._kinds[kind][row.owner]).rows:
                there.put(row)

    def delete(self, kind: str, owner: str, names: Sequence[str]) -> None:
        self._kinds[kind][owner].remove(names)


def _is_live(row: SideRow, now: int) -> bool:
    return row.until is None or row.until > now
