"""Pushes: when, where, how often, and what follows them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from aiotaskq import Parent, Workflow, chain, group, injected
from aiotaskq.testing import Kit
from tests.docs.migration.rows import ended, row


@row("Celery", "@app.task")
@row("Celery", "f.delay(1)")
@row("dramatiq", "f.send(1)")
@row("RQ", "queue.enqueue(f, 1)")
@row("RQ", "queue.enqueue_in(timedelta(minutes=1), f, 1)")
@row("Huey", "f(1)")
@row("Huey", "f.schedule((1,), delay=60)")
async def pushed(kit: Kit) -> None:
    @kit.tq.task
    async def f(x: int) -> int:
        return x

    now, later = await f.push(x=1), await f.options(delay=60).push(x=1)
    await kit.advance(59)
    assert (await now.status(), await later.status()) == ("completed", "pending")
    assert await ended(kit, later) == 1
    assert await f(1) == 1  # a plain call


@row("Celery", "f.apply_async((1,), eta=…, expires=60)")
async def pushed_at_a_time(kit: Kit) -> None:
    @kit.tq.task
    async def f(x: int) -> int:
        return x

    handle = await f.options(at=kit.now + timedelta(minutes=1)).push(x=1)
    await kit.advance(minutes=1)
    await kit.tq.pause("default")
    late = await f.options(expires=60).push(x=1)
    await kit.advance(minutes=1)
    assert (await handle.status(), await late.status()) == ("completed", "expired")


@row("Celery", "f.chunks(…)")
@row("RQ", "queue.enqueue_many([…])")
@row("Huey", "f.map([1, 2])")
async def many(kit: Kit) -> None:
    sizes: list[int] = []

    @kit.tq.task
    async def f(x: int) -> int:
        return x

    @kit.tq.task(batch=100)
    async def together(items: list[int]) -> None:
        sizes.append(len(items))

    handles = await kit.tq.push_many([f.call(x) for x in range(100)])
    await kit.tq.push_many([together.call(x) for x in range(100)])
    await kit.drain()
    assert await handles[99].result() == 99
    assert sum(sizes) == 100 and len(sizes) < 100


@row("Celery", "QueueOnce")
async def one_of_each_order(kit: Kit) -> None:
    @kit.tq.task(unique=("order",), unique_while="running")
    async def one(order: int) -> None: ...

    @kit.tq.task(unique=("order",), unique_while="pending")
    async def next_one(order: int) -> None: ...

    @kit.tq.task(unique=("order",), unique_while="day")
    async def daily(order: int) -> None: ...

    tasks = (one, next_one, daily)
    assert [[(await task.push(17)).created for task in tasks] for _ in range(2)] == [[True] * 3, [False] * 3]
    assert (await one.push(18)).created
    await kit.drain()
    assert [(await task.push(17)).created for task in tasks] == [True, True, False]


@row("Celery", 'Exchange("orders", type="topic")')
async def an_event_pushes_tasks(kit: Kit) -> None:
    @kit.tq.task(on="order.placed")
    async def mail(order: dict[str, int]) -> int:
        return order["id"]

    @kit.tq.task(on="order.placed")
    async def index(order: dict[str, int]) -> int:
        return order["id"]

    assert await kit.tq.emit("order.placed:17", {"id": 17})
    await kit.drain()
    assert {task.type: task.result for task in await kit.tq.find()} == {"mail": 17, "index": 17}


@row("Celery", "link=g.s()")
@row("dramatiq", 'on_success="g"')
@row("RQ", "on_success=Callback(g)")
async def follow_ups(kit: Kit) -> None:
    seen: list[Any] = []

    @kit.tq.task(max_retries=0)
    async def f(x: int) -> int:
        return 10 // x

    @kit.tq.task
    async def g(parent: Parent[int]) -> None:
        seen.append(parent.result)

    @kit.tq.task
    async def h(parent: Parent[int | None]) -> None:
        seen.append(str(parent.error).splitlines()[0])

    await kit.tq.push_many([f.options(on_success=g, on_failure=h).call(x) for x in (5, 0)])
    await kit.drain()
    assert sorted(seen, key=str) == [2, "ZeroDivisionError: integer division or modulo by zero"]


@row("Celery", "chain(f.s(1), g.s())")
@row("dramatiq", "pipeline([f.message(1), g.message()])")
@row("Huey", "f.s(1).then(g)")
async def one_after_the_other(kit: Kit) -> None:
    @kit.tq.task
    async def f(x: int) -> int:
        return x + 1

    @kit.tq.task
    async def g(parent: Parent[int] = injected()) -> int:
        return parent.result * 10

    assert await ended(kit, await kit.tq.start(chain(f.call(1), g.call()))) == [2, 20]


@row("Celery", "group(f.s(1), f.s(2))")
async def side_by_side(kit: Kit) -> None:
    @kit.tq.task
    async def f(x: int) -> int:
        return x

    group = await kit.tq.group([f.call(1), f.call(2)])
    await kit.drain()
    assert await group.result() == [1, 2]


@row("Celery", "chord([f.s(1), f.s(2)])(total.s())")
@row("dramatiq", "group([…]).add_completion_callback(total.message())")
async def a_callback_of_a_group(kit: Kit) -> None:
    @kit.tq.task
    async def f(x: int) -> int:
        return x

    @kit.tq.task
    async def total(results: list[int] = injected()) -> int:
        return sum(results)

    group = await kit.tq.group([f.call(1), f.call(2)], then=total.call())
    await kit.drain()
    assert await group.result() == 3


@row("Celery", "chain(group(…), g.s())")
async def a_task_after_a_group(kit: Kit) -> None:
    @kit.tq.task
    async def f(x: int) -> int:
        return x

    @kit.tq.task
    async def g(parent: Parent[list[int]] = injected()) -> int:
        return sum(parent.result)

    parts = group([f.call(1), f.call(2)])
    assert await ended(kit, await kit.tq.start(chain(parts, g.call()))) == [[1, 2], 3]
    order = Workflow().add("parts", parts).add("tell", g.call(), after="parts")
    started = await kit.tq.start(order)
    await kit.drain()
    assert await (await started.task("tell")).result() == 3


@row("arq", 'enqueue_job("download", …)')
@row("arq", "_defer_by=60")
async def by_name(kit: Kit) -> None:
    @kit.tq.task
    async def download(url: str) -> str:
        return url

    assert await ended(kit, await download.push(url="a")) == "a"
    assert await ended(kit, await kit.tq.push("download", {"url": "b"})) == "b"
    handles = [await download.options(delay=60).push("c"), await download.options(at=kit.now).push("d")]
    await kit.drain()
    assert [await handle.status() for handle in handles] == ["pending", "completed"]


@row("arq", '_job_id="a"')
async def keys(kit: Kit) -> None:
    @kit.tq.task
    async def f(url: str) -> None: ...

    @kit.tq.task(unique=("url",))
    async def declared(url: str) -> None: ...

    async def created() -> list[bool]:
        handles = [
            await f.options(unique_key="a").push("u"),
            await f.options(idempotency_key="a").push("u"),
            await declared.push("u"),
        ]
        return [handle.created for handle in handles]

    assert [await created(), await created()] == [[True] * 3, [False] * 3]
    await kit.drain()
    assert await created() == [True, False, True]


@row("RQ", 'job_id="a"')
async def an_id_of_its_own(kit: Kit) -> None:
    @kit.tq.task
    async def f() -> None: ...

    assert (await f.options(task_id="a").push()).task_id == "a"
    assert not (await f.options(task_id="a").push()).created


@row("RQ", "queue.enqueue(g, depends_on=job)")
async def after_another(kit: Kit) -> None:
    @kit.tq.task
    async def f() -> int:
        return 1

    @kit.tq.task
    async def g(parent: Parent[int] = injected()) -> int:
        return parent.result + 1

    await f.options(on_success=g).push()
    started = await kit.tq.start(Workflow().add("f", f.call()).add("g", g.call(), after="f"))
    await kit.drain()
    assert await (await started.task("g")).result() == 2
    assert [task.result for task in await kit.tq.find(type="g")] == [2, 2]
