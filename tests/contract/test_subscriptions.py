"""On each store: an event pushes one task for each handler that has subscribed to it, never twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import TaskQ, wait_event
from aiotaskq.core.groups import derived_id
from aiotaskq.core.limits import Limit
from aiotaskq.testing import virtual
from aiotaskq.testing.kit import Kit
from tests.support.backends import Store


class App:
    """Handlers of placed orders."""

    def __init__(self, store: Store) -> None:
        self.tq = tq = TaskQ(store.url, retention=None)
        self.got: list[tuple[str, Any]] = []
        self.heard: list[str] = []

        @tq.task(on="order.placed")
        async def mail(order: dict[str, int], key: str) -> None:
            self.got.append((key, order["id"]))

        @tq.task(on=("order.placed", "order.paid"), limit=Limit(1), queue="slow")
        def ship(order: dict[str, int], note: str = "") -> None:
            self.got.append(("ship", order["id"]))

        @tq.task(on="order.placed:vip")
        async def greet() -> None:
            self.got.append(("greet", 0))

        @tq.task
        async def waits() -> Any:
            return await wait_event("order.placed:9")

        @tq.task(on="refresh", unique=True, expires=60)
        async def refresh() -> None: ...

        tq.on("pushed", lambda call: self.heard.append(call.task.type))
        self.waits, self.refresh = waits, refresh


@pytest.fixture
async def made(store: Store) -> AsyncIterator[tuple[App, Kit]]:
    app = App(store)
    async with virtual(app.tq, store.url, concurrency=2, scheduler=False) as kit:
        yield app, kit


async def test_an_event_pushes_one_task_for_each_subscriber(made: tuple[App, Kit]) -> None:
    app, kit = made
    assert await app.tq.emit("order.placed:17", {"id": 17})
    assert not await app.tq.emit("order.placed:17", {"id": 18})  # the first value of a key stays
    assert await app.tq.emit("order.placed", {"id": 1})
    assert await app.tq.emit("order.paid:5", {"id": 5})
    assert await app.tq.emit("order.placed:vip:3", {"id": 3})
    assert await app.tq.emit("order.placedx", {"id": 4})
    assert await app.tq.emit("order", {"id": 4})
    await kit.drain(delayed=True)
    assert sorted(app.got) == sorted(
        [
            *[("order.placed:17", 17), ("ship", 17), ("order.placed", 1), ("ship", 1), ("ship", 5)],
            *[("order.placed:vip:3", 3), ("ship", 3), ("greet", 0)],
        ]
    )
    assert sorted(app.heard) == sorted([*["mail"] * 3, *["ship"] * 4, "greet"])
    assert {task.queue for task in await app.tq.find(type="ship")} == {"slow"}
    event = await app.tq.get_event("order.paid:5")
    assert event is not None and await app.tq.get(derived_id("event", event.at, "ship", event.key))


async def test_it_wakes_what_waits_as_well(made: tuple[App, Kit]) -> None:
    app, kit = made
    handle = await app.waits.push()
    await kit.drain()
    await app.tq.emit("order.placed:9", {"id": 9})
    await kit.drain(delayed=True)
    assert await handle.result() == {"id": 9} and ("ship", 9) in app.got


async def test_of_emits_at_the_same_time_one_pushes(made: tuple[App, Kit]) -> None:
    app, kit = made
    emitted = await asyncio.gather(*[app.tq.emit("order.placed:1", {"id": n}) for n in range(10)])
    assert sum(emitted) == 1
    await kit.drain(delayed=True)
    assert sorted(app.got) == [("order.placed:1", emitted.index(True)), ("ship", emitted.index(True))]


async def test_an_event_that_has_expired_is_a_new_one(made: tuple[App, Kit]) -> None:
    app, kit = made
    for n in (1, 2):
        assert await app.tq.emit("order.paid", {"id": n}, expires=60)
        await kit.advance(60)
    await kit.drain(delayed=True)
    assert app.got == [("ship", 1), ("ship", 2)]


async def test_a_key_that_an_expired_task_holds_is_free(store: Store) -> None:
    app = App(store)
    async with app.tq:
        late = await app.refresh.options(expires=1e-6).push()
        await app.tq.emit("refresh:1")
        await app.tq.emit("refresh:2")  # the task of the first one is to come
        (new, old) = await app.tq.find(type="refresh")
        assert (old.task_id, old.unique_key) == (late.task_id, None) and new.unique_key is not None
        await app.tq.queue.reaper.reap()
        assert (await late.task()).status == "expired"
        (claimed,) = await app.tq.queue.backend.claim("w", app.tq.queue.clock.now(), 9)
        assert claimed.task_id == new.task_id
