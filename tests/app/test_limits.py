"""Limits, rates and fair shares of an application: every way in which a task is pushed, and how long it waits."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from aiotaskq import Fair, Limit, Parent, Rate, TaskQ
from aiotaskq.errors import QueueFull, ValidationError
from aiotaskq.testing import Kit, inline, virtual
from tests.support.machine import within

pytestmark = pytest.mark.asyncio


def waiting_app() -> tuple[TaskQ, asyncio.Event]:
    """A task queue with tasks of one limit, which run until the event is set."""
    tq, go = TaskQ("memory://"), asyncio.Event()

    @tq.task(limit=Limit(1, key="tenant"))
    async def export(tenant: str = "a", parent: Any = None) -> None:
        await go.wait()

    return tq, go


async def gates(tq: TaskQ) -> dict[str, tuple[int, int]]:
    return {each.gate.key: (each.held, each.waiting) for each in await tq.queue.backend.gates.find()}


async def test_every_push_passes_the_gates_of_its_type() -> None:
    tq, _go = waiting_app()
    async with tq:
        await tq.push("export", {"tenant": "a"})
        await tq.push("export")
        await tq.push_many([("export", {"tenant": "b"}), {"type": "export", "params": {"tenant": "b"}, "delay": 60}])
        await tq.queue.push_task({"type": "export", "params": {"tenant": "b"}})
        tq.queue.push_now({"type": "export", "params": {"tenant": "c"}})
        tq.queue.push_now({"type": "export", "params": {"tenant": "c"}})
        assert await gates(tq) == {"tenant:a": (1, 1), "tenant:b": (1, 2), "tenant:c": (1, 1)}
        assert await tq.queue.get_queue_size() == 3


async def test_options_of_a_call_replace_those_of_its_type() -> None:
    tq, _go = waiting_app()
    async with tq:
        await tq.push("export", limit=Limit(2, name="other"))
        await tq.push("export", limit=[], rate=Rate(1, name="paced"))
        await tq.push("export", fair=[Fair("tenant", name="share")])
        await tq.push("export", limit=[])
        assert await gates(tq) == {"other": (1, 0), "paced": (1, 0), "share:a": (1, 0), "tenant:a": (1, 0)}
        with pytest.raises(ValidationError, match="limit: Limit"):
            await tq.push("export", limit=5)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="has no parameter 'tennant'"):
            await tq.push("export", limit=Limit(1, key="tennant"))


async def test_max_waiting_refuses_a_push() -> None:
    tq = TaskQ("memory://")

    @tq.task(limit=Limit(1, max_waiting=1))
    async def slow() -> None: ...

    async with tq:
        await slow.push()
        await slow.push()
        with pytest.raises(QueueFull, match="limit 'slow': more than max_waiting=1"):
            await slow.push()


async def test_follow_ups_and_schedules_pass_gates(taskq_virtual: Any) -> None:
    tq = TaskQ("sqlite:///never-opened.db")
    kit: Kit = taskq_virtual(tq)
    starts: list[float] = []

    @tq.schedule(interval=1)
    @tq.task(rate=Rate(1, per=10), max_retries=0)
    async def paced(parent: Parent | None = None) -> None:
        starts.append(kit.clock.now() / 1_000_000)

    @tq.task
    async def first() -> None: ...

    await kit.advance(35)
    assert len(kit.pushed) == 35
    assert [round(b - a) for a, b in pairwise(starts)] == [10, 10, 10]
    await tq.push("first", on_success="paced")
    await kit.drain()
    assert (await gates(tq))["paced"] == (0, 35 + 1 - len(starts))


async def test_the_next_time_of_a_gate_is_not_past(taskq_override: Any) -> None:
    tq = TaskQ("sqlite:///never-opened.db")
    taskq_override(tq)

    @tq.task(limit=Limit(1), debounce=60)
    async def reindex() -> None: ...

    async with tq:
        for _ in range(2):
            await reindex.push()  # the second call moves the due time
        (state,) = await tq.limits.list()
        assert state.next_at is not None and state.next_at > 1_700_000_000_000_000


async def test_a_parked_task_shows_when_it_is_due() -> None:
    tq, _go = waiting_app()
    async with tq:
        await tq.push("export")
        task = await (await tq.push("export")).task()
        assert task.parked
        assert task.due_us < task.run_at


@pytest.mark.parametrize("url", [None, "memory://"])
async def test_virtual_time_jumps_to_what_a_rate_allows(url: str | None) -> None:
    tq = TaskQ("memory://")

    @tq.task(rate=Rate(2, per=60))
    async def call() -> None: ...

    async with virtual(tq, url) as kit:
        began = kit.now
        await tq.push_many([call.call() for _ in range(5)])
        await kit.drain()
        assert len(await kit.tasks("completed")) == 1
        await kit.advance(30)
        assert len(await kit.tasks("completed")) == 2
        await kit.drain(delayed=True)
        assert len(await kit.tasks("completed")) == 5
        assert (kit.now - began).total_seconds() == 120


async def test_pops_by_hand_wait_for_a_rate() -> None:
    tq = TaskQ("memory://")

    @tq.task(rate=Rate(1, per=0.05))
    async def call() -> None: ...

    async with tq:
        await tq.push_many([call.call() for _ in range(3)])
        for _ in range(3):
            assert await tq.queue.pop_task(10) is not None
            await tq.queue.task_done()
        assert tq.queue.pop_now(0) is None


async def test_a_worker_runs_as_many_as_the_limit_of_each_key() -> None:
    tq = TaskQ("memory://")
    running: dict[str, int] = {}
    most: dict[str, int] = {}

    @tq.task(limit=[Limit(2, key="tenant"), Limit(3)])
    async def export(tenant: str) -> None:
        running[tenant] = running.get(tenant, 0) + 1
        for key, count in ((tenant, running[tenant]), ("all", sum(running.values()))):
            most[key] = max(most.get(key, 0), count)
        await asyncio.sleep(0)
        running[tenant] -= 1

    async with tq.running():
        handles = await tq.push_many([export.call(tenant) for tenant in "aaaaabbbbbcc" * 5])
        for handle in handles:
            await handle.result(within(10))
    assert most.pop("all") == 3
    assert max(most.values()) == 2


async def test_inline_pushes_pass_gates_before_they_return() -> None:
    tq = TaskQ("memory://")

    @tq.task(limit=Limit(1), rate=Rate(1, per=60))
    async def call(n: int) -> int:
        return n

    async with inline(tq) as mode:
        began = mode.clock.now()
        assert [await (await call.push(n)).result() for n in range(3)] == [0, 1, 2]
        assert mode.clock.now() - began == 120_000_000
        await tq.limits.pause("call")
        assert await (await call.push(3)).status() == "pending"
