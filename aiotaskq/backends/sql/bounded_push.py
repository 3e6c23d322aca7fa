"""Whether a bounded queue has room for a push: counted under a lock, so that no other push comes in between."""

from __future__ import annotations

from collections.abc import Container, Sequence

from sqlalchemy import func, select

from aiotaskq.backends.change import Room
from aiotaskq.backends.sql.claim import alive, due_heads, open_queues, ready
from aiotaskq.backends.sql.claim_statements import PENDING, from_head
from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import LIVE, TASKS, to_task
from aiotaskq.backends.sql.tasks import holding
from aiotaskq.backends.sql.transaction import SqlTransaction, conflicts
from aiotaskq.core.errors import queue_full
from aiotaskq.core.task import Task

c = TASKS.c


def check_room(tx: SqlTransaction, tasks: Sequence[Task], room: Room) -> None:
    """Raise QueueFull if there is no room for these tasks, or one of the changes of ``room.instead`` does not hold.

    No other push with a bound comes in between until the transaction ends.
    """
    tx.connection.execute(tx.dialect.lock_pushes)
    if room.instead and not all(holding(tx, room.instead)):
        raise queue_full(room.maxsize, 0)
    leaving = [change.before.task_id for change in room.instead]
    at = _latest(tx, room.now)
    left = room.maxsize - ready(tx, at, None, room.now)[0] + _ready_of(tx, leaving, at, room.now)
    if len(tasks) > left and (new := _count_new(tx, tasks, leaving)) > left and new:
        raise queue_full(room.maxsize, new - left)


def _count_new(tx: SqlTransaction, tasks: Sequence[Task], leaving: Container[str]) -> int:
    """Count the tasks in conflict with no row, but for rows that are leaving, and with no task before them.

    The rows in conflict are locked: one that ended before the push would not be in its way any more.
    """
    rows = conflicts(tx, tasks)
    there = tx.tasks(sorted({row.task_id for row in rows if row is not None}))
    count = 0
    names: set[tuple[str, str | None]] = set()
    for task, row in zip(tasks, rows, strict=True):
        own = {("id", task.task_id), ("unique", task.unique_key), ("idempotency", task.idempotency_key)}
        own -= {("unique", None), ("idempotency", None)}
        found = None if row is None or row.task_id in leaving else there.get(row.task_id)
        if (found is None or not _conflicts(task, found)) and names.isdisjoint(own):
            names |= own
            count += 1
    return count


def _conflicts(task: Task, row: Task) -> bool:
    once = task.idempotency_key is not None and row.idempotency_key == task.idempotency_key
    return once or row.task_id == task.task_id or (row.unique_key == task.unique_key and row.status in LIVE)


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
