"""The scheduler fires each due time once, and follows the misfire and overlap policies."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.testing import START as START_OF_TESTS
from aiotaskq.testing import virtual
from tests.runtime.scheduler.passing import START, fired, passes


async def test_interval_fires_from_one_interval_on(tq: TaskQ, clock: VirtualClock) -> None:
    schedule_id = (await tq.schedules.add(name="ping", task="ping", params={"n": 1}, interval=5)).task_id
    await passes(tq, clock, 4)
    assert await fired(tq) == []
    await passes(tq, clock, 11)
    tasks = await fired(tq)
    assert [(task.run_at - START) / SECOND for task in tasks] == [5, 10, 15]
    assert {(task.type, task.params["n"], task.scheduler_task_id) for task in tasks} == {("ping", 1, schedule_id)}
    row = await tq.schedules.get(schedule_id)
    assert (row.run_count, row.last_run_at, row.next_run_at) == (3, START // SECOND + 15, START // SECOND + 20)


async def test_once_fires_once_and_is_disabled_not_deleted(tq: TaskQ, clock: VirtualClock) -> None:
    add = tq.schedules.add
    later = (await add("later", "t", at=START // SECOND + 10)).task_id
    aware = datetime.fromtimestamp(START // SECOND - 5, UTC)
    await add("past", "t", at=aware)
    await passes(tq, clock, 1)
    assert len(await fired(tq)) == 1
    await passes(tq, clock, 30)
    assert len(await fired(tq)) == 2
    assert [row.enabled for row in await tq.schedules.list()] == [False, False]
    assert await tq.schedules.list(enabled_only=True) == []
    assert (await tq.schedules.get(later)).run_count == 1


async def test_max_runs_over_restarts(tmp_path: Path, clock: VirtualClock) -> None:  # C27
    url = f"sqlite:///{tmp_path}/m.db"
    for _ in range(4):
        async with TaskQ(url, clock=clock) as tq:
            if not await tq.schedules.list():
                await tq.schedules.add("five", "t", interval=2, max_runs=5)
            await passes(tq, clock, 4)
    async with TaskQ(url, clock=clock) as tq:
        (row,) = await tq.schedules.list()
        assert (row.run_count, row.enabled, len(await tq.find())) == (5, False, 5)
        with pytest.raises(ValidationError, match="max_runs"):
            await tq.schedules.resume(row.task_id)


async def test_early_wake_fires_nothing_twice(tq: TaskQ, clock: VirtualClock) -> None:  # C7
    await tq.schedules.add("s", "t", interval=1)
    for early in (0.2, 0.14, 0.001, 0.0):
        clock.step(1 - early)
        await tq._scheduler._look()
        await tq._scheduler._look()
        clock.step(early)
        await tq._scheduler._look()
        await tq._scheduler._look()
    assert [(task.run_at - START) / SECOND for task in await fired(tq)] == [1, 2, 3, 4]


async def test_many_schedulers_fire_each_due_once(tmp_path: Path, clock: VirtualClock) -> None:  # C1, C4, C5
    url = f"sqlite:///{tmp_path}/n.db"
    async with contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(TaskQ(url, clock=clock)) for _ in range(8)]
        for number in range(5):
            await made[0].schedules.add(f"s{number}", "t", interval=1)
        for _ in range(6):
            clock.step(1)
            await asyncio.gather(*[tq._scheduler._look() for tq in made])
        tasks = await made[0].find(limit=1000)
        assert len(tasks) == 5 * 6
        assert {row.run_count for row in await made[0].schedules.list()} == {6}


async def test_separate_memory_queues_do_not_each_fire(tmp_path: Path, clock: VirtualClock) -> None:  # C1
    url = f"sqlite:///{tmp_path}/p.db"
    async with (
        TaskQ("memory://", schedules=url, clock=clock) as one,
        TaskQ("memory://", schedules=url, clock=clock) as two,
    ):
        await one.schedules.add("s", "t", interval=1)
        for _ in range(10):
            clock.step(1)
            await asyncio.gather(one._scheduler._look(), two._scheduler._look())
        assert len(await one.find()) + len(await two.find()) == 10


async def test_due_times_missed_while_down(tq: TaskQ, clock: VirtualClock) -> None:  # C18, C20
    skipped: list[Any] = []
    tq.on("skipped", lambda event: skipped.append((event.detail["schedule"].name, event.detail["count"])))
    add = tq.schedules.add
    for policy in ("fire_once", "skip", "fire_all"):
        await add(policy, policy, interval=120, misfire=policy)
    clock.step(50 * 120 + 90)
    await tq._scheduler._look()
    by_type = [task.type for task in await fired(tq)]
    assert {name: by_type.count(name) for name in ("fire_once", "skip", "fire_all")} == {
        "fire_once": 1,
        "skip": 0,
        "fire_all": 50,
    }
    assert sorted(skipped) == [("fire_once", 49), ("skip", 50)]
    await passes(tq, clock, 30)
    assert len(await fired(tq)) == 51 + 3  # and all go on in phase


async def test_a_suspended_process_applies_the_policy_once(tq: TaskQ, clock: VirtualClock) -> None:  # C14
    await tq.schedules.add("s", "t", interval=5)
    await passes(tq, clock, 5)
    clock.step(600)  # SIGSTOP, or a laptop that slept
    for _ in range(20):
        await tq._scheduler._look()
    assert len(await fired(tq)) == 2
    await passes(tq, clock, 5)
    assert len(await fired(tq)) == 3


async def test_overlap_policies(tq: TaskQ, clock: VirtualClock) -> None:  # H8, C25
    add = tq.schedules.add
    for policy in ("allow", "skip", "buffer_one"):
        await add(policy, policy, interval=1, overlap=policy)
    await passes(tq, clock, 1)
    await tq.queue.backend.claim("w", clock.now(), 10, lease_until=clock.now() + 10**12)
    await passes(tq, clock, 9)
    by_type = [task.type for task in await fired(tq)]
    assert {name: by_type.count(name) for name in ("allow", "skip", "buffer_one")} == {
        "allow": 10,
        "skip": 1,
        "buffer_one": 2,
    }


async def test_uniqueness_does_not_live_in_the_task_row_alone(tq: TaskQ, clock: VirtualClock) -> None:  # C8
    await tq.schedules.add("s", "t", interval=1)
    total = 0
    for _ in range(10):
        clock.step(1)
        for _ in range(3):
            await tq._scheduler._look()
            while (task := await tq.queue.pop_task(0)) is not None:
                total += 1
                await tq.queue.task_done(task["task_id"])
                await tq.purge()
    assert total == 10


async def test_no_drift_over_ten_minutes() -> None:  # C28
    async with virtual() as kit:
        lateness: list[float] = []

        @kit.tq.schedule(interval=1)
        @kit.tq.task
        async def tick() -> None:
            lateness.append((kit.now - START_OF_TESTS).total_seconds() - len(lateness) - 1)

        await kit.advance(minutes=10)
    assert len(lateness) == 600 and set(lateness) == {0}
