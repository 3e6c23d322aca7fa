"""``rerun``: a copy of an ended task as a new one, whatever is registered in the process that asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import Limit, TaskQ
from aiotaskq.core.status import Status
from aiotaskq.errors import NotFound, TaskConflict, ValidationError
from aiotaskq.types import Task
from tests.support.backends import Store


@pytest.fixture
async def tq(store: Store) -> AsyncIterator[TaskQ]:
    async with TaskQ(store.url) as made:
        yield made


async def ended(tq: TaskQ, **options: Any) -> Task:
    """A task that was cancelled."""
    handle = await tq.push("report", {"tenant": "acme"}, **options)
    await handle.cancel()
    return await handle.task()


async def test_a_rerun_is_a_new_task_like_the_ended_one(tq: TaskQ) -> None:
    old = await ended(
        tq, queue="slow", priority=3, max_retries=7, timeout=5, unique_key="k", on_failure="mail", delay=9
    )
    handle = await tq.rerun(old.task_id)
    new = await handle.task()
    assert handle.created and new.task_id != old.task_id and new.status is Status.PENDING
    kept = ("type", "params", "queue", "priority", "max_retries", "timeout", "unique_key", "on_failure")
    assert [getattr(new, name) for name in kept] == [getattr(old, name) for name in kept]
    assert (new.retry_count, new.attempts, new.due_us <= tq.queue.clock.now()) == (0, (), True)
    assert await tq.get(old.task_id) == old
    again = await tq.rerun(old.task_id)
    assert (again.task_id, again.created) == (new.task_id, False), "the new one has the unique key"
    with pytest.raises(TaskConflict, match="only ended tasks are rerun"):
        await tq.rerun(new.task_id)
    with pytest.raises(NotFound):
        await tq.rerun("nobody")


async def test_the_copy_has_the_limits_of_the_ended_task_wherever_it_is_made(tq: TaskQ) -> None:
    old = await ended(tq, limit=Limit(2, key="tenant"))
    free = await ended(tq)

    async def gates(of: Task, params: dict[str, Any] | None = None) -> list[tuple[str, int | None]]:
        made = (await (await tq.rerun(of.task_id, params)).task()).flow
        return [] if made is None else [(key, bounds.cap) for key, bounds in made.gates]

    assert (await gates(old), await gates(free)) == ([("tenant:acme", 2)], []), "nothing is registered here"
    with pytest.raises(ValidationError, match="so those of the new params are not known"):
        await tq.rerun(old.task_id, {"tenant": "b"})
    assert await gates(free, {"tenant": "b"}) == []

    @tq.task(limit=Limit(1, name="all"))
    async def report(tenant: str) -> None: ...

    assert await gates(old) == [("tenant:acme", 2)], "the push chose another limit than that of its type"
    assert await gates(free) == [("all", 1)], "it was pushed before its type had a limit"
    with pytest.raises(ValidationError, match="so those of the new params are not known"):
        await tq.rerun(old.task_id, {"tenant": "b"})
    with pytest.raises(ValidationError, match="has no parameter 'nobody'"):
        await tq.rerun(old.task_id, {"nobody": 1})


async def test_the_limits_of_other_params_are_those_of_the_type(tq: TaskQ) -> None:
    @tq.task(limit=Limit(3, key="tenant"))
    async def report(tenant: str) -> None: ...

    old = await ended(tq, limit=Limit(2, key="tenant"))
    made = await (await tq.rerun(old.task_id, {"tenant": "b"})).task()
    assert made.flow is not None and [(key, bounds.cap) for key, bounds in made.flow.gates] == [("tenant:b", 3)]
