"""A step against a transaction of another process that has written to its task, or the step, and not committed yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.engines import async_engine, parse_url
from aiotaskq.backends.steps import Steps
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NewStep, Step
from aiotaskq.core.task import Task
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, running


def of(task: Task, text: str = "1", fence: int = 0, name: str = "charge") -> NewStep:
    return NewStep(task.task_id, task.seq, fence or task.fence, Step(name=name, text=text, at=NOW))


def back(task: Task) -> Change:
    """What the reaper writes."""
    return Change(task, task.replace(status=Status.PENDING, lease_owner=None, lease_until=None))


@pytest.fixture
def steps(sql_store: Store) -> Steps:
    return sql_store.backend.steps


@asynccontextmanager
async def transaction(store: Store) -> AsyncIterator[AsyncConnection]:
    engine = async_engine(parse_url(store.url))
    try:
        async with asyncio.timeout(within(30)), engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


async def waiting(steps: Steps, new: list[NewStep]) -> asyncio.Task[list[Step | None]]:
    """Begin to store steps; return once they wait for the other transaction."""
    adding = asyncio.create_task(steps.add(new))
    assert not (await asyncio.wait([adding], timeout=0.2))[0], "it does not wait"
    return adding


async def test_a_step_of_a_task_that_the_reaper_takes_back_is_refused(sql_store: Store, steps: Steps) -> None:
    lost, kept = [await running(sql_store.backend) for _ in range(2)]
    async with transaction(sql_store) as other:
        assert await sql_store.backend.update_with(other, [back(lost)]) == [True]
        adding = await waiting(steps, [of(lost), of(kept)])
    assert await adding == [None, of(kept).step]
    assert await steps.read(lost.task_id, lost.seq) == []


async def test_a_step_of_a_task_that_runs_again_elsewhere_is_refused(sql_store: Store, steps: Steps) -> None:
    lost = await running(sql_store.backend)
    again = lost.replace(fence=lost.fence + 1, lease_owner="w2", lease_until=LEASE)
    async with transaction(sql_store) as other:
        changes = [back(lost), Change(back(lost).after, again)]
        assert await sql_store.backend.update_with(other, changes) == [True, True]
        adding = await waiting(steps, [of(lost), of(again, "2")])
    assert await adding == [None, of(again, "2").step], "both are of the same step; that of the fence that runs stays"
    assert await steps.read(lost.task_id, lost.seq) == [of(again, "2").step]


async def test_the_reaper_waits_for_a_step_and_the_next_run_reads_it(sql_store: Store, steps: Steps) -> None:
    task = await running(sql_store.backend)
    async with transaction(sql_store) as other:
        assert await steps.add_with(other, of(task)) == of(task).step
        taking = asyncio.create_task(sql_store.backend.update([back(task)]))
        assert not (await asyncio.wait([taking], timeout=0.2))[0], "the step does not lock its task"
    assert await taking == [True]
    assert await steps.read(task.task_id, task.seq) == [of(task).step]


async def test_the_loser_takes_the_value_of_the_first_write(sql_store: Store, steps: Steps) -> None:
    task, free = [await running(sql_store.backend) for _ in range(2)]
    async with transaction(sql_store) as other:
        assert await steps.add_with(other, of(task, '"first"')) == of(task, '"first"').step
        adding = await waiting(steps, [of(free), of(task, '"second"'), of(task, name="other")])
    assert await adding == [of(free).step, of(task, '"first"').step, of(task, name="other").step]
    async with transaction(sql_store) as other:
        assert await steps.add_with(other, of(free, name="undone")) is not None
        adding = await waiting(steps, [of(free, "2", name="undone")])
        await other.rollback()
    assert await adding == [of(free, "2", name="undone").step], "a write that is undone was none"
