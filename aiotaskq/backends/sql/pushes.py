"""Pushes: inserts, and what conflicts with them; and pushes into a bounded queue, counted under a lock of their own."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, or_, select

from aiotaskq.backends.change import Room
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.sql.claim import alive, due_heads, open_queues, ready
from aiotaskq.backends.sql.claim_statements import PENDING, from_head
from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import LIVE, TASKS, new_rows, to_task
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.tasks import guarded
from aiotaskq.core.errors import queue_full
from aiotaskq.core.task import Task, same_push
from aiotaskq.errors import TaskConflict

c = TASKS.c
TRIES = 10
"""Of a push in conflict with rows that are gone when it reads them."""


def insert(tx: Tx, tasks: Sequence[Task], notify: tuple[str, str] | None = None, tries: int = TRIES) -> list[Task]:
    """Insert tasks; return each, or the row that it conflicts with. ``notify``: see ``Dialect.insert``."""
    if tx.insert_new(TASKS, *new_rows(tasks), notify) == len(tasks):
        tx.new.update([task.task_id for task in tasks])
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


def push_bounded(tx: Tx, tasks: Sequence[Task], room: Room) -> list[Task]:
    """Push if there is room. Raises QueueFull before anything is written, as ``check_room``."""
    left, leaving = left_in(tx, room), room.leaving
    if len(tasks) <= left:
        tx.update(room.instead)
        return push(tx, tasks) if tasks else []
    rows = conflicts(tx, tasks)
    new = room.new_of(tasks, rows, left)
    tx.update(room.instead)
    # Only these: a row in conflict with another task may have ended since, or be about to end in a long transaction.
    stored = {task.task_id: row for task, row in zip(new, push(tx, new), strict=True)} if new else {}
    answer = []
    for task, row in zip(tasks, rows, strict=True):
        there = stored.get(task.task_id, row)
        if there is None or there.task_id in leaving:  # it conflicts with another task of this call
            (there,) = [other or task for other in conflicts(tx, [task])]
        answer.append(task if same_push(there, task) else there)
    return answer


def left_in(tx: Tx, room: Room) -> int:
    """Return for how many more tasks there is room; no other push with a bound comes in until the transaction ends.

    Raises QueueFull if one of the changes of ``room.instead`` does not hold.
    """
    tx.connection.execute(tx.dialect.lock_pushes)
    if room.instead and not all(guarded(tx, room.instead)[1]):
        raise queue_full(room.maxsize, 0)
    at = _latest(tx, room.now)
    there = select(func.count()).where(c.status == PENDING, c.run_at <= at, *open_queues(None), alive(room.now))
    leaving: int = sum(row[0] for row in tx.rows_in(there, c.task_id, sorted(room.leaving)))
    return room.maxsize - ready(tx, at, None, room.now)[0] + leaving


def _latest(tx: Tx, now: int) -> int:
    """Return the instant at which tasks count: a task pushed without delay is due by its push stamp, on any clock."""
    latest = select(func.max(c.seq)).where(tx.dialect.in_push_order)  # of what waits, or of all
    return max(now, tx.connection.execute(latest).scalar() or 0)


def least_ready(tx: Tx, now: int, limit: int) -> list[Task]:
    """Read ready tasks, the largest priority number first, and of one priority the oldest first."""
    at = _latest(tx, now)
    tasks: list[Task] = []
    heads = list(due_heads(tx, at))
    for head in sorted(heads, key=lambda head: -(head.priority or 0)):
        query = select(TASKS).where(*from_head(head), c.run_at <= at, *open_queues(None), alive(now))
        rows = tx.connection.execute(query.order_by(c.run_at, c.seq, c.task_id).limit(limit - len(tasks)))
        tasks += map(to_task, rows)
        if len(tasks) == limit:
            break
    return tasks
