"""The types of pending tasks, counted among the first ones in claim order."""

from __future__ import annotations

from sqlalchemy import Connection, case, func, literal_column, or_, select

from aiotaskq.backends.pending_types import PendingType
from aiotaskq.backends.sql.claim_statements import PENDING
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.core.gate import PARKED

c = TASKS.c


def pending_types(connection: Connection, now: int, limit: int) -> list[PendingType]:
    """Count as ``Backend.pending_types``; the index in claim order bounds what is read, whatever there is."""
    first = select(c.queue, c.task_type, c.run_at, c.due_at).where(c.status == PENDING)
    rows = first.order_by(c.priority, c.run_at).limit(limit).subquery().c
    waits = or_(rows.run_at <= now, rows.due_at.is_not(None))
    counts = (func.count(), func.sum(case((waits, literal_column("1")), else_=literal_column("0"))))
    query = select(rows.queue, rows.task_type, *counts).where(rows.run_at < PARKED)
    found = connection.execute(query.group_by(rows.queue, rows.task_type))
    return [PendingType(queue, kind, count, int(due)) for queue, kind, count, due in found]
