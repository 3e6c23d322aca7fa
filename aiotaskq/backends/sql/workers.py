"""Which running tasks the workers of a SQL store hold, and which tasks no worker holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from aiotaskq.backends.side_rows import WORKER
from aiotaskq.backends.sql.claim_statements import RUNNING
from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import TASKS, to_task
from aiotaskq.backends.workers import Held
from aiotaskq.core.outcome import ALONE
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.models import SideRowModel

c = TASKS.c
_SIDE: Any = SideRowModel.__table__
_WORKERS = select(_SIDE.c.name).where(_SIDE.c.kind == WORKER, _SIDE.c.owner == "", _SIDE.c.expires_at.is_(None))


def held(tx: Tx, owners: Sequence[str]) -> dict[str, list[Held]]:
    found: dict[str, list[Held]] = {owner: [] for owner in owners}
    query = select(c.lease_owner, c.task_id, c.fence, c.cancel_requested).where(c.status == RUNNING)
    names = [name for owner in owners for name in (owner, f"{owner}{ALONE}")]
    for owner, task_id, fence, cancel in tx.rows_in(query, c.lease_owner, names):
        found[owner.removesuffix(ALONE)].append((task_id, fence, bool(cancel)))
    return found


def overdue(tx: Tx, now: int, limit: int) -> list[Task]:
    connection = tx.connection
    # The owners before the workers: an owner of a task was registered before, and is there unless it was removed.
    owners = list(tx.distinct(c.lease_owner, c.status == RUNNING, above=""))
    workers = set(connection.execute(_WORKERS).scalars()) if owners else set()
    gone = [owner for owner in owners if owner.removesuffix(ALONE) not in workers]
    # Owner by owner, in the order of the index: for a list of them PostgreSQL reads the rows of all others as well.
    orphans = [_of(owner).where(c.lease_until.is_(None)) for owner in gone]
    found = _read(connection, orphans, limit)
    queries = [_of(owner).where(c.lease_until <= now).order_by(c.lease_until) for owner in gone]
    queries += tx.dialect.expired(now)
    late = _read(connection, queries, limit) if len(found) < limit else []
    late.sort(key=lambda task: (task.expires_at if task.status is Status.PENDING else task.lease_until) or 0)
    return (found + late)[:limit]


def _of(owner: str) -> Select[Any]:
    return select(TASKS).where(c.status == RUNNING, c.lease_owner == owner)


def _read(connection: Connection, queries: Sequence[Select[Any]], limit: int) -> list[Task]:
    return [to_task(row) for query in queries for row in connection.execute(query.limit(limit))]
