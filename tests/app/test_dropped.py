"""A TaskQ in memory that nothing refers to any more is freed, whatever its tasks refer to."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest

from aiotaskq import TaskQ
from aiotaskq.backends.url import OBJECTS
from tests.support.machine import within

Push = Callable[[TaskQ], Awaitable[object]]


async def with_json(tq: TaskQ) -> None:
    await tq.push("work", {"value": 1})


async def with_function(tq: TaskQ) -> None:
    await tq.push("work", {"value": 1}, on_success=lambda task: tq)


async def with_object_as_id(tq: TaskQ) -> None:
    await tq.queue.push_task({"task_id": (tq,), "type": "work", "params": {"value": 1}})


async def with_object(tq: TaskQ) -> None:
    await tq.push("work", {"value": tq})


async def with_object_and_options(tq: TaskQ) -> None:
    await tq.push("work", {"value": tq}, max_retries=1)


async def with_object_in_dict(tq: TaskQ) -> None:
    await tq.queue.push_task({"type": "work", "params": {"value": tq}})


async def with_follow_up(tq: TaskQ) -> None:
    await tq.push("work", {"value": tq}, on_success="after")


@pytest.mark.parametrize("run", [False, True], ids=["pending", "run"])
@pytest.mark.parametrize(
    ("url", "push"),
    [
        ("memory://", with_json),
        ("memory://", with_function),
        ("memory://", with_object_as_id),
        (OBJECTS, with_object),
        (OBJECTS, with_object_and_options),
        (OBJECTS, with_object_in_dict),
        (OBJECTS, with_follow_up),
    ],
)
async def test_a_dropped_queue_is_freed(url: str, push: Push, run: bool) -> None:
    async def used() -> weakref.ref[TaskQ]:
        tq = TaskQ(url)
        began = asyncio.Event()

        @tq.task(name="work")
        async def work(value: object) -> object:
            began.set()
            return value

        @tq.task(name="after", queue="not-run")
        async def after(parent: object) -> None: ...

        await tq.open()
        await push(tq)
        if run:
            async with tq.running(queues=["default"], scheduler=False), asyncio.timeout(within(10)):
                await began.wait()
        return weakref.ref(tq)

    dropped = await used()
    gc.collect()
    assert dropped() is None
