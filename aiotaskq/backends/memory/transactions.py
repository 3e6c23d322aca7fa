"""The transactions in memory that read and write what is beside tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from aiotaskq.backends.change import Change
from aiotaskq.backends.flow.transaction import Beside, Holder, Run
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.memory.side_rows import MemorySideRows
from aiotaskq.backends.memory.transaction import MemoryTransaction
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.core.task import RUNNING, Task

T = TypeVar("T")
Update = Callable[[Sequence[Change]], list[bool]]
Notify = Callable[[Sequence[Change], Sequence[bool]], None]


class MemoryBeside:
    """The rows of this process, under the lock."""

    joined = False

    def __init__(self, tx: MemoryTransaction, side: MemorySideRows, update: Update) -> None:
        self.tx, self._rows, self._update = tx, tx.rows, update
        self.side = side.owned
        self.tasks, self.existing, self.spend, self.check_room = tx.tasks, tx.existing, tx.spend, tx.check_room
        self.written: list[tuple[Sequence[Change], list[bool]]] = []

    def foresee(self, ids: Sequence[str], *reads: Callable[[], object]) -> None:
        """Read nothing ahead: all rows are in this process."""

    def update(self, changes: Sequence[Change]) -> list[bool]:
        held = self._update(changes)
        self.written.append((changes, held))
        return held

    def touch(self, task: Task) -> None:
        """Gates are admitted with each change."""

    def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        texts: list[str | None] = []
        for row, (fence, seq) in zip(rows, holders, strict=True):
            task = self._rows.get(row.owner)
            runs = task is not None and task.status is RUNNING and task.fence == fence and task.seq == seq
            texts.append(self.side.first(kind, row).text if runs else None)
        return texts

    def runs(self, ids: Sequence[str], *, wait: bool = True) -> dict[str, Run]:
        rows = [self._rows[task_id] for task_id in ids if task_id in self._rows]
        return {row.task_id: Run(row.status, row.fence, row.seq, row.began_at) for row in rows}


class MemoryTransactions:
    """Transactions of one store in memory: one at a time, under its lock."""

    wakes_later = False

    def __init__(
        self,
        tx: MemoryTransaction,
        side: MemorySideRows,
        lock: BriefLock,
        update: Update,
        notify: Notify,
        listeners: Listeners,
    ) -> None:
        """``update`` writes changes under the lock, ``notify`` sends their hints."""
        self._tx, self._lock, self._notify, self._listeners = tx, lock, notify, listeners
        self._beside = MemoryBeside(tx, side, update)

    async def transact(self, body: Callable[[Beside], T], *, repeatable: bool = False) -> T:
        """Do as ``Store.transact``."""
        return self.run(body)

    def run(self, body: Callable[[MemoryBeside], T]) -> T:
        """Do so without a coroutine."""
        with self._lock:
            written = self._beside.written = []
            answer = body(self._beside)
            wakes = self._tx.end()
        for changes, held in written:
            self._notify(changes, held)
        if wakes:
            self._listeners.notify(READY)
        return answer

    async def look(self, body: Callable[[Beside], T]) -> T:
        """Do as ``Store.look``."""
        with self._lock:
            return body(self._beside)

    async def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        """Do as ``Store.add_held``."""
        with self._lock:
            return self._beside.add_held(kind, rows, holders)
