"""Sleeps that an operator ends early, on each store: the handler goes on behind them, as if their time had come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import Limit, Status, sleep_for, step, wait_event
from aiotaskq.errors import TaskConflict
from aiotaskq.runtime.queue.bulk import run_now
from aiotaskq.runtime.waiting import waiting
from aiotaskq.testing import Kit, virtual
from aiotaskq.types import TaskHandle
from tests.support.backends import Store
from tests.support.machine import within

DAY = 86_400.0


@pytest.fixture
async def kit(store: Store) -> AsyncIterator[Kit]:
    options: dict[str, Any] = {"history": False, "retention": None, "poll_interval": DAY, "lease": DAY / 8}
    async with virtual(url=store.url, scheduler=False, **options) as made, asyncio.timeout(within(60)):
        yield made


async def end_sleep(kit: Kit, handle: TaskHandle[Any]) -> None:
    row = await handle.task()
    assert (await run_now(kit.tq.queue, row)).due_us <= kit.tq.queue.clock.now()


async def reason(kit: Kit, handle: TaskHandle[Any]) -> str | None:
    found = await waiting(kit.tq.queue, await handle.task())
    return None if found is None else found.reason


@pytest.mark.parametrize("limited", [False, True], ids=["free", "limited"])
async def test_each_sleep_ends_alone_and_what_was_done_is_not_repeated(kit: Kit, limited: bool) -> None:
    done: list[str] = []

    @kit.tq.task(limit=Limit(1) if limited else None)
    async def nag() -> str:
        for number in range(3):
            await step("mail", done.append, f"mail {number}")
            await sleep_for("cool down", days=3)
        return "given up"

    handle = await nag.push()
    await kit.advance(hours=1)
    assert (done, await reason(kit, handle)) == (["mail 0"], "sleeping")
    await end_sleep(kit, handle)
    await kit.advance(hours=1)
    assert (done, await reason(kit, handle)) == (["mail 0", "mail 1"], "sleeping"), "the second sleep is whole"
    row = await handle.task()
    assert (row.due_us - kit.tq.queue.clock.now()) / 1e6 > 2.9 * DAY and row.retry_count == 0
    found = [(each.kind, each.label) for each in await kit.tq.steps(handle.task_id)]
    assert found == [
        ("step", "mail"),
        ("sleep", "cool down"),
        ("wake", "cool down"),
        ("step", "mail#2"),
        ("sleep", "cool down#2"),
    ]
    await kit.advance(days=3)
    assert len(done) == 3
    await end_sleep(kit, handle)
    await kit.advance(hours=1)
    assert (await handle.result(), done) == ("given up", ["mail 0", "mail 1", "mail 2"])


async def test_a_sleep_ends_in_a_paused_queue_and_only_while_it_lasts(kit: Kit) -> None:
    @kit.tq.task
    async def nap() -> str:
        await sleep_for("long", days=3)
        return await wait_event("morning")  # type: ignore[no-any-return]

    handle = await nap.push()
    await kit.advance(hours=1)
    before = await handle.task()
    await kit.tq.pause("default")
    await end_sleep(kit, handle)
    with pytest.raises(TaskConflict, match="changed meanwhile"):
        await run_now(kit.tq.queue, before)
    with pytest.raises(TaskConflict, match="is due already"):
        await end_sleep(kit, handle)
    await kit.advance(hours=1)
    assert (await handle.task()).status is Status.PENDING
    await kit.tq.resume("default")
    await kit.advance(hours=1)
    assert await reason(kit, handle) == "event"
    with pytest.raises(TaskConflict, match="waits for an event in its handler; emit the event"):
        await end_sleep(kit, handle)
    await kit.tq.emit("morning", "awake")
    await kit.advance(hours=1)
    assert await handle.result() == "awake"
    assert [each.kind for each in await kit.tq.steps(handle.task_id)] == ["sleep", "wake", "wait", "event"]
