"""Schedules in SQL, by way of asynchronous sessions: a compare-and-swap and the fired tasks in one transaction."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import BigInteger, Connection, Integer, bindparam, delete, false, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from aiotaskq.backends.base import Change, Claim, Schedules
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.schedules import CODED, FIELDS, Decide, Decision, stored
from aiotaskq.backends.sql.database import Database
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
    values["enabled"] = bool(values["enabled"]) and problem is None
    for name, default in _DEFAULTS:
        if values[name] is None:
            values[name] = default
    return Schedule(**values) if problem is None else UndecodableSchedule(**values)


class SqlSchedules(Schedules):
    """Schedules in the table ``scheduler_task``."""

    def __init__(self, database: Database, listeners: Listeners, store: SqlTransactions) -> None:
        self._database, self._store = database, store
        self._listeners = listeners

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        values = [tuple(_row(schedule, self.codec).values()) for schedule in schedules]

        async def body(session: AsyncSession) -> list[Schedule]:
            # As tasks are inserted: each database has its own quick way to insert many rows that may be there before.
            if not schedules or await session.run_sync(
                lambda inner: self._store.tx(inner.connection()).insert_new(SCHEDULES, FIELDS, values)
            ) == len(schedules):
                return list(schedules)
            # Some ids were there before, or come twice.
            rows = await self._read(session, _BY_ID, [schedule.task_id for schedule in schedules])
            return stored(schedules, rows)

        return await self._database.write_session(body)

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
            async def body(session: AsyncSession) -> Any:
                # Locked in the order of the ids, so that two processes that fire the same ones wait in one direction.
                rows = await self._read(session, _WHOLE if whole else _GUARDS, sorted(set(ids)), whole)
                made[:] = [decide(rows)]
                await self._store_rows(session, made[0])
                return await session.run_sync(lambda inner: rest(inner.connection()))

            return await self._database.write_session(body)

        def fire(tx: SqlTransaction) -> list[bool]:
            """Push the tasks that the changes fire, as any tasks are pushed."""
            if fired := made[0].fired:
                push(tx, fired)
            return update_tasks(tx, ended)

        held, claimed, ready, _ = await self._store.write(fire, claim, write)
        return made[0].answer, made[0].fired, held, claimed, ready

    async def _store_rows(self, session: AsyncSession, decision: Decision[Any]) -> None:
        alike: defaultdict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for schedule, names in decision.written:
            row = {**_row(schedule, self.codec, names), "b_id": schedule.task_id}
            alike[tuple(row)].append(tuple(row.values()))
        await session.run_sync(lambda inner: self._update(inner.connection(), alike))
        for part in chunks(decision.deleted):
            await session.execute(delete(SCHEDULES).where(c.task_id.in_(part)))

    def _update(self, connection: Connection, alike: Mapping[tuple[str, ...], list[tuple[Any, ...]]]) -> None:
        limit = self._database.dialect.statement_limit(connection)
        for names, rows in alike.items():
            for piece in parts(names, list(zip(*rows, strict=True)), limit):
                run_many(connection, _update(names), names, list(zip(*piece, strict=True)))

    async def _read(self, session: AsyncSession, query: Any, ids: Sequence[str], whole: bool = True) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in chunks(ids):
            for row in await session.execute(query, {"ids": part}):
                found[row.task_id] = _to_schedule(row, self.codec) if whole else row
        return found

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        found = await self._database.read_session(lambda session: self._read(session, _BY_ID, ids))
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


_BY_ID = select(SCHEDULES).where(c.task_id.in_(bindparam("ids", expanding=True)))
_ALL = select(SCHEDULES).order_by(c.created_at, c.task_id)
_LIMIT = bindparam("limit", type_=Integer)
_UNDELIVERED = select(SCHEDULES).where(c.outbox.is_not(None)).order_by(c.task_id).limit(_LIMIT)
# Due at or before a second and a part of it. The loose condition beside it is there for the index.
_SECOND, _PART = bindparam("second", type_=BigInteger), bindparam("part", type_=Integer)
_DUE = select(SCHEDULES).where(c.enabled, c.next_run_at <= _SECOND)
_DUE = _DUE.where(or_(c.next_run_at < _SECOND, (c.next_run_at == _SECOND) & (c.next_run_us <= _PART)))
_DUE = _DUE.order_by(c.next_run_at, c.next_run_us, c.task_id).limit(_LIMIT)
_WHOLE = _BY_ID.order_by(c.task_id).with_for_update()
_GUARDS = _WHOLE.with_only_columns(
    *(c.task_id, c.version, c.next_run_at, c.next_run_us),
    *(func.coalesce(c.enabled, false()).label("enabled"), func.coalesce(c.run_count, 0).label("run_count")),
)


@functools.cache
def _update(names: tuple[str, ...]) -> Any:
    statement = update(SCHEDULES).where(c.task_id == bindparam("b_id"))
    return statement.values({name: bindparam(name) for name in names if name != "b_id"})
