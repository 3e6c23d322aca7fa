"""Runs the claim, and counts what is ready or will be, and its types; the SQL of a claim is in ``claim_statements``."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import case, func, or_, select, union_all
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.base import Claim, QueueStats, stats_of
from aiotaskq.backends.pending_types import PendingType, share
from aiotaskq.backends.sql.claim_statements import (
    ENDED,
    MARK_CLAIMED,
    ORDER,
    PAUSED,
    READY,
    RUNNING,
    Head,
    from_head,
    queue_values,
)
from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import CLAIM, TASKS, claimed
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import PARKED
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task

PRIORITIES = 50
"""Priorities that ``pending_types`` looks at."""

c = TASKS.c


def open_queues(queues: Sequence[str] | None) -> list[ColumnElement[bool]]:
    """Return the condition of a queue that is not paused, and is one of these."""
    conditions: list[ColumnElement[bool]] = [c.queue.not_in(PAUSED)]
    if queues is not None:
        conditions.append(c.queue.in_(list(queues)))
    return conditions


def alive(now: int) -> ColumnElement[bool]:
    """Return the condition of a task that has not expired."""
    return or_(c.expires_at.is_(None), c.expires_at > now)


def lease_of(wanted: Claim) -> dict[str, Any]:
    """Return what a claim writes."""
    began = {"started_at": wanted.now // SECOND, "began_at": wanted.now}
    return {"lease_owner": wanted.owner, "lease_until": wanted.lease_until, **began}


def claim(tx: Tx, wanted: Claim, heads: Iterable[Head] | None = None) -> list[Task]:
    dialect, limit, queues = tx.dialect, wanted.limit, wanted.queues
    rows: list[Any] = []
    lease = lease_of(wanted)
    given = {"now": wanted.now, **queue_values(queues), **lease}
    for head in due_heads(tx, wanted.now) if heads is None else heads:
        given |= {"priority": head.priority, "head_run_at": head.run_at, "head_seq": head.seq}
        given["limit"] = limit - len(rows)
        statement = dialect.claim(head.priority is None, None if queues is None else len(queues))
        rows += run(tx.connection, statement, given).fetchall()
        if len(rows) == limit:
            break
    if not dialect.autocommit:
        dialect.set_on(tx.connection, MARK_CLAIMED, [row[0] for row in rows], lease)
    return _tasks(tx, rows, lease)


def _tasks(tx: Tx, rows: Sequence[Any], lease: dict[str, Any]) -> list[Task]:
    """Return the tasks of rows of ``READ`` in claim order; those with something in other columns are read whole."""
    whole, run = len(CLAIM), Task(task_id="", type="", status=Status.RUNNING, **lease)
    tasks = claimed([row for row in rows if row[whole] is None], run)
    if len(tasks) < len(rows):
        tasks += tx.dialect.whole(tx.connection, [row for row in rows if row[whole] is not None])
    return sorted(tasks, key=_claim_order)


_claim_order = attrgetter("priority", "run_at", "seq", "task_id")


def claim_first(tx: Tx, wanted: Claim) -> tuple[list[Task], bool]:
    """Claim what is ready in the first priority, in one statement, and return whether there may be more in others.

    Only where the dialect has ``autocommit``. All priorities in one statement would have to be joined, and a plan with
    the wrong join reads every pending row.
    """
    lease, queues = lease_of(wanted), wanted.queues
    statement = tx.dialect.claim_first(None if queues is None else len(queues))
    assert statement is not None
    given = {"now": wanted.now, "limit": wanted.limit, **lease, **queue_values(queues)}
    rows = run(tx.connection, statement, given).fetchall()
    more = not rows or (len(rows) < wanted.limit and bool(rows[0][-1]))
    return _tasks(tx, rows, lease), more


def due_heads(tx: Tx, now: int) -> Iterator[Head]:
    """Yield a head for each priority that has something due, in order; a caller that stops early saves the rest."""
    without = None
    for head in tx.dialect.heads(tx.connection):
        if head.priority is None:
            without = head
        elif head.run_at <= now:
            yield head
    if without is not None and without.run_at <= now:
        yield without


def next_run_at(tx: Tx, now: int, queues: Sequence[str] | None = None) -> int | None:
    earliest: int | None = None
    for head in tx.dialect.heads(tx.connection):
        at: int | None = head.run_at
        if head.paused or (queues is not None and head.queue not in queues) or (head.expires_at or now + 1) <= now:
            query = select(c.run_at).where(*from_head(head), *open_queues(queues), alive(now))
            at = tx.connection.execute(query.order_by(*ORDER).limit(1)).scalar()
        if at is not None and at >= PARKED:
            continue
        if at is not None and (earliest is None or at < earliest):
            earliest = at
            if at <= now:
                break
    return earliest


def ready(tx: Tx, now: int, queues: Sequence[str] | None, alive_at: int | None = None) -> tuple[int, int | None]:
    """Count what is due at ``now`` and not expired at ``alive_at``; return that and the ``run_at`` of the oldest."""
    count, oldest = 0, None
    unexpired = alive(now if alive_at is None else alive_at)
    for head in due_heads(tx, now):
        query = select(func.count(), func.min(c.run_at)).where(
            *from_head(head), c.run_at <= now, *open_queues(queues), unexpired
        )
        more, at = tx.connection.execute(query).one()
        count += more
        oldest = at if oldest is None or (at is not None and at < oldest) else oldest
    return count, oldest


def stats(tx: Tx, now: int) -> QueueStats:
    # One statement, so one snapshot: a task that is released between two of them would be in neither.
    parts = [
        select(c.queue, c.status, func.count()).where(condition).group_by(c.status, c.queue)
        for condition in (*tx.dialect.pending, c.status == RUNNING, ENDED)
    ]
    counted = tx.connection.execute(union_all(*parts))
    rows = [(queue, status or str(Status.PENDING), count) for queue, status, count in counted]
    return stats_of(rows, *ready(tx, now, None))


def pending_types(tx: Tx, now: int, limit: int) -> list[PendingType]:
    """Count as ``Backend.pending_types``; the index in claim order bounds what is read, whatever there is."""
    heads = list(itertools.islice(tx.dialect.heads(tx.connection), PRIORITIES))
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
            for queue, kind, count, put_off in tx.connection.execute(query.group_by(rows.queue, rows.task_type)):
                counts[queue, kind] += count
                due[queue, kind] += count if is_due else put_off
                left -= count
    return [PendingType(queue, kind, count, due[queue, kind]) for (queue, kind), count in counts.items()]
