"""Inline mode: a push runs the handler in the caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import Parent, TaskFailed, TaskQ, current_task, injected
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.testing import inline
from tests.testing.backoffs import STEADY


class Client:
    """A resource."""


async def test_inline_runs_in_the_caller_by_the_rules_of_a_worker() -> None:
    tq = TaskQ("sqlite:///never-opened.db")
    told: list[str] = []

    @tq.resource
    async def client() -> AsyncIterator[Client]:
        yield Client()

    @tq.middleware
    async def around(task: Task, call_next: Callable[[Task], Any]) -> Any:
        told.append("before")
        try:
            return await call_next(task)
        finally:
            told.append("after")

    for name in ("pushed", "started", "completed"):
        tq.on(name, lambda event: told.append(event.name))

    @tq.task
    async def work(x: int, client: Client = injected()) -> dict[str, Any]:
        assert isinstance(client, Client) and asyncio.current_task() is caller
        await current_task().progress(1, 1)
        return {"x": x}

    caller = asyncio.current_task()
    async with inline(tq) as kit:
        handle = await work.push(x=3)
        task = await handle.task()
        assert (task.status, task.fence, task.result) == (Status.COMPLETED, 1, {"x": 3})
        assert await handle.result() == {"x": 3} and task.progress is not None
        assert told == ["pushed", "started", "before", "after", "completed"]
        kit.assert_pushed(work, {"x": 3}, count=1)


async def test_inline_raises_what_the_handler_raised() -> None:
    async with inline() as kit:

        @kit.tq.task(max_retries=2, backoff=STEADY)
        async def fails() -> None:
            raise LookupError("no such user")

        with pytest.raises(LookupError, match="no such user"):
            await fails.push()
        (task,) = await kit.tasks()
        assert (task.status, task.retry_count) == (Status.PENDING, 1)  # a worker would try again

        @kit.tq.task(timeout=1, max_retries=0)
        async def hangs() -> None:
            await asyncio.gather(kit.clock.sleep(10), kit.clock.advance(2))

        with pytest.raises(TaskFailed, match="timed out after 1 s"):
            await hangs.push()


async def test_inline_runs_a_whole_group_and_raises_its_first_error_then() -> None:
    ran: list[Any] = []
    async with inline() as kit:

        @kit.tq.task(max_retries=0)
        async def charge(n: int) -> None:
            ran.append(n)
            if n < 3:
                raise ValueError(f"declined {n}")

        @kit.tq.task
        async def alert() -> None:
            ran.append("alert")

        with pytest.raises(ValueError, match="declined 1"):
            await kit.tq.group([charge.call(n) for n in (1, 2, 3)], on_failure=alert.call())
        assert ran == [1, 2, 3, "alert"]
        counts = (await kit.tq.stats()).counts
        assert (counts["completed"], counts["failed"], counts["running"]) == (2, 2, 0)


@pytest.mark.parametrize("raise_errors", [True, False])
async def test_inline_retries_at_once(raise_errors: bool) -> None:
    async with inline(retries=True, raise_errors=raise_errors) as kit:
        tried: list[int] = []

        @kit.tq.task(max_retries=2, backoff=STEADY)
        async def flaky(failures: int) -> str:
            tried.append(kit.clock.now() // SECOND)
            if len(tried) <= failures:
                raise ConnectionError(f"number {len(tried)}")
            return "done"

        handle = await flaky.push(failures=2)
        assert await handle.result() == "done" and [at - tried[0] for at in tried] == [0, 10, 20]
        tried.clear()
        with pytest.raises(ConnectionError, match="number 3") if raise_errors else contextlib.nullcontext():
            await flaky.push(failures=9)
        (failed,) = await kit.tasks("failed")
        assert "number 3" in (failed.error_message or "") and len(tried) == 3


async def test_inline_nests_follows_up_and_leaves_delayed_ones() -> None:
    async with inline() as kit:
        ran: list[str] = []

        @kit.tq.task
        async def inner(n: int) -> int:
            ran.append(f"inner {n}")
            return n

        @kit.tq.task
        def told(parent: Parent[int]) -> None:
            ran.append(f"told of {parent.type} {parent.result}")

        @kit.tq.task
        async def outer() -> int:
            total = sum([await (await inner.push(n=n)).result() for n in (1, 2)])
            ran.append("outer")
            return total

        handle = await outer.options(on_success="told").push()
        assert ran == ["inner 1", "inner 2", "outer", "told of outer 3"]
        assert await handle.result() == 3
        later = await inner.options(delay=5).push(n=9)
        assert await later.status() is Status.PENDING
        many = await asyncio.gather(*[inner.push(n=n) for n in range(10, 20)])
        assert [await handle.result() for handle in many] == list(range(10, 20))
        same = await outer.options(idempotency_key="once").push()
        again = await outer.options(idempotency_key="once").push()
        assert (same.task_id, again.created) == (again.task_id, False) and ran.count("outer") == 3 - 1


async def test_inline_in_the_transaction_of_a_test_database(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/inline.db")
    async with inline(url=f"sqlite:///{tmp_path}/inline.db", raise_errors=False) as kit:

        @kit.tq.task(max_retries=0)
        async def once(commit: bool) -> str:
            async with AsyncSession(engine) as session:
                await current_task().complete(session=session, result="exactly once")
                if commit:
                    await session.commit()
            return "ignored"

        assert await (await once.push(commit=True)).result() == "exactly once"
        async with AsyncSession(engine) as session:
            handle = await once.options(session=session).push(commit=True)
            await session.rollback()
        assert [task.status for task in await kit.tasks()] == [Status.COMPLETED]  # and this one never was
        handle = await once.push(commit=False)
        with pytest.raises(TaskFailed, match="not committed"):
            await handle.result()
    await engine.dispose()
