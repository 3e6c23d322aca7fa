"""On each store: the result of a group with a callback, and tasks of a workflow that wait for a group."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import Parent, Status, TaskFailed, TaskQ, Workflow, chain, group, injected
from aiotaskq.testing import virtual
from aiotaskq.testing.kit import Kit
from tests.support.backends import Store
from tests.support.machine import within


class App:
    """Prices of products, of which some are broken."""

    def __init__(self, url: str) -> None:
        self.tq = tq = TaskQ(url, retention=None)
        self.broken: set[Any] = set()
        self.ran: list[Any] = []

        @tq.task(max_retries=0)
        async def price(n: int) -> int:
            if n in self.broken:
                raise RuntimeError(f"no {n}")
            self.ran.append(n)
            return n * 100

        @tq.task(max_retries=0)
        async def total(results: list[int] = injected(), more: int = 0) -> int:
            if "total" in self.broken:
                raise RuntimeError("no total")
            self.ran.append("total")
            return sum(results) + more

        @tq.task
        async def told(parent: Parent[Any] = injected()) -> Any:
            self.ran.append("told")
            return parent.result

        self.price, self.total, self.told = price, total, told


@pytest.fixture
async def made(store: Store) -> AsyncIterator[tuple[App, Kit]]:
    app = App(store.url)
    async with virtual(app.tq, store.url, concurrency=1, scheduler=False) as kit:
        yield app, kit


async def test_the_result_of_a_group_is_that_of_its_callback(made: tuple[App, Kit]) -> None:
    app, kit = made
    await app.tq.pause()
    handle = await app.tq.group([app.price.call(n) for n in (3, 1, 2)], then=app.total.call(more=5))
    assert await handle.callback() is None
    await app.tq.resume()
    await kit.drain(delayed=True)
    assert await handle.result(within(20)) == 605
    assert await handle.results(within(20)) == [300, 100, 200]
    callback = await handle.callback()
    assert callback is not None and (await callback.task()).type == "total"
    assert await (await app.tq.group([], then=app.total.call())).result(within(20)) == 0


async def test_a_task_waits_for_the_end_of_a_group(made: tuple[App, Kit]) -> None:
    app, kit = made
    flow = Workflow("w").add("prices", group([app.price.call(1), app.price.call(2)]))
    flow.add("told", app.told.call(), after=["prices"]).add("none", group([])).add(
        "free", app.told.call(), after="none"
    )
    await app.tq.pause()
    started = await app.tq.start(flow)
    told, free = await started.task("told"), await started.task("free")
    assert ((await kit.task(told)).waits, (await kit.task(free)).waits) == (1, 0)
    await app.tq.resume()
    await kit.drain(delayed=True)
    assert (await told.result(within(20)), await free.result(within(20))) == ([100, 200], [])
    assert app.ran.index("told") != 0 and (await started.progress()).status == "completed"


async def test_a_task_waits_for_the_callback_of_a_group(made: tuple[App, Kit]) -> None:
    app, kit = made
    app.broken.add("total")  # type: ignore[arg-type]
    flow = Workflow("w").add("prices", group([app.price.call(1), app.price.call(2)], then=app.total.call()))
    started = await app.tq.start(flow.add("told", app.told.call(), after=["prices"]))
    await kit.drain(delayed=True)
    told = await started.task("told")
    assert (await kit.task(told)).status is Status.CANCELLED
    (callback,) = await app.tq.find(type="total")
    assert f"task {callback.task_id} (total), for which it waits, failed" in str((await kit.task(told)).error_message)
    app.broken.clear()
    await app.tq.retry(told.task_id)
    await kit.drain(delayed=True)
    assert (await kit.task(told)).waits == 1  # for the callback, which has failed
    await app.tq.retry(callback.task_id)
    await kit.drain(delayed=True)
    assert await told.result(within(20)) == 300


@pytest.mark.parametrize(("rule", "status"), [("cancel", "cancelled"), ("fail", "failed"), ("run", "completed")])
async def test_the_failure_of_a_group_counts_by_the_rule(made: tuple[App, Kit], rule: Any, status: str) -> None:
    app, kit = made
    app.broken.add(2)
    flow = Workflow("w").add("prices", group([app.price.call(1), app.price.call(2)], then=app.total.call()))
    flow.add("told", app.told.call(), after={"prices": rule}).add("next", app.told.call(), after={"told": rule})
    started = await app.tq.start(flow)
    await kit.drain(delayed=True)
    told, following = await started.task("told"), await started.task("next")
    assert ((await kit.task(told)).status, (await kit.task(following)).status) == (status, status)
    assert (await started.progress()).remaining == 0
    app.broken.clear()
    again = await started.retry_failed()
    assert again == (1 if rule == "run" else 3)
    await kit.drain(delayed=True)
    assert await app.tq.count(type="total", status="completed") == 1
    assert (await started.progress()).status == "completed"
    assert await told.result(within(20)) == (None if rule == "run" else 300)


async def test_a_group_waits_for_tasks_and_for_other_groups(made: tuple[App, Kit]) -> None:
    app, kit = made
    pair = group([app.price.call(1), group([app.price.call(2)])])
    flow = Workflow("w").add("first", app.price.call(7)).add("pair", pair, after="first")
    flow.add("more", group([app.told.call(), app.told.call()]), after="pair")
    started = await app.tq.start(flow)
    await kit.drain(delayed=True)
    assert app.ran[0] == 7 and app.ran[-2:] == ["told", "told"]
    assert await started.results(within(20)) == [700, [100, [200]], [[100, [200]]] * 2]
    linked = await app.tq.start(chain(app.price.call(3), group([app.told.call(), app.told.call()]), app.told.call()))
    await kit.drain(delayed=True)
    assert await linked.result(within(20)) == [300, [300, 300], [300, 300]]


async def test_a_cancelled_group_ends_what_waits_for_it(made: tuple[App, Kit]) -> None:
    app, kit = made
    inner = group([app.price.options(delay=60).call(1)], then=app.total.call())
    started = await app.tq.start(Workflow("w").add("g", inner).add("told", app.told.call(), after="g"))
    assert await started.cancel()
    await kit.drain(delayed=True)
    assert (await kit.task(await started.task("told"))).status is Status.CANCELLED
    assert (await started.progress()).remaining == 0 and app.ran == []
    with pytest.raises(TaskFailed):
        await started.result(within(20))


async def test_what_waits_for_a_callback_that_is_deleted_ends(made: tuple[App, Kit]) -> None:
    app, kit = made
    await app.tq.pause("later")
    inner = group([app.price.call(1)], then=app.total.options(queue="later").call())
    started = await app.tq.start(Workflow("w").add("g", inner).add("told", app.told.call(), after="g"))
    await kit.advance(1)
    told = await started.task("told")
    backend = app.tq.queue.backend
    assert await backend.groups.mend(app.tq.queue.clock.now()) == 0  # it waits for what is there
    (callback,) = await app.tq.find(type="total")
    await backend.delete([callback.task_id])
    assert (await kit.task(told)).status is Status.CANCELLED
    assert (await started.progress()).remaining == 0


async def test_the_result_of_a_callback_is_kept_for_what_waits_for_it(made: tuple[App, Kit]) -> None:
    app, kit = made
    await app.tq.pause("later")
    inner = group([app.price.call(1)], then=app.total.call())
    flow = Workflow("w").add("g", inner).add("told", app.told.options(queue="later").call(), after="g")
    started = await app.tq.start(flow)
    await kit.drain(delayed=True)
    assert await app.tq.purge(status="completed", dry_run=True) == 0
    assert await app.tq.purge(status="completed") == 0
    await app.tq.resume("later")
    await kit.drain(delayed=True)
    assert await (await started.task("told")).result(within(20)) == 100


async def test_the_callback_of_an_inner_group_is_retried_with_it(made: tuple[App, Kit]) -> None:
    app, kit = made
    app.broken.add("total")
    handle = await app.tq.start(chain(group([app.price.call(1)], then=app.total.call()), app.told.call()))
    await kit.drain(delayed=True)
    with pytest.raises(TaskFailed):
        await handle.result(within(20))
    app.broken.clear()
    assert await handle.retry_failed() == 2
    await kit.drain(delayed=True)
    assert app.ran == [1, "total", "told"]
    assert await handle.results(within(20)) == [[100], 100]


async def test_the_callback_of_an_inner_group_is_cancelled_with_it(made: tuple[App, Kit]) -> None:
    app, kit = made
    await app.tq.pause("held")
    inner = group([app.price.call(1)], then=app.total.options(queue="held").call())
    handle = await app.tq.start(chain(inner, app.told.call()))
    await kit.drain(delayed=False)
    assert app.ran == [1] and await handle.cancel()
    await app.tq.resume("held")
    await kit.drain(delayed=True)
    assert app.ran == [1]
    assert {task.status for task in await app.tq.find() if task.type != "price"} == {Status.CANCELLED}
