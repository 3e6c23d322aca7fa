"""Durable sleeps of handlers in threads."""

from __future__ import annotations

from pathlib import Path

import aiotaskq.sync
from aiotaskq import TaskQ
from aiotaskq.core.task import SECOND
from tests.support.machine import within
from tests.support.waiting import eventually


async def test_a_worker_that_stops_leaves_a_thread_that_is_in_a_short_sleep(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db")

    @tq.task
    def handler() -> None:
        aiotaskq.sync.sleep_for("short", 50)

    async def sleeps() -> bool:
        return bool(await tq.steps(handle.task_id))

    async with tq.running(drain=0, grace=within(5)):
        handle = await handler.push()
        await eventually(sleeps)
    async with tq:
        task = await handle.task()
        assert (task.status, task.retry_count, task.crashes) == ("pending", 0, 0)
        assert task.run_at > task.created_at * SECOND + 49 * SECOND
