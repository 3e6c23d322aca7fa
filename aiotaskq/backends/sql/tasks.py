"""What each verb on tasks does inside a transaction: plain functions over a SQLAlchemy connection.

They run in the backend's own transactions and, for a transactional push, in the caller's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from sqlalchemy import (
    Connection,
    TextClause,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.base import Change, holds
from aiotaskq.backends.sql.insert import insert_new
from aiotaskq.backends.sql.migrations import OUR_TABLES
from aiotaskq.backends.sql.packet import check_rows
from aiotaskq.backends.sql.prepared import run
from aiotaskq.backends.sql.rows import COLUMNS, LIVE, TASKS, json_text, new_row, to_task
from aiotaskq.backends.sql.write import write, write_guarded
from aiotaskq.core.task import FINAL, Status, Task, TaskFilter, same_push
from aiotaskq.models import QueueState

c = TASKS.c
CHUNK = 500  # ids in one statement: far below every driver's limit of bound values
_QUEUES: Any = QueueState.__table__
PAUSED = select(_QUEUES.c.name).where(_QUEUES.c.paused)
# Written out, as in the conditions of the indexes: one over some rows only is not used for values that are bound.
PENDING: ColumnElement[str] = literal_column("'pending'")
RUNNING: ColumnElement[str] = literal_column("'running'")
# PostgreSQL guesses how many rows have a status from statistics that are minutes old. After a quiet hour it believes
# that none is pending, that any index by status will do and the rest be sorted, while there are 100,000. So those for
# the ended ones leave out the live ones, and nothing is left but the index in the order of claims.
ENDED: ColumnElement[bool] = func.coalesce(c.status, literal_column("''")).not_in([PENDING, RUNNING])


# No row is read, but the statement fails where a table is missing.
_THERE = "".join(f", (SELECT 1 FROM {name} LIMIT 0)" for name in OUR_TABLES)  # noqa: S608 - our own names
# The server's clock in microseconds, whatever the session's time zone; SQLite has none of its own.
_CLOCKS = {
    "postgresql": text(f"SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint){_THERE}"),  # noqa: S608
    "mysql": text(f"SELECT timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)){_THERE}"),
    "sqlite": text(f"SELECT NULL{_THERE}"),
}


def clock(connection: Connection) -> int | None:
    """Return the database's time in microseconds UTC, None on SQLite. Raises if one of our tables is missing."""
    answer = connection.execute(_CLOCKS[connection.dialect.name]).scalar()
    return None if answer is None else int(answer)


def chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut into pieces that fit one statement."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def push(connection: Connection, tasks: Sequence[Task], notify: tuple[str, str] | None = None) -> list[Task]:
    if insert_new(connection, TASKS, COLUMNS, [new_row(task) for task in tasks], notify) == len(tasks):
        return list(tasks)
    # Some were in the way.
    return [
        task if row is None or same_push(row, task) else row
        for task, row in zip(tasks, in_the_way(connection, tasks), strict=True)
    ]


def in_the_way(connection: Connection, tasks: Sequence[Task]) -> list[Task | None]:
    """Return the row that is in the way of each task, perhaps its own; None where there is none."""
    found: dict[str, Task] = {}
    by_key: dict[tuple[str, str | None], Task] = {}
    for part in chunks(tasks):
        keys = [task.unique_key for task in part if task.unique_key is not None]
        onces = [task.idempotency_key for task in part if task.idempotency_key is not None]
        where = or_(c.task_id.in_([t.task_id for t in part]), c.live_key.in_(keys), c.idempotency_key.in_(onces))
        for row in connection.execute(select(TASKS).where(where)):
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
        # One inserted later in this call was not in the way.
        rows.sort(key=lambda row: place.get((row.task_id, row.seq), 0) > number)
        met.append(rows[0] if rows else None)
    return met


# MySQL reads a small table from end to end to find a list of ids, and locks, or waits for, every row on its way.
BY_ID = "FORCE INDEX (PRIMARY)"


def set_on(connection: Connection, ids: Sequence[str], assignments: str, **values: Any) -> None:
    """Write the same to all these rows, and touch no others."""
    if connection.dialect.name == "sqlite":
        words = _set_on_sqlite(assignments, len(ids) == 1)
        if ids:
            run(connection, words, {"ids": ids[0] if len(ids) == 1 else json_text(ids), **values})
        return
    table = f"task_queue {BY_ID}" if connection.dialect.name == "mysql" else "task_queue"
    statement = text(f"UPDATE {table} SET {assignments} WHERE task_id IN :ids")  # noqa: S608 - our own words
    for part in chunks(ids):
        connection.execute(statement.bindparams(bindparam("ids", expanding=True)), {"ids": part, **values})


@functools.cache
def _set_on_sqlite(assignments: str, one: bool) -> TextClause:
    """As JSON, the same words do for any number of ids, and SQLite need not parse them again."""
    which = "task_id = :ids" if one else "task_id IN (SELECT value FROM json_each(:ids))"
    return text(f"UPDATE task_queue SET {assignments} WHERE {which}")  # noqa: S608 - our own words


def _rows(connection: Connection, ids: Sequence[str], lock: Literal["wait", "skip"] | None) -> dict[str, Any]:
    """Read the guards of these rows. With a lock they are ours until the end, and are taken in everybody's order."""
    columns = (c.task_id, c.status, c.fence, c.lease_until, c.cancel_requested)
    found = {}
    for part in chunks(sorted(set(ids))):
        query = select(*columns).where(c.task_id.in_(part)).with_hint(TASKS, BY_ID, "mysql")
        if lock is not None:
            query = query.order_by(c.task_id).with_for_update(skip_locked=lock == "skip")
        found.update({row.task_id: row for row in connection.execute(query)})
    return found


def update_tasks(connection: Connection, changes: Sequence[Change]) -> list[bool]:
    ids = [change.before.task_id for change in changes]
    revived = any(change.before.final and change.after.unique_key is not None for change in changes)
    if len(changes) > 1 and (revived or len(set(ids)) < len(ids)):
        return [held for change in changes for held in update_tasks(connection, [change])]  # each sees the one before
    held = None
    if not revived and not any(change.lease_over for change in changes):
        held = write_guarded(connection, changes)
    if held is None:
        held = holding(connection, changes)
        if revived and held[0]:
            # A dead letter that comes back must not break the uniqueness of a newer task.
            after = changes[0].after
            newer = select(c.task_id).where(c.live_key == after.unique_key, c.task_id != after.task_id)
            held[0] = after.final or connection.execute(newer).first() is None
        write(connection, [change for change, ok in zip(changes, held, strict=True) if ok])
    if then := [task for change, ok in zip(changes, held, strict=True) if ok for task in change.then]:
        push(connection, then)
    return held


def holding(connection: Connection, changes: Sequence[Change]) -> list[bool]:
    """Lock the rows, and say whose guard holds."""
    # A reaper's write must lose against whoever has the row now, a handler's own transaction for instance, not wait for
    # it with all the others; what a worker has to say of its own task must not get lost, and waits.
    rows = _rows(connection, [change.before.task_id for change in changes if not change.lease_over], "wait")
    rows |= _rows(connection, [change.before.task_id for change in changes if change.lease_over], "skip")
    return [change.before.task_id in rows and holds(rows[change.before.task_id], change) for change in changes]


def _running(connection: Connection, ids: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """Read the running ones of these rows; and which of them somebody else has, as a handler's own transaction.

    To wait for one would be to let the leases of all the others end.
    """
    ours = _rows(connection, ids, "skip")
    taken = _rows(connection, [task_id for task_id in ids if task_id not in ours], None)
    running = {i: row for i, row in (ours | taken).items() if row.status == Status.RUNNING}
    return running, running.keys() - ours.keys()


def heartbeat(connection: Connection, held: Sequence[tuple[str, int]], lease_until: int) -> list[bool | None]:
    running, taken = _running(connection, [task_id for task_id, _ in held])
    mine = [task_id in running and running[task_id].fence == fence for task_id, fence in held]
    ids = [i for (i, _), ok in zip(held, mine, strict=True) if ok and i not in taken]
    set_on(connection, ids, "lease_until = :lease_until", lease_until=lease_until)
    return [bool(running[i].cancel_requested) if ok else None for (i, _), ok in zip(held, mine, strict=True)]


def report(connection: Connection, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
    running, taken = _running(connection, [task_id for task_id, _, _ in progress])
    held = [task_id in running and running[task_id].fence == fence for task_id, fence, _ in progress]
    values = [
        {"b_id": i, "progress": json_text(value)}
        for (i, _, value), ok in zip(progress, held, strict=True)
        if ok and i not in taken
    ]
    if values:
        check_rows(connection, ("b_id", "progress"), [tuple(row.values()) for row in values])
        statement = update(TASKS).where(c.task_id == bindparam("b_id")).values(progress=bindparam("progress"))
        connection.execute(statement, values)
    return held


def request_cancel(connection: Connection, ids: Sequence[str]) -> list[bool]:
    # This one waits: a task that somebody is about to end has ended, or can be flagged, when he is through.
    running = [i for i, row in _rows(connection, ids, "wait").items() if row.status == Status.RUNNING]
    set_on(connection, running, "cancel_requested = true")
    return [task_id in running for task_id in ids]


def cancelling(connection: Connection, ids: Sequence[str]) -> list[str]:
    asked = (c.status == str(Status.RUNNING), c.cancel_requested)
    return [
        row[0]
        for part in chunks(ids)
        for row in connection.execute(select(c.task_id).where(c.task_id.in_(part), *asked))
    ]


def get(connection: Connection, ids: Sequence[str]) -> list[Task | None]:
    found = {
        row.task_id: to_task(row)
        for part in chunks(ids)
        for row in connection.execute(select(TASKS).where(c.task_id.in_(part)))
    }
    return [found.get(task_id) for task_id in ids]


def _conditions(where: TaskFilter) -> list[ColumnElement[bool]]:
    """What a filter asks for, but for the status."""
    conditions: list[ColumnElement[bool]] = []
    if where.type is not None:
        conditions.append(c.task_type == where.type)
    if where.queue is not None:
        conditions.append(c.queue == where.queue)
    if where.scheduler_task_id is not None:
        conditions.append(c.scheduler_task_id == where.scheduler_task_id)
    if where.completed_before is not None:
        conditions.append(c.completed_at < where.completed_before)
    return conditions


def _of_status(status: Status) -> ColumnElement[bool]:
    known = {Status.PENDING: PENDING, Status.RUNNING: RUNNING}
    return c.status == known[status] if status in known else and_(c.status == str(status), ENDED)


def find(connection: Connection, where: TaskFilter, limit: int) -> list[Task]:
    conditions = _conditions(where)
    if where.after is not None:
        last = connection.execute(select(c.seq).where(c.task_id == where.after)).scalar()
        if last is not None:
            conditions += [c.seq <= last, or_(c.seq < last, c.task_id < where.after)]
    # One query for each status, since each has its rows in this order in the index; for several they would be sorted.
    one_each = [_of_status(status) for status in dict.fromkeys(where.status)] or [true()]
    rows: list[Any] = []
    for status in one_each:
        query = select(TASKS).where(status, *conditions).order_by(c.seq.desc(), c.task_id.desc()).limit(limit)
        rows += connection.execute(query)
    rows.sort(key=lambda row: (row.seq, row.task_id), reverse=True)
    return [to_task(row) for row in rows[:limit]]


def overdue(connection: Connection, now: int, limit: int) -> list[Task]:
    queries = (
        select(TASKS).where(c.status == RUNNING, c.lease_until <= now).order_by(c.lease_until),
        select(TASKS).where(c.status == PENDING, c.expires_at <= now).order_by(c.expires_at),
    )
    late = [to_task(row) for query in queries for row in connection.execute(query.limit(limit))]
    late.sort(key=lambda task: (task.expires_at if task.status is Status.PENDING else task.lease_until) or 0)
    return late[:limit]


def active(connection: Connection, schedule_ids: Sequence[str]) -> dict[str, int]:
    found = dict.fromkeys(schedule_ids, 0)
    for part in chunks(schedule_ids):
        where = (c.scheduler_task_id.in_(part), c.status.in_([str(status) for status in LIVE]))
        query = select(c.scheduler_task_id, func.count()).where(*where).group_by(c.scheduler_task_id)
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found


def purge(connection: Connection, where: TaskFilter, limit: int) -> int:
    deleted = 0
    for status in [status for status in where.status or FINAL if status in FINAL]:
        for queue in _queues_with(connection, status) if where.queue is None else [where.queue]:
            there = (_of_status(status), c.queue == queue)
            oldest = select(c.task_id).where(*there, *_conditions(where)).order_by(c.completed_at)
            for part in chunks(connection.execute(oldest.limit(limit - deleted)).scalars().all()):
                # One that was brought back to life meanwhile stays.
                deleted += connection.execute(
                    delete(TASKS).where(c.task_id.in_(part), c.status == str(status))
                ).rowcount
            if deleted >= limit:
                return deleted
    return deleted


def _queues_with(connection: Connection, status: Status) -> Iterator[str]:
    """Yield the queues that have tasks of a status, without reading these."""
    query = select(c.queue).where(_of_status(status)).order_by(c.queue).limit(1)
    queue = connection.execute(query).scalar()
    while queue is not None:
        yield queue
        queue = connection.execute(query.where(c.queue > queue)).scalar()


def delete_tasks(connection: Connection, ids: Sequence[str]) -> int:
    return sum(connection.execute(delete(TASKS).where(c.task_id.in_(part))).rowcount for part in chunks(ids))


def set_paused(connection: Connection, queue: str, paused: bool) -> None:
    if not insert_new(connection, _QUEUES, ("name", "paused"), [(queue, paused)]):
        connection.execute(update(_QUEUES).where(_QUEUES.c.name == queue).values(paused=paused))


def paused(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute(PAUSED.order_by(_QUEUES.c.name))]
