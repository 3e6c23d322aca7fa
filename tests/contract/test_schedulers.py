"""Schedulers on each store, without a leader: one task for each due time.

Schedules may be in another store than the tasks, as in SQLite beside Redis; then the derived task id makes the push the
same push.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.task import SECOND, TaskFilter
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from tests.support.backends import Store

START = 1_700_000_000_000_000

Open = Callable[..., Any]


@pytest.fixture
async def process(shared_store: Store) -> AsyncIterator[Open]:
    """Opens one more process's TaskQ, with a clock of its own; all have the same rows."""
    async with _processes(shared_store.url, None) as opened:
        yield opened


@pytest.fixture
async def apart(shared_store: Store, tmp_path: Path) -> AsyncIterator[Open]:
    """The same with the schedules in a database beside the tasks."""
    async with _processes(shared_store.url, f"sqlite:///{tmp_path}/schedules.db") as opened:
        yield opened


@contextlib.asynccontextmanager
async def _processes(url: str, schedules: str | None) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def opened(ahead: float = 0.0) -> TaskQ:
            clock = VirtualClock(START + int(ahead * SECOND))
            return await stack.enter_async_context(TaskQ(url, schedules=schedules, clock=clock))

        yield opened


def step(tqs: list[TaskQ], seconds: float) -> None:
    for tq in tqs:
        assert isinstance(tq.queue.clock, VirtualClock)
        tq.queue.clock.step(seconds)


async def look(tqs: list[TaskQ]) -> None:
    await asyncio.gather(*(tq._scheduler._look() for tq in tqs))


async def dues(tq: TaskQ) -> Counter[tuple[str | None, int]]:
    """How many tasks there are for each (schedule, due time)."""
    return Counter((task.scheduler_task_id, task.run_at) for task in await tq.find(limit=10_000))


async def check(tq: TaskQ, expected: int, made_up_for: bool = False) -> None:
    fired = await dues(tq)
    # Runs that are made up for are all due now; any other task is due at the time that its schedule named.
    assert made_up_for or set(fired.values()) <= {1}, "a due time fired twice"
    assert sum(fired.values()) == expected
    by_schedule = Counter(task.scheduler_task_id for task in await tq.find(limit=10_000))
    for row in await tq.schedules.list():
        assert row.run_count == by_schedule[row.task_id]


async def add(tq: TaskQ, name: str = "s", seconds: int = 1, **options: Any) -> str:
    return (await tq.schedules.add(name, "t", interval=seconds, **options)).task_id


async def test_many_processes_whose_clocks_differ_fire_each_due_once(process: Open) -> None:  # C1, C4, C5, C6
    tqs = [await process(ahead) for ahead in (0, 5, -5, 2.5)]  # virtual clocks, which no store's time sets right
    for number in range(5):
        await add(tqs[0], f"s{number}")
    for _ in range(20):
        step(tqs, 0.5)
        await tqs[1]._scheduler._look()  # else the one that is 2.5 s ahead may make up for as much before it
        await look(tqs)
    # The one whose clock is 5 s ahead fires early. Its first look makes up for five seconds with one run (fire_once).
    await check(tqs[0], expected=5 * 11)


@pytest.mark.promise("schedules")
async def test_a_schedule_fires_into_each_store(store: Store) -> None:
    clock = VirtualClock(START)
    async with TaskQ(store.url, clock=clock) as tq:
        await add(tq, seconds=5)
        for _ in range(3):
            clock.step(5)
            await tq._scheduler._look()
        await check(tq, expected=3)


async def test_processes_that_start_and_stop_neither_miss_nor_double(process: Open) -> None:  # C2, C6, C22
    first = await process()
    await add(first)
    for second in range(12):
        late = await process(second)
        for tq in (first, late):
            await tq._scheduler._look()
        step([first], 1)
        if second % 3 == 0:
            await late.close()
    await first._scheduler._look()
    await check(first, expected=12)


async def test_one_that_was_cut_off_fires_nothing_twice_when_it_returns(process: Open) -> None:  # C3
    here, away = await process(), await process()
    await add(here)
    step([here, away], 1)
    before = await away._scheduler.schedules.due(away.queue.clock.now(), 10)  # read, and then cut off for two minutes
    assert len(before) == 1
    for _ in range(120):
        await here._scheduler._look()
        step([here, away], 1)
    await away._scheduler._fire(before, away.queue.clock.now())
    await away._scheduler._look()
    await here._scheduler._look()
    await check(here, expected=121)


async def test_uniqueness_does_not_live_in_the_task_row_alone(process: Open) -> None:  # C8
    tqs = [await process() for _ in range(3)]
    await add(tqs[0])
    fired = 0
    for _ in range(10):
        step(tqs, 1)
        await look(tqs)
        now = tqs[0].queue.clock.now()
        for task in await tqs[0].queue.backend.claim("w", now, 10, lease_until=now + SECOND):
            fired += 1
            await tqs[0].queue.backend.update([Change(task, settle(task, Completed(), now))])
        await tqs[0].queue.backend.purge(TaskFilter(), 100)
        await look(tqs)
    assert fired == 10


@pytest.mark.parametrize(("missed", "policy", "expected"), [
    (1, "fire_once", 1), (1, "skip", 0), (1, "fire_all", 1),
    (50, "fire_once", 1), (50, "skip", 0), (50, "fire_all", 50), (150, "fire_all", 100),
])  # fmt: skip
async def test_due_times_while_no_scheduler_runs(  # C18
    process: Open, missed: int, policy: str, expected: int
) -> None:
    tq = await process()
    skipped: list[int] = []
    tq.on("skipped", lambda event: skipped.append(event.detail["count"]))
    await add(tq, seconds=60, misfire=policy)
    step([tq], 60 * missed + 59 if policy != "skip" else 60 * missed + 61)
    for _ in range(missed // 100 + 2):
        await tq._scheduler._look()
    extra = 1 if policy == "skip" else 0  # the last one is a second late: that is in time
    await check(tq, expected=expected + extra, made_up_for=True)
    assert sum(skipped) == missed - expected
    assert await tq._scheduler._look() > 0


async def test_a_catch_up_window_bounds_the_due_times_that_are_fired_late(process: Open) -> None:  # C18, C20
    tq = await process()
    await add(tq, seconds=60, misfire="fire_all", catch_up=300)
    step([tq], 60 * 30)
    await tq._scheduler._look()
    await check(tq, expected=6, made_up_for=True)  # the last five minutes, both ends


async def test_a_crash_between_fire_and_commit_is_both_or_neither(process: Open) -> None:  # C9, C21
    tq = await process()
    await add(tq)
    step([tq], 1)
    schedules: Any = tq._scheduler.schedules
    change = schedules.change

    async def cut(*_: Any) -> Any:
        raise DatabaseUnavailable("cut")

    schedules.change = cut
    with pytest.raises(DatabaseUnavailable):
        await tq._scheduler._look()
    schedules.change = change
    await tq._scheduler._look()
    await check(tq, expected=1)


async def test_a_thousand_due_in_the_same_second_all_fire(process: Open) -> None:  # C26
    tqs = [await process(), await process()]
    from aiotaskq.core.schedule import new_schedule

    now = tqs[0].queue.clock.now()
    wanted = [
        new_schedule(f"s{n}", "t", "interval", {"n": n}, interval_seconds=3600, now=now, timezone=None)
        for n in range(1_000)
    ]
    await tqs[0]._scheduler.add(wanted)
    step(tqs, 3600)
    await look(tqs)
    await look(tqs)
    await check(tqs[0], expected=1_000)


async def test_overlap_counts_the_runs_of_every_process(process: Open) -> None:  # H8
    one, two = await process(), await process()
    await add(one, overlap="skip")
    for _ in range(5):
        step([one, two], 1)
        await look([one, two])
    await check(one, expected=1)  # no worker has run it yet
    now = two.queue.clock.now()
    (task,) = await two.queue.backend.claim("w", now, 1, lease_until=now + 60 * SECOND)
    step([one, two], 1)
    await look([one, two])
    assert len(await dues(one)) == 1, "it runs, in another process"
    await two.queue.backend.update([Change(task, settle(task, Completed(), now))])
    step([one, two], 1)
    await look([one, two])
    assert len(await dues(one)) == 2


async def test_pause_edit_and_run_now_hold_for_every_process(process: Open) -> None:  # C10
    one, two = await process(), await process()
    schedule_id = await add(one, seconds=10)
    await two.schedules.pause(schedule_id)
    step([one, two], 60)
    await look([one, two])
    assert not await dues(one)
    task_id = (await two.schedules.run_now(schedule_id)).task_id
    assert (await one.get(task_id)).scheduler_task_id == schedule_id
    await one.schedules.resume(schedule_id)
    await one.schedules.update(schedule_id, interval=100)
    row = await two.schedules.get(schedule_id)
    assert row.next_run_at == START // SECOND + 60 + 100
    step([one, two], 99)
    await look([one, two])
    assert len(await dues(one)) == 1
    step([one, two], 1)
    await look([one, two])
    assert len(await dues(one)) == 2


async def test_a_backfill_pushes_each_due_time_that_has_not_fired_once(process: Open) -> None:
    one, two = await process(), await process()
    schedule_id = await add(one, seconds=60, jitter=30, blackout="22:26-22:27", timezone="UTC")  # START is 22:13:20
    step([one, two], 125)
    await look([one, two])
    (fired,) = await dues(one)  # at +60 nothing looked, and +120 was made up for
    step([one, two], 15 * 60)
    await two.schedules.pause(schedule_id)
    since, until = START // SECOND + 1, START // SECOND + 15 * 60
    planned = await two.schedules.backfill(schedule_id, since, until, dry_run=True)
    assert len(await dues(one)) == 1 and fired[0] == schedule_id
    with pytest.raises(ValidationError, match=r"^limit: 12 due times have not fired, and 11 are allowed"):
        await two.schedules.backfill(schedule_id, since, until, limit=11)
    pushed = await asyncio.gather(*(tq.schedules.backfill(schedule_id, since, until) for tq in (one, two)))
    assert sorted(map(len, pushed)) == [0, 12] and planned in pushed
    assert await one.schedules.backfill(schedule_id, since, until) == []
    # From 22:13:20: each minute but 22:15:20, which has fired, and 22:26:20, which is in the window.
    assert [f"{due:%H:%M:%S}" for due in planned] == [f"22:{m}:20" for m in range(14, 28) if m not in (15, 26)]
    tasks = await one.find(limit=100)
    assert sorted(task.extra["scheduled_for"] for task in tasks if task.run_at == START + 1025 * SECOND) == [
        int(due.timestamp()) * SECOND for due in planned
    ]
    # A task that is deleted counts as fired, too.
    await one.queue.backend.delete([task.task_id for task in tasks])
    assert await one.schedules.backfill(schedule_id, since, until) == []
    newest, *_ = await two.schedules.history(schedule_id)
    assert (newest.outcome, newest.count) == ("backfilled", 12)
    assert (await one.schedules.get(schedule_id)).run_count == 1


async def test_the_history_of_a_schedule_is_that_of_every_process(process: Open) -> None:
    one, two = await process(), await process()
    schedule_id = await add(one, seconds=60)
    step([one, two], 60)
    await look([one, two])
    await two.schedules.pause(schedule_id)
    step([one, two], 185)
    await one.schedules.resume(schedule_id)
    task_id = (await two.schedules.run_now(schedule_id)).task_id
    step([one, two], 61)
    await look([one, two])
    found = [(each.outcome, each.reason, each.count) for each in await one.schedules.history(schedule_id)]
    assert found[::-1] == [
        ("fired", None, 1),
        ("paused", None, 1),
        ("resumed", None, 1),
        ("run_now", None, 1),
        ("skipped", "paused", 3),
        ("fired", None, 1),
    ]
    assert [each.task_id for each in await two.schedules.history(schedule_id) if each.task_id] == [task_id]


# ---- schedules in a database beside the tasks ---------------------------------------------------------------------


@pytest.mark.stores("redis")  # one store stands for all
async def test_due_times_are_fired_once_into_a_queue_in_another_store(apart: Open) -> None:  # C1, C9
    tqs = [await apart() for _ in range(3)]
    for number in range(5):
        await add(tqs[0], f"s{number}")
    for _ in range(10):
        step(tqs, 0.5)
        await look(tqs)
    await check(tqs[0], expected=5 * 5)
    backend = tqs[0].queue.backend
    assert await backend.schedules.all() == []


@pytest.mark.stores("redis")  # one store stands for all
async def test_a_queue_in_another_store_gets_the_tasks_of_a_dead_scheduler(apart: Open) -> None:  # C9, C22
    dead, alive = await apart(), await apart()
    assert dead._scheduler._outbox is not None
    await add(dead)
    step([dead, alive], 1)

    async def killed(*_: Any) -> None:
        raise KeyboardInterrupt  # between the swap and the push

    dead._scheduler._outbox.deliver = killed
    with pytest.raises(KeyboardInterrupt):
        await dead._scheduler._fire(
            await dead._scheduler.schedules.due(dead.queue.clock.now(), 10), dead.queue.clock.now()
        )
    assert not await dues(alive)
    step([alive], 12)
    await alive._scheduler._look()
    assert (START // SECOND + 1) * SECOND in [due for _, due in await dues(alive)]
    step([alive], 12)
    await alive._scheduler._look()
    await check(alive, expected=3)


@pytest.mark.stores("redis")  # one store stands for all
async def test_nothing_is_fired_while_the_queue_is_unavailable(apart: Open) -> None:  # G-10
    tq = await apart()
    assert tq._scheduler._outbox is not None
    await add(tq)
    step([tq], 1)
    backend: Any = tq.queue.backend

    async def away() -> None:
        raise DatabaseUnavailable("away")

    backend.ping = away
    for _ in range(30):
        with pytest.raises(DatabaseUnavailable):
            await tq._scheduler._look()
        step([tq], 1)
    del backend.ping
    await tq._scheduler._look()
    await check(tq, expected=1)  # fire_once


@pytest.mark.stores("redis")  # one store stands for all
async def test_a_task_that_ended_and_was_deleted_is_not_handed_over_again(apart: Open) -> None:  # C8
    slow, other = await apart(), await apart()
    assert slow._scheduler._outbox is not None
    await add(slow)
    step([slow, other], 1)
    fired = 0
    change = slow._scheduler.schedules.change

    async def run_and_delete() -> None:
        nonlocal fired
        now = other.queue.clock.now()
        for task in await other.queue.backend.claim("w", now, 10, lease_until=now + SECOND):
            fired += 1
            await other.queue.backend.update([Change(task, settle(task, Completed(), now))])
        await other.queue.backend.purge(TaskFilter(), 100)

    async def between(changes: Any) -> Any:
        if all(not item.after.outbox and item.before.outbox for item in changes):  # it is about to empty the outbox
            await run_and_delete()
            step([other], 1)
            await other._scheduler._look()  # fires the next one
            await run_and_delete()
            raise KeyboardInterrupt  # killed before it could
        return await change(changes)

    schedules: Any = slow._scheduler.schedules
    schedules.change = between
    with pytest.raises(KeyboardInterrupt):
        await slow._scheduler._look()
    step([other], 30)
    other._scheduler._outbox._next_recovery = 0
    await other._scheduler._outbox.recover(other.queue.clock.now())  # what the dead one left behind was done long ago
    await run_and_delete()
    assert fired == 2
