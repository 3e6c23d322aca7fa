"""The transactions of ``backends.flow`` in a database, as far as they read and write what is beside tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, select

from aiotaskq.backends.flow.transaction import Beside, Run
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.gates import SqlGates
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.backends.sql.side_rows import SqlOwnedRows
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.usage import Known, write_usage
from aiotaskq.core.notes import NewNotes
from aiotaskq.core.task import Status

T = TypeVar("T")

c = TASKS.c
_RUNS = select(c.task_id, c.status, c.fence)


class SqlTransaction:
    """The rows in the transaction of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self.side = connection, SqlOwnedRows(connection)
        self.freed: Known = {}
        """Gates whose slots are free since a budget is used up; see ``SqlGates.follow_up``."""

    def runs(self, ids: Sequence[str], *, wait: bool = True) -> dict[str, Run]:
        found = self._runs(ids, lock=True, wait=wait)
        if not wait and (taken := [task_id for task_id in ids if task_id not in found]):
            found |= {task_id: run._replace(taken=True) for task_id, run in self._runs(taken, lock=False).items()}
        return found

    def _runs(self, ids: Sequence[str], *, lock: bool, wait: bool = True) -> dict[str, Run]:
        found: dict[str, Run] = {}
        for part in chunks(ids):
            query = _RUNS.where(c.task_id.in_(part))
            if lock:
                locked = query.order_by(c.task_id).with_for_update(skip_locked=not wait)
                query = dialect_of(self._connection).by_id(locked)
            for row in self._connection.execute(query):
                found[row.task_id] = Run(Status(row.status or Status.PENDING), row.fence)
        return found

    def spend(self, new: Sequence[NewNotes]) -> None:
        self.freed = write_usage(self._connection, new)


class SqlTransactions:
    """The transactions of one database."""

    def __init__(self, database: Database, gates: SqlGates) -> None:
        self._database, self._gates = database, gates

    async def transact(self, body: Callable[[Beside], T]) -> T:
        """Do as ``Store.transact``."""

        def inside(connection: Connection) -> tuple[T, SqlTransaction]:
            tx = SqlTransaction(connection)
            return body(tx), tx

        answer, tx = await self._database.write(inside)
        await self._gates.follow_up(None, tx.freed)
        return answer
