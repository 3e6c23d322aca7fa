"""A task that goes on at a step of another one; and tasks with steps in a copy of their store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Status, TaskQ, sleep_for, step, wait_event
from aiotaskq.errors import DatabaseUnavailable, NotFound, QueueFull
from aiotaskq.runtime.copy import copy
from aiotaskq.testing import virtual
from tests.support.machine import within

IDLE: dict[str, Any] = {"history": False, "retention": None, "scheduler": False}


def register(tq: TaskQ, calls: list[str]) -> Any:
    def done(what: str) -> str:
        calls.append(what)
        return f"{what} {len(calls)}"

    @tq.task
    async def order() -> list[str]:
        found = [await step("charge", done, "charge")]
        await sleep_for("night", hours=8)
        found += [await step("pack", done, "pack"), await wait_event("sent")]
        return [*found, await step("mail", done, "mail")]

    return order


async def test_a_fork_goes_on_at_a_step() -> None:
    calls: list[str] = []
    async with virtual(**IDLE) as kit, asyncio.timeout(within(20)):
        order = register(kit.tq, calls)
        handle = await order.push()
        await kit.tq.emit("sent", "by post")
        await kit.drain(delayed=True)
        result = await handle.result()
        assert result == ["charge 1", "pack 2", "by post", "mail 3"]
        fork = await kit.tq.fork(handle.task_id, from_step="pack")
        await kit.drain()
        assert fork.created and fork.task_id != handle.task_id
        assert await fork.result() == ["charge 1", "pack 4", "by post", "mail 5"]
        assert await handle.result() == result
        with pytest.raises(NotFound, match="has no step 'nothing'; there is: charge, night, pack, sent, mail"):
            await kit.tq.fork(handle.task_id, from_step="nothing")


async def test_a_fork_that_cannot_be_pushed_leaves_no_steps() -> None:
    calls: list[str] = []
    async with virtual(**IDLE) as kit, asyncio.timeout(within(20)):
        handle = await register(kit.tq, calls).push()
        await kit.advance(hours=1)

        class Refusing:
            async def push(self, tasks: list[Any], call_next: Any) -> list[Any]:
                raise QueueFull("no room")

        kit.tq.middleware(Refusing())
        with pytest.raises(QueueFull):
            await kit.tq.fork(handle.task_id, from_step="night")
        steps = kit.tq.queue.backend.steps
        assert steps is not None and await steps.orphans(10) == []
        assert len(await kit.tq.steps(handle.task_id)) == 2


async def test_a_fork_whose_push_has_an_unknown_outcome_keeps_its_steps() -> None:
    """The row may come into being after the error: without its steps, it would charge once more."""
    calls: list[str] = []
    async with virtual(**IDLE) as kit, asyncio.timeout(within(20)):
        handle = await register(kit.tq, calls).push()
        await kit.advance(hours=1)

        class Unsure:
            async def push(self, tasks: list[Any], call_next: Any) -> list[Any]:
                raise DatabaseUnavailable("the answer was lost")

        kit.tq.middleware(Unsure())
        with pytest.raises(DatabaseUnavailable):
            await kit.tq.fork(handle.task_id, from_step="night")
        steps = kit.tq.queue.backend.steps
        assert steps is not None and len(await steps.orphans(10)) == 1


@pytest.mark.parametrize("emitted", [False, True])
async def test_a_copied_task_goes_on(tmp_path: Path, emitted: bool) -> None:
    calls: list[str] = []
    async with virtual(**IDLE) as kit, asyncio.timeout(within(30)):
        order = register(kit.tq, calls)
        waits = await order.push()
        await kit.advance(hours=9)
        sleeps = await order.push()
        await kit.drain()
        await kit.tq.emit("other", 1)
        now = kit.now
        async with TaskQ(f"sqlite:///{tmp_path}/copy.db") as target:
            await copy(kit.tq.queue.backend, target.queue.backend, kit.clock.now())
    assert calls == ["charge", "pack", "charge"]
    async with virtual(url=f"sqlite:///{tmp_path}/copy.db", start=now, **IDLE) as there:
        register(there.tq, calls)
        assert [each.key for each in await there.tq.list_events()] == ["other"]
        if not emitted:
            await there.drain(delayed=True)
            assert await there.tq.handle(waits.task_id).status() == Status.PENDING
        await there.tq.emit("sent", "by post")
        await there.drain(delayed=True)
        results = [await there.tq.handle(each.task_id).result() for each in (waits, sleeps)]
        assert [each[:2] for each in results] == [["charge 1", "pack 2"], ["charge 3", results[1][1]]]
    assert calls.count("charge") == calls.count("pack") == 2
