"""Children that are brought back without their parents, on each store: none starts before these have completed."""

from __future__ import annotations

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.groups import CANCEL, FAIL, RUN
from aiotaskq.core.ids import new_id
from aiotaskq.core.outcome import Cancelled, Outcome, Requeued, settle
from aiotaskq.core.plan import Node, Outline
from aiotaskq.core.status import Status
from aiotaskq.core.task import TaskFilter
from tests.contract.test_groups import BROKEN, LATER, claimed, counts, graph, pushed, rows, settled, state
from tests.support.gated import gated
from tests.support.rows import new


async def brought_back(backend: Backend, made: Outline, name: str) -> None:
    await settled(backend, (await rows(backend, made))[name], Requeued())


@pytest.mark.parametrize("rule", [CANCEL, FAIL])
@pytest.mark.parametrize("end", [BROKEN, Cancelled()])
async def test_a_child_that_is_brought_back_alone_waits_until_its_parent_completes(
    backend: Backend, rule: str, end: Outcome
) -> None:
    made = graph({"a": {}, "b": {"a": rule}, "c": {"b": CANCEL}})
    group_id = await pushed(backend, made)
    (a,) = await claimed(backend)
    await settled(backend, a, end)
    for name in "cb":
        await brought_back(backend, made, name)
        assert await claimed(backend) == []
    assert [(await rows(backend, made))[name].waits for name in "bc"] == [1, 1]
    await brought_back(backend, made, "a")
    assert [(await rows(backend, made))[name].waits for name in "bc"] == [1, 1]
    for name in "abc":
        (task,) = await claimed(backend)
        assert task.type == name
        await settled(backend, task)
    assert await counts(backend, group_id) == (3, 0, 0, 0)


async def test_a_child_that_is_brought_back_alone_and_may_run_without_its_parent_runs(backend: Backend) -> None:
    made = graph({"a": {}, "b": {}, "c": {"a": RUN, "b": CANCEL}})
    await pushed(backend, made)
    a, b = await claimed(backend)
    await settled(backend, a, BROKEN)
    await settled(backend, b)
    (c,) = await claimed(backend)
    await settled(backend, c, BROKEN)
    await brought_back(backend, made, "c")
    assert [task.type for task in await claimed(backend)] == ["c"]


@pytest.mark.parametrize(("rule", "status"), [(CANCEL, Status.CANCELLED), (FAIL, Status.FAILED)])
@pytest.mark.parametrize("end", ["fails again", "is deleted", "is purged"])
async def test_a_child_that_is_brought_back_ends_if_its_parent_does_not_complete(
    backend: Backend, rule: str, status: Status, end: str
) -> None:
    made = graph({"a": {}, "b": {"a": rule}, "c": {"b": RUN}, "d": {"a": RUN}})
    group_id = await pushed(backend, made)
    (a,) = await claimed(backend)
    a = await settled(backend, a, BROKEN)
    await brought_back(backend, made, "b")
    if end == "fails again":
        await settled(backend, a, Requeued())
        again = next(task for task in await claimed(backend) if task.type == "a")
        await settled(backend, again, BROKEN)
    elif end == "is deleted":
        assert await backend.delete([a.task_id], ended=True) == 1
    else:
        assert await backend.purge(TaskFilter(status=(Status.FAILED,)), 10) == 0, "its group goes on"
        return
    b = (await rows(backend, made))["b"]
    assert (b.status, b.waits > 0) == (status, True)
    assert f"task {a.task_id} (a), for which it waits" in (b.error_message or "")
    assert (await state(backend, group_id)).remaining == 2
    assert await backend.groups.mend(LATER) == 0


async def test_a_deletion_of_what_completed_leaves_what_waits_for_others(backend: Backend) -> None:
    made = graph({"a": {}, "b": {}, "c": {"a": CANCEL, "b": CANCEL}})
    await pushed(backend, made)
    a, b = await claimed(backend)
    await settled(backend, a)
    await settled(backend, b, BROKEN)
    await brought_back(backend, made, "c")
    assert await backend.delete([a.task_id]) == 1
    assert await backend.groups.mend(LATER) == 0
    c = (await rows(backend, made))["c"]
    assert (c.status, c.waits) == (Status.PENDING, 1)
    await brought_back(backend, made, "b")
    (b,) = await claimed(backend)
    await settled(backend, b)
    assert [task.type for task in await claimed(backend)] == ["c"]


async def test_a_deletion_of_what_failed_leaves_what_may_run_without_it(backend: Backend) -> None:
    made = graph({"a": {}, "b": {}, "c": {"a": RUN, "b": CANCEL}})
    await pushed(backend, made)
    a, b = await claimed(backend)
    await settled(backend, a, BROKEN)
    assert await backend.delete([a.task_id], ended=True) == 1
    assert (await rows(backend, made))["c"].waits == 1
    assert await claimed(backend) == []
    await settled(backend, b)
    assert [task.type for task in await claimed(backend)] == ["c"]


async def test_a_child_with_gates_that_is_brought_back_alone_passes_them_after_its_parent(backend: Backend) -> None:
    gates = Flow(gates=(("g", Bounds(cap=1)),))
    nodes = (Node("a", new(type="a")), Node("b", new(type="b", flow=gates), {"a": CANCEL}))
    made = Outline(group_id=new_id(), nodes=nodes, named=True)
    await pushed(backend, made)
    await settled(backend, *await claimed(backend), BROKEN)
    for name in "ba":
        await brought_back(backend, made, name)
    assert ((await rows(backend, made))["b"].due_us, (await rows(backend, made))["b"].gate) == (LATER, None)
    await settled(backend, *await claimed(backend))
    await backend.gates.admit(LATER, 10)
    (b,) = await claimed(backend)
    assert (b.type, b.gate) == ("b", "g")


async def test_a_child_does_not_wait_for_other_work_under_the_id_of_its_parent(backend: Backend) -> None:
    made = graph({"a": {}, "b": {"a": CANCEL}})
    await pushed(backend, made)
    a = await settled(backend, *await claimed(backend), BROKEN)
    assert await backend.delete([a.task_id], ended=True) == 1
    await backend.push([gated(("g", Bounds(cap=0)), task_id=a.task_id)])
    await brought_back(backend, made, "b")
    assert [task.type for task in await claimed(backend)] == ["b"]


async def test_what_is_brought_back_together_has_parents_first(backend: Backend) -> None:
    made = graph({"a": {}, "b": {"a": RUN}, "c": {"b": RUN}})
    await pushed(backend, made)
    for _ in made.nodes:
        await settled(backend, *await claimed(backend), BROKEN)
    ended = await rows(backend, made)
    changes = [Change(ended[name], settle(ended[name], Requeued(), LATER)) for name in "cba"]
    assert await backend.update(changes) == [True, True, True]
    assert [(await rows(backend, made))[name].waits for name in "abc"] == [0, 1, 1]
