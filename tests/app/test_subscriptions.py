"""What ``on=`` refuses, what the tasks of an event are like, and that they share its transaction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import aiotaskq.sync
from aiotaskq import Parent, TaskQ, injected, step
from aiotaskq.errors import QueueFull, ValidationError
from aiotaskq.testing import override, virtual
from tests.support.machine import within


@dataclass(frozen=True)
class Order:
    id: int


def test_what_cannot_be_called_with_an_event_is_refused() -> None:
    tq = TaskQ("memory://")

    async def two(order: int, customer: int) -> None: ...

    async def one(order: int) -> None: ...

    async def after(order: int, parent: Parent[int] = injected()) -> None: ...

    for function, options, said in [
        (
            two,
            {"on": "x"},
            r"^on: two\(\) needs 'customer', too, and an event has a value and a key; give it a default$",
        ),
        (after, {"on": "x"}, r"^on: after\(\) needs 'parent', and an event has no task before it$"),
        (one, {"on": 5}, r"^on: the name of an event, or a list of names, is needed \(got int\)$"),
        (one, {"on": []}, r"^on: the name of an event, or a list of names, is needed \(got none\)$"),
        (one, {"on": ""}, r"^on: "),
        (one, {"on": "order.*"}, r"^on: 'order\.\*' is no name; 'order' is for all that begin so$"),
        (one, {"on": ["a", "order:"]}, r"^on: 'order:' is no name; 'order' is for all that begin so$"),
        (one, {"on": [5]}, r"^on: "),
        (one, {"on": "x", "debounce": 5}, r"^on, debounce: give one of the two$"),
    ]:
        with pytest.raises(ValidationError, match=said):
            tq.task(**options)(function)  # type: ignore[call-overload]


async def test_a_value_that_a_subscriber_does_not_take_is_not_emitted() -> None:
    tq, got = TaskQ("memory://"), list[Any]()

    @tq.task(on="placed")
    async def typed(order: Order) -> None:
        got.append(order)

    @tq.task(on="placed", batch=10)
    async def together(orders: list[Order]) -> None:
        got.append(orders)

    @tq.task(on="placed")
    async def told(*, key: str) -> None:
        got.append(key)

    async with virtual(tq) as kit:
        with pytest.raises(ValidationError, match=r"params.order.*call is of typed\(\)"):
            await tq.emit("placed:1", {"name": "x"})
        assert await tq.list_events() == [] and await tq.count() == 0
        assert await tq.emit("placed:1", {"id": 1}) and await tq.emit("placed:2", {"id": 2})
        await kit.drain(delayed=True)
    assert got.count(Order(1)) == 1 and [Order(1), Order(2)] in got and "placed:1" in got


async def test_the_keys_of_a_handler_hold_for_its_events() -> None:
    tq = TaskQ("memory://")

    @tq.task(on="placed", throttle=3600, key="customer")
    async def mail(customer: str) -> None: ...

    seen: list[Any] = []

    class Middleware:
        async def push(self, tasks: Any, call_next: Any) -> Any:
            stored = await call_next(tasks)
            seen.extend(row is task for task, row in zip(tasks, stored, strict=True))
            return stored

    tq.middleware(Middleware())
    async with virtual(tq):
        assert (
            await tq.emit("placed:1", "ann") and await tq.emit("placed:2", "ann") and await tq.emit("placed:3", "bob")
        )
        assert not await tq.emit("placed:3", "eve")
        assert await tq.count(type="mail") == 2
    assert seen == [True, False, True, False]


async def test_a_full_queue_refuses_no_event() -> None:
    tq = TaskQ("memory://", maxsize=1, when_full="raise")

    @tq.task(on="placed")
    async def mail(n: int) -> None: ...

    async with tq:
        await mail.push(0)
        with pytest.raises(QueueFull):
            await mail.push(1)
        assert await tq.emit("placed", 2)
        assert await tq.count() == 2


async def test_event_and_tasks_are_of_the_transaction_of_a_session(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/app.db")
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")

    @tq.task(on="placed")
    async def mail(n: int) -> None: ...

    heard: list[Any] = []
    tq.on("pushed", lambda call: heard.append(call.task.params))
    async with tq:
        async with engine.connect() as connection:
            assert await tq.emit("placed:1", 1, session=connection)
            await connection.rollback()
        assert (await tq.count(), await tq.get_event("placed:1")) == (0, None)
        async with engine.begin() as connection:
            assert await tq.emit("placed:1", 2, session=connection)
        async with engine.begin() as connection:
            assert not await tq.emit("placed:1", 3, session=connection)
        assert [task.params for task in await tq.find()] == [{"n": 2}]
        async with asyncio.timeout(within(10)):
            while not heard:
                await asyncio.sleep(0)
    await engine.dispose()
    assert heard == [{"n": 2}]


async def test_a_step_that_is_repeated_emits_once() -> None:
    tq, got = TaskQ("memory://"), list[int]()

    @tq.task(on="placed")
    async def mail(n: int) -> None:
        got.append(n)

    @tq.task(backoff=1)
    async def order(n: int) -> None:
        await tq.emit(f"placed:{n}", n)
        await step("once", list)
        if len(runs := await tq.find(type="order")) and runs[0].retry_count == 0:
            raise ConnectionError("no")

    async with virtual(tq) as kit:
        await order.push(7)
        await kit.drain(delayed=True)
    assert got == [7]


async def test_an_override_has_what_an_event_pushes() -> None:
    tq = TaskQ("memory://")

    @tq.task(on="placed")
    async def mail(n: int) -> None: ...

    with override(tq) as pushes:
        async with tq:
            await tq.emit("placed", 5)
            assert [(task.type, task.params) for task in pushes.pushed] == [("mail", {"n": 5})]


def test_blocking_code_emits() -> None:
    tq, got = aiotaskq.sync.TaskQ("memory://"), list[int]()

    @tq.task(on="placed")
    def mail(n: int) -> None:
        got.append(n)

    with tq.running():
        assert tq.emit("placed", 5)
        assert not tq.emit("placed", 5)
        (task,) = tq.find(type="mail")
        tq.handle(task.task_id).result(within(10))
    assert got == [5]
