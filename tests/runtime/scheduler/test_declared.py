"""Schedules that an application declares, and schedules that are refused."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
from aiotaskq import MemoryQueue, Scheduler, TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from tests.support.logs import logged
from tests.support.machine import within


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": 1, "every": 1}, "schedules.add: there is no option 'every'; here: interval=60"),
        ({"interval": 1, "misfires": "skip"}, "schedules.add: unknown option misfires; did you mean misfire?"),
        ({"interval": 1, "schedule_id": "x" * 37}, "schedule_id: "),
        ({"interval": 1, "misfire": "skp"}, "misfire: must be one of fire_once, skip, fire_all"),
        ({}, "schedule: exactly one of cron, interval and at is needed"),
        ({"interval": 0}, "interval: 0 is not in 1"),
        ({"interval": 0.5}, "interval: "),
        ({"interval": 1, "at": 1}, "schedule: exactly one of cron, interval and at is needed"),
        ({"cron": "61 * * * *"}, "cron_expression: minute 61 is not in 0-59"),
        ({"cron": "0 0 31 2 *"}, "cron_expression: "),
        ({"cron": "\uff11 * * * *"}, "cron_expression: "),
        ({"cron": "0 3-3 * * *"}, "cron_expression: "),
        ({"cron": "* * * * *", "timezone": "Mars/Base"}, "timezone: "),
        ({"at": datetime(2030, 1, 1)}, "at: "),
        ({"at": 1_700_000_000_000}, "at: "),
    ],
)
async def test_bad_schedules_are_refused_before_anything_is_written(
    tq: TaskQ, arguments: dict[str, Any], message: str
) -> None:  # I6, I7, C17
    with pytest.raises(ValidationError) as caught:
        await tq.schedules.add(name="n", task="t", **arguments)
    assert str(caught.value).startswith(message), caught.value
    assert await tq.schedules.list() == []


async def test_declared_schedules_are_made_once_and_updated(tmp_path: Path, clock: VirtualClock) -> None:
    url = f"sqlite:///{tmp_path}/d.db"

    async def start(interval: int, description: dict[str, int]) -> Schedule:
        tq = TaskQ(url, clock=clock)

        @tq.schedule(interval=interval, params=description)
        @tq.task
        async def report(n: int = 0) -> None: ...

        async with tq:
            await tq._scheduler.declare([make() for make in tq._registered.schedules.values()])
            (row,) = await tq.schedules.list()
        return row

    first = await start(60, {"n": 1})
    clock.step(10)
    assert await start(60, {"n": 1}) == first
    assert (await start(60, {"n": 2})).params == {"n": 2}
    moved = await start(30, {"n": 2})
    assert moved.task_id == first.task_id and moved.next_run_at == clock.now() // SECOND + 30
    tq = TaskQ(url)
    with pytest.raises(ValidationError, match="exactly one of cron, interval and at"):
        tq.schedule(cron="* * * * *", interval=5)
    with pytest.raises(ValidationError, match="cron_expression: hour 25"):

        @tq.schedule(cron="0 25 * * *")
        async def never() -> None: ...


async def test_documented_scheduler_pushes_into_the_queue_that_it_is_given(tmp_path: Path) -> None:
    queue = MemoryQueue()
    scheduler = Scheduler(check_interval=10, url=f"sqlite:///{tmp_path}/legacy.db", queue=queue)
    await scheduler.start()
    await scheduler.start()
    await scheduler.add_scheduler_task("now", "greet", "once", {"who": "you"}, execute_at=1)
    async with asyncio.timeout(within(30)):
        task = await queue.pop_task()
    assert task is not None and (task["type"], task["params"]) == ("greet", {"who": "you"})
    await scheduler.stop()
    await scheduler.stop()


def test_preview_from_the_root() -> None:
    after = datetime(2026, 3, 28, 12, tzinfo=UTC)
    instants = aiotaskq.preview(cron="30 2 * * *", timezone="Europe/Berlin", after=after, count=3)
    assert [i.isoformat() for i in instants] == [
        "2026-03-29T03:00:00+02:00",  # 02:30 does not exist that night: the first instant after the gap
        "2026-03-30T02:30:00+02:00",
        "2026-03-31T02:30:00+02:00",
    ]
    every = aiotaskq.preview(interval=90, after=after, count=2)
    assert [(i - after).total_seconds() for i in every] == [90, 180]


async def test_schedules_that_are_asked_for_by_url_are_fired(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/apart.db"
    async with TaskQ(database) as other:  # another process's, from before
        await other.schedules.add("s", "t", at=1)
    tq = TaskQ("memory://", schedules=database)
    ran = asyncio.Event()

    @tq.task
    async def t() -> None:
        ran.set()

    async with tq.running(), asyncio.timeout(within(20)):
        await ran.wait()


async def test_a_timing_of_another_schedule_type_is_ignored_with_a_warning(tmp_path: Path) -> None:
    scheduler = Scheduler(url=f"sqlite:///{tmp_path}/legacy.db", queue=MemoryQueue())
    with logged() as lines:
        schedule_id = await scheduler.add_scheduler_task(
            "n", "t", "cron", cron_expression="0 2 * * *", interval_seconds=5, execute_at=-1
        )
    with pytest.raises(ValidationError, match=r"^schedule_type: "):
        await scheduler.add_scheduler_task("n", "t", "weekly")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=r"^interval_seconds: missing"):
        await scheduler.add_scheduler_task("n", "t", "interval", execute_at=1)
    row = await scheduler.get(schedule_id)
    await scheduler.stop()
    assert (row.schedule_type, row.cron_expression) == ("cron", "0 2 * * *")
    assert (row.interval_seconds, row.execute_at) == (None, None)
    assert [line.strip() for line in lines] == [
        f"schedule 'n' {schedule_id}: {field} is ignored; its type is cron"
        for field in ("interval_seconds", "execute_at")
    ]
