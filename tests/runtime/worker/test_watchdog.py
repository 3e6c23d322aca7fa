"""Slots held by overdue threads and processes, and a loop that stands still: counted and reported."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from aiotaskq import Status, TaskFailed, TaskQ
from aiotaskq.concurrency.clock import SystemClock, VirtualClock
from aiotaskq.core.task import new_task
from aiotaskq.log import logger
from aiotaskq.runtime.context import TaskContext
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.worker.execution import Execution
from aiotaskq.runtime.worker.executors import Executors
from aiotaskq.runtime.worker.runner import Runner
from aiotaskq.runtime.worker.watchdog import Occupancy, Watchdog
from aiotaskq.types import HookCall
from tests.support.machine import within
from tests.support.waiting import eventually


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What aiotaskq logs."""
    got: list[str] = []
    sink = logger.add(lambda message: got.append(str(message)), format="{level} {message}")
    yield got
    logger.remove(sink)


def watching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "aiotaskq-stalls"]


def occupancy(tq: TaskQ) -> Occupancy:
    assert tq.worker is not None
    return tq.worker.occupancy()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_a_hundred_late_threads_are_recorded_and_hold_their_slots(
    store: str, tmp_path: Path, lines: list[str]
) -> None:  # D14
    tq = TaskQ("memory://" if store == "memory" else f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    release = threading.Event()
    rounds, slots = (25, 4) if store == "memory" else (3, 4)

    seconds = within(0.05)  # long enough for a thread to start

    @tq.task(timeout=seconds, max_retries=0)
    def stuck() -> str:
        release.wait(within(20))
        return "too late"

    ran: list[int] = []

    @tq.task
    async def other(number: int) -> None:
        ran.append(number)

    exhausted, late = asyncio.Event(), []
    tq.on("timeout", late.append)

    @tq.on("exhausted")
    def report(event: HookCall) -> None:
        assert event.detail["occupancy"].overdue_threads == slots
        exhausted.set()

    async with tq.running(concurrency=slots):
        for number in range(rounds):
            release.clear()
            exhausted.clear()
            handles = [await stuck.push() for _ in range(slots)]
            waiting = await other.push(number=number)
            await asyncio.wait_for(exhausted.wait(), within(60))
            assert occupancy(tq) == Occupancy(slots, slots, slots, 0, slots, 0)
            assert await waiting.status() is Status.PENDING and len(ran) == number
            assert {await handle.status() for handle in handles} == {Status.RUNNING}
            release.set()
            for handle in handles:
                with pytest.raises(TaskFailed, match=f"TimeoutError: timed out after {seconds:g} s"):
                    await handle.result(within(60))
            await waiting.result(within(60))
        await eventually(lambda: occupancy(tq) == Occupancy(slots))
    assert len(late) == rounds * slots
    assert sum("ERROR all 4 slots are held by handlers" in line for line in lines) == rounds
    assert sum(thread.name.startswith("aiotaskq-handler") for thread in threading.enumerate()) <= slots


async def test_some_late_threads_beside_free_slots_are_no_alarm(lines: list[str]) -> None:
    tq, release = TaskQ("memory://"), threading.Event()

    @tq.task(timeout=within(0.05), max_retries=0)
    def stuck() -> None:
        release.wait(within(20))

    @tq.task(timeout=0.01, max_retries=0)
    async def too_slow() -> None:
        await asyncio.sleep(20)

    alarms: list[HookCall] = []
    tq.on("exhausted", alarms.append)
    async with tq.running(concurrency=3):
        handles = [await stuck.push(), await stuck.push(), await too_slow.push()]
        await eventually(lambda: occupancy(tq) == Occupancy(3, 2, 2, 0, 2, 0))
        release.set()
        for handle in handles:
            with pytest.raises(TaskFailed, match="timed out"):
                await handle.result(within(60))
    assert alarms == [] and "slots are held" not in "".join(lines)


async def test_an_ended_handler_is_not_overdue_while_its_outcome_is_written() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    task = new_task("x", now=0)
    slot = asyncio.create_task(forever())
    running = Execution(task, TaskContext(task, cast(Any, None)), slot, began=0)
    assert not running.overdue
    running.interrupt("timeout")
    assert running.overdue
    running.ended = True
    assert not running.overdue
    slot.cancel()
    await asyncio.wait({slot})


async def test_handlers_that_swallow_their_timeout_hold_slots_as_threads_do(lines: list[str]) -> None:
    tq, stop, alarms = TaskQ("memory://"), asyncio.Event(), []
    tq.on("exhausted", alarms.append)

    @tq.task(timeout=0.01)
    async def deaf() -> None:
        while not stop.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await stop.wait()

    async with tq.running(concurrency=2):
        await tq.push_many([deaf.call(), deaf.call()])
        await eventually(lambda: bool(alarms))
        stop.set()
    assert len(alarms) == 1 and "ERROR all 2 slots are held by handlers past their timeout" in "".join(lines)


in_processes = TaskQ("memory://")


@in_processes.task(executor="process", timeout=0.5, max_retries=0)
def hold(folder: str) -> None:
    (Path(folder) / f"began-{os.getpid()}-{time.monotonic_ns()}").touch()
    end = time.monotonic() + within(20)
    while not (Path(folder) / "release").exists() and time.monotonic() < end:
        time.sleep(0.01)


async def test_late_processes_hold_their_slots_and_work_that_has_not_begun_frees_its_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:  # D14
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alarms: list[HookCall] = []
    in_processes.on("exhausted", alarms.append)
    async with in_processes.running(concurrency=6):
        handles = [await hold.push(folder=str(tmp_path)) for _ in range(6)]
        # One process: one runs, one or two are on their way to it; the rest has not begun, and never will.
        await eventually(lambda: len(alarms) == 1)
        await eventually(lambda: occupancy(in_processes).busy == occupancy(in_processes).overdue_processes < 6)
        held = occupancy(in_processes).busy
        assert held in (2, 3) and occupancy(in_processes) == Occupancy(6, held, 0, held, 0, held)
        (tmp_path / "release").touch()
        for handle in handles:
            with pytest.raises(TaskFailed, match=r"timed out after 0\.5 s"):
                await handle.result(within(60))
    assert len(list(tmp_path.glob("began-*"))) == held
    # All six slots, if the watchdog looks before the work that has not begun is off them; else the one process.
    assert sum("nothing more runs there until one ends" in line for line in lines) == len(alarms) == 1


async def test_a_stalled_loop_is_reported_with_its_task(lines: list[str]) -> None:
    tq, stalls = TaskQ("memory://"), []
    tq.on("stalled", stalls.append)

    def told() -> int:
        return sum("stands still" in line for line in lines)

    def block() -> None:
        """Hold up the loop until that is told."""
        before, end = told(), time.monotonic() + within(20)
        while told() == before and time.monotonic() < end:
            time.sleep(0.01)

    @tq.task
    async def blocking() -> bool:
        await asyncio.sleep(0)
        block()
        return any("WARNING the event loop stands still in blocking " in line for line in lines)

    @tq.task
    async def in_its_child() -> None:
        async def child() -> None:
            block()

        await asyncio.create_task(child())

    async with tq.running(concurrency=2):
        handle = await blocking.push()
        assert await handle.result(within(60)), "said while the loop stands still, since it may never go on"
        await eventually(lambda: len(stalls) == told())
        await (await in_its_child.push()).result(within(60))
        await eventually(lambda: len(stalls) == told())
        block()  # in no task
        await eventually(lambda: len(stalls) == told())
    found = [None if event.task is None else event.task.type for event in stalls]
    assert len(found) >= 3  # more if the machine has held it up, too
    # Which task a coroutine belongs to that its handler has started can be asked since Python 3.12.
    assert set(found) == {"blocking", "in_its_child" if sys.version_info >= (3, 12) else None, None}
    assert all(0.25 <= event.detail["seconds"] < within(15) for event in stalls)
    assert handle.task_id in "".join(lines) and "blocking" in "".join(lines)


@pytest.mark.parametrize("clock", [None, VirtualClock()])
async def test_the_loop_is_watched_only_for_a_listener_and_in_real_time(clock: Any) -> None:
    for thread in watching():  # of a worker that has just stopped
        thread.join(within(10))
    tq = TaskQ("memory://", clock=clock)
    if clock is not None:
        tq.on("stalled", print)
    async with tq.running():
        assert not watching()


def test_the_stall_watch_ends_with_its_loop() -> None:
    async def main() -> None:
        hooks = Hooks()
        hooks.on("stalled", print)
        runner = Runner({}, Executors(1), SystemClock(), host=cast(Any, None))
        Watchdog(runner, hooks, SystemClock()).start()
        assert watching()

    asyncio.run(main())
    for thread in watching():
        thread.join(within(10))
    assert not watching()
