"""Pushes into a bounded queue: counted under a lock, so that no other push comes in between."""

from __future__ import annotations

from collections.abc import Container, Sequence

from sqlalchemy import func, select

from aiotaskq.backends.change import Room
from aiotaskq.backends.flow.transaction import push
from aiotaskq.backends.sql.claim import alive, due_heads, open_queues, ready
from aiotaskq.backends.sql.claim_statements import PENDING, from_head
from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import TASKS, to_task
from aiotaskq.backends.sql.tasks import holding, update_tasks
from aiotaskq.backends.sql.transaction import SqlTransaction, conflicts
from aiotaskq.core.errors import queue_full
from aiotaskq.core.task import Task, same_push

c = TASKS.c


def push_bounded(tx: SqlTransaction, tasks: Sequence[Task], room: Room) -> list[Task]:
    """Push if there is room. Raises QueueFull before anything is written, as ``check_room``."""
    left, leaving = _left(tx, room)
    if len(tasks) <= left:
        update_tasks(tx, room.instead)
        return push(tx, tasks) if tasks else []
    rows = conflicts(tx, tasks)
    if (new := _new(tasks, rows, leaving)) and len(new) > left:
        raise queue_full(room.maxsize, len(new) - left)
    update_tasks(tx, room.instead)
    # Only these: a row in conflict with another task may have ended since, or be about to end in a long transaction.
    stored = {task.task_id: row for task, row in zip(new, push(tx, new), strict=True)} if new else {}
    answer = []
    for task, row in zip(tasks, rows, strict=True):
        there = stored.get(task.task_id, row)
        if there is None or there.task_id in leaving:  # it conflicts with another task of this call
            (there,) = [other or task for other in conflicts(tx, [task])]
        answer.append(task if same_push(there, task) else there)
    return answer


def check_room(tx: SqlTransaction, tasks: Sequence[Task], room: Room) -> None:
    """Raise QueueFull if there is no room for these tasks, or one of the changes of ``room.instead`` does not hold.

    No other push with a bound comes in between until the transaction ends.
    """
    left, leaving = _left(tx, room)
    if len(tasks) > left and (new := len(_new(tasks, conflicts(tx, tasks), leaving))) > left and new:
        raise queue_full(room.maxsize, new - left)


def _left(tx: SqlTransaction, room: Room) -> tuple[int, list[str]]:
    """Return for how many more tasks there is room, and the ids of those that leave."""
    tx.connection.execute(tx.dialect.lock_pushes)
    if room.instead and not all(holding(tx, room.instead)):
        raise queue_full(room.maxsize, 0)
    leaving = [change.before.task_id for change in room.instead]
    at = _latest(tx, room.now)
    return room.maxsize - ready(tx, at, None, room.now)[0] + _ready_of(tx, leaving, at, room.now), leaving


def _new(tasks: Sequence[Task], rows: Sequence[Task | None], leaving: Container[str]) -> list[Task]:
    """Return the tasks in conflict with no row, but for rows that are leaving, and with no task before them."""
    new: list[Task] = []
    names: set[tuple[str, str | None]] = {("unique", None), ("idempotency", None)}
    for task, row in zip(tasks, rows, strict=True):
        own = {("id", task.task_id), ("unique", task.unique_key), ("idempotency", task.idempotency_key)}
        own -= {("unique", None), ("idempotency", None)}
        if (row is None or row.task_id in leaving) and names.isdisjoint(own):
            names |= own
            new.append(task)
    return new


def _latest(tx: Tx, now: int) -> int:
    """Return the instant at which tasks count: a task pushed without delay is due by its push stamp, on any clock."""
    latest = select(func.max(c.seq)).where(tx.dialect.in_push_order)  # of what waits, or of all
    return max(now, tx.connection.execute(latest).scalar() or 0)


def _ready_of(tx: Tx, ids: Sequence[str], at: int, now: int) -> int:
    """Count which of these tasks are ready."""
    there = select(func.count()).where(c.status == PENDING, c.run_at <= at, *open_queues(None), alive(now))
    return sum(row[0] for row in tx.rows_in(there, c.task_id, ids))


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
