"""Tasks and schedules for tests of backends, made without the rules of ``core``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.ids import new_id
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.worker_info import WorkerInfo

NOW = 1_750_000_000 * SECOND
LEASE = NOW + 60 * SECOND

_stamps = itertools.count(NOW - 1_000 * SECOND)


def new(**fields: Any) -> Task:
    """A pending task, due at NOW, with the next push stamp."""
    values = {"task_id": new_id(), "type": "t", "created_at": NOW // SECOND, "run_at": NOW, "seq": next(_stamps)}
    return Task(**{**values, **fields})


def new_schedule(**fields: Any) -> Schedule:
    """An interval schedule, due at NOW."""
    values: dict[str, Any] = {
        "task_id": new_id(),
        "name": "n",
        "task_type": "t",
        "schedule_type": "interval",
        "interval_seconds": 60,
        "next_run_at": NOW // SECOND,
        "created_at": NOW // SECOND,
        "updated_at": NOW // SECOND,
    }
    return Schedule(**{**values, **fields})


def worker_info(owner: str = "w", **fields: Any) -> WorkerInfo:
    """A worker as it registers at NOW."""
    values: dict[str, Any] = {
        "owner": owner,
        "host": "h",
        "pid": 1,
        "aiotaskq": "0",
        "started_at": NOW,
        "seen_at": NOW,
        "lease_until": LEASE,
        "queues": None,
        "concurrency": 10,
        "busy": 0,
    }
    return WorkerInfo(**{**values, **fields})


def ids(rows: Sequence[Task]) -> list[str]:
    return [row.task_id for row in rows]


async def pushed(backend: Backend, **fields: Any) -> Task:
    """Push one task."""
    (task,) = await backend.push([new(**fields)])
    return task


async def running(backend: Backend, now: int = NOW, lease_until: int | None = LEASE, **fields: Any) -> Task:
    """Push one task and claim it; nothing else may be claimable."""
    await backend.push([new(**fields)])
    (task,) = await backend.claim("owner", now, 1, lease_until=lease_until)
    return task


async def ended(backend: Backend, status: Status = Status.COMPLETED, **fields: Any) -> Task:
    """Push one task, claim it and end it."""
    task = await running(backend, **fields)
    after = task.replace(status=status, completed_at=NOW // SECOND, lease_owner=None, lease_until=None)
    assert await backend.update([Change(task, after)]) == [True]
    return after


async def read(backend: Backend, task: Task | str) -> Task:
    """Read one task that must be there."""
    (row,) = await backend.get([task if isinstance(task, str) else task.task_id])
    assert row is not None
    return row


def completed(task: Task, **fields: Any) -> Task:
    """The task as completed at NOW."""
    values = {"status": Status.COMPLETED, "completed_at": NOW // SECOND, "lease_owner": None, "lease_until": None}
    return task.replace(**{**values, **fields})
