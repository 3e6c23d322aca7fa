"""The types of pending tasks, counted among the first ones of each priority that are due, and that are not."""

from __future__ import annotations

import itertools
from collections import Counter

from sqlalchemy import Connection, case, func, select

from aiotaskq.backends.pending_types import PendingType, share
from aiotaskq.backends.sql.claim_statements import ORDER, READY, from_head
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.core.gate import PARKED

PRIORITIES = 50
"""Priorities that are looked at."""

c = TASKS.c


def pending_types(connection: Connection, now: int, limit: int) -> list[PendingType]:
    """Count as ``Backend.pending_types``; the index in claim order bounds what is read, whatever there is."""
    heads = list(itertools.islice(dialect_of(connection).heads(connection), PRIORITIES))
    counts, due = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for is_due in (True, False):
        left = limit
        for number, head in enumerate(heads):
            if not left:
                break
            level = c.priority.is_(None) if head.priority is None else c.priority == head.priority
            where = (
                (*from_head(head), c.run_at <= now) if is_due else (*READY, level, c.run_at > now, c.run_at < PARKED)
            )
            first = select(c.queue, c.task_type, c.due_at).where(*where)
            rows = first.order_by(*ORDER).limit(share(left, len(heads) - number)).subquery().c
            query = select(rows.queue, rows.task_type, func.count(), func.count(case((rows.due_at <= now, 1))))
            for queue, kind, count, put_off in connection.execute(query.group_by(rows.queue, rows.task_type)):
                counts[queue, kind] += count
                due[queue, kind] += count if is_due else put_off
                left -= count
    return [PendingType(queue, kind, count, due[queue, kind]) for (queue, kind), count in counts.items()]
