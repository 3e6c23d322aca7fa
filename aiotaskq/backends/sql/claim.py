"""Runs the claim, and counts what is ready or will be; the SQL of a claim is in ``claim_statements``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, or_, select, union_all
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.base import QueueStats, stats_of
from aiotaskq.backends.sql.claim_statements import (
    ENDED,
    MARK_CLAIMED,
    ORDER,
    PAUSED,
    RUNNING,
    Head,
    from_head,
    queue_values,
)
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.rows import CLAIM, TASKS, claimed
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import PARKED
from aiotaskq.core.task import SECOND, Status, Task

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


class Claim(NamedTuple):
    """What a claim is to return; the names are those of ``Backend.claim``."""

    owner: str
    now: int
    limit: int
    queues: Sequence[str] | None
    lease_until: int | None

    @property
    def lease(self) -> dict[str, Any]:
        """What it writes."""
        began = {"started_at": self.now // SECOND, "began_at": self.now}
        return {"lease_owner": self.owner, "lease_until": self.lease_until, **began}


def claim(
    connection: Connection,
    owner: str,
    now: int,
    limit: int,
    queues: Sequence[str] | None,
    lease_until: int | None,
    heads: Iterable[Head] | None = None,
) -> list[Task]:
    dialect = dialect_of(connection)
    rows: list[Any] = []
    lease = Claim(owner, now, limit, queues, lease_until).lease
    given = {"now": now, **queue_values(queues), **lease}
    for head in due_heads(connection, now) if heads is None else heads:
        given |= {"priority": head.priority, "head_run_at": head.run_at, "head_seq": head.seq}
        given["limit"] = limit - len(rows)
        statement = dialect.claim(head.priority is None, None if queues is None else len(queues))
        rows += run(connection, statement, given).fetchall()
        if len(rows) == limit:
            break
    if not dialect.claims_in_one_statement:
        dialect.set_on(connection, MARK_CLAIMED, [row[0] for row in rows], lease)
    return _tasks(connection, rows, lease)


def _tasks(connection: Connection, rows: Sequence[Any], lease: dict[str, Any]) -> list[Task]:
    """Return the tasks of rows of ``READ`` in claim order; those with something in other columns are read whole."""
    whole, run = len(CLAIM), Task(task_id="", type="", status=Status.RUNNING, **lease)
    tasks = claimed([row for row in rows if row[whole] is None], run)
    if len(tasks) < len(rows):
        tasks += dialect_of(connection).whole(connection, [row for row in rows if row[whole] is not None])
    return sorted(tasks, key=_claim_order)


_claim_order = attrgetter("priority", "run_at", "seq", "task_id")


def claim_first(
    connection: Connection, owner: str, now: int, limit: int, queues: Sequence[str] | None, lease_until: int | None
) -> tuple[list[Task], bool]:
    """Claim what is ready in the first priority, in one statement, and return whether there may be more in others.

    Only where the dialect has ``autocommit``. All priorities in one statement would have to be joined, and a plan with
    the wrong join reads every pending row.
    """
    lease = Claim(owner, now, limit, queues, lease_until).lease
    given = {"now": now, "limit": limit, **lease}
    statement = dialect_of(connection).claim_first(None if queues is None else len(queues))
    rows = run(connection, statement, {**given, **queue_values(queues)}).fetchall()
    more = not rows or (len(rows) < limit and bool(rows[0][-1]))
    return _tasks(connection, rows, lease), more


def due_heads(connection: Connection, now: int) -> Iterator[Head]:
    """Yield a head for each priority that has something due, in order; a caller that stops early saves the rest."""
    without = None
    for head in dialect_of(connection).heads(connection):
        if head.priority is None:
            without = head
        elif head.run_at <= now:
            yield head
    if without is not None and without.run_at <= now:
        yield without


def next_run_at(connection: Connection, now: int, queues: Sequence[str] | None) -> int | None:
    earliest: int | None = None
    for head in dialect_of(connection).heads(connection):
        at: int | None = head.run_at
        if head.paused or (queues is not None and head.queue not in queues) or (head.expires_at or now + 1) <= now:
            query = select(c.run_at).where(*from_head(head), *open_queues(queues), alive(now))
            at = connection.execute(query.order_by(*ORDER).limit(1)).scalar()
        if at is not None and at >= PARKED:
            continue
        if at is not None and (earliest is None or at < earliest):
            earliest = at
            if at <= now:
                break
    return earliest


def ready(
    connection: Connection, now: int, queues: Sequence[str] | None, alive_at: int | None = None
) -> tuple[int, int | None]:
    """Count what is due at ``now`` and not expired at ``alive_at``; return that and the ``run_at`` of the oldest."""
    count, oldest = 0, None
    unexpired = alive(now if alive_at is None else alive_at)
    for head in due_heads(connection, now):
        query = select(func.count(), func.min(c.run_at)).where(
            *from_head(head), c.run_at <= now, *open_queues(queues), unexpired
        )
        more, at = connection.execute(query).one()
        count += more
        oldest = at if oldest is None or (at is not None and at < oldest) else oldest
    return count, oldest


def count_ready(connection: Connection, now: int, queues: Sequence[str] | None) -> int:
    return ready(connection, now, queues)[0]


def stats(connection: Connection, now: int) -> QueueStats:
    # One statement, so one snapshot: a task that is given back between two of them would be in neither.
    parts = [
        select(c.queue, c.status, func.count()).where(condition).group_by(c.status, c.queue)
        for condition in (*dialect_of(connection).pending, c.status == RUNNING, ENDED)
    ]
    counted = connection.execute(union_all(*parts))
    rows = [(queue, status or str(Status.PENDING), count) for queue, status, count in counted]
    return stats_of(rows, *ready(connection, now, None))
