"""How many tasks are claimed ahead, and when they are given back."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from aiotaskq import TaskQ
from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.worker.prefetch import HORIZON, MOST, Prefetch
from tests.runtime.worker.workers import until_counts
from tests.support.waiting import eventually


def test_nothing_is_claimed_ahead_until_tasks_are_known_to_be_quick() -> None:  # H4
    pace = Prefetch()
    assert pace.ahead == 0
    for _ in range(100):
        pace.took(30)
    assert pace.ahead == MOST


def test_one_slow_task_ends_it() -> None:  # H4
    pace = Prefetch()
    for _ in range(200):
        pace.took(30)
    pace.took(SECOND)
    assert pace.ahead == 0
    for _ in range(200):
        pace.took(30)
    assert pace.ahead == MOST
    pace.stalled()
    assert pace.ahead == 0


@given(st.lists(st.integers(0, 3600 * SECOND), min_size=1))
def test_no_task_waits_longer_than_the_horizon_for_those_claimed_before_it(durations: list[int]) -> None:
    pace = Prefetch()
    for duration in durations:
        pace.took(duration)
    assert 0 <= pace.ahead <= MOST
    if min(durations) > HORIZON:
        assert pace.ahead == 0


async def test_slow_tasks_are_claimed_for_free_slots_only() -> None:  # H4
    tq = TaskQ(DURABLE_FAKE)
    started: list[int] = []
    go = asyncio.Event()

    @tq.task
    async def slow(number: int) -> None:
        started.append(number)
        await go.wait()

    async with tq.running(concurrency=2):
        for number in range(5):
            await slow.push(number=number)
        await eventually(lambda: len(started) == 2)
        assert (await tq.stats()).counts["running"] == 2
        go.set()
        await until_counts(tq, completed=5)


async def test_tasks_buffered_behind_a_slow_one_are_given_back() -> None:  # H4
    clock = VirtualClock()
    tq = TaskQ(DURABLE_FAKE, clock=clock)
    go = asyncio.Event()

    @tq.task
    async def work(slow: bool = False) -> None:
        if slow:
            await go.wait()

    async with tq.running(concurrency=1, scheduler=False):
        await tq.push_many([work.call() for _ in range(300)])
        await until_counts(tq, completed=300)
        await tq.push_many([work.call(slow=True), *(work.call() for _ in range(100))])
        await clock.settle()
        assert (await tq.stats()).counts["running"] > 1, "claimed ahead, as they were all quick"
        await clock.advance(0.6)
        assert (await tq.stats()).counts["running"] == 1, "another process may have them"
        go.set()
        await until_counts(tq, completed=401)


async def test_tasks_buffered_behind_many_slower_ones_are_given_back() -> None:  # H4
    clock = VirtualClock()
    tq = TaskQ(DURABLE_FAKE, clock=clock)

    @tq.task
    async def work(seconds: float = 0) -> None:
        if seconds:
            await clock.sleep(seconds)

    async with tq.running(concurrency=1, scheduler=False):
        await tq.push_many([work.call() for _ in range(300)])
        await until_counts(tq, completed=300)
        await tq.push_many([work.call(seconds=0.2) for _ in range(100)])
        await clock.settle()
        assert (await tq.stats()).counts["running"] > 1, "claimed ahead, as they were all quick"
        await clock.advance(0.7)  # a slot becomes free every 0.2 s, so nothing ever stands still
        counts = (await tq.stats()).counts
        assert (counts["running"], counts["completed"]) == (1, 303), "another process may have the others"
        await clock.advance(100 * 0.2)
        await until_counts(tq, completed=400)
