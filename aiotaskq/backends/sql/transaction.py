"""A transaction in SQL: the rows of a database, by the statements of one connection; and what is read of gates."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from sqlalchemy import BigInteger, Connection, String, bindparam, func, or_, select

from aiotaskq.backends.change import Change
from aiotaskq.backends.flow.transaction import Rows
from aiotaskq.backends.gates import GateReads
from aiotaskq.backends.sql.claim_statements import PENDING
from aiotaskq.backends.sql.dialects.base import Dialect, Tx
from aiotaskq.backends.sql.gate_rows import PARKED_AT, STATUS, GateRows, parked_at
from aiotaskq.backends.sql.group_rows import GroupRows
from aiotaskq.backends.sql.rows import (
    GATES,
    LIVE,
    SLOTS,
    TASKS,
    decode_flow,
    json_text,
    new_rows,
    stored_run_at,
    to_task,
)
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import Bounds, GateState
from aiotaskq.core.task import Task, same_push
from aiotaskq.core.usage import Usage
from aiotaskq.errors import TaskConflict

Messages = Callable[[Sequence[Task], int], list[Task]]
T = TypeVar("T")
P = ParamSpec("P")
c, g, s = TASKS.c, GATES.c, SLOTS.c
_PLACE = ("waits", "run_at", "due_at", "gate", "live_gate")
"""The columns of a task that goes on waiting, or waits no longer."""


class SqlTransaction(GateRows, GroupRows, Rows):
    """The rows of a database, in the transaction of a connection."""

    def __init__(self, connection: Connection, dialect: Dialect, messages: Messages) -> None:
        super().__init__(connection, dialect)
        self.messages = messages

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        query = self.dialect.by_id(select(TASKS).order_by(c.task_id).with_for_update())
        return {row.task_id: to_task(row) for row in self.rows_in(query, c.task_id, ids)}

    def look(self, ids: Sequence[str]) -> dict[str, Task]:
        return {row.task_id: to_task(row) for row in self.rows_in(select(TASKS), c.task_id, ids)}

    def existing(self, ids: Sequence[str]) -> set[str]:
        return {row[0] for row in self.rows_in(select(c.task_id), c.task_id, ids)}

    def insert(self, tasks: Sequence[Task]) -> list[Task]:
        return insert(self, tasks) if tasks else []

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        if ended := [Change(before, after) for before, after in changes if after.final]:
            self.dialect.write(self.connection, ended)
        moved = [
            (after.waits or None, stored_run_at(after), after.due_at, after.gate, after.gate, after.task_id)
            for _, after in changes
            if not after.final
        ]
        if moved:
            self.dialect.set_each(self.connection, _PLACE, moved)
        self.note_slots(changes)

    def write_usage(self, usages: Mapping[str, Usage]) -> None:
        rows = [(json_text(usage), task_id) for task_id, usage in usages.items()]
        self.dialect.set_each(self.connection, ("usage",), rows)


# ---- pushes ----

TRIES = 10
"""Of a push in conflict with rows that are gone when it reads them."""


def insert(tx: Tx, tasks: Sequence[Task], notify: tuple[str, str] | None = None, tries: int = TRIES) -> list[Task]:
    """Insert tasks; return each, or the row that it conflicts with. ``notify``: see ``Dialect.insert``."""
    if tx.insert_new(TASKS, *new_rows(tasks), notify) == len(tasks):
        return list(tasks)
    # Some conflict with other rows.
    rows = conflicts(tx, tasks)
    if gone := [task for task, row in zip(tasks, rows, strict=True) if row is None]:
        # The row that was in conflict has ended, or given up its key, before it was read.
        if not tries:
            raise TaskConflict("push: a key is held by a task that this transaction does not see; begin a new one")
        again = {task.task_id: row for task, row in zip(gone, insert(tx, gone, None, tries - 1), strict=True)}
        rows = [again[task.task_id] if row is None else row for task, row in zip(tasks, rows, strict=True)]
    return [task if row is None or same_push(row, task) else row for task, row in zip(tasks, rows, strict=True)]


def conflicts(tx: Tx, tasks: Sequence[Task]) -> list[Task | None]:
    """Return the row with the id or a key of each task, perhaps its own; None where there is none."""
    found: dict[str, Task] = {}
    by_key: dict[tuple[str, str | None], Task] = {}
    for part in chunks(tasks):
        keys = [task.unique_key for task in part if task.unique_key is not None]
        onces = [task.idempotency_key for task in part if task.idempotency_key is not None]
        where = or_(c.task_id.in_([t.task_id for t in part]), c.live_key.in_(keys), c.idempotency_key.in_(onces))
        for row in tx.connection.execute(select(TASKS).where(where)):
            task = to_task(row)
            found[task.task_id] = task
            if task.status in LIVE and task.unique_key is not None:
                by_key["unique", task.unique_key] = task
            if task.idempotency_key is not None:
                by_key["idempotency", task.idempotency_key] = task
    place = {(task.task_id, task.seq): number for number, task in reversed(list(enumerate(tasks)))}
    met: list[Task | None] = []
    for number, task in enumerate(tasks):
        once, unique = ("idempotency", task.idempotency_key), ("unique", task.unique_key)
        rows = [row for row in (found.get(task.task_id), by_key.get(once), by_key.get(unique)) if row is not None]
        # A row inserted later in this call was no conflict.
        rows.sort(key=lambda row: place.get((row.task_id, row.seq), 0) > number)
        met.append(rows[0] if rows else None)
    return met


_NEXT: Final = select(func.min(g.next_at))
_NOW, _LIMIT = (bindparam(name, type_=BigInteger) for name in ("now", "limit"))
_DUE: Final = select(g.key).where(g.next_at <= _NOW).order_by(g.next_at).limit(_LIMIT)
_KEY: Final = bindparam("key_", type_=String)
_QUEUE: Final = bindparam("queue", type_=String)
_READY_AT: Final = (c.run_at < PARKED_AT, STATUS == PENDING, c.queue == _QUEUE)
_HELD_OF: Final = select(g.key).where(select(c.task_id).where(c.live_gate == g.key, *_READY_AT).exists())
_HELD_BEYOND_OF: Final = (
    select(s.gate)
    .select_from(SLOTS.join(TASKS, s.task_id == c.task_id))
    .where(STATUS == PENDING, c.queue == _QUEUE)
    .distinct()
)
_WAIT: Final = select(c.task_id).where(*parked_at(g.key))
_AWAITED: Final = select(g.key).where(_WAIT.where(c.queue == _QUEUE).exists())
_ALL: Final = select(g.key)
_NEXT_AT_TASKS: Final = select(func.min(c.live_gate)).where(c.live_gate > _KEY)
_ONE: Final = select(c.flow).where(*parked_at(_KEY)).limit(1)


def reads(body: Callable[Concatenate[SqlTransaction, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the verb of an object with ``_read`` that runs a body in a transaction that reads."""

    async def verb(self: Any, /, *args: P.args, **options: P.kwargs) -> T:
        return cast(T, await self._read(lambda tx: body(tx, *args, **options)))

    return verb


def _due(tx: SqlTransaction, now: int, limit: int) -> tuple[list[str], int | None]:
    ((at,),) = run(tx.connection, _NEXT, {}).fetchall()
    if at is None or at > now or not limit:
        return [], at
    return [row[0] for row in run(tx.connection, _DUE, {"now": now, "limit": limit}).fetchall()], at


def _known(tx: SqlTransaction) -> dict[str, Bounds | None]:
    connection = tx.connection
    found: dict[str, Bounds | None] = {row[0]: None for row in run(connection, _ALL, {}).fetchall()}
    key = run(connection, _NEXT_AT_TASKS, {"key_": ""}).fetchall()[0][0]
    while key is not None:
        if key not in found:
            for (text,) in run(connection, _ONE, {"key_": key}).fetchall():
                found[key] = None if text is None else dict(decode_flow(text).gates).get(key)
        key = run(connection, _NEXT_AT_TASKS, {"key_": key}).fetchall()[0][0]
    return found


def _of_queue(tx: SqlTransaction, queue: str, held: bool) -> set[str]:
    queries = (_HELD_OF, _HELD_BEYOND_OF) if held else (_AWAITED,)
    return {row[0] for query in queries for row in run(tx.connection, query, {"queue": queue}).fetchall()}


def _find(
    tx: SqlTransaction, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = ""
) -> list[GateState]:
    if keys is None:
        gates = {gate.key: gate for gate in tx.find_gates(limit, prefix)}
    else:
        gates = tx.stored_gates(sorted(keys)[:limit])
    counts = tx.counts(gates)
    known = [key for key in (sorted(gates) if keys is None else keys) if key in gates]
    return [GateState(gate=gates[key], held=counts[key][0], waiting=counts[key][1]) for key in known]


class SqlGateReads(GateReads):
    """The gates of a database."""

    def __init__(self, read: Callable[[Callable[[SqlTransaction], Any]], Coroutine[Any, Any, Any]]) -> None:
        self._read = read

    due = reads(_due)
    known = reads(_known)
    of_queue = reads(_of_queue)
    find = reads(_find)
    tasks = reads(SqlTransaction.tasks_at)
