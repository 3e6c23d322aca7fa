"""Redis behind the documented queue, and with schedules in a SQL database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aiotaskq
import aiotaskq.sync
from aiotaskq import TaskQ
from aiotaskq.core.status import Status
from aiotaskq.errors import ValidationError
from tests.support.machine import watchdog


async def test_the_documented_queue(url: str) -> None:
    queue = aiotaskq.RedisQueue(url, visibility=30)
    task_id = await queue.push_task({"type": "mail", "params": {"to": "é🙂"}, "own": 1}, priority=2)
    assert (await queue.get_queue_size(), await queue.is_empty()) == (1, False)
    task = await queue.pop_task(timeout=0)
    assert task is not None and (task["task_id"], task["params"], task["own"]) == (task_id, {"to": "é🙂"}, 1)
    await queue.task_done()
    assert (await queue.get(task_id)).status is Status.COMPLETED
    assert await queue.pop_task(timeout=0) is None
    await queue.set_public("cookie", {"a": 1}, ttl=60)
    assert await queue.get_public("cookie") == {"a": 1}
    await queue.close()
    with pytest.raises(ValidationError, match="a Redis server is needed"):
        aiotaskq.RedisQueue("sqlite:///x.db")


def test_the_documented_queue_blocking(url: str) -> None:
    queue, other = aiotaskq.sync.RedisQueue(url), aiotaskq.sync.RedisQueue(url)
    task_id = queue.push_task({"type": "mail"})
    task = other.pop_task(timeout=watchdog())
    assert task is not None and task["task_id"] == task_id
    other.task_done()
    assert queue.get(task_id).status is Status.COMPLETED
    queue.close()
    other.close()


async def test_schedules_live_in_sql_and_fire_into_redis(url: str, tmp_path: Path) -> None:
    tq = TaskQ(url, schedules=f"sqlite:///{tmp_path}/schedules.db", poll_interval=0.2)
    ran = asyncio.Event()

    @tq.task(name="job")
    async def job() -> None:
        ran.set()

    schedules = tq.schedules  # the scheduler runs with the workers, since it is used
    async with tq.running():
        schedule = await schedules.add("n", "job", at=1)
        async with asyncio.timeout(watchdog()):
            await ran.wait()
        (task,) = await tq.find(scheduler_task_id=schedule.task_id)
        await tq.handle(task.task_id).result(timeout=watchdog())


async def test_without_a_schedule_no_database_is_needed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOTASKQ_DATABASE_URL", raising=False)
    tq = TaskQ(url)

    @tq.task
    async def work() -> int:
        return 1

    async with tq.running():
        assert await (await work.push()).result(timeout=watchdog()) == 1
        assert (await tq.health())["store"] is None
    assert list(tmp_path.iterdir()) == []
