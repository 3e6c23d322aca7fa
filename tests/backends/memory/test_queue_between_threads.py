"""A queue in memory between threads, event loops and forks."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.backends.memory.queues import SharedItems, in_thread, settled
from tests.support.machine import within


async def test_a_getter_is_woken_by_another_thread() -> None:
    queue = SharedItems()
    getting = asyncio.create_task(queue.get())
    await settled()
    in_thread(queue.put_nowait, 7)
    assert not getting.done(), "its own loop has not run since"
    assert await getting == 7


async def test_a_getter_woken_by_a_thread_and_cancelled_wakes_the_next() -> None:
    queue = SharedItems()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await settled()
    in_thread(queue.put_nowait, 7)
    first.cancel()
    await settled()
    assert first.cancelled() and second.done() and second.result() == 7


async def test_a_putter_woken_by_a_thread_and_cancelled_wakes_the_next() -> None:
    queue = SharedItems(1)
    queue.put_nowait(0)
    first, second = asyncio.create_task(queue.put(1)), asyncio.create_task(queue.put(2))
    await settled()
    in_thread(queue.get_nowait)
    first.cancel()
    await settled()
    assert first.cancelled() and second.done() and queue.get_nowait() == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the task that is left behind
async def test_a_waiter_of_an_ended_loop_is_skipped() -> None:
    queue = SharedItems()

    def leave_behind() -> None:
        loop = asyncio.new_event_loop()
        left.append(loop.create_task(queue.get()))
        loop.run_until_complete(settled())
        loop.close()

    left: list[Any] = []
    in_thread(leave_behind)
    getting = asyncio.create_task(queue.get())
    await settled()
    queue.put_nowait(7)
    await settled()
    assert getting.done() and getting.result() == 7
    left.pop()._log_destroy_pending = False
    gc.collect()


def test_every_loop_joins() -> None:
    queue = SharedItems()
    queue.put_nowait(1)
    waiting = threading.Barrier(3)

    async def join() -> str:
        asyncio.get_running_loop().call_soon(waiting.wait)
        async with asyncio.timeout(within(10)):
            await queue.join()
        return "joined"

    with ThreadPoolExecutor(2) as pool:
        # A loop in debug mode refuses what another thread does to it.
        joining = [pool.submit(asyncio.run, join(), debug=True) for _ in range(2)]
        waiting.wait(within(10))
        queue.get_nowait()
        queue.task_done()
        assert [each.result(within(10)) for each in joining] == ["joined"] * 2


def test_nothing_is_lost_between_threads() -> None:
    """Loops in three threads get, give up now and then, and get again, while three more put and wait for room."""
    queue = SharedItems(5)
    count = 600
    got: list[int] = []

    async def consume(seed: int) -> None:
        chance = random.Random(seed)
        while True:
            getting = asyncio.create_task(queue.get())
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.5:
                getting.cancel()
            try:
                item = await getting
            except asyncio.CancelledError:
                continue
            queue.task_done()
            if item < 0:
                return
            got.append(item)

    async def produce(start: int) -> None:
        for item in range(start, start + count):
            await queue.put(item)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(6) as pool:
            consuming = [pool.submit(asyncio.run, consume(seed)) for seed in range(3)]
            for each in [pool.submit(asyncio.run, produce(start * count)) for start in range(3)]:
                each.result(within(60))
            for _ in consuming:
                asyncio.run(queue.put(-1))
            for each in consuming:
                each.result(within(60))
    finally:
        sys.setswitchinterval(interval)
    assert sorted(got) == list(range(3 * count)), "each once"
    asyncio.run(queue.join())


def test_a_forked_child_does_not_wake_the_waiters_of_its_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import asyncio, os
        from aiotaskq import MemoryQueue

        queue = MemoryQueue()

        async def both():
            popping = asyncio.create_task(queue.pop_task())
            await asyncio.sleep(0)
            await queue.push_task({"type": "t", "task_id": "child"})
            return (await popping)["task_id"]

        async def parent():
            popping = asyncio.create_task(queue.pop_task())
            await asyncio.sleep(0)
            child = os.fork()
            if not child:
                os._exit(0 if asyncio.run(asyncio.wait_for(both(), 5)) == "child" else 1)
            assert os.waitpid(child, 0)[1] == 0
            await queue.push_task({"type": "t", "task_id": "parent"})
            assert (await popping)["task_id"] == "parent"

        asyncio.run(parent())
        """
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=within(60))
