"""Short sleeps of durable handlers in virtual time: for these the handler is not left."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

import aiotaskq.sync
from aiotaskq import sleep_for, step
from aiotaskq.testing import START, virtual
from tests.support.machine import within


@pytest.mark.parametrize("url", [None, "sqlite"])
@pytest.mark.parametrize("kind", ["gather", "timeout", "thread"])
async def test_time_jumps_over_a_sleep_in_a_thread_or_an_asyncio_task_of_the_handler(
    kind: str, url: str | None, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/kit.db" if url == "sqlite" else url
    async with virtual(url=url) as kit, asyncio.timeout(within(20)):

        @kit.tq.task
        async def gather() -> None:
            async def branch(name: str, seconds: float) -> None:
                await sleep_for(name, seconds)
                await step(f"after {name}", asyncio.sleep, 0.01)

            await asyncio.gather(branch("short", 1), branch("longer", 2))

        @kit.tq.task
        async def timeout() -> None:
            await asyncio.wait_for(sleep_for("short", 2), within(20))

        @kit.tq.task
        def thread() -> None:
            aiotaskq.sync.sleep_for("short", 1)
            aiotaskq.sync.sleep_for("next", 1)

        handle = await kit.tq.push(kind)
        await kit.drain(delayed=True)
        assert await handle.status() == "completed"
        assert kit.now == START + timedelta(seconds=2)
        handle = await kit.tq.push(kind)
        with pytest.raises(AssertionError, match="handlers wait for time: advance"):
            await kit.drain()
        await kit.advance(2)
        await handle.result()
