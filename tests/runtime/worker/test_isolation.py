"""A handler cannot end, cancel or occupy more than its own run."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import Status, TaskFailed, TaskQ, current_task
from aiotaskq.app.internal import RunOptions
from aiotaskq.concurrency.clock import VirtualClock
from tests.support.machine import within

Handler = Callable[[], Awaitable[Any]]
ON_STORE = ["memory", "sqlite"]


@pytest.fixture(params=ON_STORE)
def tq(request: pytest.FixtureRequest, tmp_path: Path) -> TaskQ:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/x.db"
    return TaskQ(url, poll_interval=0.05)


def here() -> asyncio.Task[Any]:
    found = asyncio.current_task()
    assert found is not None
    return found


# ---- handlers and the outcomes of their tasks --------------------------------------------------------------


async def leaves_a_timer_behind() -> str:
    asyncio.get_running_loop().call_later(0.001, here().cancel)
    return "done"


async def leaves_a_callback_behind() -> str:
    asyncio.get_running_loop().call_soon(here().cancel)
    return "done"


async def cancels_itself_and_leaves() -> str:
    here().cancel()
    return "done"


async def cancels_itself_and_stays() -> None:
    here().cancel()
    await asyncio.Event().wait()


async def cancels_itself_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
        here().cancel()
        here().cancel()


async def uncancels() -> str:
    for _ in range(3):
        here().uncancel()
    return "done"


async def fails_in_a_group() -> None:
    async def fail() -> None:
        raise ValueError("in a group")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        await asyncio.Event().wait()


async def raises_generator_exit() -> None:
    raise GeneratorExit


async def raises_generator_exit_later() -> None:
    await asyncio.sleep(0)
    raise GeneratorExit("later")


async def exits() -> None:
    sys.exit(3)


async def exits_later() -> None:
    await asyncio.sleep(0)
    raise SystemExit("later")


async def raises_in_finally() -> None:
    try:
        here().cancel()
        await asyncio.sleep(1)
    finally:
        raise KeyError("in finally")


async def raises_stop_iteration() -> None:
    raise StopIteration("no")


class Awaited:
    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return "done"


async def awaits_an_object() -> str:
    return str(await Awaited())


CASES: dict[Handler, str | None] = {  # to a part of the error message, None for a task that completes
    leaves_a_timer_behind: None,
    leaves_a_callback_behind: None,
    cancels_itself_and_leaves: None,
    cancels_itself_and_stays: "CancelledError",
    cancels_itself_in_a_group: "CancelledError",
    uncancels: None,
    fails_in_a_group: "ExceptionGroup",
    raises_generator_exit: "GeneratorExit",
    raises_generator_exit_later: "GeneratorExit: later",
    exits: "SystemExit: 3",
    exits_later: "SystemExit: later",
    raises_in_finally: "KeyError",
    raises_stop_iteration: "RuntimeError",
    awaits_an_object: None,
}


class Greeter:
    async def __call__(self, number: int = 1) -> int:
        here()  # it runs in the loop
        return number + 1


@pytest.mark.parametrize("handler", [Greeter(), functools.partial(Greeter(), number=1)], ids=["object", "partial"])
async def test_an_object_that_is_called_by_await_is_a_coroutine_handler(tq: TaskQ, handler: Handler) -> None:
    tq.task(name="called", timeout=30)(handler)
    async with tq.running(concurrency=1):
        assert await (await tq.push("called")).result(within(30)) == 2


async def test_a_coroutine_that_nothing_awaits_is_a_failure_that_says_so(tq: TaskQ) -> None:
    def decorated(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def wrapper() -> Awaitable[Any]:
            return handler()

        return wrapper

    async def forgets() -> Any:
        return awaits_an_object()

    tq.task(decorated(awaits_an_object))
    tq.task(forgets)
    async with tq.running(concurrency=1):
        for name in ("awaits_an_object", "forgets"):
            with pytest.raises(TaskFailed, match="not_awaited: the handler returned a coroutine"):
                await (await tq.push(name)).result(within(30))
        assert all(task.retry_count == 0 for task in await tq.find())


@pytest.mark.parametrize("handler", CASES, ids=lambda handler: handler.__name__)
async def test_a_handler_ends_its_own_run_alone(tq: TaskQ, handler: Handler) -> None:
    error = CASES[handler]
    tq.task(name="wild", max_retries=0)(handler)

    @tq.task(max_retries=0)
    async def innocent() -> str:
        await asyncio.sleep(0.005)  # so that a timer of the other one meets it
        return "innocent"

    async with tq.running(concurrency=1):
        for _ in range(4):
            wild, other = await tq.push_many([("wild", {}), innocent.call()])  # type: ignore[list-item]
            if error is None:
                assert await wild.result(within(30)) == "done"
            else:
                with pytest.raises(TaskFailed, match=error):
                    await wild.result(within(30))
            assert await other.result(within(30)) == "innocent"
        assert (await tq.health())["workers"] is None
        assert not (await tq.queue.stats()).counts.get("running")


async def test_context_variables_end_with_their_run(tq: TaskQ) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

    @tq.task
    async def read() -> str:
        found = tenant.get()
        tenant.set("somebody")
        return found

    async with tq.running(concurrency=1):
        assert [await (await read.push()).result(within(30)) for _ in range(3)] == ["nobody"] * 3


async def test_a_delayed_cancel_does_not_reach_the_code_that_settles_the_task(tmp_path: Path) -> None:
    """After ``complete(session)`` the row is read back, in another coroutine."""
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/x.db")

    @tq.task(max_retries=0)
    async def books() -> None:
        async with AsyncSession(engine) as session:
            await current_task().complete(session, "booked")
            await session.commit()
        asyncio.get_running_loop().call_soon(here().cancel)

    async with tq.running(concurrency=1):
        for _ in range(3):
            assert await (await books.push()).result(within(30)) == "booked"
    await engine.dispose()


# ---- timeouts that are swallowed -------------------------------------------------------------------------------------


async def test_a_coroutine_that_swallows_its_timeout_is_reported_by_health() -> None:
    clock = VirtualClock()
    tq = TaskQ("memory://", clock=clock)
    release = asyncio.Event()

    @tq.task(timeout=1, max_retries=0)
    async def swallows() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    async with tq.running(concurrency=2):
        handle = await swallows.push()
        await clock.advance(0.5)
        assert (await tq.health())["workers"] is None
        await clock.advance(1)
        problem = (await tq.health())["workers"]
        assert problem is not None and "1 of 2 slots" in problem and "swallows" in problem
        assert tq.worker is not None and tq.worker.occupancy().overdue_coroutines == 1
        release.set()
        await clock.advance(0)
        with pytest.raises(TaskFailed, match="timed out after 1 s"):
            await handle.result(within(5))
        assert (await tq.health())["workers"] is None


# ---- a process that stood still --------------------------------------------------------------------------------------


async def test_a_task_claimed_before_a_pause_longer_than_the_lease_is_not_started(tmp_path: Path) -> None:
    clock = VirtualClock()
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", clock=clock, lease=10, heartbeat=3)
    started: list[int] = []
    entered, release = asyncio.Event(), asyncio.Event()

    @tq.task(max_retries=0)
    async def work(number: int) -> None:
        started.append(number)
        if number == 0:
            entered.set()
            await release.wait()

    async with tq:
        await tq._start_running(RunOptions(1, scheduler=False))
        worker = tq.worker
        assert worker is not None
        await work.push(number=0)
        async with asyncio.timeout(within(30)):
            await entered.wait()
        # Claimed ahead, and waiting for the slot when the process is stopped.
        later = await work.push(number=1)
        (claimed,) = await tq.queue.backend.claim(worker.owner, clock.now(), 1)
        worker._fetcher._accept([claimed])
        clock._now += 11_000_000  # no timer of this process has rung meanwhile
        release.set()
        for _ in range(200):
            await asyncio.sleep(0.005)
            if (await later.task()).status is Status.PENDING:
                break
        row = await later.task()
        await tq._stop_running(0.01, 0.01)
    assert started == [0]
    assert (row.status, row.retry_count, row.crashes) == (Status.PENDING, 0, 0)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_the_eager_tasks_of_an_application_do_not_nest_runs(tq: TaskQ) -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
    runs, depths = 0, set()
    all_ran = asyncio.Event()

    @tq.task
    async def quick() -> None:
        nonlocal runs
        runs += 1
        depths.add(sum(1 for _ in traceback.walk_stack(None)))
        if runs == 2_000:
            all_ran.set()

    async with tq, asyncio.timeout(within(60)):
        await tq.push_many([("quick", {})] * 2_000)
        async with tq.running():
            await all_ran.wait()
    assert len(depths) == 1
