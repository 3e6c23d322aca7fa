"""Calls, files and scripts for the tests of SQLite."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from aiotaskq.backends.base import Change, ScheduleChange
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.status import Status
from aiotaskq.core.task import TaskFilter
from tests.support.programs import ROOT
from tests.support.rows import LEASE, NOW, new, new_schedule, worker_info

ENV = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::ResourceWarning"}


def assert_lock_free(path: Path, patience: float = 1.0) -> None:
    """Another program gets the write lock within a second."""
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    connection.close()


async def every_verb(backend: SqlBackend) -> None:
    tasks = await backend.push([new(unique_key="u"), new(), new(idempotency_key="i")])
    await backend.push([*tasks, new(unique_key="u")])
    claimed = await backend.claim("o", NOW, 10, lease_until=LEASE)
    ends = [task.replace(status=Status.FAILED) for task in claimed]
    await backend.workers.register(worker_info())
    await backend.workers.heartbeat(worker_info())
    await backend.workers.held(["o"])
    await backend.workers.all()
    await backend.workers.remove(worker_info())
    await backend.report([(claimed[0].task_id, 1, {"a": 1})])
    await backend.request_cancel([claimed[0].task_id])
    await backend.update([Change(a, b, (new(),)) for a, b in zip(claimed, ends, strict=True)])
    await backend.update([Change(a, a.replace(status=Status.PENDING, params={})) for a in ends])
    await backend.get([tasks[0].task_id])
    await backend.find(TaskFilter(), 5)
    await backend.overdue(NOW, 5)
    await backend.next_run_at(NOW)
    await backend.count_ready(NOW)
    await backend.stats(NOW)
    await backend.active(["s"])
    await backend.purge(TaskFilter(), 5)
    await backend.delete([tasks[0].task_id])
    await backend.set_paused("q", True)
    await backend.set_paused("q", False)
    await backend.paused()
    await backend.values.put([("k", 1, NOW)])
    await backend.values.get(["k"], NOW)
    await backend.values.keys(NOW)
    await backend.values.count(NOW)
    await backend.values.expire(NOW, 5)
    await backend.values.delete(["k"], NOW)
    await backend.values.clear()
    (schedule,) = await backend.schedules.add([new_schedule()])
    await backend.schedules.change([ScheduleChange(schedule, schedule.replace(run_count=1), (new(),))])
    await backend.schedules.get([schedule.task_id])
    await backend.schedules.all()
    await backend.schedules.due(NOW, 5)
    await backend.schedules.next_due()
    await backend.schedules.delete([schedule.task_id])
