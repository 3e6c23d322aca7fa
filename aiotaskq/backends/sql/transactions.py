"""The transactions in a database that read and write what is beside tasks.

The locks of a transaction are taken in one order: events, then tasks, then groups, then gates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from aiotaskq.backends.change import Change, Room, encoded_changes
from aiotaskq.backends.flow.transaction import Beside, Holder, Joined, Run, Store
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.backends.sql.bounded_push import check_bound
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.backends.sql.side_rows import SqlOwnedRows, insert_held
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.tasks import update_tasks
from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.backends.sql.writes import SqlWrites
from aiotaskq.core.codec import Codec
from aiotaskq.core.task import RUNNING, Status, Task

T = TypeVar("T")
Hints = Callable[[Sequence[Change], Sequence[bool]], None]

c = TASKS.c
_RUNS = select(c.task_id, c.status, c.fence, c.seq, c.began_at)


@functools.cache
def _guard(dialect: Dialect) -> Any:
    # A shared lock: a handler's own transaction may have one as well, by a step of it.
    query = _RUNS.where(dialect.among(c.task_id, "ids")).order_by(c.task_id).with_for_update(read=True)
    return dialect.by_id(query)


class SqlBeside:
    """What is beside tasks in the transaction of a database."""

    def __init__(
        self, tx: SqlTransaction, codec: Codec | None = None, *, joined: bool = False, locks: bool = True
    ) -> None:
        """``codec`` encodes changes; ``joined``: whether it is a caller's; ``locks``: whether it may write."""
        self.tx, self._connection, self._codec = tx, tx.connection, codec
        self.joined, self._locks = joined, locks
        self.side = SqlOwnedRows(tx, locks)
        self.tasks, self.write_usage = tx.tasks, tx.write_usage
        self.written: list[tuple[Sequence[Change], list[bool]]] = []

    def foresee(self, ids: Sequence[str], *reads: Callable[[], object]) -> None:
        """Statements lock what they read, in one order."""

    def update(self, changes: Sequence[Change]) -> list[bool]:
        held = update_tasks(self.tx, encoded_changes(changes, self._codec))
        self.written.append((changes, held))
        return held

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        check_bound(self.tx, len(tasks), room)

    def touch(self, task: Task) -> None:
        if task.flow is not None and task.gate is not None:
            self.tx.touched.make_due([task.gate], dict(task.flow.gates))

    def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        found = insert_held(self.tx, kind, rows, holders)
        if found is None:
            runs = self._guarded(sorted({row.owner for row in rows}))
            held = [
                (run := runs.get(row.owner)) is not None and run.status is RUNNING and (run.fence, run.seq) == holder
                for row, holder in zip(rows, holders, strict=True)
            ]
            found = self.side.insert(kind, [row for row, ok in zip(rows, held, strict=True) if ok]), held
        inserted, held = found
        if inserted == sum(held):
            return [row.text if ok else None for row, ok in zip(rows, held, strict=True)]
        # Of each the first write stays.
        there = {(row.owner, row.name): row.text for row in self.side.of(kind, sorted({row.owner for row in rows}))}
        return [there.get((row.owner, row.name)) if ok else None for row, ok in zip(rows, held, strict=True)]

    def _guarded(self, ids: Sequence[str]) -> dict[str, Run]:
        dialect = self.tx.dialect
        parts = [dialect.run_among(self._connection, _guard(dialect), "ids", part, {}) for part in chunks(ids)]
        return _runs(row for part in parts for row in part.fetchall())

    def runs(self, ids: Sequence[str], *, wait: bool = True) -> dict[str, Run]:
        found = self._read_runs(ids, lock=self._locks, wait=wait)
        if not wait and (taken := [task_id for task_id in ids if task_id not in found]):
            elsewhere = self._read_runs(taken, lock=False)
            found |= {task_id: run._replace(taken=True) for task_id, run in elsewhere.items()}
        return found

    def _read_runs(self, ids: Sequence[str], *, lock: bool, wait: bool = True) -> dict[str, Run]:
        found: dict[str, Run] = {}
        for part in chunks(ids):
            query = _RUNS.where(c.task_id.in_(part))
            if lock:
                locked = query.order_by(c.task_id).with_for_update(skip_locked=not wait)
                query = self.tx.dialect.by_id(locked)
            found |= _runs(self._connection.execute(query))
        return found


def _runs(rows: Any) -> dict[str, Run]:
    return {
        task_id: Run(Status(status or Status.PENDING), fence, seq, began_at)
        for task_id, status, fence, seq, began_at in rows
    }


class SqlTransactions(Store):
    """The transactions of one database."""

    wakes_later = False

    def __init__(
        self,
        database: Database,
        writes: SqlWrites,
        listeners: Listeners,
        hints: Hints,
        bind: Callable[[], None],
        enter: Callable[[Connection], None],
        codec: Callable[[], Codec | None],
    ) -> None:
        """``hints`` sends those of changes, ``bind`` and ``enter`` begin in a caller's, ``codec`` is the backend's."""
        self._database, self._writes, self._listeners, self._hints = database, writes, listeners, hints
        self._bind, self._enter, self._codec = bind, enter, codec

    async def transact(self, body: Callable[[Beside], T], *, repeatable: bool = False) -> T:
        """Do as ``Store.transact``."""

        def inside(tx: SqlTransaction) -> tuple[T, SqlBeside]:
            beside = SqlBeside(tx, self._codec())
            return body(beside), beside

        (answer, beside), _, ready = await self._writes.write(inside)
        self._send(beside)
        if ready is None or ready or beside.tx.touched.wakes:
            self._listeners.notify(READY)
        return answer

    def _send(self, beside: SqlBeside) -> None:
        for changes, held in beside.written:
            self._hints(changes, held)

    async def transact_with(
        self, session: Any, body: Callable[[Joined], T], committed: Callable[[], None] = lambda: None
    ) -> T:
        """Do as ``Store.transact_with``."""
        self._bind()  # the commit may come in another thread
        ran: list[SqlBeside] = []

        def inside(tx: SqlTransaction) -> T:
            self._enter(tx.connection)
            ran.append(SqlBeside(tx, self._codec(), joined=True))
            return body(ran[-1])

        def wake() -> None:
            self._send(ran[-1])
            committed()

        return await self._writes.write_in(session, inside, wake)

    async def look(self, body: Callable[[Beside], T]) -> T:
        """Do as ``Store.look``."""
        return await self._database.read(lambda connection: body(SqlBeside(self._writes.tx(connection), locks=False)))

    async def add_held(self, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> list[str | None]:
        """Do as ``Store.add_held``."""

        def body(connection: Connection) -> list[str | None]:
            return SqlBeside(self._writes.tx(connection)).add_held(kind, rows, holders)

        # Where one statement guards and inserts, it is all that is written; a second one only reads what was first.
        return await self._database.write(body, self._database.dialect.autocommit)
