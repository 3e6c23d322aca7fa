"""Schedules."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path

from aiotaskq import TaskQ, current_task
from aiotaskq.testing import Kit, VirtualClock
from aiotaskq.types import HookCall
from tests.docs.migration.rows import row
from tests.support.machine import within


@row("Celery", "celery beat")
@row("arq", "cron(f, hour=2, minute=0)")
@row("RQ", "rq worker --with-scheduler")
@row("Huey", '@huey.periodic_task(crontab(hour="2", minute="0"))')
async def every_night(kit: Kit) -> None:
    @kit.tq.schedule(cron="0 2 * * *", timezone="UTC")
    @kit.tq.task
    async def report() -> None: ...

    await kit.advance(days=3)
    kit.assert_pushed(report, count=3)


@row("APScheduler", 'scheduler.add_job(f, "cron", hour=2)')
async def declared_or_added(kit: Kit) -> None:
    @kit.tq.schedule(cron="0 2 * * *")
    @kit.tq.task
    async def f() -> None: ...

    await kit.tq.schedules.add("nightly", f, cron="0 2 * * *")
    await kit.advance(days=2)
    kit.assert_pushed(f, count=4)


@row("APScheduler", 'scheduler.add_job(f, "cron", second="*/10")')
@row("APScheduler", '@scheduler.scheduled_job("interval", seconds=10)')
async def every_ten_seconds(kit: Kit) -> None:
    @kit.tq.schedule(cron="*/10 * * * * *")
    @kit.tq.task
    async def f() -> None: ...

    @kit.tq.schedule(interval=10)
    @kit.tq.task
    async def g() -> None: ...

    await kit.advance(60)
    kit.assert_pushed(f, count=6)
    kit.assert_pushed(g, count=6)


@row("APScheduler", 'scheduler.add_job(f, "date", run_date=…)')
async def at_a_time(kit: Kit) -> None:
    @kit.tq.task
    async def f() -> None: ...

    tomorrow = kit.now + timedelta(days=1)
    await f.options(at=tomorrow).push()
    await kit.tq.schedules.add("once", f, at=tomorrow)
    await kit.advance(days=2)
    assert await kit.tq.count(status="completed") == 2


@row("APScheduler", 'jobstores={"default": SQLAlchemyJobStore(url=…)}')
async def a_store_of_their_own(tmp_path: Path) -> None:
    for schedules in (None, f"sqlite:///{tmp_path}/schedules.db"):
        async with TaskQ(f"sqlite:///{tmp_path}/app.db", schedules=schedules) as tq:

            @tq.task
            async def f() -> None: ...

            await tq.schedules.add("nightly", f, cron="0 2 * * *")
            assert len(await tq.schedules.list()) == 1


@row("APScheduler", 'id="nightly", replace_existing=True')
async def once_however_often_it_starts(kit: Kit) -> None:
    @kit.tq.schedule(interval=60)
    @kit.tq.task
    async def f() -> None: ...

    for interval in (60, 120):
        await kit.tq.schedules.add("nightly", f, interval=interval, schedule_id="nightly")
    await kit.drain()
    assert {each.name: each.interval_seconds for each in await kit.tq.schedules.list()} == {"f": 60, "nightly": 60}


@row("APScheduler", "coalesce=True")
@row("APScheduler", "misfire_grace_time=3600")
@row("APScheduler", "EVENT_JOB_ERROR")
async def late_runs() -> None:
    clock = VirtualClock()
    tq, pushed, skipped, failed = TaskQ("memory://", clock=clock), Counter[str](), Counter[str](), Counter[str]()

    @tq.on("fired")
    def count(call: HookCall) -> None:
        pushed[call.detail["schedule"].name] += 1

    @tq.on("skipped")
    def note(call: HookCall) -> None:
        skipped[call.detail["schedule"].name] += 1

    @tq.on("failed")
    def alert(call: HookCall) -> None:
        failed[str(call.name)] += 1

    @tq.task(max_retries=0)
    async def f() -> None:
        raise OSError

    async with tq:
        await tq.schedules.add("one", f, interval=60, misfire="fire_once")
        await tq.schedules.add("all", f, interval=60, misfire="fire_all")
        await tq.schedules.add("newest", f, interval=60, misfire="fire_all", catch_up=120)
        await clock.advance(310)
        async with tq.running():
            async with asyncio.timeout(within(10)):
                while failed.total() < 8:
                    await asyncio.sleep(0.01)
    assert pushed == {"one": 1, "all": 5, "newest": 2} and skipped.keys() == {"one", "newest"}


@row("APScheduler", "max_instances=1")
async def one_at_a_time(kit: Kit) -> None:
    end = asyncio.Event()

    @kit.tq.schedule(interval=60, overlap="skip")
    @kit.tq.task
    async def f() -> None:
        await end.wait()

    await kit.advance(minutes=5)
    kit.assert_pushed(f, count=1)
    end.set()
    await kit.advance(minutes=5)
    kit.assert_pushed(f, count=6)


@row("APScheduler", "pause_job")
@row("APScheduler", "get_jobs()")
@row("APScheduler", "job.modify(next_run_time=datetime.now())")
async def steered(kit: Kit) -> None:
    @kit.tq.task
    async def f() -> None: ...

    await kit.tq.schedules.add("nightly", f, interval=60)
    await kit.tq.schedules.pause("nightly")
    await kit.advance(minutes=5)
    kit.assert_not_pushed(f)
    await kit.tq.schedules.resume("nightly")
    await kit.tq.schedules.update("nightly", interval=3600)
    await kit.tq.schedules.run_now("nightly")
    (schedule,) = await kit.tq.schedules.list()
    assert schedule.next_run == kit.now + timedelta(hours=1)
    await kit.drain()
    kit.assert_pushed(f, count=1)
    await kit.tq.schedules.delete("nightly")
    assert await kit.tq.schedules.list() == []


@row("APScheduler", "jitter=120")
async def spread(kit: Kit) -> None:
    delays: list[float] = []

    @kit.tq.schedule(interval=600, jitter=120)
    @kit.tq.task
    async def f() -> None:
        due = current_task().scheduled_for
        assert due is not None
        delays.append((kit.now - due).total_seconds())

    await kit.advance(hours=2)
    assert len(delays) >= 11 and len(set(delays)) > 5 and 0 <= min(delays) <= max(delays) <= 120


@row("APScheduler", "AndTrigger")
async def several_of_one_handler(kit: Kit) -> None:
    @kit.tq.schedule(cron="0 2 * * *", name="nights")
    @kit.tq.schedule(cron="0 12 * * sat,sun", name="weekends")
    @kit.tq.task
    async def f() -> None: ...

    await kit.advance(days=7)
    kit.assert_pushed(f, count=9)
