"""Schedules in SQL, by way of asynchronous sessions: a compare-and-swap and the fired tasks in one transaction."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import BigInteger, BindParameter, Connection, Integer, bindparam, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from aiotaskq.backends.base import Claim, ScheduleChange, Schedules
from aiotaskq.backends.flow.gates import push
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects.base import Dialect
from aiotaskq.backends.sql.recode import recode_schedules
from aiotaskq.backends.sql.schedule_rows import (
    SCHEDULE_FIELDS,
    SCHEDULE_GUARD,
    SCHEDULES,
    coded_schedule,
    schedule_changes,
    schedule_row,
    to_schedule,
)
from aiotaskq.backends.sql.statement_size import check_rows, chunks
from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.backends.sql.writes import SqlWrites
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import encoded
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND, Task

c = SCHEDULES.c
T = TypeVar("T")


class SqlSchedules(Schedules):
    """Schedules in the table ``scheduler_task``."""

    def __init__(self, database: Database, listeners: Listeners, writes: SqlWrites) -> None:
        self._database, self._writes = database, writes
        self._listeners = listeners

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        codec = self.codec
        coded = schedules if codec is None else [coded_schedule(schedule, codec) for schedule in schedules]
        values = [schedule_row(schedule) for schedule in coded]

        async def body(session: AsyncSession) -> list[Schedule]:
            # As tasks are inserted: each database has its own quick way to insert many rows that may be there before.
            if not schedules or await session.run_sync(
                lambda inner: self._writes.tx(inner.connection()).insert_new(SCHEDULES, SCHEDULE_FIELDS, values)
            ) == len(schedules):
                return list(schedules)
            # Some ids were there before, or come twice.
            found = await _read(session, [schedule.task_id for schedule in schedules], codec)
            rows = {row.task_id: row for row in found}
            return [s if rows[s.task_id] == s else rows[s.task_id] for s in schedules]

        return await self._database.write_session(body)

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        held, _ = await self.change_and(changes)
        if any(ok and item.tasks for ok, item in zip(held, changes, strict=True)):
            self._listeners.notify(READY)
        return held

    async def change_and(
        self, changes: Sequence[ScheduleChange], claim: Claim | None = None
    ) -> tuple[list[bool], list[Task]]:
        """Do as ``change`` without its hint, and claim in the same transaction; return both answers."""
        sent = changes if self.codec is None else [_coded_change(item, self.codec) for item in changes]
        held: list[bool] = []

        async def write(rest: Callable[[Connection], T]) -> T:
            async def body(session: AsyncSession) -> T:
                held[:] = await _written(session, self._database.dialect, sent, self.codec)
                return await session.run_sync(lambda inner: rest(inner.connection()))

            return await self._database.write_session(body)

        def fire(tx: SqlTransaction) -> None:
            """Push the tasks that the changes fire, as any tasks are pushed."""
            if tasks := [task for item, ok in zip(sent, held, strict=True) if ok for task in item.tasks]:
                push(tx, tasks)

        _, claimed, _ = await self._writes.write(fire, claim, write)
        return held, claimed

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        rows = await self._database.read_session(lambda session: _read(session, ids, self.codec))
        found = {row.task_id: row for row in rows}
        return [found.get(schedule_id) for schedule_id in ids]

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        codec = self.codec
        if codec is None:
            return await super().recode(ids)
        return await self._database.write(lambda connection: recode_schedules(self._writes.tx(connection), ids, codec))

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
            return [to_schedule(row, self.codec) for row in await session.execute(query, values)]

        return await self._database.read_session(body)

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        async def body(session: AsyncSession) -> set[str]:
            found = {schedule.task_id for schedule in await _read(session, ids)}
            for part in chunks(ids):
                await session.execute(delete(SCHEDULES).where(c.task_id.in_(part)))
            return found

        found = await self._database.write_session(body)
        return [schedule_id in found for schedule_id in ids]


_BY_ID = select(SCHEDULES).where(c.task_id.in_(bindparam("ids", expanding=True)))
_ALL = select(SCHEDULES).order_by(c.created_at, c.task_id)
_LIMIT: BindParameter[int] = bindparam("limit", type_=Integer)
_UNDELIVERED = select(SCHEDULES).where(c.outbox.is_not(None)).order_by(c.task_id).limit(_LIMIT)
# Due at or before a second and a part of it. The loose condition beside it is there for the index.
_SECOND, _PART = bindparam("second", type_=BigInteger), bindparam("part", type_=Integer)
_DUE = select(SCHEDULES).where(c.enabled, c.next_run_at <= _SECOND)
_DUE = _DUE.where(or_(c.next_run_at < _SECOND, (c.next_run_at == _SECOND) & (c.next_run_us <= _PART)))
_DUE = _DUE.order_by(c.next_run_at, c.next_run_us, c.task_id).limit(_LIMIT)
_GUARDS = select(c.task_id, *[c[name] for name in SCHEDULE_GUARD])
# Locked in the order of the ids, so that two processes that fire the same ones wait in one direction.
_GUARDS = _GUARDS.where(c.task_id.in_(bindparam("ids", expanding=True))).order_by(c.task_id).with_for_update()


_guard_of = attrgetter(*SCHEDULE_GUARD)


def _coded_change(item: ScheduleChange, codec: Codec) -> ScheduleChange:
    after = coded_schedule(item.after, codec, item.before)
    return ScheduleChange(item.before, after, tuple([encoded(task, codec) for task in item.tasks]))


async def _read(session: AsyncSession, ids: Sequence[str], codec: Codec | None = None) -> list[Schedule]:
    found: list[Schedule] = []
    for part in chunks(ids):
        found += [to_schedule(row, codec) for row in await session.execute(_BY_ID, {"ids": part})]
    return found


async def _written(
    session: AsyncSession, dialect: Dialect, changes: Sequence[ScheduleChange], codec: Codec | None
) -> list[bool]:
    """Write the changes whose guard holds."""
    ids = [item.before.task_id for item in changes]
    if len(set(ids)) < len(changes):
        # Each sees the one before.
        return [held for item in changes for held in await _written(session, dialect, [item], codec)]
    rows: dict[str, Any] = {}
    for part in chunks(sorted(ids)):
        rows.update({row.task_id: row for row in await session.execute(_GUARDS, {"ids": part})})
    held = [_same(rows.get(item.before.task_id), item.before) for item in changes]
    if not all(held):  # the raw value may differ and mean the same, such as a NULL
        refused = [task_id for task_id, ok in zip(ids, held, strict=True) if not ok]
        odd = {schedule.task_id: schedule for schedule in await _read(session, refused, codec)}
        held = [ok or _same(odd.get(item.before.task_id), item.before) for item, ok in zip(changes, held, strict=True)]
    for names, alike in schedule_changes(item for item, ok in zip(changes, held, strict=True) if ok).items():
        limit = await session.run_sync(lambda inner: dialect.statement_limit(inner.connection()))
        check_rows(limit, names, [tuple(row.values()) for row in alike])
        await session.execute(_update(names), alike)
    return held


@functools.lru_cache(maxsize=64)
def _update(names: tuple[str, ...]) -> Any:
    statement = update(SCHEDULES).where(c.task_id == bindparam("b_id"))
    return statement.values({name: bindparam(name) for name in names if name != "b_id"})


def _same(row: Any, before: Schedule) -> bool:
    return row is not None and _guard_of(row) == _guard_of(before)
