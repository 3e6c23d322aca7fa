"""A loop that polls: started, stopped and started again while its last round ends."""

from __future__ import annotations

import asyncio
import sys

import pytest

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.concurrency.poller import Poller
from tests.support.machine import watchdog, within


async def test_a_start_during_a_stop_leaves_one_loop() -> None:
    rounds = 0

    async def poll() -> float:
        nonlocal rounds
        rounds += 1
        await asyncio.sleep(0)
        return watchdog()

    poller = Poller("test", poll, SystemClock())
    async with asyncio.timeout(within(4)):
        for number in range(1, 6):
            await poller.start()
            while rounds < number:
                await asyncio.sleep(0)
            stop = asyncio.create_task(poller.stop(timeout=watchdog()))
            await asyncio.sleep(0)
            assert not poller.running
            await poller.start()
            await stop  # the rounds before end, although new ones have begun
            assert poller.running
            loops = [task for task in asyncio.all_tasks() if task.get_name() == "aiotaskq-test"]
            assert len(loops) == 1
            await poller.stop()
            rounds = number
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "aiotaskq-test"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_the_rounds_of_an_eager_task_go_on() -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    rounds = 0

    async def poll() -> float:
        nonlocal rounds
        rounds += 1
        return 0.0

    poller = Poller("test", poll, SystemClock())
    async with asyncio.timeout(within(4)):
        await poller.start()
        while rounds < 3:
            await asyncio.sleep(0)
        await poller.stop()
    assert not poller.running
