"""Schedules in SQL, by way of asynchronous sessions: a compare-and-swap and the fired tasks in one transaction."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BigInteger, BindParameter, Connection, Integer, bindparam, delete, or_, select, update

from aiotaskq.backends.base import READY, Hints, ScheduleChange, Schedules
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.insert import insert_new
from aiotaskq.backends.sql.packet import check_rows
from aiotaskq.backends.sql.rows import SCHEDULE_FIELDS, SCHEDULES, changed_columns, schedule_row, to_schedule
from aiotaskq.backends.sql.tasks import chunks, push
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND

c = SCHEDULES.c


class SqlSchedules(Schedules):
    """Schedules in the table ``scheduler_task``."""

    def __init__(self, database: Database, hints: Hints) -> None:
        self._database = database
        self._hints = hints

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        def body(connection: Connection) -> list[Schedule]:
            if not schedules or _inserted(connection, schedules) == len(schedules):
                return list(schedules)
            # Some ids were there before, or come twice.
            rows = {row.task_id: row for row in _read(connection, [schedule.task_id for schedule in schedules])}
            return [s if rows[s.task_id] == s else rows[s.task_id] for s in schedules]

        return await self._database.write_session(body)

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        held = await self._database.write_session(lambda connection: change(connection, changes))
        if any(ok and item.tasks for ok, item in zip(held, changes, strict=True)):
            self._hints.tell(READY)
        return held

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        found = {s.task_id: s for s in await self._database.read_session(lambda connection: _read(connection, ids))}
        return [found.get(schedule_id) for schedule_id in ids]

    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        query = _ALL.where(c.enabled) if enabled_only else _ALL
        return await self._database.read_session(lambda connection: _schedules(connection, query))

    async def due(self, now: int, limit: int) -> list[Schedule]:
        second, part = divmod(now, SECOND)
        values = {"second": second, "part": part, "limit": limit}
        return await self._database.read_session(lambda connection: _schedules(connection, _DUE, values))

    async def written_after(self, now: int) -> list[Schedule]:
        return await self._database.read_session(
            lambda connection: _schedules(connection, _WRITTEN_AFTER, {"second": now // SECOND})
        )

    async def undelivered(self, limit: int) -> list[Schedule]:
        return await self._database.read_session(
            lambda connection: _schedules(connection, _UNDELIVERED, {"limit": limit})
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
_GUARDS = _GUARDS.where(c.task_id.in_(bindparam("ids", expanding=True))).with_for_update()


def _schedules(connection: Connection, query: Any, values: dict[str, Any] | None = None) -> list[Schedule]:
    # On the connection's thread, where there is one: a thousand of them would hold the loop.
    return [to_schedule(row) for row in connection.execute(query, values).all()]


def _read(connection: Connection, ids: Sequence[str]) -> list[Schedule]:
    return [to_schedule(row) for part in chunks(ids) for row in connection.execute(_BY_ID, {"ids": part}).all()]


def change(connection: Connection, changes: Sequence[ScheduleChange]) -> list[bool]:
    """Write those whose row is as it was read, and push what they fired."""
    ids = [item.before.task_id for item in changes]
    if len(set(ids)) < len(changes):
        return [held for item in changes for held in change(connection, [item])]  # each sees the one before
    held = [True] * len(changes) if _written_at_once(connection, changes) else _written_by_guards(connection, changes)
    if tasks := [task for item, ok in zip(changes, held, strict=True) if ok for task in item.tasks]:
        push(connection, tasks)
    return held


def _rows_by_columns(changes: Iterable[ScheduleChange]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """What to write: only what is another now, since another program may have changed the rest without a version."""
    rows: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for item in changes:
        row = changed_columns(item.before, item.after) | {"version": item.before.version + 1}
        rows[tuple(row)].append(row | {"b_id": item.before.task_id})
    return rows


def _written_by_guards(connection: Connection, changes: Sequence[ScheduleChange]) -> list[bool]:
    ids = [item.before.task_id for item in changes]
    rows = {row.task_id: row for part in chunks(ids) for row in connection.execute(_GUARDS, {"ids": part})}
    held = [_same(rows.get(item.before.task_id), item.before) for item in changes]
    if not all(held):  # perhaps it only reads otherwise: a NULL, say
        odd = {s.task_id: s for s in _read(connection, [i for i, ok in zip(ids, held, strict=True) if not ok])}
        held = [ok or _same(odd.get(item.before.task_id), item.before) for item, ok in zip(changes, held, strict=True)]
    for names, alike in _rows_by_columns(item for item, ok in zip(changes, held, strict=True) if ok).items():
        check_rows(connection, names, [tuple(row.values()) for row in alike])
        connection.execute(_update(names), alike)
    return held


def _written_at_once(connection: Connection, changes: Sequence[ScheduleChange]) -> bool:
    """On SQLite, in our own transaction, write all of them, the guards in the statement; or, answering False, none.

    To read the guards first would take as long again. Only how many held is known, so if one did not, all is undone.
    """
    if connection.dialect.name != "sqlite" or not connection.get_execution_options().get("aiotaskq_begin"):
        return False
    guards = {item.before.task_id: item.before for item in changes}
    count = 0
    connection.exec_driver_sql("SAVEPOINT aiotaskq_change")
    for names, rows in _rows_by_columns(changes).items():
        values = [(*row.values(), *(getattr(guards[row["b_id"]], name) for name in _GUARD)) for row in rows]
        count += connection.exec_driver_sql(_words(names), values).rowcount
    if count < len(changes):
        connection.exec_driver_sql("ROLLBACK TO aiotaskq_change")
    connection.exec_driver_sql("RELEASE aiotaskq_change")
    return count == len(changes)


_GUARD = ("version", "next_run_at", "next_run_us", "enabled", "run_count")


@functools.lru_cache(maxsize=64)
def _words(names: tuple[str, ...]) -> str:
    assignments = ", ".join(f"{name} = ?" for name in names if name != "b_id")
    guard = " AND ".join(f"{name} IS ?" for name in _GUARD)
    return f"UPDATE scheduler_task SET {assignments} WHERE task_id = ? AND {guard}"  # noqa: S608 - our own names


@functools.lru_cache(maxsize=64)
def _update(names: tuple[str, ...]) -> Any:
    statement = update(SCHEDULES).where(c.task_id == bindparam("b_id"))
    return statement.values({name: bindparam(name) for name in names if name != "b_id"})


def _same(row: Any, before: Schedule) -> bool:
    # The version tells our own writes apart; the other columns those of programs that know only the documented ones.
    return row is not None and (row.version, row.next_run_at, row.next_run_us, row.enabled, row.run_count) == (
        before.version,
        before.next_run_at,
        before.next_run_us,
        before.enabled,
        before.run_count,
    )
