"""The poison rule with real processes: only a process that died while one task ran there alone is blamed on it."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ, current_task
from aiotaskq.backends.base import Change
from aiotaskq.core.outcome import LeaseExpired, settle
from aiotaskq.core.status import Status
from tests.support.machine import within
from tests.support.programs import Program, programs_in

WORKER = """
    import asyncio, ctypes, os, sys
    from aiotaskq import TaskQ

    LEASE = float(sys.argv[2])
    tq = TaskQ(sys.argv[1], lease=LEASE, heartbeat=LEASE / 5, reap_interval=LEASE / 5, poll_interval=0.1)

    @tq.task
    async def long():
        print("started", flush=True)
        await asyncio.sleep(LEASE * 2.5)

    @tq.task
    async def killer():
        print("killer", flush=True)
        os._exit(7)

    @tq.task
    async def holds_the_gil():
        print("started", flush=True)
        ctypes.PyDLL(None).usleep(int(LEASE * 2.5 * 1_000_000))
        return os.getpid()

    @tq.task
    async def slow():
        print("started", flush=True)
        await asyncio.sleep(LEASE)
        return os.getpid()

    asyncio.run(tq.run(concurrency=3))
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with programs_in(tmp_path) as start:
        yield start


@pytest.fixture
def lease() -> float:
    return within(1.0)


async def test_neighbours_longer_than_a_lease_outlive_a_killer(
    tmp_path: Path, program: Callable[..., Program], lease: float
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    async with TaskQ(url, poll_interval=0.1) as tq:
        before, killer, behind = [await tq.push(kind, {}) for kind in ("long", "killer", "long")]
        deaths = 0
        worker: Any = program(WORKER, url, str(lease))
        async with asyncio.timeout(within(120)):
            while not (await killer.task()).final or not all([(await each.task()).final for each in (before, behind)]):
                if worker.popen.poll() is not None:
                    assert worker.popen.returncode == 7
                    deaths += 1
                    worker = program(WORKER, url, str(lease))
                await asyncio.sleep(lease / 5)
        tasks = [await each.task() for each in (before, killer, behind)]
        assert [task.status for task in tasks] == [Status.COMPLETED, Status.FAILED, Status.COMPLETED]
        assert tasks[1].error_message == "poison: its worker died 3 times, the last time while it ran alone"
        assert deaths == tasks[1].crashes == 3
        told = Counter[str]()
        async with asyncio.timeout(within(20)):  # what is lost is written before its next run, which kills the worker
            while told != {"lost": 3, "failed": 1}:
                await asyncio.sleep(lease / 5)
                told = Counter()
                for each in await tq.history(since=0, type="killer", step=86_400):
                    told[each.kind] += each.n  # of two days at midnight
        worker.stop()


async def test_a_handler_that_holds_the_gil_for_longer_than_its_lease_runs_once(
    tmp_path: Path, program: Callable[..., Program], lease: float
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    async with TaskQ(url, poll_interval=0.1) as tq:
        handle = await tq.push("holds_the_gil", {}, max_retries=0)
        first = program(WORKER, url, str(lease))
        first.wait_for("started")
        second = program(WORKER, url, str(lease))
        assert await handle.result(within(60)) == first.popen.pid
        task = await handle.task()
        assert (task.fence, task.crashes) == (1, 0)
    first.stop()
    second.stop()


async def test_a_suspended_worker_loses_its_task_uncounted(
    tmp_path: Path, program: Callable[..., Program], lease: float
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    async with TaskQ(url, poll_interval=0.1) as tq:
        handle = await tq.push("slow", {})
        first = program(WORKER, url, str(lease))
        first.wait_for("started")
        first.signal(signal.SIGSTOP)
        second = program(WORKER, url, str(lease))
        second.wait_for("started")  # well before the five leases of one that may be in C code
        assert (await handle.task()).crashes == 0
        first.signal(signal.SIGCONT)
        assert await handle.result(within(60)) == second.popen.pid
        task = await handle.task()
        assert (task.fence, task.crashes) == (2, 0)
    first.stop()
    second.stop()


async def test_a_living_worker_takes_back_a_crash_counted_by_another_host(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", lease=1, heartbeat=0.05, poll_interval=0.05)
    runs: list[int] = []
    go = asyncio.Event()

    @tq.task
    async def work() -> None:
        runs.append(current_task().task.fence)
        await go.wait()

    async with tq.running(concurrency=1):
        handle = await work.push()
        async with asyncio.timeout(within(30)):
            while not runs:
                await asyncio.sleep(0.01)
            await tq.queue.pause()
            row = await handle.task()
            lost = settle(row, LeaseExpired(), tq.queue.clock.now())
            assert await tq.queue.backend.update([Change(row, lost)]) == [True]
            while (await handle.task()).crashes:
                await asyncio.sleep(0.01)
            await tq.queue.resume()
            while len(runs) == 1:
                await asyncio.sleep(0.01)
            go.set()
            await handle.result()
    assert (row.crashes, lost.crashes, runs) == (0, 1, [1, 2])
