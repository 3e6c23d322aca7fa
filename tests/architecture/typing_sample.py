"""The public names as mypy --strict and pyright see them. Each ignored line must remain an error."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, assert_type

import pydantic

import aiotaskq.sync
from aiotaskq import Fair, Limit, Parent, Rate, Retry, Status, TaskQ, injected, step
from aiotaskq.types import GroupHandle, LimitState, Schedule, Task, TaskFunction, TaskHandle

tq = TaskQ("memory://")


class Client: ...


@tq.resource
async def client() -> AsyncIterator[Client]:
    yield Client()


@tq.task
async def add(a: int, b: int = 0) -> int:
    return a + b


@tq.task(name="shout", max_retries=2, backoff=1.5)
def shout(text: str, client: Client = injected()) -> str:
    return text.upper()


@tq.task(max_retries=5, max_snoozes=10, age=3600, tags={"team": "a"})
async def fetch(busy: bool) -> str:
    if busy:
        raise Retry("busy", after=datetime.timedelta(minutes=1)) from ConnectionError()
    raise Retry(after=0.5)


class Order(pydantic.BaseModel):
    id: uuid.UUID
    at: datetime.datetime


@dataclass
class Receipt:
    order: Order
    paid: bool


@tq.task
async def pay(order: Order, tags: frozenset[str] = frozenset()) -> Receipt:
    return Receipt(order, True)


@tq.task
async def mail(parent: Parent[Receipt]) -> None:
    assert_type(parent.result.paid, bool)


@tq.task(batch=10, within=0.5, debounce=2, key="orders")
async def bills(orders: list[Order], client: Client = injected()) -> list[Receipt]:
    return [Receipt(order, True) for order in orders]


@tq.task(batch=10)
def index(texts: list[str]) -> None: ...
@tq.task(limit=[Limit(5, key="tenant"), Limit(50)], rate=Rate(100, per=60, weight=lambda params: 2), fair="tenant")
async def export(tenant: str) -> None: ...


@tq.schedule(interval=60)
@tq.task()
async def every_minute() -> None: ...


@tq.schedule(cron="0 2 * * *", timezone="Asia/Shanghai")
async def nightly() -> None: ...


async def main() -> None:
    handle = await add.push(1, b=2)
    assert_type(handle, TaskHandle[int])
    assert_type(await handle.result(timeout=5), int)
    assert_type(await add(1), int)
    assert_type(shout("x"), str)
    assert_type(await (await shout.options(delay=5, unique_key="k").push(text="a")).result(), str)
    assert_type(await handle.status(), Status)
    assert_type(await tq.get("id"), Task)
    assert_type(await tq.find(status="failed"), list[Task])
    assert_type(every_minute, TaskFunction[[], Coroutine[object, None, None], None])
    assert_type(await (await nightly.push()).result(), None)
    order = Order(id=uuid.uuid4(), at=datetime.datetime.now(datetime.UTC))
    assert_type(await (await pay.options(on_success=mail).push(order, tags=frozenset("a"))).result(), Receipt)
    await export.options(limit=Limit(1), fair=Fair("tenant", weight=2)).push("a")
    assert_type(await tq.limits.set("tenant:a", 20, rate=Rate(5)), LimitState)
    assert_type(await tq.limits.list(), list[LimitState])
    tq.task(limit=5)  # type: ignore[call-overload]
    tq.task(executor="proces")  # type: ignore[call-overload]
    tq.task(max_snoozes="10")  # type: ignore[call-overload]
    tq.task(unique=("a", "b"), unique_while="day", on="order.placed")
    tq.task(unique="a", unique_while="hour")  # type: ignore[call-overload]
    tq.task(on=5)  # type: ignore[call-overload]
    assert_type(await (await fetch.push(busy=True)).result(), str)
    assert_type(Retry(after=5).after, float | None)
    Retry(60)  # type: ignore[arg-type]
    Retry(countdown=60)  # type: ignore[call-arg]
    await tq.find(status="bogus")  # type: ignore[arg-type]
    await tq.find(status=["failed", Status.EXPIRED])
    await tq.cancel_many(status="bogus")  # type: ignore[arg-type]
    bills.options(merge="newest")  # type: ignore[arg-type]
    TaskQ(when_full="block")  # type: ignore[arg-type]
    tq.on("fail", print)  # type: ignore[call-overload]
    assert_type(await step("add", add, 1, b=2), int)
    assert_type(await step("length", len, "text"), int)
    await step("add", add, "one")  # type: ignore[call-overload]
    await step("add", add, 1, c=2)  # type: ignore[call-arg]
    task = await tq.get("id")
    assert_type(task.created, datetime.datetime)
    assert_type(task.ended, datetime.datetime | None)
    await pay.push({"id": "x"})  # type: ignore[arg-type]
    await pay.push(order, tags={1})  # type: ignore[arg-type]
    members = await tq.group([add.call(a=1), add.call(a=2)], then=shout.call("x"))
    assert_type(members, GroupHandle[str])
    assert_type(await members.result(), str)
    assert_type(await members.callback(), TaskHandle[str] | None)
    assert_type(await (await tq.group([add.call(a=1)])).result(), list[int])
    assert_type(await tq.start(aiotaskq.group([add.call(a=1)], then=shout.call("x"))), GroupHandle[str])
    assert_type(await tq.start(aiotaskq.Workflow("w", then=shout.call("x"))), GroupHandle[str])
    assert_type((await members.progress()).failed, int)
    flow = aiotaskq.Workflow("w").add("a", add.call(a=1)).add("b", shout.call("x"), after={"a": "run"})
    assert_type(await (await tq.start(flow)).task("a"), TaskHandle[Any])
    flow.add("c", add.call(a=1), on_failure="never")  # type: ignore[arg-type]
    await (await tq.group([add.call(a=1), aiotaskq.group([add.call(a=2)]), flow])).result()
    await tq.group([add])  # type: ignore[arg-type]
    assert_type(await tq.start(aiotaskq.chain(add.call(a=1), add.call(a=2))), GroupHandle[list[int]])
    await tq.push_many([add.call(a=1), ("shout", {"text": "x"})])

    assert_type(await (await bills.options(debounce=2.0, max_wait=30, merge="last").push(order)).result(), Receipt)
    assert_type(await bills([order]), list[Receipt])
    assert_type(await (await index.push("a")).result(), None)
    await bills.push([order])  # type: ignore[arg-type]

    await add.push("one")  # type: ignore[arg-type]
    await add.push(a=1, c=2)  # type: ignore[call-arg]
    await add.push()  # type: ignore[call-arg]
    await shout.push(text=1)  # type: ignore[arg-type]
    shout.options(colour="red")  # type: ignore[call-arg]
    shout.delay("loud")  # type: ignore[attr-defined]
    tq.add_job(shout)  # type: ignore[attr-defined]
    tq.task(bind=True)  # type: ignore[call-overload]
    tq.schedule(hour=2)  # type: ignore[call-arg]
    tq.schedule(interval=5, misfire="once")  # type: ignore[arg-type]
    added = await tq.schedules.add("shout", shout, cron="0 2 * * *", overlap="skip")
    assert_type(added, Schedule)
    await tq.schedules.add("shout", 5, interval=60)  # type: ignore[arg-type]
    await tq.schedules.update("shout", intervall=60)  # type: ignore[call-arg]
    await tq.push("x", {}, priority="high")  # type: ignore[arg-type]


blocking = aiotaskq.sync.TaskQ("memory://")


@blocking.task
async def double(n: int) -> int:
    return 2 * n


@blocking.task(batch=2)
def halve(numbers: list[int]) -> list[float]:
    return [number / 2 for number in numbers]


def legacy() -> None:
    assert_type(halve.push(1).result(), float)
    assert_type(halve([1]), list[float])
    handle = double.push(n=1)
    assert_type(handle.result(timeout=5), int)
    double.push(n="one")  # type: ignore[arg-type]
    aiotaskq.sync.push_task({"type": "x"}, priority=1)
    aiotaskq.sync.push_task({"type": "x"}, priority="high")  # type: ignore[arg-type]
    assert_type(blocking.limits.pause("openai", 30), LimitState)
    assert_type(blocking.schedules.add("double", double, interval=60, params={"n": 1}), Schedule)
    popped = aiotaskq.sync.get_queue().pop_task(timeout=1)
    assert_type(popped, dict[str, Any] | None)


if __name__ == "__main__":
    asyncio.run(main())
