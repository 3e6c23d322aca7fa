"""Schedules in SQL, by way of asynchronous sessions: a compare-and-swap and the fired tasks in one transaction."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, BindParameter, Connection, Integer, bindparam, delete, or_, select, update

from aiotaskq.backends.base import ScheduleChange, Schedules
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.sql.admission import Touched
from aiotaskq.backends.sql.claim import Claim
from aiotaskq.backends.sql.claim import claim as claim_tasks
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.gates import SqlGates
from aiotaskq.backends.sql.insert import insert_new
from aiotaskq.backends.sql.recode import recode_schedules
from aiotaskq.backends.sql.rows import (
    SCHEDULE_FIELDS,
    SCHEDULES,
    coded_schedule,
    schedule_changes,
    schedule_row,
    to_schedule,
)
from aiotaskq.backends.sql.statement_size import check_rows, chunks
from aiotaskq.backends.sql.tasks import push
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import encoded
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND, Task

c = SCHEDULES.c


class SqlSchedules(Schedules):
    """Schedules in the table ``scheduler_task``."""

    def __init__(self, database: Database, listeners: Listeners, gates: SqlGates) -> None:
        self._database, self._gates = database, gates
        self._listeners = listeners

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        def body(connection: Connection) -> list[Schedule]:
            codec = self.codec
            coded = schedules if codec is None else [coded_schedule(schedule, codec) for schedule in schedules]
            if not schedules or _inserted(connection, coded) == len(schedules):
                return list(schedules)
            # Some ids were there before, or come twice.
            rows = {row.task_id: row for row in _read(connection, [schedule.task_id for schedule in schedules], codec)}
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
        if any(task.flow is not None for item in changes for task in item.tasks):
            held, claimed, _ = await self._gates.write(
                lambda c, touched: change(c, sent, self.codec, touched), claim, self._database.write_session
            )
            return held, claimed

        def body(connection: Connection) -> tuple[list[bool], list[Task]]:
            held = change(connection, sent, self.codec)
            return held, [] if claim is None else claim_tasks(connection, *claim)

        return await self._database.write_session(body)

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        rows = await self._database.read_session(lambda connection: _read(connection, ids, self.codec))
        found = {row.task_id: row for row in rows}
        return [found.get(schedule_id) for schedule_id in ids]

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        codec = self.codec
        if codec is None:
            return await super().recode(ids)
        return await self._database.write_session(lambda connection: recode_schedules(connection, ids, codec))

    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        query = _ALL.where(c.enabled) if enabled_only else _ALL
        return await self._database.read_session(lambda connection: _schedules(connection, query, None, self.codec))

    async def due(self, now: int, limit: int) -> list[Schedule]:
        second, part = divmod(now, SECOND)
        values = {"second": second, "part": part, "limit": limit}
        return await self._database.read_session(lambda connection: _schedules(connection, _DUE, values, self.codec))

    async def written_after(self, now: int) -> list[Schedule]:
        return await self._database.read_session(
            lambda connection: _schedules(connection, _WRITTEN_AFTER, {"second": now // SECOND}, self.codec)
        )

    async def undelivered(self, limit: int) -> list[Schedule]:
        return await self._database.read_session(
            lambda connection: _schedules(connection, _UNDELIVERED, {"limit": limit}, self.codec)
        )

    async def next_due(self) -> int | None:
        row: Any = await self._database.read_session(lambda connection: connection.execute(_NEXT).first())
        return None if row is None else int(row[0] * SECOND + (row[1] or 0))

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        def body(connection: Connection) -> set[str]:
            found = {schedule.task_id for schedule in _read(connection, ids)}
            for part in chunks(ids):
                connection.execute(delete(SCHEDULES).where(c.task_id.in_(part)))
            return found

        found = await self._database.write_session(body)
        return [schedule_id in found for schedule_id in ids]


def _inserted(connection: Connection, schedules: Sequence[Schedule]) -> int:
    return insert_new(connection, SCHEDULES, SCHEDULE_FIELDS, [schedule_row(schedule) for schedule in schedules])


_BY_ID = select(SCHEDULES).where(c.task_id.in_(bindparam("ids", expanding=True)))
_ALL = select(SCHEDULES).order_by(c.created_at, c.task_id)
_NEXT = select(c.next_run_at, c.next_run_us).where(c.enabled, c.next_run_at.is_not(None))
_NEXT = _NEXT.order_by(c.next_run_at, c.next_run_us).limit(1)
_LIMIT: BindParameter[int] = bindparam("limit", type_=Integer)
_UNDELIVERED = select(SCHEDULES).where(c.outbox.is_not(None)).order_by(c.task_id).limit(_LIMIT)
# Due at or before a second and a part of it. The loose condition beside it is there for the index.
_SECOND, _PART = bindparam("second", type_=BigInteger), bindparam("part", type_=Integer)
_WRITTEN_AFTER = select(SCHEDULES).where(c.enabled, c.updated_at > _SECOND, c.next_run_at > _SECOND)
_DUE = select(SCHEDULES).where(c.enabled, c.next_run_at <= _SECOND)
_DUE = _DUE.where(or_(c.next_run_at < _SECOND, (c.next_run_at == _SECOND) & (c.next_run_us <= _PART)))
_DUE = _DUE.order_by(c.next_run_at, c.next_run_us, c.task_id).limit(_LIMIT)
_GUARDS = select(c.task_id, c.version, c.next_run_at, c.next_run_us, c.enabled, c.run_count)
# Locked in the order of the ids, so that two processes that fire the same ones wait in one direction.
_GUARDS = _GUARDS.where(c.task_id.in_(bindparam("ids", expanding=True))).order_by(c.task_id).with_for_update()


def _coded_change(item: ScheduleChange, codec: Codec) -> ScheduleChange:
    after = coded_schedule(item.after, codec, item.before)
    return ScheduleChange(item.before, after, tuple([encoded(task, codec) for task in item.tasks]))


def _schedules(
    connection: Connection, query: Any, values: dict[str, Any] | None, codec: Codec | None
) -> list[Schedule]:
    # Decoded on the connection's thread, where it has one: a thousand of them would block the loop.
    return [to_schedule(row, codec) for row in connection.execute(query, values).all()]


def _read(connection: Connection, ids: Sequence[str], codec: Codec | None = None) -> list[Schedule]:
    return [to_schedule(row, codec) for part in chunks(ids) for row in connection.execute(_BY_ID, {"ids": part}).all()]


def change(
    connection: Connection,
    changes: Sequence[ScheduleChange],
    codec: Codec | None = None,
    touched: Touched | None = None,
) -> list[bool]:
    """Write the changes whose guard holds, and push the tasks that they fire; ``touched`` for those with gates."""
    ids = [item.before.task_id for item in changes]
    if len(set(ids)) < len(changes):
        # Each sees the one before.
        return [held for item in changes for held in change(connection, [item], codec, touched)]
    if dialect_of(connection).change_schedules(connection, changes):
        held = [True] * len(changes)
    else:
        held = _written_by_guards(connection, changes, codec)
    if tasks := [task for item, ok in zip(changes, held, strict=True) if ok for task in item.tasks]:
        push(connection, tasks, touched=touched)
    return held


def _written_by_guards(connection: Connection, changes: Sequence[ScheduleChange], codec: Codec | None) -> list[bool]:
    ids = [item.before.task_id for item in changes]
    rows = {row.task_id: row for part in chunks(sorted(ids)) for row in connection.execute(_GUARDS, {"ids": part})}
    held = [_same(rows.get(item.before.task_id), item.before) for item in changes]
    if not all(held):  # the raw value may differ and mean the same, such as a NULL
        refused = [task_id for task_id, ok in zip(ids, held, strict=True) if not ok]
        odd = {schedule.task_id: schedule for schedule in _read(connection, refused, codec)}
        held = [ok or _same(odd.get(item.before.task_id), item.before) for item, ok in zip(changes, held, strict=True)]
    for names, alike in schedule_changes(item for item, ok in zip(changes, held, strict=True) if ok).items():
        check_rows(dialect_of(connection).statement_limit(connection), names, [tuple(row.values()) for row in alike])
        connection.execute(_update(names), alike)
    return held


@functools.lru_cache(maxsize=64)
def _update(names: tuple[str, ...]) -> Any:
    statement = update(SCHEDULES).where(c.task_id == bindparam("b_id"))
    return statement.values({name: bindparam(name) for name in names if name != "b_id"})


def _same(row: Any, before: Schedule) -> bool:
    # The version rises with each write of this package; the other columns show the writes of other programs.
    return row is not None and (row.version, row.next_run_at, row.next_run_us, row.enabled, row.run_count) == (
        before.version,
        before.next_run_at,
        before.next_run_us,
        before.enabled,
        before.run_count,
    )
