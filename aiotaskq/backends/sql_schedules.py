"""Schedules in SQL: a compare-and-swap and the fired tasks in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, or_, select, update

from aiotaskq.backends.base import READY, Hints, ScheduleChange, Schedules
from aiotaskq.backends.sql_insert import insert_new
from aiotaskq.backends.sql_rows import SCHEDULES, schedule_row, to_schedule
from aiotaskq.backends.sql_tasks import chunks, push
from aiotaskq.database import Database
from aiotaskq.schedule import Schedule
from aiotaskq.task import SECOND

c = SCHEDULES.c


class SqlSchedules(Schedules):
    """Schedules in the table ``scheduler_task``."""

    def __init__(self, database: Database, hints: Hints) -> None:
        self._database = database
        self._hints = hints

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        def body(connection: Connection) -> list[Schedule]:
            stands = {schedule.task_id: schedule for schedule in _read(connection, [s.task_id for s in schedules])}
            new = [schedule for schedule in schedules if stands.setdefault(schedule.task_id, schedule) is schedule]
            if new and insert_new(connection, SCHEDULES, *_rows_of(new)) < len(new):
                # Another process was quicker, after our look.
                rows = {schedule.task_id: schedule for schedule in _read(connection, [s.task_id for s in new])}
                stands |= {s.task_id: s if rows[s.task_id] == s else rows[s.task_id] for s in new}
            return [stands[schedule.task_id] for schedule in schedules]

        return await self._database.write(body)

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        held = await self._database.write(lambda connection: change(connection, changes))
        if any(ok and item.tasks for ok, item in zip(held, changes, strict=True)):
            self._hints.tell(READY)
        return held

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        found = {s.task_id: s for s in await self._database.read(lambda connection: _read(connection, ids))}
        return [found.get(schedule_id) for schedule_id in ids]

    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        query = select(SCHEDULES).order_by(c.created_at, c.task_id)
        if enabled_only:
            query = query.where(c.enabled)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [to_schedule(row) for row in rows]

    async def due(self, now: int, limit: int) -> list[Schedule]:
        second, part = divmod(now, SECOND)
        due = or_(c.next_run_at < second, (c.next_run_at == second) & (c.next_run_us <= part))
        # The first condition says the same more loosely, so that the index serves it.
        where = (c.enabled, c.next_run_at <= second, due)
        query = select(SCHEDULES).where(*where).order_by(c.next_run_at, c.next_run_us, c.task_id).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [to_schedule(row) for row in rows]

    async def undelivered(self, limit: int) -> list[Schedule]:
        query = select(SCHEDULES).where(c.outbox.is_not(None)).order_by(c.task_id).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [to_schedule(row) for row in rows]

    async def next_due(self) -> int | None:
        query = select(c.next_run_at, c.next_run_us).where(c.enabled, c.next_run_at.is_not(None))
        query = query.order_by(c.next_run_at, c.next_run_us).limit(1)
        row: Any = await self._database.read(lambda connection: connection.execute(query).first())
        return None if row is None else int(row[0] * SECOND + (row[1] or 0))

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        def body(connection: Connection) -> set[str]:
            found = {schedule.task_id for schedule in _read(connection, ids)}
            for part in chunks(ids):
                connection.execute(delete(SCHEDULES).where(c.task_id.in_(part)))
            return found

        found = await self._database.write(body)
        return [schedule_id in found for schedule_id in ids]


def _rows_of(schedules: Sequence[Schedule]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    rows = [schedule_row(schedule) for schedule in schedules]
    return tuple(rows[0]), [tuple(row.values()) for row in rows]


def _read(connection: Connection, ids: Sequence[str], lock: bool = False) -> list[Schedule]:
    queries = (select(SCHEDULES).where(c.task_id.in_(part)) for part in chunks(ids))
    rows = (row for q in queries for row in connection.execute(q.with_for_update() if lock else q))
    return [to_schedule(row) for row in rows]


def change(connection: Connection, changes: Sequence[ScheduleChange]) -> list[bool]:
    """Write those whose row is as it was read, and push what they fired."""
    if len({item.before.task_id for item in changes}) < len(changes):
        return [held for item in changes for held in change(connection, [item])]  # each sees the one before
    rows = {
        schedule.task_id: schedule for schedule in _read(connection, [i.before.task_id for i in changes], lock=True)
    }
    held = [_same(rows.get(item.before.task_id), item.before) for item in changes]
    values = [
        {**schedule_row(item.after), "version": item.before.version + 1, "b_id": item.before.task_id}
        for item, ok in zip(changes, held, strict=True)
        if ok
    ]
    if values:
        names = [name for name in values[0] if name not in ("b_id", "task_id")]
        statement = update(SCHEDULES).where(c.task_id == bindparam("b_id"))
        for value in values:
            del value["task_id"]
        connection.execute(statement.values({name: bindparam(name) for name in names}), values)
    if tasks := [task for item, ok in zip(changes, held, strict=True) if ok for task in item.tasks]:
        push(connection, tasks)
    return held


def _same(row: Schedule | None, before: Schedule) -> bool:
    # The version tells our own writes apart; the other columns those of programs that know only the documented ones.
    return row is not None and (row.version, row.next_run_at, row.next_run_us, row.enabled, row.run_count) == (
        before.version,
        before.next_run_at,
        before.next_run_us,
        before.enabled,
        before.run_count,
    )
