"""Steps, sleeps, waits and events as the tests of the stores write them."""

from __future__ import annotations

from typing import Any

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.change import Leave
from aiotaskq.backends.steps import Steps
from aiotaskq.core.status import Status
from aiotaskq.core.steps import EventValue, NewStep, Step
from aiotaskq.core.task import SECOND, Task
from tests.support.rows import LEASE, NOW

LATER = NOW + 3 * 86_400 * SECOND


def of(task: Task, name: str = "charge", text: str = "1", **fields: Any) -> NewStep:
    return NewStep(task.task_id, task.seq, task.fence, Step(name=name, text=text, **{"at": NOW, **fields}))


def event(key: str = "paid", text: str = "1", **fields: Any) -> EventValue:
    return EventValue(key=key, text=text, **{"at": NOW, **fields})


def asleep(task: Task, until: int = LATER) -> Task:
    return task.replace(status=Status.PENDING, run_at=until, lease_owner=None, lease_until=None)


async def suspend(steps: Steps, task: Task, after: Task, *new: NewStep, woken: Task | None = None) -> bool:
    return (await steps.suspend([Leave(Change(task, after), new, woken)]))[0]


async def emit(steps: Steps, event: EventValue) -> EventValue:
    return (await steps.emit([event]))[0]


async def wait(steps: Steps, task: Task, key: str = "paid", until: int = LATER) -> bool:
    new_step = of(task, key, str(until), kind="wait")
    return await suspend(steps, task, asleep(task, until), new_step, woken=asleep(task, NOW))


async def again(backend: Backend, task: Task, now: int = NOW) -> Task:
    """End the lease of a task, and claim it again."""
    assert await backend.update([Change(task, asleep(task, NOW))]) == [True]
    (claimed,) = await backend.claim("w2", now, 1, lease_until=LEASE)
    return claimed
