"""``tq.limits``: gates are listed, changed, closed and opened while tasks wait; also by handlers and threads."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import Limit, Rate, TaskQ, current_task
from aiotaskq.core.task import SECOND
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.testing import Kit, virtual
from aiotaskq.types import LimitState
from tests.support.machine import within

pytestmark = pytest.mark.asyncio


def app() -> TaskQ:
    tq = TaskQ("memory://")

    @tq.task(limit=Limit(1, key="tenant"), rate=Rate(10, key="tenant"))
    async def export(tenant: str) -> None: ...

    return tq


async def completed(kit: Kit) -> int:
    return len(await kit.tasks("completed"))


async def test_bounds_are_shown_and_set_until_they_are_reset() -> None:
    tq = app()
    async with tq:
        with pytest.raises(NotFound, match="there is no limit tenant:a"):
            await tq.limits.get("tenant:a")
        for _ in range(4):
            await tq.push("export", {"tenant": "a"})
        state = await tq.limits.get("tenant:a")
        assert (state.cap, state.rate, state.burst, state.held, state.waiting, state.fixed) == (1, 10, 1, 1, 3, False)
        state = await tq.limits.set("tenant:a", 3, rate=None)
        assert (state.cap, state.rate, state.held, state.waiting, state.fixed) == (3, None, 3, 1, True)
        await tq.push("export", {"tenant": "a"})
        state = await tq.limits.set("tenant:a", rate=Rate(5, burst=2), max_waiting=7, window=9)
        assert state == LimitState(
            key="tenant:a", cap=3, window=9, rate=5, burst=2, max_waiting=7, held=3, waiting=2, fixed=True
        )
        await tq.limits.reset("tenant:a")
        await tq.push("export", {"tenant": "a"})
        state = await tq.limits.get("tenant:a")
        assert (state.cap, state.window, state.held, state.waiting) == (1, None, 3, 3)
        await tq.limits.set("openai", 5)
        assert [state.key for state in await tq.limits.list()] == ["openai", "tenant:a"]


async def test_wrong_values() -> None:
    limits = app().limits
    calls: list[tuple[Any, str]] = [
        (limits.set("g"), "set: name what to set"),
        (limits.set("g", -1), "cap: -1 is not in 0"),
        (limits.set("g", window=0), "window: 0 is not in 1"),
        (limits.set("g", rate=5), r"rate: Rate\(100, per=60\) is needed"),
        (limits.set("", 5), "key: must not be empty"),
        (limits.pause("g", 5, until=5.0), "seconds, until: give one of the two"),
        (limits.pause("g", -5), "seconds: must be at least 0"),
        (limits.charge("g", 0.5), "tokens: an int is needed"),
        (limits.list(0), "limit: 0 is not in 1"),
    ]
    for call, error in calls:
        with pytest.raises(ValidationError, match=error):
            await call


async def test_a_closed_gate_opens_by_itself_or_by_hand() -> None:
    tq = app()
    async with virtual(tq) as kit:
        await tq.limits.pause("tenant:a", timedelta(minutes=1))
        await tq.limits.pause("tenant:b", until=kit.now + timedelta(hours=1))
        await tq.limits.pause("tenant:c")
        for tenant in "abc":
            await tq.push("export", {"tenant": tenant})
        await kit.advance(59)
        assert await completed(kit) == 0
        await kit.advance(1)
        assert await completed(kit) == 1
        state = await tq.limits.get("tenant:b")
        assert state.paused_until == (kit.clock.now() + 3540 * SECOND)
        await tq.limits.resume("tenant:c")
        await kit.drain()
        assert await completed(kit) == 2
        await kit.drain(delayed=True)
        assert await completed(kit) == 3
        assert (await tq.limits.get("tenant:b")).state == "open"


async def test_a_handler_closes_and_charges_a_gate() -> None:
    tq = TaskQ("memory://")
    calls: list[tuple[str, datetime]] = []

    @tq.task(rate=Rate(1, per=10, burst=5, name="api"))
    async def call(what: str) -> None:
        calls.append((what, kit.now))
        if what == "busy":
            await current_task().pause_limit("api", 60)
            await current_task().pause_limit("api", 5)  # the gate stays closed for longer
        if what == "large":
            await current_task().charge("api", 5)

    async with virtual(tq) as kit:
        began = kit.now
        await call.push("busy")
        await kit.drain()
        await call.push("large")
        await kit.advance(60)
        await call.push("small")  # 4 tokens were saved, and 5 charged
        await kit.drain(delayed=True)
    assert [(what, (at - began).total_seconds()) for what, at in calls] == [("busy", 0), ("large", 60), ("small", 80)]


async def test_from_threads() -> None:
    tq = aiotaskq.sync.TaskQ("memory://")

    @tq.task(limit=Limit(1, name="api"), rate=Rate(1_000, name="api", burst=100))
    def call() -> None:
        aiotaskq.sync.current_task().pause_limit("api", 3600)
        aiotaskq.sync.current_task().charge("api", 1)

    def work() -> LimitState:
        with tq, tq.running():
            tq.limits.set("api", 2)
            call.push().result(within(10))
            assert tq.limits.get("api").state == "paused"
            waits = call.push()
            assert tq.limits.tasks("api") == ([], [waits.task_id])
            return tq.queue.limits.resume("api")

    state = await asyncio.to_thread(work)
    assert (state.cap, state.state) == (2, "open")
