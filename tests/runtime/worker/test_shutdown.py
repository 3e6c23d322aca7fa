"""The stages of a stop: drain, cancel, give back, abandon."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.core.status import Status
from aiotaskq.runtime.queue.claims import Claims
from aiotaskq.runtime.worker.worker import Worker
from aiotaskq.types import ExitCode
from tests.runtime.worker.workers import started
from tests.support import nursery
from tests.support.machine import watchdog, within
from tests.support.waiting import eventually


async def test_stop_drains_what_runs_and_claims_no_more(tq: TaskQ) -> None:  # D13
    let_go = asyncio.Event()
    begun: list[int] = []

    @tq.task
    async def work(i: int) -> int:
        begun.append(i)
        await let_go.wait()
        return i

    async with started(tq, concurrency=2):
        handles = [await work.push(i=i) for i in range(5)]
        await eventually(lambda: len(begun) == 2)
        stopping = asyncio.create_task(tq._stop_running(5, 1))
        await asyncio.sleep(0)
        let_go.set()
        assert await stopping is ExitCode.DRAINED
        assert [await handle.status() for handle in handles[2:]] == [Status.PENDING] * 3
        assert len(begun) == 2


async def test_a_stopping_worker_claims_nothing_while_a_loop_ends(tmp_path: Path) -> None:  # D13
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    hangs, answers, claims, under_way = asyncio.Event(), asyncio.Event(), 0, 0
    claim = tq.queue.backend.claim

    async def overdue(*_: Any) -> list[Any]:
        hangs.set()
        await answers.wait()
        return []

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal claims, under_way
        claims += tq.worker is not None and tq.worker.runner.stopping
        under_way += 1
        try:
            return await claim(*args, **options)
        finally:
            under_way -= 1

    tq.queue.backend.overdue, tq.queue.backend.claim = overdue, counted  # type: ignore[method-assign]
    async with tq.running():
        await hangs.wait()
        stopping = asyncio.create_task(tq._stop_running(within(30), 1))
        # A claim that began before the stop may take what is pushed now, and gives it back.
        await eventually(lambda: tq.worker is not None and tq.worker.runner.stopping and not under_way)
        for _ in range(20):
            await tq.push("nobody handles it")
        answers.set()
        assert await stopping is ExitCode.DRAINED
    assert claims == 0


async def test_tasks_that_never_started_are_given_back(  # D13
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    exchange = Claims.exchange
    stopping: list[asyncio.Task[ExitCode]] = []
    runs: list[int] = []

    async def stopped_meanwhile(*args: Any, **options: Any) -> Any:
        held, tasks = await exchange(*args, **options)
        if tasks:
            assert tq.worker is not None
            stopping.append(asyncio.create_task(tq.worker.stop(within(10), 1)))
            await eventually(lambda: tq.worker.runner.stopping)
        return held, tasks

    @tq.task
    async def work() -> None:
        runs.append(1)

    async with tq:
        handles = [await work.push() for _ in range(2)]
    monkeypatch.setattr(Claims, "exchange", stopped_meanwhile)
    async with started(tq):
        await eventually(lambda: stopping)
        assert await stopping[0] is ExitCode.RELEASED
        tasks = [await handle.task() for handle in handles]
    assert [(task.status, task.fence, task.retry_count) for task in tasks] == [(Status.PENDING, 1, 0)] * 2
    assert runs == []


async def test_cooperative_handlers_are_given_back_without_a_retry(tq: TaskQ) -> None:  # D7, D8
    begun = asyncio.Event()

    @tq.task
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with started(tq):
        handle = await endless.push()
        await begun.wait()
        assert await tq._stop_running(0.01, 5) is ExitCode.RELEASED
        task = await handle.task()
    assert (task.status, task.retry_count, task.crashes, task.fence) == (Status.PENDING, 0, 0, 1)
    assert task.lease_owner is None


async def test_handler_that_fails_while_stopping_has_one_state(tq: TaskQ) -> None:  # D8
    begun = asyncio.Event()

    @tq.task(max_retries=3)
    async def fails() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("during the stop")

    async with started(tq):
        handle = await fails.push()
        await begun.wait()
        await tq._stop_running(0.01, 5)
        task = await handle.task()
    assert (task.status, task.retry_count) == (Status.PENDING, 1)


async def test_stubborn_handler_is_abandoned(tq: TaskQ) -> None:  # D4
    begun = asyncio.Event()
    stop = False

    @tq.task
    async def stubborn() -> None:
        begun.set()
        while not stop:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async with started(tq):
        handle = await stubborn.push()
        await begun.wait()
        assert await tq._stop_running(0.01, 0.05) is ExitCode.ABANDONED
        assert await handle.status() is Status.RUNNING  # its lease ends by itself
        stop = True
        await asyncio.sleep(0.05)
        assert await handle.status() is Status.RUNNING  # a late end writes nothing


async def test_stop_is_idempotent_also_in_parallel(tq: TaskQ) -> None:  # D12
    @tq.task
    async def work() -> None: ...

    await tq.close()
    async with started(tq):
        await (await work.push()).result(within(10))
        worker = tq.worker
        assert worker is not None
        codes = await asyncio.gather(*[worker.stop(1, 1) for _ in range(5)])
        assert set(codes) == {ExitCode.DRAINED}
    await tq.close()
    await tq.close()


async def test_heartbeat_goes_on_through_the_drain(tmp_path: Path) -> None:  # B9
    lease = min(within(1.0), 6.0)
    tq = TaskQ(f"sqlite:///{tmp_path}/d.db", lease=lease, poll_interval=0.05)
    runs: list[int] = []
    begun = asyncio.Event()

    @tq.task
    async def long() -> None:
        runs.append(1)
        begun.set()
        await asyncio.sleep(2.2 * lease)  # of the real clock

    async with started(tq):
        handle = await long.push()
        await begun.wait()
        assert await tq._stop_running(within(10), 1) is ExitCode.DRAINED
        assert await handle.status() is Status.COMPLETED
    assert runs == [1]


async def test_loop_that_ends_takes_the_worker_along(url: str) -> None:  # D1: cancellation always arrives
    tq = TaskQ(url, poll_interval=0.05)
    begun = asyncio.Event()

    @tq.task
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def app() -> None:
        async with tq.running(concurrency=1, drain=0.01, grace=1):
            await endless.push()
            await asyncio.Event().wait()

    running = asyncio.create_task(app())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_loop_ends_while_an_abandoned_thread_goes_on() -> None:  # D4
    tq = TaskQ("memory://")
    begun, let_go, ended = threading.Event(), threading.Event(), threading.Event()

    @tq.task
    def blocks() -> None:
        begun.set()
        let_go.wait(within(5))
        ended.set()

    async def app() -> None:
        async with started(tq):
            await blocks.push()
            await asyncio.to_thread(begun.wait)
            assert await tq._stop_running(0.01, 0.01) is ExitCode.ABANDONED

    try:
        asyncio.run(app())
        assert not ended.is_set(), "the loop waited for the thread"
    finally:
        let_go.set()
        assert ended.wait(within(5))


def test_a_stop_that_a_crashed_loop_has_begun_is_begun_again_by_the_next_one() -> None:
    tq = TaskQ("memory://")
    crashed, after = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def begin() -> Worker:
        await tq.running().__aenter__()
        assert tq.worker is not None
        asyncio.ensure_future(tq.worker.stop())  # noqa: RUF006 - it is cut off with its loop
        await asyncio.sleep(0)
        return tq.worker

    async def stop(worker: Worker) -> ExitCode:
        return await worker.stop(0.1, 0.1)

    worker = crashed.run_until_complete(begin())
    assert after.run_until_complete(stop(worker)) is ExitCode.DRAINED
    after.close()
    left = asyncio.all_tasks(crashed)
    for each in left:
        each.cancel()
    crashed.run_until_complete(asyncio.wait(left))
    crashed.close()


LOOP_CLOSED = """
import asyncio
from aiotaskq import TaskQ

tq = TaskQ("memory://")

@tq.task
async def endless():
    begun.set()
    await asyncio.Event().wait()

async def begin():
    global begun, running
    begun, running = asyncio.Event(), tq.running(drain=0.1, grace=0.1)
    await running.__aenter__()
    await endless.push()
    await begun.wait()

loop = asyncio.new_event_loop()
loop.run_until_complete(begin())
loop.close()
"""

STOPPED_ELSEWHERE = """
async def stop():
    await running.__aexit__(None, None, None)
    async with tq.running():
        print("runs again", flush=True)

asyncio.run(stop())
"""


def ended(script: str) -> tuple[int, str, str]:
    """Return the exit status of a program, its output, and its errors."""
    done = nursery.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=watchdog())
    return done.returncode, done.stdout, done.stderr


def test_handlers_whose_loop_was_closed_are_abandoned_by_a_stop_in_another_one() -> None:
    status, output, _ = ended(LOOP_CLOSED + STOPPED_ELSEWHERE)
    assert (status, output) == (0, "runs again\n")


def test_a_process_ends_whose_loop_was_closed_while_handlers_ran() -> None:
    status, _, errors = ended(LOOP_CLOSED)
    # Its runs end with the interpreter, when no thread runs that could write their log lines.
    assert (status, "could not be settled" in errors) == (0, True)
