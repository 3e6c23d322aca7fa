"""The log of a task in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import current_task
from aiotaskq.core.task import SECOND
from aiotaskq.testing import inline, virtual
from tests.support.machine import within


@pytest.mark.parametrize("url", [None, "memory://", "sqlite"])
async def test_a_log_in_virtual_time(url: str | None, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/kit.db" if url == "sqlite" else url
    async with virtual(url=url) as kit, asyncio.timeout(within(20)):

        @kit.tq.task
        async def counts() -> None:
            for number in range(3):
                current_task().log(f"hour {number}")
                await kit.clock.sleep(3600)

        handle = await counts.push()
        await kit.advance(hours=1, minutes=30)
        begun = await handle.log()
        assert [note.text for note in begun] == ["hour 0", "hour 1"]
        assert begun[1].at - begun[0].at == 3600 * SECOND
        await kit.advance(hours=2)
        kinds: list[Any] = [(note.n, note.text) async for note in handle.stream(after=1)]
        assert kinds == [(2, "hour 1"), (3, "hour 2"), (3, "completed")]


async def test_a_log_inline() -> None:
    async with inline() as kit:

        @kit.tq.task
        async def logs() -> None:
            current_task().log("here")

        handle = await logs.push()
        assert [note.text for note in await handle.log()] == ["here"]
