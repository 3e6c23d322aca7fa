"""The virtual clock: timers, waits, cancellation, watched work."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import SECOND
from tests.support.machine import within


async def test_virtual_time_passes_only_by_advance_and_fires_each_timer_at_its_instant() -> None:
    clock = VirtualClock(0)
    seen: list[tuple[str, int]] = []

    async def every(name: str, seconds: float) -> None:
        while True:
            await clock.sleep(seconds)
            seen.append((name, clock.now() // SECOND))

    sleepers = [asyncio.create_task(every("a", 2)), asyncio.create_task(every("b", 3))]
    await clock.settle()
    assert seen == [] and clock.next_at == 2 * SECOND
    await clock.advance(6)
    assert seen == [("a", 2), ("b", 3), ("a", 4), ("b", 6), ("a", 6)]
    assert set(clock.sleepers) == set(sleepers)
    for sleeper in sleepers:
        sleeper.cancel()
    await asyncio.gather(*sleepers, return_exceptions=True)
    assert not clock.sleepers and clock.next_at is None


async def test_a_wait_ends_by_its_event_by_time_or_by_cancel() -> None:
    clock, event = VirtualClock(0), asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, 5))
    late = asyncio.create_task(clock.wait(asyncio.Event(), 5))
    gone = asyncio.create_task(clock.wait(asyncio.Event(), 5))
    await clock.advance(1)
    event.set()
    gone.cancel()
    await clock.settle()
    assert (waiting.done(), late.done(), gone.cancelled()) == (True, False, True)
    await clock.advance(4)
    assert (await waiting, await late) == (True, False)
    assert await clock.wait(asyncio.Event(), 0) is False
    assert await clock.wait(event, 0) is True


async def test_what_a_timer_wakes_has_run_however_long_the_chain_before_the_next_one() -> None:
    clock = VirtualClock(0)
    seen: list[str] = []

    async def deep(level: int) -> None:
        if level:
            await asyncio.create_task(deep(level - 1))
        else:
            seen.append("deep")

    async def first() -> None:
        await clock.sleep(1)
        await deep(200)

    async def second() -> None:
        await clock.sleep(1.000001)
        seen.append("second")

    tasks = [asyncio.create_task(first()), asyncio.create_task(second())]
    await clock.advance(2)
    assert seen == ["deep", "second"]
    await asyncio.gather(*tasks)


async def test_a_loop_that_does_not_show_what_is_ready_gets_enough_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opaque:
        """A loop as uvloop's, which has no such attribute."""

    monkeypatch.setattr("aiotaskq.concurrency.clock.asyncio.get_running_loop", Opaque)
    rounds = 0

    async def busy() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(busy())
    await VirtualClock(0).settle()
    assert 15 <= rounds <= 25
    task.cancel()


async def test_a_busy_wait_does_not_stop_virtual_time() -> None:
    clock, done = VirtualClock(0), False

    async def busy() -> None:
        while not done:
            await asyncio.sleep(0)

    task = asyncio.create_task(busy())
    await clock.advance(1)
    assert clock.now() == SECOND
    done = True
    await task


async def test_cancelled_timers_do_not_pile_up() -> None:
    clock = VirtualClock(0)
    for _ in range(20_000):
        clock.call_later(3600, lambda: None)()
    assert clock._timers == []
    rang: list[int] = []
    clock.call_later(1, lambda: rang.append(clock.now()))
    await clock.advance(7200)
    assert rang == [SECOND] and clock._timers == []


async def test_time_waits_for_watched_work_but_not_for_ever() -> None:
    clock = VirtualClock(0)
    loop = asyncio.get_running_loop()
    work, hung = loop.create_future(), loop.create_future()
    clock.watch(lambda: [work])
    patience = within(0.05)
    clock.watch(lambda: [hung], patience=patience)
    began = time.perf_counter()
    threading.Timer(0.15, loop.call_soon_threadsafe, (work.set_result, None)).start()
    await clock.advance(1)
    assert work.done() and time.perf_counter() - began >= 0.1
    began = time.perf_counter()
    for _ in range(200):
        await clock.advance(1)
    assert time.perf_counter() - began < 100 * patience  # what took too long once is not waited for again
