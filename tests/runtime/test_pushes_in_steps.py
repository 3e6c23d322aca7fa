"""Tasks and groups that are pushed inside of a step: a repeated step pushes each of them once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import step
from aiotaskq.app.handle import TaskCall
from aiotaskq.testing import Kit, virtual
from tests.support.machine import within
from tests.testing.backoffs import STEADY


@pytest.fixture
async def fake() -> AsyncIterator[Kit]:
    async with virtual() as made, asyncio.timeout(within(30)):
        yield made


async def test_pushes_side_by_side_keep_their_ids_in_any_order(fake: Kit) -> None:
    runs: list[list[str]] = []

    async def push_all() -> list[str]:
        async def push(n: int) -> str:
            for _ in range(n if not runs else 9 - n):
                await asyncio.sleep(0)
            return (await fake.tq.push("child", {"n": n // 2})).task_id

        ids = list(await asyncio.gather(*(push(n) for n in range(6))))
        group: Any = await fake.tq.group([TaskCall("child", {"n": n}, {}) for n in (7, 8)])
        runs.append([*ids, group.group_id])
        if len(runs) == 1:
            raise ConnectionError("not stored")
        return ids

    @fake.tq.task
    async def child(n: int) -> int:
        return n

    @fake.tq.task(backoff=STEADY)
    async def work() -> list[str]:
        return await step("push", push_all)

    handle = await work.push()
    await fake.drain(delayed=True)
    first, second = runs
    assert len(set(first)) == 7 and set(first) == set(second), "each is pushed once"
    assert first[-1] == second[-1]
    for n in range(6):
        assert (await fake.tq.get(second[n])).params == {"n": n // 2}
    assert await handle.result() == second[:-1]


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
