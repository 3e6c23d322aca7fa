"""What workers leave of workflows that are older than the retention, in virtual time."""

from __future__ import annotations

from typing import Any

from aiotaskq import Parent, TaskQ, Workflow, chain, current_task, injected
from aiotaskq.testing.kit import virtual
from tests.support.machine import within

DAY = 86_400


async def test_a_workflow_keeps_what_it_needs_beyond_the_retention() -> None:
    tq, got = TaskQ("sqlite:///never-opened.db"), list[Any]()

    @tq.task
    async def first() -> int:
        return 1

    @tq.task
    async def join(parent: list[Parent[int]] = injected()) -> int:
        return sum(each.result for each in parent)

    @tq.task
    async def report() -> None:
        got.append([member.result for member in await current_task().results()])

    async with virtual(tq, retention=7 * DAY) as made:
        work = Workflow("slow", then=report.call())
        work.add("a", first.call())
        work.add("b", first.options(delay=8 * DAY).call())
        work.add("c", join.call(), after=["a", "b"])
        started = await tq.start(work)
        await made.advance(8 * DAY - 60)
        assert [(await handle.status()) for handle in await started.tasks()] == ["completed", "pending", "pending"]
        await made.advance(120)
        assert (got, await started.results(within(60))) == ([[1, 1, 2]], [1, 1, 2])


async def test_a_dead_letter_is_retried_with_all_that_follows_from_it_weeks_later() -> None:
    tq, got, broken = TaskQ("sqlite:///never-opened.db"), list[Any](), [True]

    @tq.task(max_retries=0)
    async def first() -> int:
        if broken.pop():
            raise RuntimeError("no")
        return 1

    @tq.task
    async def second(parent: Parent[int] = injected()) -> int:
        return parent.result + 1

    @tq.task
    async def report() -> None:
        got.append([member.result for member in await current_task().results()])

    async with virtual(tq, retention=7 * DAY) as made:
        started = await tq.start(chain(first.call(), second.call(), then=report.call()))
        await made.advance(30 * DAY)
        broken.append(False)
        assert await tq.retry_many() == 1
        (parent, child) = await started.tasks()
        await tq.retry(child.task_id)
        await made.advance(60)
        assert (got, await parent.status()) == ([[1, 2]], "completed")
        await made.advance(30 * DAY)
        assert (await tq.groups(), await tq.find()) == ([], [])
