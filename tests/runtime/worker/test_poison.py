"""A task is poison when its process has died under it three times, the last time while it ran alone: real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import DatabaseUnavailable, TaskQ, current_task
from aiotaskq.backends.base import Change
from aiotaskq.core.outcome import LeaseExpired, Life, settle
from aiotaskq.core.task import Status
from aiotaskq.runtime.worker.heartbeat import fresh_owner, life_of
from aiotaskq.testing import virtual
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
        await asyncio.sleep(0.2)
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
                await asyncio.sleep(0.05)
        tasks = [await each.task() for each in (before, killer, behind)]
    assert [task.status for task in tasks] == [Status.COMPLETED, Status.FAILED, Status.COMPLETED]
    assert tasks[1].error_message == "poison: its worker died 3 times, the last time while it ran alone"
    assert deaths == tasks[1].crashes == 3
    worker.stop()


async def test_what_holds_the_gil_for_longer_than_its_lease_runs_once(
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


async def test_a_worker_that_lives_takes_back_what_another_host_has_counted(tmp_path: Path) -> None:
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
            lost = settle(row, LeaseExpired(), tq._clock.now())
            assert await tq._backend.update([Change(row, lost)]) == [True]
            while (await handle.task()).crashes:
                await asyncio.sleep(0.01)
            await tq.queue.resume()
            while len(runs) == 1:
                await asyncio.sleep(0.01)
            go.set()
            await handle.result()
    assert (row.crashes, lost.crashes, runs) == (0, 1, [1, 2])


# ---- what a host knows of its processes -----------------------------------------------------------------------------


def test_a_process_is_known_by_its_owner_id(tmp_path: Path) -> None:
    imports = "from aiotaskq.runtime.worker.heartbeat import fresh_owner"
    sleeper = f"{imports}; print(fresh_owner('worker-'), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", sleeper], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        owner = child.stdout.readline().strip()
        assert f"-{child.pid}-" in owner and len(owner) <= 100 - len("!alone")
        assert life_of(owner) is Life.LIVES
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert life_of(owner) is Life.STOPPED
        os.kill(child.pid, signal.SIGCONT)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert life_of(owner) is Life.UNKNOWN, "a zombie is dead"
        child.wait()
        assert life_of(owner) is Life.UNKNOWN
        assert life_of(owner.replace(f"-{child.pid}-", f"-{os.getpid()}-")) is Life.UNKNOWN, "another had its pid"


def test_a_worker_of_this_process_lives_while_its_leases_are_renewed() -> None:
    assert life_of(fresh_owner("worker-")) is Life.STOPPED
    for odd in ("", "adopted", "worker-", "me", "worker-host-1-2", "worker-host-99999999999999999999-abc-def"):
        assert life_of(odd) is Life.UNKNOWN


def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.runtime.worker.heartbeat.PROC", Path("/no/such/folder"))
    owner = fresh_owner("worker-")
    assert life_of(owner) is Life.STOPPED
    assert life_of(owner.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")) is Life.LIVES
    assert life_of(owner.replace(f"-{os.getpid()}-", "-4194305-")) is Life.UNKNOWN  # above the largest pid


# ---- the mark of a task that runs alone -----------------------------------------------------------------------------


async def suspect(tq: TaskQ, type: str) -> Any:
    """Push a task under which two processes have died, due in ten seconds."""
    handle = await tq.push(type, delay=10)
    row = await handle.task()
    assert await tq._backend.update([Change(row, row.replace(crashes=2))]) == [True]
    return handle


async def test_it_is_marked_before_it_runs_and_until_others_run_beside_it() -> None:
    async with virtual(lease=60) as kit:
        go, marks = asyncio.Event(), []

        async def owner() -> str:
            return (await kit.task(handle)).lease_owner or ""

        @kit.tq.task
        async def long() -> None:
            marks.append(await owner())
            await go.wait()

        @kit.tq.task
        async def short() -> None:
            marks.append(await owner())

        handle = await suspect(kit.tq, "long")
        await kit.advance(10)
        other = await short.push()
        await kit.advance(55)
        assert (await other.status(), len(marks)) == (Status.PENDING, 1)
        await kit.advance(10)
        assert await other.status() == Status.COMPLETED
        assert marks == [f"{marks[1]}!alone", marks[1]]
        go.set()
        await handle.result()
        assert (await kit.task(handle)).crashes == 2


async def test_one_whose_mark_cannot_be_written_does_not_run() -> None:
    async with virtual(lease=60) as kit:
        ran: list[int] = []

        @kit.tq.task
        async def work() -> None:
            ran.append(1)

        handle = await suspect(kit.tq, "work")
        update, refused = kit.tq._backend.update, []

        async def broken(changes: Any) -> Any:
            if (changes[0].after.lease_owner or "").endswith("!alone") and not refused:
                refused.append(list(ran))
                raise DatabaseUnavailable("away")
            return await update(changes)

        kit.tq._backend.update = broken  # type: ignore[method-assign]
        await kit.advance(15)
        assert (refused, ran, await handle.status()) == ([[]], [1], Status.COMPLETED)


async def test_a_suspect_that_is_cancelled_before_it_starts_ends() -> None:
    async with virtual(lease=60) as kit:

        @kit.tq.task
        async def work() -> None:
            pytest.fail("it was cancelled")

        handle = await suspect(kit.tq, "work")
        update, cancelled = kit.tq._backend.update, []

        async def late(changes: Any) -> Any:
            if (changes[0].after.lease_owner or "").endswith("!alone"):
                cancelled.append(await kit.tq._backend.request_cancel([handle.task_id]))
            return await update(changes)

        kit.tq._backend.update = late  # type: ignore[method-assign]
        await kit.advance(15)
        assert (cancelled, await handle.status()) == ([[True]], Status.CANCELLED)
