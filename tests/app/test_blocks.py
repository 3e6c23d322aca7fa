"""``async with tq``, ``running`` and ``run`` inside of each other, when one of them fails or is cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aiotaskq import TaskQ
from aiotaskq.app.internal import RunOptions, internal
from aiotaskq.errors import ClosedError, WrongLoop
from aiotaskq.types import TaskHandle
from tests.support.machine import within
from tests.support.waiting import eventually


class Mailer: ...


async def test_a_block_that_cannot_be_entered_leaves_the_one_around_it_alone(tmp_path: Path) -> None:
    own, may_end = TaskQ(f"sqlite:///{tmp_path}/x.db"), asyncio.Event()

    @own.resource
    async def broken() -> Mailer:
        raise OSError("no mail")

    async def elsewhere() -> None:
        with pytest.raises(WrongLoop):
            await own.__aenter__()

    async def request() -> None:
        async with own:
            await may_end.wait()
            await own.stats()

    first, second = asyncio.create_task(request()), asyncio.create_task(request())
    await asyncio.sleep(0)  # both open it
    first.cancel()
    may_end.set()
    await second
    async with own:
        with pytest.raises(OSError, match="no mail"):
            async with own.running():
                pass
        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        await own.stats()
    with pytest.raises(ClosedError):
        await own.stats()


async def test_a_block_whose_stop_is_cancelled_stops_its_workers_and_closes_the_store(tmp_path: Path) -> None:
    own, began = TaskQ(f"sqlite:///{tmp_path}/x.db"), asyncio.Event()
    handles: list[TaskHandle[None]] = []

    @own.task
    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    async def application() -> None:
        async with own.running(drain=within(1000)):
            handles.append(await endless.push())
            await began.wait()

    task = asyncio.create_task(application())
    await eventually(lambda: own.worker is not None and own.worker.runner.stopping)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert own.worker is None
    with pytest.raises(ClosedError):
        await own.stats()
    async with own:
        assert await handles[0].status() == "pending"


async def test_a_block_goes_on_after_a_run_inside_of_it(tmp_path: Path) -> None:
    own, stop = TaskQ(f"sqlite:///{tmp_path}/x.db"), asyncio.Event()
    async with own:
        await internal(own).run_until(stop, RunOptions(), stop.set)
        await own.stats()
    await own.open()
    await internal(own).run_until(stop, RunOptions())
    with pytest.raises(ClosedError):
        await own.stats()
