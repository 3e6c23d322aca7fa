"""Redis behind the documented queue, with schedules in a SQL database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aiotaskq
import aiotaskq.sync
from aiotaskq import TaskQ, ValidationError
from aiotaskq.core.task import Status
from tests.backends.redis.stores import run_program
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

    scheduler = tq.scheduler  # it runs with the workers, since it is used
    async with tq.running():
        schedule = await scheduler.add_scheduler_task("n", "job", "once", execute_at=1)
        async with asyncio.timeout(watchdog()):
            await ran.wait()
        (task,) = await tq.find(scheduler_task_id=schedule)
        await tq.handle(task.task_id).result(timeout=watchdog())


# The process's database is fixed at its first use, so each of these is a process of its own.
REFUSED = """
import os, sys
import aiotaskq, aiotaskq.sync
from aiotaskq import NotSupported

os.chdir(sys.argv[1])
tries = []
for kind in (aiotaskq.TaskQ, aiotaskq.sync.TaskQ):
    tq = kind("redis://me:sesame@localhost:1/0")
    apart = kind("redis://localhost:1/0", schedules="redis://localhost:1/1")
    tries.append(lambda tq=tq: tq.schedule(interval=1))
    for each in (tq, apart):
        tries.append(lambda tq=each: tq.scheduler.add_scheduler_task("n", "t", "interval", interval_seconds=1))
tries.append(lambda: aiotaskq.Scheduler(queue=aiotaskq.RedisQueue("redis://me:sesame@localhost:1/0")))
for each in tries:
    try:
        each()
    except NotSupported as error:
        print(error)
print(os.listdir())
"""


def test_without_a_database_for_all_hosts_a_schedule_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each host had a file of its own in its working directory, so each fired every due time.
    monkeypatch.delenv("AIOTASKQ_DATABASE_URL", raising=False)
    monkeypatch.delenv("AIOTASKQ_QUEUE_URL", raising=False)
    *refused, files = run_program(REFUSED, str(tmp_path)).splitlines()
    assert len(refused) == 7 and files == "[]"
    for said in refused:
        assert said.startswith("schedules: redis://") and "sesame" not in said
        assert said.endswith(
            "name one SQL database for all hosts: TaskQ(..., schedules='postgresql://...'), AIOTASKQ_DATABASE_URL, "
            "or --schedules on the command line"
        )


NAMED = """
import sys
import aiotaskq

url, schedules = sys.argv[1:]
tq = aiotaskq.TaskQ(url, schedules=schedules or None)
tq.schedule(interval=1)
assert tq.scheduler is tq.scheduler
aiotaskq.Scheduler(queue=aiotaskq.RedisQueue("redis://localhost:1/0"), url=schedules or None)
print("taken")
"""


@pytest.mark.parametrize("how", ["schedules", "variable", "queue"])
def test_with_a_database_named_schedules_are_taken(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = f"sqlite:///{tmp_path}/schedules.db"
    variables = {"AIOTASKQ_DATABASE_URL": how == "variable", "AIOTASKQ_QUEUE_URL": how == "queue"}
    for name, is_set in variables.items():
        monkeypatch.delenv(name, raising=False)
        if is_set:
            monkeypatch.setenv(name, database)
    given = database if how == "schedules" else ""
    assert run_program(NAMED, "redis://localhost:1/0", given) == "taken\n"


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
