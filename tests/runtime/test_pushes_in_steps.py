"""Tasks and groups that are pushed inside of a step: a repeated step pushes each of them once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import step
from aiotaskq.app.handle import TaskCall, TaskHandle
from aiotaskq.testing import Kit, virtual
from tests.support.machine import within
from tests.testing.backoffs import STEADY


@pytest.fixture
async def fake() -> AsyncIterator[Kit]:
    async with virtual() as made, asyncio.timeout(within(30)):
        yield made


async def test_a_repeated_step_pushes_each_task_once_whatever_its_params(fake: Kit) -> None:
    """Tasks of other types may come in another order, as may a group; those of one type are counted."""
    runs: list[dict[str, list[str]]] = []

    async def push_all() -> int:
        async def push(type: str) -> list[str]:
            if (type == "large") == bool(runs):
                await asyncio.sleep(0)
            return [(await fake.tq.push(type, {"n": 10 * len(runs) + n})).task_id for n in range(2)]

        small, large = await asyncio.gather(push("small"), push("large"))
        group: Any = await fake.tq.group([TaskCall("small", {"n": n + 10 * len(runs)}, {}) for n in (7, 8)])
        runs.append({"small": small, "large": large, "group": [group.group_id]})
        if len(runs) == 1:
            raise ConnectionError("not stored")
        return len(runs)

    for name in ("small", "large"):

        @fake.tq.task(name=name)
        async def child(n: int) -> int:
            return n

    @fake.tq.task(backoff=STEADY)
    async def work() -> int:
        return await step("push", push_all)

    handle = await work.push()
    await fake.drain(delayed=True)
    first, second = runs
    assert first == second and len({*first["small"], *first["large"], *first["group"]}) == 5
    for type in ("small", "large"):  # what the first run has pushed stays as it is
        assert [(await fake.tq.get(task_id)).result for task_id in second[type]] == [0, 1]
        assert [(await fake.tq.get(task_id)).type for task_id in second[type]] == [type] * 2
    assert await handle.result() == 2
    assert (await fake.tq.stats()).counts["completed"] == 7


async def test_a_task_pushed_in_a_step_is_pushed_once(fake: Kit) -> None:
    tries: list[str] = []

    @fake.tq.task
    async def child(n: int) -> int:
        return n

    async def spawn() -> list[str]:
        handles = [await child.push(n=1), await child.options(delay=5).push(n=2)]
        handles += await fake.tq.push_many([child.call(n=3), ("child", {"n": 4})])
        tries.append("try")
        if len(tries) == 1:
            raise ConnectionError("after the pushes")
        return [handle.task_id for handle in handles]

    @fake.tq.task(backoff=STEADY)
    async def parent() -> list[str]:
        return await step("spawn", spawn)

    first, second = await parent.push(), await parent.push()
    await fake.drain(delayed=True)
    children = [*await first.result(), *await second.result()]
    assert len(set(children)) == 8
    assert sorted(task.task_id for task in await fake.tasks() if task.type == "child") == sorted(children)


async def test_a_coroutine_that_outlives_its_step_pushes_tasks_of_its_own(fake: Kit) -> None:
    """A client that a step starts in the background may push for others, long after the step."""
    over = asyncio.Event()
    clients: list[asyncio.Task[TaskHandle[None]]] = []

    @fake.tq.task
    async def child() -> None: ...

    async def serve() -> TaskHandle[None]:
        await over.wait()
        return await child.push()

    async def connect() -> None:
        clients.append(asyncio.create_task(serve()))
        if len(clients) == 1:
            raise ConnectionError("the step is repeated")

    @fake.tq.task(backoff=STEADY)
    async def parent() -> None:
        await step("connect", connect)

    await parent.push()
    await fake.drain(delayed=True)
    over.set()
    first, second = await asyncio.gather(*clients)
    assert first.created and second.created and first.task_id != second.task_id
