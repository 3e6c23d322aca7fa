"""Handlers that sleep or wait, and fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import Status, sleep_for, step, wait_event
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.testing import Kit, virtual


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    async with virtual() as kit:
        yield kit


async def test_a_timeout_that_is_not_caught_is_not_retried(kit: Kit) -> None:
    @kit.tq.task(max_retries=3)
    async def work() -> None:
        await wait_event("late", timeout=3600)

    handle = await work.push()
    await kit.advance(hours=1)
    await kit.drain()
    task = await handle.task()
    assert (task.status, task.retry_count) == (Status.FAILED, 0)
    assert "event late did not come in time" in (task.error_message or "")


OUTAGE = 4.0


@pytest.mark.parametrize("verb", ["add", "emit", "get_events", "read_many", "suspend"])
async def test_what_a_handler_stores_and_reads_outlasts_an_outage(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    store, calls, away_until = kit.tq.queue.step_verbs.store, [], 0
    original = getattr(store, verb)

    async def away_at_first(*args: Any) -> Any:
        nonlocal away_until
        calls.append(verb)
        away_until = away_until or kit.clock.now() + int(OUTAGE * SECOND)
        if kit.clock.now() < away_until:
            raise DatabaseUnavailable("away")
        return await original(*args)

    monkeypatch.setattr(store, verb, away_at_first)

    @kit.tq.task(max_retries=0)
    async def work() -> Any:
        charged = await step("charge", lambda: 5)
        await kit.tq.emit("charged", charged)
        await sleep_for("night", hours=8)
        return [await wait_event("charged"), await wait_event("approved", timeout=7200)]

    handle = await work.push()
    await kit.advance(hours=9)
    await kit.advance(10)
    monkeypatch.undo()
    assert await kit.tq.emit("approved", "yes")
    await kit.advance(10)
    assert await handle.status() is Status.COMPLETED, (await handle.task()).error_message
    assert await handle.result() == [5, "yes"]
    assert len(calls) > 3
    attempts = [(each.outcome, each.error) for each in await handle.attempts()]
    assert attempts[0] == ("released", "sleeps: night"), "a sleep that could not be stored at first is kept"


async def test_emit_outside_of_a_handler_tells_an_outage_at_once(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_args: Any) -> Any:
        raise DatabaseUnavailable("away")

    store = kit.tq.queue.step_verbs.store
    monkeypatch.setattr(store, "emit", away)
    monkeypatch.setattr(store, "get_events", away)
    with pytest.raises(DatabaseUnavailable):
        await kit.tq.emit("approved")
    with pytest.raises(DatabaseUnavailable):
        await kit.tq.get_event("approved")


async def test_a_worker_that_stops_does_not_wait_to_store_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    async with virtual() as kit:
        store = kit.tq.queue.step_verbs.store

        async def away(*_args: Any) -> Any:
            raise DatabaseUnavailable("away")

        monkeypatch.setattr(store, "suspend", away)

        @kit.tq.task
        async def work() -> None:
            await sleep_for("night", hours=8)

        handle = await work.push()
        await kit.advance(10)
        worker = kit.tq.worker
        assert worker is not None and [task.task_id for task in worker.tasks] == [handle.task_id]
        stopped = asyncio.create_task(worker.stop(drain=30, grace=5))
        await kit.advance(5)
        assert not worker.executions
        await kit.advance(60)
        assert await stopped == 0
        assert await handle.status() is Status.PENDING


async def test_a_sleep_of_more_than_ten_years_is_refused(kit: Kit) -> None:
    @kit.tq.task(max_retries=0)
    async def work() -> None:
        await sleep_for("long", days=1e10)

    handle = await work.push()
    await kit.drain()
    assert "ValidationError: days:" in ((await handle.task()).error_message or "")
