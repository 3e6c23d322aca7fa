"""Handlers that sleep or wait, and fail."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aiotaskq import Status, sleep_for, wait_event
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


async def test_a_sleep_of_more_than_ten_years_is_refused(kit: Kit) -> None:
    @kit.tq.task(max_retries=0)
    async def work() -> None:
        await sleep_for("long", days=1e10)

    handle = await work.push()
    await kit.drain()
    assert "ValidationError: seconds:" in ((await handle.task()).error_message or "")
