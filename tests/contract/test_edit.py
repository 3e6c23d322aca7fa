"""Edits of pending tasks by an operator, and the deletion of one ended task, on each store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aiotaskq import Limit
from aiotaskq.backends.base import Backend, Change
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.gate import PARKED, Flow
from aiotaskq.core.groups import CANCEL
from aiotaskq.core.ids import new_id
from aiotaskq.core.limits import Gating
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import NotFound, TaskConflict, ValidationError
from aiotaskq.runtime.queue.queue import Queue
from tests.support.rows import NOW, ended, new, pushed, read, running

TENANT = Gating("t", [Limit(1, key="tenant")])
ONE, TWO = "tenant:one", "tenant:two"


@pytest.fixture
def queue(backend: Backend) -> Queue:
    return Queue(backend, VirtualClock(NOW))


@pytest.fixture
def gated(backend: Backend) -> Queue:
    return Queue(backend, VirtualClock(NOW), gated=lambda task: TENANT.gated(task) if task.type == "t" else task)


async def of(queue: Queue, tenant: str, **fields: Any) -> Task:
    """Push a task with the gate of a tenant, and let it pass if it may; return its row."""
    (task,) = await queue.add([queue.gated(new(params={"tenant": tenant}, **fields))])
    await queue.backend.gates.admit(NOW, 10)
    return await read(queue.backend, task)


async def claimed(backend: Backend, now: int = NOW) -> list[str]:
    return [task.task_id for task in await backend.claim("w", now, 10)]


async def test_each_field_is_changed_and_the_others_stay(queue: Queue, backend: Backend) -> None:
    task = await pushed(backend, params={"n": 1}, timeout=5.0, unique_key="k", extra={"x": 1}, priority=1)
    after = await queue.edit(
        task.task_id, params={"n": [2]}, priority=-3, queue="mail", delay=60, max_retries=9, timeout=None
    )
    due = NOW + 60 * SECOND
    expected: dict[str, Any] = {"params": {"n": [2]}, "priority": -3, "queue": "mail", "run_at": due, "max_retries": 9}
    assert after == await read(backend, task) == task.replace(**expected, timeout=None, fence=task.fence + 1)
    assert await backend.claim("w", NOW, 10) == []
    (run,) = await backend.claim("w", due, 10, queues=["mail"])
    assert (run.task_id, run.params, run.unique_key, run.extra) == (task.task_id, {"n": [2]}, "k", {"x": 1})


@pytest.mark.parametrize(
    "changes", [{"timeout": 2.5}, {"priority": 7}, {"queue": "mail"}, {"max_retries": 0}, {"at": NOW / SECOND + 5}]
)
async def test_one_change_alone(queue: Queue, backend: Backend, changes: dict[str, Any]) -> None:
    task = await pushed(backend, params={"n": 1}, timeout=5.0)
    await queue.edit(task.task_id, **changes)
    wanted = {"run_at": NOW + 5 * SECOND} if "at" in changes else changes
    assert await read(backend, task) == task.replace(**wanted, fence=task.fence + 1)


async def test_a_time_that_has_passed_is_now(queue: Queue, backend: Backend) -> None:
    task = await pushed(backend, run_at=NOW + 100 * SECOND)
    assert await claimed(backend) == []
    await queue.edit(task.task_id, at=1.0)
    assert await claimed(backend) == [task.task_id]


async def test_the_order_of_claims_goes_by_what_is_edited(queue: Queue, backend: Backend) -> None:
    first, second = await pushed(backend), await pushed(backend)
    await queue.edit(second.task_id, priority=-1)
    assert await claimed(backend) == [second.task_id, first.task_id]


@pytest.mark.parametrize("make", [running, ended])
async def test_only_pending_tasks_are_edited(queue: Queue, backend: Backend, make: Callable[..., Any]) -> None:
    task = await make(backend)
    with pytest.raises(TaskConflict, match="only pending tasks are edited"):
        await queue.edit(task.task_id, priority=1)
    assert await read(backend, task) == task


async def test_an_edit_of_what_has_changed_since_it_was_read_writes_nothing(queue: Queue, backend: Backend) -> None:
    task = await pushed(backend)
    assert await claimed(backend) == [task.task_id]
    with pytest.raises(TaskConflict, match="changed meanwhile"):
        await queue.edit_task(task, {"priority": 1})
    assert (await read(backend, task)).priority == 0
    again = await pushed(backend)
    one, two = await asyncio.gather(
        queue.edit_task(again, {"priority": 1}), queue.edit_task(again, {"priority": 2}), return_exceptions=True
    )
    assert isinstance(one, Task) and isinstance(two, TaskConflict)
    assert (await read(backend, again)).priority == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "edit: give one of"),
        ({"status": "failed"}, "edit: unknown status"),
        ({"params": []}, "params"),
        ({"params": {"a": object()}}, "params"),
        ({"priority": "high"}, "priority"),
        ({"queue": ""}, "queue"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"delay": -1}, "delay"),
        ({"at": "soon"}, "at"),
        ({"at": 1.0, "delay": 1}, "delay, at"),
    ],
)
async def test_a_wrong_value_is_named(queue: Queue, backend: Backend, changes: dict[str, Any], named: str) -> None:
    task = await pushed(backend)
    with pytest.raises(ValidationError, match=f"^{named}"):
        await queue.edit(task.task_id, **changes)
    assert await read(backend, task) == task


async def test_an_unknown_id(queue: Queue) -> None:
    with pytest.raises(NotFound):
        await queue.edit("none", priority=1)
    with pytest.raises(NotFound):
        await queue.delete("none")


async def test_new_params_have_their_own_gates(gated: Queue, backend: Backend) -> None:
    held, waits = await of(gated, "one"), await of(gated, "one")
    assert (held.parked, waits.parked) == (False, True)
    after = await gated.edit(waits.task_id, params={"tenant": "two"})
    assert after.flow is not None and [key for key, _ in after.flow.gates] == [TWO]
    await backend.gates.admit(NOW, 10)
    assert sorted(await claimed(backend)) == sorted([held.task_id, waits.task_id])
    counts = {state.gate.key: (state.held, state.waiting) for state in await backend.gates.find([ONE, TWO])}
    assert counts == {ONE: (1, 0), TWO: (1, 0)}


async def test_a_task_that_has_a_slot_gives_it_up_for_another_gate(gated: Queue, backend: Backend) -> None:
    held, waits = await of(gated, "one"), await of(gated, "one")
    await gated.edit(held.task_id, params={"tenant": "two"})
    await backend.gates.admit(NOW, 10)
    assert sorted(await claimed(backend)) == sorted([held.task_id, waits.task_id])


async def test_a_task_that_waits_passes_no_gate_with_params_that_have_none(gated: Queue, backend: Backend) -> None:
    held, waits = await of(gated, "one"), await of(gated, "one")
    after = await gated.edit(waits.task_id, params={"tenant": None})
    assert not after.parked
    assert sorted(await claimed(backend)) == sorted([held.task_id, waits.task_id])


async def test_a_task_that_is_put_off_holds_no_slot(gated: Queue, backend: Backend) -> None:
    held, waits = await of(gated, "one"), await of(gated, "one")
    after = await gated.edit(held.task_id, delay=60)
    assert (after.run_at, after.due_at) == (PARKED, NOW + 60 * SECOND)
    await backend.gates.admit(NOW, 10)
    assert await claimed(backend) == [waits.task_id]


async def test_other_fields_leave_the_place_at_the_gates(gated: Queue, backend: Backend) -> None:
    held, waits = await of(gated, "one"), await of(gated, "one")
    for task in (held, waits):
        await gated.edit(task.task_id, priority=5, params={"tenant": "one", "more": 1})
        after = await read(backend, task)
        assert (after.run_at, after.due_at, after.gate) == (task.run_at, task.due_at, task.gate)
    (run,) = await backend.claim("w", NOW, 10)
    assert await backend.update([Change(run, settle(run, Completed(), NOW))]) == [True]
    await backend.gates.admit(NOW, 10)
    assert await claimed(backend) == [waits.task_id]


async def test_params_are_not_changed_where_the_gates_are_not_declared(
    gated: Queue, queue: Queue, backend: Backend
) -> None:
    task = await of(gated, "one")
    with pytest.raises(ValidationError, match="the limits of task"):
        await queue.edit(task.task_id, params={"tenant": "two"})
    assert await read(backend, task) == task
    await queue.edit(task.task_id, priority=2)
    assert (await read(backend, task)).flow == task.flow
    plain = await pushed(backend, params={"tenant": "one"})
    with pytest.raises(ValidationError, match="the limits of task"):
        await gated.edit(plain.task_id, params={"tenant": "two"})


async def test_a_task_of_a_group_keeps_its_group(gated: Queue, backend: Backend) -> None:
    task = gated.gated(new(params={"tenant": "one"}))
    assert task.flow is not None
    await backend.push([task.replace(flow=Flow(gates=task.flow.gates, source="a-group"))])
    after = await gated.edit(task.task_id, params={"tenant": "two"})
    assert after.flow is not None
    assert (after.flow.source, [key for key, _ in after.flow.gates]) == ("a-group", [TWO])


async def test_a_task_that_waits_for_others_is_edited_when_they_have_ended(queue: Queue, backend: Backend) -> None:
    first, second = new(), new(params={"n": 1})
    nodes = (Node("first", first, {}), Node("second", second, {"first": CANCEL}))
    assert await backend.groups.push(plan(Outline(group_id=new_id(), nodes=nodes, named=True), NOW))
    with pytest.raises(TaskConflict, match="waits for the tasks before it"):
        await queue.edit(second.task_id, params={"n": 2})
    (run,) = await backend.claim("w", NOW, 10)
    assert await backend.update([Change(run, settle(run, Completed(), NOW))]) == [True]
    before = await read(backend, second)
    after = await queue.edit(second.task_id, params={"n": 2}, priority=3)
    assert (after.flow, after.waits, after.params) == (before.flow, 0, {"n": 2})
    assert await claimed(backend, NOW + SECOND) == [second.task_id]


# ---- delete ---------------------------------------------------------------------------------------------------------


async def test_delete_takes_one_ended_task(queue: Queue, backend: Backend) -> None:
    for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED):
        gone, other = await ended(backend, status, priority=-1), await ended(backend, status, priority=-1)
        await queue.delete(gone.task_id)
        assert await backend.get([gone.task_id, other.task_id]) == [None, other]
        with pytest.raises(NotFound):
            await queue.delete(gone.task_id)


@pytest.mark.parametrize("make", [running, pushed])
async def test_delete_keeps_what_has_not_ended(queue: Queue, backend: Backend, make: Callable[..., Any]) -> None:
    task = await make(backend, unique_key="k")
    with pytest.raises(TaskConflict, match="only ended tasks are deleted"):
        await queue.delete(task.task_id)
    assert await read(backend, task) == task


async def test_delete_of_ended_tasks_only(backend: Backend) -> None:
    gone, kept = await ended(backend, priority=-1), await pushed(backend)
    assert await backend.delete([gone.task_id, kept.task_id, "missing"], ended=True) == 1
    assert await backend.get([gone.task_id, kept.task_id]) == [None, kept]
    assert await backend.delete([], ended=True) == 0
