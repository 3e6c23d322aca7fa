"""On each store: a handler that declares for how long its tasks are unique, and by which params."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from aiotaskq import TaskQ
from aiotaskq.testing import virtual
from aiotaskq.testing.kit import Kit
from tests.support.backends import Store


class App:
    """Handlers that are unique for different times."""

    def __init__(self, url: str) -> None:
        self.tq = tq = TaskQ(url, retention=None)
        self.running = asyncio.Event()
        self.go_on = asyncio.Event()

        async def run(order: int, note: str = "") -> str:
            if order == 0:
                self.running.set()
                await self.go_on.wait()
            return note

        self.live = tq.task(name="live", unique="order")(run)
        self.waiting = tq.task(name="waiting", unique=("order",), unique_while="pending")(run)
        self.daily = tq.task(name="daily", unique=["order"], unique_while="day")(run)


@pytest.fixture
async def made(store: Store) -> AsyncIterator[tuple[App, Kit]]:
    app = App(store.url)
    async with virtual(app.tq, store.url, concurrency=2, scheduler=False) as kit:
        yield app, kit


async def test_one_task_is_pending_or_running(made: tuple[App, Kit]) -> None:
    app, kit = made
    await app.tq.pause()
    first, second, other = await app.live.push(0, "a"), await app.live.push(0, "b"), await app.live.push(1)
    assert (first.created, second.created, other.created) == (True, False, True)
    assert second.task_id == first.task_id
    await app.tq.resume()
    await kit.advance(1)
    await app.running.wait()
    assert not (await app.live.push(0, "c")).created  # it runs
    app.go_on.set()
    await kit.drain()
    assert await first.result() == "a"
    assert (await app.live.push(0, "d")).created


async def test_one_task_waits_and_the_next_call_may_push_while_it_runs(made: tuple[App, Kit]) -> None:
    app, kit = made
    await app.tq.pause()
    first = await app.waiting.push(0, "a")
    before = await kit.task(first)
    second = await app.waiting.push(0, "b")
    assert (second.created, second.task_id) == (False, first.task_id)
    after = await kit.task(first)
    assert (after.params, after.fence, after.run_at) == (before.params, before.fence, before.run_at)
    await app.tq.resume()
    await kit.advance(1)
    await app.running.wait()
    await app.tq.pause()
    handles = await asyncio.gather(*[app.waiting.push(0, str(n)) for n in range(5)])
    assert sum(handle.created for handle in handles) == 1
    (one,) = {handle.task_id for handle in handles}
    assert one != first.task_id
    many = await app.tq.push_many([app.waiting.call(0, "x"), app.waiting.call(7), app.waiting.call(7)])
    assert [handle.created for handle in many] == [False, True, False]
    app.go_on.set()
    await app.tq.resume()
    await kit.drain(delayed=True)
    assert await first.result() == "a"


async def test_a_delayed_task_is_unique_until_it_starts(made: tuple[App, Kit]) -> None:
    app, kit = made
    first = await app.waiting.options(delay=60).push(1, "a")
    assert not (await app.waiting.push(1, "b")).created
    await kit.advance(60)
    await kit.drain()
    assert await first.result() == "a"
    assert (await app.waiting.push(1, "c")).created


async def test_one_task_a_day(made: tuple[App, Kit]) -> None:
    app, kit = made
    first = await app.daily.push(1, "a")
    await kit.drain()
    assert not (await app.daily.push(1, "b")).created and (await app.daily.push(2)).created
    await kit.advance(days=1)
    assert (await app.daily.push(1, "c")).created
    assert await first.result() == "a"


async def test_a_push_with_a_key_of_its_own_goes_by_that(made: tuple[App, Kit]) -> None:
    app, _ = made
    for handler in (app.live, app.waiting, app.daily):
        mine = handler.options(unique_key=f"mine:{handler.name}", delay=60)
        pushed = [await mine.push(1), await handler.options(delay=60).push(1), await mine.push(2)]
        assert [handle.created for handle in pushed] == [True, True, False]
