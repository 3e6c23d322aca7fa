"""Timeouts and cancels: what ends a run, and what does not."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from aiotaskq import TaskFailed, TaskQ
from aiotaskq.app.internal import RunOptions
from aiotaskq.core.status import Status
from tests.support.machine import within
from tests.support.waiting import eventually


async def test_timeout_is_recorded_and_the_slot_lives_on(tq: TaskQ) -> None:
    @tq.task(timeout=0.05, max_retries=0)
    async def hangs() -> None:
        await asyncio.Event().wait()

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        handle = await hangs.push()
        with pytest.raises(TaskFailed, match=r"timed out after 0\.05 s"):
            await handle.result(within(30))
        assert await (await quick.push()).result(within(30)) == 1


async def test_timeout_of_a_thread_keeps_the_slot_until_it_ends(tq: TaskQ) -> None:  # D14, D5
    release = threading.Event()
    others: list[str] = []

    @tq.task(timeout=within(0.05), max_retries=0)  # long enough for a thread to start
    def stuck() -> None:
        release.wait(within(40))

    @tq.task
    async def other() -> None:
        others.append("ran")

    rang = asyncio.Event()
    tq.on("timeout", lambda event: rang.set())
    async with tq.running(concurrency=1):
        handle = await stuck.push()
        await other.push()
        await rang.wait()
        await asyncio.sleep(0)
        # The timeout is known, but the thread lives: neither given back nor replaced.
        assert await handle.status() is Status.RUNNING and not others
        release.set()
        with pytest.raises(TaskFailed, match="timed out"):
            await handle.result(within(30))
        await eventually(lambda: others == ["ran"])


async def test_handlers_own_timeout_error_is_an_ordinary_failure(tq: TaskQ) -> None:
    @tq.task(max_retries=0)
    async def inner() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(5)

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="TimeoutError") as caught:
            await (await inner.push()).result(within(30))
    assert "Traceback" in (caught.value.error or "")


@pytest.mark.parametrize("ending", ["cancelled", "fails", "succeeds", "ignores"])
async def test_cancel_of_a_running_task(tq: TaskQ, ending: str) -> None:  # D6: only legal transitions, the worker lives
    started = asyncio.Event()
    let_go = asyncio.Event()

    @tq.task(max_retries=3, backoff=0.01)
    async def running() -> str:
        started.set()
        try:
            await let_go.wait()
        except asyncio.CancelledError:
            if ending == "cancelled":
                raise
            if ending == "fails":
                raise RuntimeError("while stopping") from None
            if ending == "ignores":
                await let_go.wait()
        return "finished"

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        handle = await running.push()
        await started.wait()
        assert await handle.cancel() is True
        let_go.set()
        expected = Status.CANCELLED if ending in ("cancelled", "fails") else Status.COMPLETED
        task = await tq.queue.wait_for_end(handle.task_id, within(30))
        assert task.status is expected
        assert await handle.cancel() is False
        assert await (await quick.push()).result(within(30)) == 1


async def test_handler_that_cancels_itself_fails_and_the_worker_lives(tq: TaskQ) -> None:
    @tq.task(max_retries=0)
    async def odd() -> None:
        raise asyncio.CancelledError

    @tq.task
    async def quick() -> int:
        return 1

    async with tq.running(concurrency=1):
        with pytest.raises(TaskFailed, match="cancelled from within"):
            await (await odd.push()).result(within(30))
        assert await (await quick.push()).result(within(30)) == 1


async def test_cancel_of_a_claimed_but_unstarted_task(url: str) -> None:
    tq = TaskQ(url, poll_interval=0.05)
    ran: list[int] = []

    @tq.task
    async def never() -> None:
        ran.append(1)

    async with tq:
        handle = await never.push()
        assert await handle.cancel() is True
        assert await handle.status() is Status.CANCELLED
        async with tq.running(concurrency=1):
            await tq.queue.wait_for_end(handle.task_id, within(30))
    assert not ran


async def test_a_cancel_within_a_timeout_of_the_fetcher_is_not_the_end_of_the_loop() -> None:  # D1
    """``asyncio.timeout`` cancels its coroutine for a moment; that of the fetcher was taken for the end of the loop."""
    tq = TaskQ("memory://", poll_interval=0.01)

    @tq.task(max_retries=0)
    async def cancels_itself() -> None:
        here = asyncio.current_task()
        assert here is not None
        time.sleep(0.03)  # so that the fetcher's timer is due, and rings after the next step of this
        await asyncio.sleep(0)
        here.cancel()
        await asyncio.sleep(0)

    async with tq.running(concurrency=1, scheduler=False, drain=1, grace=1):
        for _ in range(3):
            with pytest.raises(TaskFailed, match="cancelled from within"):
                await (await cancels_itself.push()).result(within(5))


async def test_a_handler_that_cancels_its_own_coroutine_takes_no_slot_with_it(tq: TaskQ) -> None:  # D1
    def cancel() -> None:
        here = asyncio.current_task()
        assert here is not None
        here.cancel()

    @tq.task(max_retries=0)
    async def stays() -> None:
        cancel()
        await asyncio.Event().wait()

    @tq.task(max_retries=0)
    async def leaves() -> str:
        cancel()
        return "done"

    async with tq.running(concurrency=1):
        for _ in range(3):
            assert await (await leaves.push()).result(within(30)) == "done"
            with pytest.raises(TaskFailed, match="cancelled from within"):
                await (await stays.push()).result(within(30))


async def test_end_of_the_loop_settles_nothing(url: str) -> None:
    tq = TaskQ(url, poll_interval=0.05)
    begun = asyncio.Event()

    @tq.task
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with tq:
        await tq._start_running(RunOptions(1, scheduler=False))
        handle = await endless.push()
        await begun.wait()
        worker = tq.worker
        assert worker is not None
        runs = {each.coroutine for each in worker.executions.values() if each.coroutine is not None}
        for each in asyncio.all_tasks():  # as asyncio.run does with what is left
            if each.get_name().startswith("aiotaskq-"):
                each.cancel()
        await asyncio.wait(runs)
        task = await handle.task()
    assert (task.status, task.retry_count) == (Status.RUNNING, 0)
