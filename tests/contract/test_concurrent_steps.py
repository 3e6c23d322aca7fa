"""Handlers that do several things at once, on each store: none is left while a step of it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import EventTimeout, Status, current_task, sleep_for, step, wait_event
from aiotaskq.core.task import SECOND
from aiotaskq.testing import Kit, virtual
from tests.support.backends import Store
from tests.support.machine import within

DAY = 86_400.0


@pytest.fixture
async def kit(store: Store) -> AsyncIterator[Kit]:
    options: dict[str, Any] = {"history": False, "retention": None, "poll_interval": DAY, "lease": DAY / 8}
    async with virtual(url=store.url, scheduler=False, **options) as made, asyncio.timeout(within(60)):
        yield made


async def in_group(*parts: Coroutine[Any, Any, Any]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
    return [task.result() for task in tasks]


@pytest.mark.parametrize("together", [asyncio.gather, in_group], ids=["gather", "TaskGroup"])
@pytest.mark.parametrize("first", ["step", "wait"])
async def test_a_step_ends_before_the_handler_is_left(kit: Kit, together: Any, first: str) -> None:
    calls: list[str] = []

    async def work(name: str) -> str:
        calls.append(f"{name} begins")
        await kit.clock.sleep(10)
        calls.append(f"{name} ends")
        return name

    async def two() -> list[str]:
        return [await step("charge", work, "charge"), await step("mail", work, "mail")]

    @kit.tq.task(max_retries=0)
    async def order() -> Any:
        parts = [two(), wait_event("go")] if first == "step" else [wait_event("go"), two()]
        return list(await together(*parts))

    handle = await order.push()
    await kit.advance(5)
    await kit.tq.emit("go", 1)
    await kit.advance(30)
    assert await handle.status() is Status.COMPLETED
    assert calls == ["charge begins", "charge ends", "mail begins", "mail ends"]
    result = [["charge", "mail"], 1]
    assert await handle.result() == (result if first == "step" else result[::-1])


@pytest.mark.parametrize("first", ["step", "sleep"])
async def test_a_sleep_beside_a_step_is_as_long_if_the_step_fails(kit: Kit, first: str) -> None:
    begun = kit.clock.now()
    attempts: list[int] = []

    async def fails_once() -> None:
        attempts.append(kit.clock.now())
        await kit.clock.sleep(1_800)
        if len(attempts) == 1:
            raise RuntimeError("no")

    async def sleeps() -> int:
        await sleep_for("nap", hours=2)
        return kit.clock.now()

    @kit.tq.task(max_retries=1, backoff=1)
    async def work() -> int:
        parts = [step("slow", fails_once), sleeps()] if first == "step" else [sleeps(), step("slow", fails_once)]
        return max(await asyncio.gather(*parts), key=bool)

    handle = await work.push()
    await kit.advance(hours=6)
    assert len(attempts) == 2
    assert await handle.result() - begun < 2 * 3_600 * SECOND + 60 * SECOND


async def test_the_handler_goes_on_with_an_event_that_comes_while_a_step_runs(kit: Kit) -> None:
    """The branch that waits looks for its event whenever a step has ended: the others may never pause."""
    went_on: list[int] = []

    async def polls() -> None:
        for _ in range(20):
            await step("poll", kit.clock.sleep, 60)

    async def stops() -> Any:
        value = await wait_event("stop")
        went_on.append(kit.clock.now())
        return value

    @kit.tq.task(max_retries=0)
    async def order() -> Any:
        return (await asyncio.gather(polls(), stops()))[1]

    start = kit.clock.now()
    handle = await order.push()
    await kit.advance(90)
    await kit.tq.emit("stop", "now")
    await kit.advance(minutes=30)
    assert await handle.result() == "now"
    assert went_on == [start + 120 * SECOND]
    assert (await handle.task()).fence == 1


@pytest.mark.parametrize("nested", [False, True])
async def test_sleeps_that_begin_together_do_not_add_up(kit: Kit, nested: bool) -> None:
    ended: dict[int, int] = {}

    async def nap(days: int) -> None:
        await sleep_for(f"{days} days", days=days)
        ended.setdefault(days, kit.clock.now())

    async def both(*parts: Coroutine[Any, Any, Any]) -> None:
        await asyncio.gather(*parts)

    @kit.tq.task(max_retries=0)
    async def work() -> None:
        await both(nap(3), both(nap(1), both(nap(2)))) if nested else await both(nap(3), nap(1), nap(2))

    start = kit.clock.now()
    handle = await work.push()
    await kit.advance(days=4)
    assert await handle.status() is Status.COMPLETED
    assert {days: (at - start) / 1e6 / DAY for days, at in ended.items()} == {1: 1.0, 2: 2.0, 3: 3.0}


async def test_each_wait_that_begins_together_ends_in_its_time(kit: Kit) -> None:
    came: dict[str, tuple[Any, int]] = {}
    start = kit.clock.now()

    async def wait(key: str, hours: int) -> None:
        try:
            value = await wait_event(key, timeout=hours * 3600)
        except EventTimeout:
            value = "late"
        came.setdefault(key, (value, (kit.clock.now() - start) // SECOND // 60))

    @kit.tq.task(max_retries=0)
    async def work() -> None:
        await asyncio.gather(wait("a", 1), wait("b", 2), wait("c", 3), wait("d", 4), sleep_for("nag", hours=5))

    handle = await work.push()
    await kit.advance(minutes=30)
    await kit.tq.emit("c", 1, expires=1)
    await kit.tq.emit("d", 2, expires=1)
    await kit.advance(hours=4, minutes=20)
    assert await handle.status() is Status.PENDING
    await kit.advance(minutes=10)
    assert await handle.status() is Status.COMPLETED
    assert came == {"a": ("late", 60), "b": ("late", 120), "c": (1, 30), "d": (2, 30)}
    assert await kit.tq.queue.step_verbs.store.waiting(["a", "b", "c", "d"]) == dict.fromkeys("abcd", 0)


@pytest.mark.parametrize("order", ["waits", "emitted"])
async def test_a_task_gets_an_event_that_has_expired_before_a_worker_came(kit: Kit, order: str) -> None:
    @kit.tq.task(max_retries=0)
    async def work() -> Any:
        await step("first", kit.clock.sleep, 10)
        return await wait_event("go", timeout=7200)

    handle = await work.push()
    if order == "waits":
        await kit.advance(20)
        await kit.tq.pause("default")
    else:
        await kit.advance(5)
        await kit.tq.pause("default")
        await kit.tq.emit("go", "early", expires=3600)
        await kit.advance(20)
    await kit.tq.emit("go", "early", expires=1)
    await kit.advance(hours=1, minutes=1)
    assert await kit.tq.get_event("go") is None
    await kit.tq.resume("default")
    await kit.advance(hours=2)
    assert await handle.result() == "early"


async def test_what_has_begun_beside_a_step_has_begun_whatever_becomes_of_it(kit: Kit) -> None:
    async def fails() -> None:
        await kit.clock.sleep(3600)
        if current_task().task.retry_count == 0:
            raise ConnectionError("once")

    @kit.tq.task(max_retries=1, backoff=1.0)
    async def work() -> None:
        await asyncio.gather(sleep_for("nag", hours=3), step("fails", fails))

    handle = await work.push()
    await kit.advance(hours=3)
    assert await handle.status() is Status.COMPLETED
    assert (await handle.task()).retry_count == 1


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "returns"])
async def test_a_handler_does_not_end_before_its_last_step(kit: Kit, fails: bool) -> None:
    calls: list[str] = []

    async def charge() -> int:
        calls.append("begins")
        await kit.clock.sleep(20)
        calls.append("ends")
        return 5

    async def two() -> None:
        await step("charge", charge)
        await step("more", calls.append, "a step begins behind the end of the handler")

    left: list[asyncio.Task[None]] = []

    @kit.tq.task(max_retries=1, backoff=0.1)
    async def order() -> Any:
        if current_task().task.retry_count == 0:
            left.append(asyncio.create_task(two()))
            await kit.clock.sleep(1)
            if fails:
                raise ConnectionError("once")
            return "done"
        return await step("charge", charge)

    handle = await order.push()
    await kit.advance(15)
    assert (await handle.status(), calls) == (Status.RUNNING, ["begins"])
    await kit.advance(15)
    assert (await handle.result(), calls) == (5 if fails else "done", ["begins", "ends"])
    assert "its handler has ended" in str(left[0].exception())


async def test_the_loser_of_a_race_is_not_waited_for(kit: Kit) -> None:
    @kit.tq.task(max_retries=0)
    async def work() -> str:
        parts = {asyncio.create_task(wait_event("go"), name="go"), asyncio.create_task(sleep_for("day", days=1))}
        done, others = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        for each in done:
            each.result()
        return ", ".join(each.get_name() for each in done if each.get_name() == "go") or "day"

    slept, went = await work.push(), await work.push()
    await kit.advance(hours=25)
    assert await slept.result() == "day" == await went.result()
    again = await work.push()
    await kit.advance(hours=1)
    await kit.tq.emit("go")
    await kit.advance(hours=1)
    assert await again.result() == "go"


async def test_a_timeout_cancels_the_steps_that_are_under_way(kit: Kit) -> None:
    calls: list[str] = []

    async def slow(name: str) -> None:
        try:
            await kit.clock.sleep(100)
        except asyncio.CancelledError:
            calls.append(name)
            raise

    left = []

    @kit.tq.task(max_retries=0, timeout=10)
    async def waits() -> None:
        await asyncio.gather(step("slow", slow, "gather"), wait_event("go"))

    @kit.tq.task(max_retries=0, timeout=10)
    async def ends() -> None:
        left.append(asyncio.create_task(step("slow", slow, "left")))
        await kit.clock.sleep(1)

    handles = [await waits.push(), await ends.push()]
    await kit.advance(20)
    assert [(await handle.task()).error_message for handle in handles] == ["TimeoutError: timed out after 10 s"] * 2
    assert sorted(calls) == ["gather", "left"]


async def test_in_a_thread(kit: Kit) -> None:
    calls: list[str] = []

    @kit.tq.task(max_retries=0)
    def work() -> Any:
        aiotaskq.sync.step("a", calls.append, "a")
        value = aiotaskq.sync.wait_event("go")
        aiotaskq.sync.step("b", calls.append, "b")
        return value

    handle = await work.push()
    await kit.drain()
    await kit.tq.emit("go", 7)
    await kit.drain()
    assert (await handle.result(), calls, (await handle.task()).fence) == (7, ["a", "b"], 2)
