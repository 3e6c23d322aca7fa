"""Schedules in SQL, by way of asynchronous sessions: a compare-and-swap and the fired tasks in one transaction."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import BigInteger, BindParameter, Connection, Integer, bindparam, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from aiotaskq.backends.base import Claim, ScheduleChange, Schedules
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects.base import Dialect, Tx
from aiotaskq.backends.sql.rows import json_text, read_json, read_object
from aiotaskq.backends.sql.statement_size import check_rows, chunks
from aiotaskq.backends.sql.tasks import rewrite
from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.backends.sql.transactions import SqlTransactions
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import encoded, from_stored, is_coded, to_stored
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.core.task import SECOND, Task
from aiotaskq.models import SchedulerTask

T = TypeVar("T")
SCHEDULES: Any = SchedulerTask.__table__
c = SCHEDULES.c
_tasks = msgspec.json.Decoder(tuple[Task, ...]).decode
_NAMES = tuple(column.name for column in SCHEDULES.columns)
_FIELDS = tuple(name for name in _NAMES if name not in ("task_id", "version"))
_ALL_FIELDS = Schedule.__struct_fields__
_PARAMS = _ALL_FIELDS.index("params")
_LISTS = ("outbox", "blackout", "history")  # NULL where they are empty
_LIST_INDEXES = tuple(map(_ALL_FIELDS.index, _LISTS))
_windows = msgspec.json.Decoder(tuple[str, ...]).decode
_history = msgspec.json.Decoder(tuple[FiringRecord, ...]).decode


def _row(schedule: Schedule) -> tuple[Any, ...]:
    """Return all columns of a schedule, in the order of ``_ALL_FIELDS``."""
    row = list(msgspec.structs.astuple(schedule))
    row[_PARAMS] = json_text(schedule.params)
    for index in _LIST_INDEXES:
        row[index] = json_text(row[index]) if row[index] else None
    return tuple(row)


_GUARD: Final = ("version", "next_run_at", "next_run_us", "enabled", "run_count")
"""The columns of a schedule by which a write knows that it is as it was read.

The version rises with each write of this package; the other columns show the writes of other programs.
"""


def _changes(changes: Iterable[ScheduleChange]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Return what to write, by columns, with the id as ``b_id`` at the end.

    Only what is changed: another program may have changed the rest without a new version.
    """
    rows: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for item in changes:
        row = _changed_columns(item.before, item.after) | {"version": item.before.version + 1}
        row["b_id"] = item.before.task_id
        rows[tuple(row)].append(row)
    return rows


def _changed_columns(before: Schedule, after: Schedule) -> dict[str, Any]:
    """Return the columns of a schedule that differ."""
    row = {name: new for name in _FIELDS if (new := getattr(after, name)) != getattr(before, name)}
    row["enabled"] = after.enabled  # a row that cannot be decoded was read as a disabled one
    if "params" in row:
        row["params"] = json_text(after.params)
    for name in _LISTS:
        if name in row:
            row[name] = json_text(row[name]) if row[name] else None
    return row


_DEFAULTS = (("run_count", 0), ("max_runs", 0), ("misfire", "fire_once"), ("overlap", "allow"))


def _coded(schedule: Schedule, codec: Codec, before: Schedule | None = None) -> Schedule:
    """Return the schedule with its params and its outbox as a codec makes them, where they differ from ``before``."""
    texts = {}
    for name in ("params", "outbox"):
        value = getattr(schedule, name)
        if value and (before is None or value != getattr(before, name)):
            texts[name] = msgspec.Raw(to_stored(msgspec.json.encode(value), codec))
    return schedule.replace(**texts) if texts else schedule


def _to_schedule(row: Sequence[Any], codec: Codec | None = None) -> Schedule:
    """Return the schedule of a full row of ``scheduler_task``; one that cannot be decoded is not enabled."""
    values = dict(zip(_NAMES, row, strict=True))
    lost = False
    for name in ("params", "outbox"):
        if is_coded(values[name]):
            try:
                values[name] = from_stored(values[name], codec).decode()
            except Exception:  # the codec is the application's, and may raise anything
                values[name], lost = None, True
    values["params"], problem = read_object("params", values["params"])
    values["outbox"] = _tasks(values["outbox"]) if values["outbox"] else ()
    values["history"], _ = read_json("history", values["history"], _history, ())  # without it the schedule still works
    values["blackout"], unread = read_json("blackout", values["blackout"], _windows, ())
    problem = problem or unread
    values["enabled"] = bool(values["enabled"]) and problem is None and not lost
    for name, default in _DEFAULTS:
        if values[name] is None:
            values[name] = default
    return UndecodableSchedule(**values) if lost or problem is not None else Schedule(**values)


def recode_schedules(tx: Tx, ids: Sequence[str], codec: Codec) -> list[bool | None]:
    """Rewrite the rows of these schedules; return for each as ``Backend.recode``."""

    def columns(row: Any) -> dict[str, Any] | None:
        schedule = _to_schedule(row, codec)
        if isinstance(schedule, UndecodableSchedule):
            return None
        new = _coded(schedule, codec)
        return {"params": json_text(new.params), "outbox": json_text(new.outbox) if schedule.outbox else None}

    return rewrite(tx, SCHEDULES, ("params", "outbox"), ids, columns)


class SqlSchedules(Schedules):
    """Schedules in the table ``scheduler_task``."""

    def __init__(self, database: Database, listeners: Listeners, store: SqlTransactions) -> None:
        self._database, self._store = database, store
        self._listeners = listeners

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        codec = self.codec
        coded = schedules if codec is None else [_coded(schedule, codec) for schedule in schedules]
        values = [_row(schedule) for schedule in coded]

        async def body(session: AsyncSession) -> list[Schedule]:
            # As tasks are inserted: each database has its own quick way to insert many rows that may be there before.
            if not schedules or await session.run_sync(
                lambda inner: self._store.tx(inner.connection()).insert_new(SCHEDULES, _ALL_FIELDS, values)
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

        _, claimed, *_ = await self._store.write(fire, claim, write)
        return held, claimed

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        rows = await self._database.read_session(lambda session: _read(session, ids, self.codec))
        found = {row.task_id: row for row in rows}
        return [found.get(schedule_id) for schedule_id in ids]

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        codec = self.codec
        if codec is None:
            return await super().recode(ids)
        return await self._database.write(lambda connection: recode_schedules(self._store.tx(connection), ids, codec))

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
_GUARDS = select(c.task_id, *[c[name] for name in _GUARD])
# Locked in the order of the ids, so that two processes that fire the same ones wait in one direction.
_GUARDS = _GUARDS.where(c.task_id.in_(bindparam("ids", expanding=True))).order_by(c.task_id).with_for_update()


_guard_of = attrgetter(*_GUARD)


def _coded_change(item: ScheduleChange, codec: Codec) -> ScheduleChange:
    after = _coded(item.after, codec, item.before)
    return ScheduleChange(item.before, after, tuple([encoded(task, codec) for task in item.tasks]))


async def _read(session: AsyncSession, ids: Sequence[str], codec: Codec | None = None) -> list[Schedule]:
    found: list[Schedule] = []
    for part in chunks(ids):
        found += [_to_schedule(row, codec) for row in await session.execute(_BY_ID, {"ids": part})]
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
    for names, alike in _changes(item for item, ok in zip(changes, held, strict=True) if ok).items():
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
