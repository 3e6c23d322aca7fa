"""Closing a SQLite store: before, during and after its opening, and under load."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest

from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.errors import (
    ClosedError,
)
from tests.support.machine import within
from tests.support.programs import linux, open_files
from tests.support.rows import NOW, new


@linux
async def test_closing_gives_everything_back(url: str, path: Path) -> None:
    threads = threading.active_count()
    backend = SqlBackend(url)
    await asyncio.gather(*(backend.push([new()]) for _ in range(5)), *(backend.stats(NOW) for _ in range(8)))
    assert open_files(path) > 0
    await backend.close()
    await backend.close()
    assert open_files(path) == 0
    async with asyncio.timeout(within(30)):  # they end just after they have answered
        while threading.active_count() > threads:
            await asyncio.sleep(0.01)
    assert not path.with_name("tasks.db-wal").exists()  # the last connection has moved it into the file


async def test_closed_means_closed_until_it_is_opened(url: str) -> None:
    backend = SqlBackend(url)
    await backend.push([new()])
    await backend.close()
    for _ in range(2):
        with pytest.raises(ClosedError, match=r"was closed; open\(\) opens it again"):
            await backend.push([new()])
    await backend.open()
    await backend.push([new()])
    assert (await backend.stats(NOW)).ready == 2
    await backend.close()


async def test_closed_before_it_was_opened(url: str) -> None:  # D12
    backend = SqlBackend(url)
    await backend.close()
    with pytest.raises(ClosedError):
        await backend.push([new()])
    await backend.open()
    await backend.push([new()])
    await backend.close()


@linux
async def test_closed_twice_at_once_under_load(url: str, path: Path) -> None:  # D12
    backend = SqlBackend(url)
    await backend.open()
    tasks = [new() for _ in range(50)]
    pushes = [asyncio.create_task(backend.push([task])) for task in tasks]
    await asyncio.sleep(0.005)
    async with asyncio.timeout(within(10)):
        await asyncio.gather(backend.close(), backend.close())
    answers = await asyncio.gather(*pushes, return_exceptions=True)
    assert {type(answer) for answer in answers} <= {list, ClosedError}
    assert open_files(path) == 0
    await backend.open()
    there = await backend.get([task.task_id for task in tasks])
    assert [row is not None for row in there] == [isinstance(answer, list) for answer in answers]
    await backend.close()


@linux
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 20, 100])
async def test_closed_while_it_opens(url: str, path: Path, steps: int) -> None:  # D11, D12
    backend = SqlBackend(url)
    opening = asyncio.create_task(backend.open())
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(within(10)):
        await backend.close()
    await asyncio.gather(opening, return_exceptions=True)
    assert opening.done()
    if backend.database._closed:
        with pytest.raises(ClosedError):
            await backend.stats(NOW)
    await backend.close()
    assert open_files(path) == 0


def test_a_store_left_open_by_a_loop_that_has_ended_is_collected_without_a_word(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())

    async def use() -> None:
        backend = SqlBackend(url)
        await backend.push([new()])
        await backend.stats(NOW)

    for _ in range(3):
        asyncio.run(use())
        gc.collect()
    for thread in set(threading.enumerate()) - before:
        thread.join(within(30))
        assert not thread.is_alive()
    assert [record.getMessage() for record in caplog.records] == []
