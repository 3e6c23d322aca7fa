"""A slot runs quick tasks one after the other in the same asyncio task, and gives the loop back in between."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from aiotaskq import Status, TaskQ
from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.runtime.worker.worker import RUNS
from tests.runtime.worker.workers import until_counts
from tests.support.machine import within

URLS = ["memory://", DURABLE_FAKE, "sqlite"]


@pytest.fixture(params=URLS)
def tq(request: pytest.FixtureRequest, tmp_path: Path) -> TaskQ:
    return TaskQ(f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else request.param, clock=VirtualClock())


def here() -> asyncio.Task[object]:
    found = asyncio.current_task()
    assert found is not None
    return found


async def test_quick_tasks_share_an_asyncio_task_and_no_task_of_another_slot(tq: TaskQ) -> None:
    runs: list[int] = []
    number = 0

    @tq.task
    async def quick() -> None:
        nonlocal number
        task = here()
        if getattr(task, "number", None) is None:
            number += 1
            object.__setattr__(task, "number", number)
        runs.append(task.number)  # type: ignore[attr-defined]

    async with tq.running(concurrency=3, scheduler=False):
        await tq.push_many([quick.call() for _ in range(600)])
        await until_counts(tq, completed=600)
    assert len(runs) == 600
    shared = max(runs.count(each) for each in set(runs))
    assert RUNS // 2 <= shared <= RUNS


async def test_a_run_that_leaves_its_asyncio_task_to_another_is_the_last_one_in_it() -> None:
    tq = TaskQ("memory://", clock=VirtualClock())
    kept: list[asyncio.Task[object]] = []

    @tq.task
    async def keeps() -> None:
        kept.append(here())

    async with tq.running(concurrency=1, scheduler=False):
        await tq.push_many([keeps.call() for _ in range(20)])
        await until_counts(tq, completed=20)
    assert len(set(kept)) == 20


async def test_the_loop_has_its_turns_while_a_backlog_of_quick_tasks_is_run() -> None:
    tq = TaskQ("memory://", clock=VirtualClock())
    ran, seen = 0, [0]

    @tq.task
    async def quick() -> None:
        nonlocal ran
        ran += 1

    async with tq.running(concurrency=2, scheduler=False):
        await tq.push_many([quick.call() for _ in range(2_000)])
        while ran < 2_000:
            await asyncio.sleep(0)
            seen.append(ran)
    assert max(after - before for before, after in itertools.pairwise(seen)) <= 2 * RUNS


async def test_events_callbacks_and_waiters_hear_of_each_end() -> None:
    tq = TaskQ("memory://", clock=VirtualClock())
    heard: list[str] = []
    called: list[Status] = []
    tq.on("completed", lambda event: heard.append(event.task.task_id))

    @tq.task
    async def quick(number: int) -> int:
        return number

    async with tq.running(concurrency=1, scheduler=False):
        calls = [quick.options(on_success=lambda task: called.append(task.status)).call(number=n) for n in range(5)]
        handles = await tq.push_many([*calls, *(quick.call(number=n) for n in range(5))])
        assert [await handle.result(within(30)) for handle in handles] == [*range(5), *range(5)]
    assert heard == [handle.task_id for handle in handles]
    assert called == [Status.COMPLETED] * 5


async def test_a_slot_makes_room_in_a_bounded_queue() -> None:
    tq = TaskQ("memory://", maxsize=1, poll_interval=3_600)
    go = asyncio.Event()

    @tq.task
    async def work(number: int) -> None:
        if number == 0:
            await go.wait()

    async with tq, asyncio.timeout(within(30)), tq.running(concurrency=1, scheduler=False):
        await work.push(number=0)
        await until_counts(tq, running=1)
        await work.push(number=1)
        waiting = asyncio.create_task(work.push(number=2))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert not waiting.done()
        go.set()
        await (await waiting).result()


async def test_a_task_that_was_deleted_while_it_ran_is_lost_and_the_slot_goes_on() -> None:
    tq = TaskQ("memory://", clock=VirtualClock())
    lost: list[str] = []
    tq.on("lost", lambda event: lost.append(event.task.task_id))

    @tq.task
    async def work(deletes: bool) -> str:
        if deletes:
            await tq.queue.backend.delete([task.task_id for task in await tq.find(status=("running",))])
        return "done"

    async with tq.running(concurrency=1, scheduler=False):
        first, second = await tq.push_many([work.call(deletes=True), work.call(deletes=False)])
        assert await second.result(within(30)) == "done"
    assert lost == [first.task_id]
