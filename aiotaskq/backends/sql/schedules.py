"""Schedules in SQL, by way of asynchronous sessions: a compare-and-swap and the fired tasks in one transaction."""

from __future__ import annotations

import functools
from collections import defaultdict, namedtuple
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import BigInteger, Connection, Integer, bindparam, delete, false, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from aiotaskq.backends.base import Change, Claim, Schedules
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.schedules import CODED, FIELDS, Decide, Decision, stored
from aiotaskq.backends.sql.connections import SessionBody
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.sql.rows import json_text, read_json, read_object
from aiotaskq.backends.sql.statement_size import chunks, parts
from aiotaskq.backends.sql.statements import run_many
from aiotaskq.backends.sql.tasks import update_tasks
from aiotaskq.backends.sql.transaction import SqlTransaction, SqlTransactions
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import plain_text, stored_text
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.core.task import SECOND, Task
from aiotaskq.models import SchedulerTask

T = TypeVar("T")
SCHEDULES: Any = SchedulerTask.__table__
c = SCHEDULES.c
_NAMES = tuple(column.name for column in SCHEDULES.columns)
_LISTS: Final = {
    "outbox": msgspec.json.Decoder(tuple[Task, ...]).decode,
    "blackout": msgspec.json.Decoder(tuple[str, ...]).decode,
    "history": msgspec.json.Decoder(tuple[FiringRecord, ...]).decode,
    "tags": msgspec.json.Decoder(dict[str, str]).decode,
}
"""The columns that are NULL where they are empty."""
_TEXTS: Final = ("params", *_LISTS)
_Guard = namedtuple("_Guard", ["task_id", "version", "next_run_at", "next_run_us", "enabled", "run_count"])
_DEFAULTS = (("run_count", 0), ("max_runs", 0), ("misfire", "fire_once"), ("overlap", "allow"))


def _row(schedule: Schedule, codec: Codec | None, names: Collection[str] = FIELDS) -> dict[str, Any]:
    """Return these columns of a schedule."""
    row = msgspec.structs.asdict(schedule) if names is FIELDS else {name: getattr(schedule, name) for name in names}
    for name in _TEXTS:
        if value := row.get(name):
            row[name] = stored_text(json_text(value), codec) if name in CODED else json_text(value)
        elif name in row:
            row[name] = "{}" if name == "params" else None
    return row


def _to_schedule(row: Sequence[Any], codec: Codec | None = None) -> Schedule:
    """Return the schedule of a full row of ``scheduler_task``; one that cannot be decoded is not enabled."""
    values = dict(zip(_NAMES, row, strict=True))
    values["params"], problem = read_object("params", plain_text(values["params"], codec)[0])
    for name, decode in _LISTS.items():
        values[name], unread = read_json(
            name, plain_text(values[name], codec)[0] or None, decode, {} if name == "tags" else ()
        )
        problem = problem or (None if name == "history" else unread)  # without it the schedule still works
    values["enabled"], values["declared"] = bool(values["enabled"]) and problem is None, bool(values["declared"])
    for name, default in _DEFAULTS:
        if values[name] is None:
            values[name] = default
    return Schedule(**values) if problem is None else UndecodableSchedule(**values)


def _inside(body: Callable[[Connection], T]) -> SessionBody[T]:
    """Return what runs a plain function on the connection of a session, and awaits it once."""
    return lambda session: session.run_sync(lambda inner: body(inner.connection()))


class SqlSchedules(Schedules):
    """Schedules in the table ``scheduler_task``."""

    def __init__(self, database: Database, listeners: Listeners, store: SqlTransactions) -> None:
        self._database, self._store = database, store
        self._listeners = listeners

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        values = [tuple(_row(schedule, self.codec).values()) for schedule in schedules]

        def body(connection: Connection) -> list[Schedule]:
            # As tasks are inserted: each database has its own quick way to insert many rows that may be there before.
            tx = self._store.tx(connection)
            if not schedules or tx.insert_new(SCHEDULES, FIELDS, values) == len(schedules):
                return list(schedules)
            # Some ids were there before, or come twice.
            return stored(schedules, self._read(tx, [schedule.task_id for schedule in schedules]))

        return await self._database.write_session(_inside(body))

    async def _write(self, ids: Sequence[str], decide: Decide[T], whole: bool = True) -> T:
        answer, fired, *_ = await self.write_and_claim(ids, decide, whole)
        if fired:
            self._listeners.notify(READY)
        return answer

    async def write_and_claim(
        self,
        ids: Sequence[str],
        decide: Decide[T],
        whole: bool,
        claim: Claim | None = None,
        ended: Sequence[Change] = (),
    ) -> tuple[T, Sequence[Task], list[bool], list[Task], Collection[str] | None]:
        """Do as ``_write`` without its hint, write the ``ended`` tasks, and claim, in the same transaction.

        Return the answer, what was fired, which tasks were written, and as ``SqlTransactions.write``.
        """
        made: list[Decision[T]] = []

        async def write(rest: Callable[[Connection], Any]) -> Any:
            def body(connection: Connection) -> Any:
                tx = self._store.tx(connection)
                # Locked in the order of the ids, so that two processes that fire the same ones wait in one direction.
                made[:] = [decide(self._read(tx, sorted(set(ids)), whole, lock=True))]
                self._store_rows(tx, made[0])
                return rest(connection)

            return await self._database.write_session(_inside(body))

        def fire(tx: SqlTransaction) -> list[bool]:
            """Push the tasks that the changes fire, as any tasks are pushed."""
            if fired := made[0].fired:
                push(tx, fired)
            return update_tasks(tx, ended)

        held, claimed, ready, _ = await self._store.write(fire, claim, write)
        return made[0].answer, made[0].fired, held, claimed, ready

    def _store_rows(self, tx: SqlTransaction, decision: Decision[Any]) -> None:
        alike: defaultdict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for schedule, names in decision.written:
            row = {**_row(schedule, self.codec, names), "b_id": schedule.task_id}
            alike[tuple(row)].append(tuple(row.values()))
        limit = tx.dialect.statement_limit(tx.connection)
        for names, rows in alike.items():
            for piece in parts(names, list(zip(*rows, strict=True)), limit):
                run_many(tx.connection, _update(names), names, list(zip(*piece, strict=True)))
        for part in chunks(decision.deleted):
            tx.connection.execute(delete(SCHEDULES).where(c.task_id.in_(part)))

    def _read(self, tx: SqlTransaction, ids: Sequence[str], whole: bool = True, lock: bool = False) -> dict[str, Any]:
        rows = tx.rows_for(_by_id(tx.dialect, whole, lock), ids, {})
        return {row[0]: _to_schedule(row, self.codec) if whole else _Guard(*row) for row in rows}

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        found = await self._database.read_session(
            _inside(lambda connection: self._read(self._store.tx(connection), ids))
        )
        return [found.get(schedule_id) for schedule_id in ids]

    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        return await self._schedules(_ALL.where(c.enabled) if enabled_only else _ALL, {})

    async def due(self, now: int, limit: int) -> list[Schedule]:
        second, part = divmod(now, SECOND)
        return await self._schedules(_DUE, {"second": second, "part": part, "limit": limit})

    async def undelivered(self, limit: int) -> list[Schedule]:
        return await self._schedules(_UNDELIVERED, {"limit": limit})

    async def _schedules(self, query: Any, values: dict[str, Any]) -> list[Schedule]:
        async def body(session: AsyncSession) -> list[Schedule]:
            # Decoded on the connection's thread, where it has one: a thousand of them would block the loop.
            return [_to_schedule(row, self.codec) for row in await session.execute(query, values)]

        return await self._database.read_session(body)


_ALL = select(SCHEDULES).order_by(c.created_at, c.task_id)
_LIMIT = bindparam("limit", type_=Integer)
_UNDELIVERED = select(SCHEDULES).where(c.outbox.is_not(None)).order_by(c.task_id).limit(_LIMIT)
# Due at or before a second and a part of it. The loose condition beside it is there for the index.
_SECOND, _PART = bindparam("second", type_=BigInteger), bindparam("part", type_=Integer)
_DUE = select(SCHEDULES).where(c.enabled, c.next_run_at <= _SECOND)
_DUE = _DUE.where(or_(c.next_run_at < _SECOND, (c.next_run_at == _SECOND) & (c.next_run_us <= _PART)))
_DUE = _DUE.order_by(c.next_run_at, c.next_run_us, c.task_id).limit(_LIMIT)


@functools.cache
def _by_id(dialect: Dialect, whole: bool, lock: bool) -> Any:
    query = select(SCHEDULES).where(dialect.among(c.task_id, "keys")).order_by(c.task_id)
    if not whole:
        enabled, run_count = func.coalesce(c.enabled, false()) != false(), func.coalesce(c.run_count, 0)
        query = query.with_only_columns(c.task_id, c.version, c.next_run_at, c.next_run_us, enabled, run_count)
    return query.with_for_update() if lock else query


@functools.cache
def _update(names: tuple[str, ...]) -> Any:
    statement = update(SCHEDULES).where(c.task_id == bindparam("b_id"))
    return statement.values({name: bindparam(name) for name in names if name != "b_id"})
