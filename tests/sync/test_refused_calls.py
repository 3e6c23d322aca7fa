"""Blocking calls from an event loop are refused, and the error names what to await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiotaskq
import aiotaskq.sync
from aiotaskq.errors import (
    TaskFailed,
    WrongLoop,
)
from tests.support.machine import watchdog
from tests.sync.threads import from_thread


async def test_a_call_from_a_loop_is_refused_at_once_and_names_what_to_await(tmp_path: Path) -> None:  # E8, E9, E12
    tq = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/x.db")

    @tq.task
    def work() -> None: ...

    queue, scheduler = aiotaskq.sync.MemoryQueue(), aiotaskq.sync.Scheduler(url=f"sqlite:///{tmp_path}/x.db")
    wrong: dict[str, Callable[[], Any]] = {
        "aiotaskq.MemoryQueue.push_task": lambda: queue.push_task({"type": "x"}),
        "aiotaskq.push_task": lambda: aiotaskq.sync.push_task({"type": "x"}),
        "aiotaskq.pop_task": lambda: aiotaskq.sync.pop_task(),
        "aiotaskq.get_queue": lambda: aiotaskq.sync.get_queue(),
        "aiotaskq.get_scheduler": lambda: aiotaskq.sync.get_scheduler(),
        "aiotaskq.Scheduler.list_tasks": lambda: scheduler.list_tasks(),
        "aiotaskq.TaskQ.push": lambda: tq.push("work"),
        "aiotaskq.TaskFunction.push": lambda: work.push(),
        "aiotaskq.TaskQ.running": lambda: tq.running().__enter__(),
        "aiotaskq.TaskQ.run": lambda: tq.run(),
        "aiotaskq.TaskQ.open": lambda: tq.__enter__(),
        "aiotaskq.TaskHandle.result": lambda: tq.handle("x").result(),
    }
    for twin, call in wrong.items():
        with pytest.raises(WrongLoop, match=f"await {twin}\\("):
            call()
    # A notebook cell, or a handler, gets by through a thread; and the awaitable twin works beside it.
    assert await asyncio.to_thread(queue.push_task, {"type": "x"})
    assert (await asyncio.to_thread(work.push)).created
    await asyncio.to_thread(tq.close)
    await aiotaskq.MemoryQueue().push_task({"type": "x"})


def test_a_loop_of_another_thread_is_refused_too() -> None:  # E8: also what needs no loop
    queue = aiotaskq.sync.MemoryQueue()

    async def in_a_loop() -> None:
        with pytest.raises(WrongLoop, match=r"await aiotaskq\.MemoryQueue\.push_task\("):
            queue.push_task({"type": "x"})

    from_thread(lambda: asyncio.run(in_a_loop()))
    assert queue.get_queue_size() == 0


def test_an_async_handler_that_calls_the_facade_gets_the_error_and_a_thread_handler_may_call(
    tq: aiotaskq.sync.TaskQ,
) -> None:  # E8
    @tq.task(max_retries=0)
    async def wrong() -> None:
        tq.push("right")

    @tq.task(max_retries=0)
    async def wrong_progress() -> None:
        aiotaskq.sync.current_task().progress(1)

    @tq.task
    def right(n: int = 0) -> int:
        return n if n == 2 else right.push(n=n + 1).result(timeout=watchdog())

    with tq.running():
        with pytest.raises(TaskFailed, match=r"WrongLoop.*await aiotaskq.TaskQ.push\("):
            wrong.push().result(timeout=watchdog())
        with pytest.raises(TaskFailed, match=r"await aiotaskq.current_task\(\).progress\("):
            wrong_progress.push().result(timeout=watchdog())
        assert right.push().result(timeout=watchdog()) == 2


async def test_objects_of_the_facade_refuse_another_loop(tmp_path: Path) -> None:  # E12
    queue = aiotaskq.sync.DatabaseQueue(f"sqlite:///{tmp_path}/x.db")
    await asyncio.to_thread(queue.push_task, {"type": "x"})
    with pytest.raises(WrongLoop, match="another event loop"):
        await queue._reach().get_queue_size()
    assert await asyncio.to_thread(queue.get_queue_size) == 1
    await asyncio.to_thread(queue.close)


def test_one_facade_object_serves_threads_that_run_loops_of_their_own(queue: aiotaskq.sync.MemoryQueue) -> None:  # E12
    async def cell() -> str:
        return await asyncio.to_thread(queue.push_task, {"type": "x"})

    ids = [from_thread(lambda: asyncio.run(cell())) for _ in range(3)]
    assert len(set(ids)) == 3 and queue.get_queue_size() == 3
