"""Versions of handlers on each store: a task goes on with the code that has begun it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import Backoff, Status, TaskQ, current_task, sleep_for, step
from aiotaskq.app.internal import internal
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.waiting import Waiting, waiting
from aiotaskq.testing import Kit, virtual
from aiotaskq.types import HookCall, TaskHandle
from tests.support.backends import Store
from tests.support.machine import within

DAY = 86_400.0


@pytest.fixture
async def kit(store: Store) -> AsyncIterator[Kit]:
    options: dict[str, Any] = {"history": False, "retention": None, "poll_interval": DAY, "lease": DAY / 8}
    async with virtual(url=store.url, scheduler=False, **options) as made, asyncio.timeout(within(60)):
        yield made


def deploy(tq: TaskQ, *versions: int) -> None:
    """Register these versions of the handler ``order``, and no others."""
    tq._registered.handlers.pop("order", None)
    for version in versions:

        @tq.task(name="order", version=version, backoff=Backoff(base=60, factor=1, limit=60, jitter=False))
        async def order(version: int = version, steps: bool = True) -> list[int]:
            begun = await step("begin", int, version) if steps else version
            if steps:
                await sleep_for("cool down", days=1)
            elif current_task().task.fence == 1:
                raise ConnectionError("not yet")
            return [begun, version]


async def result_of(handle: TaskHandle[Any]) -> Any:
    row = await handle.task()
    assert row.status is Status.COMPLETED, row
    return row.result


async def test_a_task_goes_on_with_the_version_that_began_it(kit: Kit) -> None:
    deploy(kit.tq, 1)
    begun, delayed = await kit.tq.push("order"), await kit.tq.push("order", delay=2 * DAY)
    await kit.advance(hours=1)
    deploy(kit.tq, 2, 1)
    await kit.advance(days=2)
    assert await result_of(begun) == [1, 1]
    newest = await kit.tq.push("order")
    await kit.advance(days=2)
    assert await result_of(newest) == await result_of(delayed) == [2, 2]
    assert {each.version for each in await kit.tq.steps(newest.task_id)} == {2}


async def test_a_task_whose_version_is_nowhere_waits_for_it(kit: Kit) -> None:
    deploy(kit.tq, 1)
    handle = await kit.tq.push("order")
    await kit.advance(hours=1)
    deploy(kit.tq, 3)
    unknown: list[HookCall] = []
    kit.tq.on("unknown", unknown.append)
    await kit.advance(days=1, minutes=5)
    row = await handle.task()
    assert (row.status, row.retry_count, row.error_message) == (Status.PENDING, 0, None), "long after an hour"
    assert len(unknown) > 60 and unknown[0].task is not None and unknown[0].task.task_id == row.task_id
    assert await waiting(kit.tq.queue, row) == Waiting(reason="unknown_type", until=row.run_at, version=1)
    deploy(kit.tq, 1, 3)
    await kit.advance(minutes=2)
    assert await result_of(handle) == [1, 1]


async def test_a_process_without_versions_leaves_a_newer_one_alone(kit: Kit) -> None:
    deploy(kit.tq, 2)
    handle = await kit.tq.push("order")
    await kit.advance(hours=1)
    deploy(kit.tq, 1)
    await kit.advance(hours=23, minutes=2)
    row = await handle.task()
    assert (row.status, row.retry_count) == (Status.PENDING, 0)
    assert await waiting(kit.tq.queue, row) == Waiting(reason="unknown_type", until=row.run_at, version=2)
    deploy(kit.tq, 2)
    await kit.advance(minutes=2)
    assert await result_of(handle) == [2, 2]


async def test_a_task_without_steps_is_run_by_the_newest(kit: Kit) -> None:
    deploy(kit.tq, 1)
    handle = await kit.tq.push("order", {"steps": False})
    await kit.advance(minutes=0.1)
    assert (await handle.task()).retry_count == 1
    deploy(kit.tq, 2)
    await kit.advance(minutes=5)
    assert await result_of(handle) == [2, 2]


async def test_a_fork_has_the_version_of_its_steps_and_a_rerun_has_none(kit: Kit) -> None:
    deploy(kit.tq, 2)
    handle = await kit.tq.push("order")
    await kit.advance(days=2)
    fork = await kit.tq.fork(handle.task_id, from_step="cool down")
    deploy(kit.tq, 2, 3)
    await kit.tq.push("order", task_id=handle.task_id, if_ended="retry")
    await kit.advance(days=2)
    assert (await result_of(fork), await result_of(handle)) == ([2, 2], [3, 3])


def test_which_versions_there_are() -> None:
    tq = TaskQ("memory://")

    @tq.task(name="order")
    async def first(number: int) -> None: ...

    @tq.task(name="order", version=3)
    async def third(number: int, to: str) -> None: ...

    with pytest.raises(ValidationError, match="'order' is registered already; give this one another name, or version"):
        tq.task(name="order", version=3)(lambda: None)

    @tq.task(name="order", version=2)
    async def second(number: int) -> None: ...

    assert tq._registered.handlers["order"].version == 3 and set(tq._registered.handlers["order"].older) == {1, 2}
    assert third.call(1, "a").params == {"number": 1, "to": "a"}
    for old in (first, second):
        with pytest.raises(ValidationError, match="push the function of version 3"):
            old.call(1)
    for wrong in ({"version": 0}, {"version": 2, "batch": 3}, {"version": 2, "executor": "process"}):
        with pytest.raises(ValidationError, match="version"):
            tq.task(**wrong)(only_items)

    other = TaskQ("memory://")
    deploy(other, 2, 4)
    internal(tq).adopt(internal(other).registered)
    handler = tq._registered.handlers["order"]
    assert (handler.version, set(handler.older)) == (4, {1, 2, 3})
    assert handler.older[2].function is other._registered.handlers["order"].older[2].function
    assert all(not each.older for each in handler.older.values())


def only_items(items: list[int]) -> None: ...
