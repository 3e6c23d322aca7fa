"""Schedulers whose clock is set back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from aiotaskq import TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND
from tests.runtime.scheduler.passing import START, fired, passes
from tests.support.logs import logged
from tests.support.machine import within


async def test_clock_set_back_and_far_ahead(tq: TaskQ, clock: VirtualClock) -> None:  # C12, C13
    await tq.schedules.add("s", "t", interval=60)
    await passes(tq, clock, 60, step=60)
    for step in (-120, 120, -3600, 3600, -365 * 86400, 365 * 86400):
        clock.step(step)
        assert await tq._scheduler._look() <= 10  # sleeps are capped
    assert len(await fired(tq)) == 1 + 3  # a step forward is time that has passed, also one that makes up for another
    await passes(tq, clock, 60, step=60)
    assert len(await fired(tq)) == 5
    for step in (3600, 86400, 174 * 365 * 86400):
        clock.step(step)
        began = time.perf_counter()
        await tq._scheduler._look()
        assert time.perf_counter() - began < within(1.0)  # bounded work; the benchmarks measure the promise of 100 ms
    assert len(await fired(tq)) == 8


async def test_the_clock_is_set_back(tq: TaskQ, clock: VirtualClock) -> None:  # C12
    add = tq.schedules.add
    second = (await add("second", "t", interval=1)).task_id
    minute = (await add("minute", "t", interval=60)).task_id
    cron = (await add("cron", "t", cron="* * * * *", timezone="UTC")).task_id
    once = (await add("once", "t", at=START // SECOND + 130)).task_id

    async def counts() -> list[int]:
        return [(await tq.schedules.get(each)).run_count for each in (second, minute, cron, once)]

    async def elapse(seconds: int) -> None:
        for _ in range(seconds):
            await clock.advance(1)
            await tq._scheduler._look()

    await elapse(125)
    before = await counts()
    assert before[:2] == [125, 2] and before[3] == 0
    with logged() as told:
        clock.step(-600)
        await elapse(120)
    after = await counts()
    assert after[0] - before[0] in (119, 120) and after[1] - before[1] == 2
    assert after[2:] == before[2:], "they wait for the times that they name"
    assert [line for line in told if "set back" in line] == [
        "the clock was set back by 600 s: intervals go on; cron expressions wait for the times they name"
    ]
    assert len(await fired(tq)) == sum(after), "each due time is a task of its own"
    await elapse(600)
    assert (await counts())[2:] == [before[2] + 2, 1]  # each time of the wall clock once


async def test_a_scheduler_that_starts_after_the_clock_was_set_back(tmp_path: Path, clock: VirtualClock) -> None:  # C12
    url = f"sqlite:///{tmp_path}/s.db"
    async with TaskQ(url, clock=clock) as tq:
        await tq.schedules.add("s", "t", interval=1)
        await passes(tq, clock, 5)
    clock.step(-3600)
    async with TaskQ(url, clock=clock) as tq:
        await passes(tq, clock, 10)
        assert len(await tq.find(limit=100)) in (14, 15)


async def test_two_schedulers_see_the_clock_set_back(tmp_path: Path, clock: VirtualClock) -> None:  # C1, C12
    url = f"sqlite:///{tmp_path}/two.db"
    async with TaskQ(url, clock=clock) as one, TaskQ(url, clock=clock) as two:
        for number in range(20):
            await one.schedules.add(f"s{number}", "t", interval=2)
        for _ in range(3):
            clock.step(-3600)
            await asyncio.gather(one._scheduler._look(), two._scheduler._look())
            for _ in range(10):
                await clock.advance(1)
                await asyncio.gather(one._scheduler._look(), two._scheduler._look())
        tasks = await one.find(limit=1000)
        runs = [row.run_count for row in await one.schedules.list()]
        assert sum(runs) == len(tasks) and all(count in (13, 14, 15) for count in runs)
