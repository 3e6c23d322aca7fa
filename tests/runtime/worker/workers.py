"""Workers that tests start and stop by hand, and what happens in their store meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiotaskq import TaskQ
from aiotaskq.app.internal import RunOptions
from tests.support.machine import within


@contextlib.asynccontextmanager
async def started(tq: TaskQ, **options: Any) -> AsyncIterator[None]:
    await tq._start_running(RunOptions(options.get("concurrency", 4), scheduler=False))
    try:
        yield
    finally:
        await tq.close()


@contextlib.asynccontextmanager
async def asleep(tq: TaskQ, **options: Any) -> AsyncIterator[None]:
    """Run a worker whose first rounds are over: they have found nothing, and no task that becomes due."""
    backend, asked = tq.queue.backend, asyncio.Event()
    next_run_at = backend.next_run_at

    async def look(*args: Any) -> int | None:
        at = await next_run_at(*args)
        asked.set()  # what follows in the round does not wait
        return at

    backend.next_run_at = look  # type: ignore[method-assign]
    async with tq.running(**options):
        async with asyncio.timeout(within(30)):
            await asked.wait()
        yield


async def until_counts(tq: TaskQ, **counts: int) -> None:
    async with asyncio.timeout(within(30)):
        while {name: (await tq.stats()).counts[name] for name in counts} != counts:
            await asyncio.sleep(0.005)
