"""Moments at which gates, groups and reruns meet: what a batch of changes does to those that it does not name."""

from __future__ import annotations

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.groups import CANCEL
from aiotaskq.core.outcome import Completed, Failed, Requeued, Rerun, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.rows import LEASE, NOW, ids, new, read

LATER = NOW + SECOND
HOUR = 3600 * SECOND


def gated(number: int, *keys: str, due: int = NOW, bounds: Bounds | None = None, **fields: object) -> Task:
    """A task parked at the first of these gates; the number is its push stamp."""
    flow = Flow(gates=tuple((key, bounds or Bounds(cap=5)) for key in keys))
    return parked(new(flow=flow, seq=NOW + number, **fields), due)


async def started(backend: Backend, now: int) -> list[Task]:
    """Admit the gates that are due, and claim whatever has passed."""
    for _ in range(5):
        await backend.gates.admit(now, 500)
    return await backend.claim("o", now, 500, lease_until=LEASE)


async def test_tasks_of_several_gates_that_are_due_at_once_all_pass(backend: Backend) -> None:
    due = NOW + 100 * SECOND
    tasks = [gated(1, "a1", "m"), gated(2, "a2", "z"), gated(3, "m"), gated(4, "z")]
    tasks = [task.replace(due_at=due) for task in tasks]
    await backend.push(tasks)
    assert sorted(ids(await started(backend, due))) == sorted(ids(tasks))


async def test_more_tasks_than_are_declared_pass_where_an_operator_allows_them(backend: Backend) -> None:
    await backend.gates.change("g", GateChange(bounds={"cap": 10}), NOW)
    tasks = [gated(number, "g", bounds=Bounds(cap=2)) for number in range(3)]
    await backend.push(tasks)
    claimed = await backend.claim("o", LATER, 9, lease_until=LEASE)
    assert ids(claimed) == ids(tasks)
    assert all(await backend.update([Change(task, settle(task, Completed(), LATER)) for task in claimed]))
    assert all(state.held == state.waiting == 0 for state in await backend.gates.find(["g"]))


async def test_a_rerun_that_is_delayed_passes_no_gate_before(backend: Backend) -> None:
    rate = Bounds(interval=SECOND, burst=1)
    for key, bounds in (("cap", Bounds(cap=1)), ("closed", Bounds(cap=1)), ("rate", rate)):
        await backend.push([gated(1, key, bounds=bounds, task_id=key)])
    ended = await started(backend, NOW)
    assert len(ended) == 3
    assert all(await backend.update([Change(task, settle(task, Completed(), NOW)) for task in ended]))
    await backend.gates.change("closed", GateChange(closed_until=NOW + HOUR // 2), NOW)
    others = [
        gated(number, key, bounds=rate if key == "rate" else Bounds(cap=1))
        for number, key in enumerate(("cap", "closed", "rate"), 2)
    ]
    for row in [await read(backend, task) for task in ended]:
        assert row.flow is not None
        ((key, bounds),) = row.flow.gates
        again = gated(SECOND, key, due=LATER + HOUR, bounds=bounds, task_id=key)
        assert await backend.update([Change(row, settle(row, Rerun(again), LATER))]) == [True]
    await backend.push(others)
    claimed = await started(backend, LATER + 2 * SECOND)
    assert sorted(ids(claimed)) == sorted([others[0].task_id, others[2].task_id])
    assert all(state.held == 1 for state in await backend.gates.find(["cap", "rate"]))


async def test_a_group_ends_beside_a_task_that_is_put_back_to_its_gate(backend: Backend) -> None:
    first = Outline(group_id="A", nodes=(Node("0", gated(1, "g")),))
    second = Outline(group_id="B", nodes=(Node("0", new(seq=NOW + 2)),), then=new(type="then", seq=NOW + 3))
    for outline in (first, second):
        await backend.groups.push(plan(outline, NOW))
    failing, member = sorted(await started(backend, NOW), key=lambda task: task.seq)
    await backend.update([Change(failing, settle(failing, Failed("no", retryable=False), NOW))])
    failed = await read(backend, failing)
    changes = [Change(failed, settle(failed, Requeued(), LATER)), Change(member, settle(member, Completed(), LATER))]
    assert await backend.update(changes) == [True, True]
    (group,) = await backend.groups.get(["B"])
    assert group is not None and group.ended_at == LATER
    (callback,) = [task for task in await backend.find(TaskFilter(), 10) if task.type == "then"]
    assert (callback.status, callback.run_at) == (Status.PENDING, LATER)


async def test_the_limits_of_tasks_that_wait_for_others_hold(backend: Backend) -> None:
    for cap in (2, 1):  # the next deploy lowers it
        for number in range(4):
            second = new(type="second", flow=Flow(gates=(("g", Bounds(cap=cap)),)))
            nodes = (Node("a", new(type="first")), Node("b", second, {"a": CANCEL}))
            await backend.groups.push(plan(Outline(group_id=f"{cap} {number}", nodes=nodes, named=True), NOW))
        firsts = await started(backend, NOW)
        assert [task.type for task in firsts] == ["first"] * 4
        assert all(await backend.update([Change(task, settle(task, Completed(), NOW)) for task in firsts]))
        left = 4
        while seconds := await started(backend, NOW):
            assert len(seconds) <= cap
            assert all(await backend.update([Change(task, settle(task, Completed(), NOW)) for task in seconds]))
            left -= len(seconds)
        assert left == 0


async def test_a_limit_whose_idle_gate_was_dropped_holds_for_tasks_that_come_back(backend: Backend) -> None:
    await backend.push([gated(number, "g", bounds=Bounds(cap=1), max_retries=0) for number in range(3)])
    failed = []
    while tasks := await started(backend, NOW):
        assert len(tasks) == 1
        failed += tasks
        await backend.update([Change(tasks[0], settle(tasks[0], Failed("no", retryable=False), NOW))])
    await backend.gates.mend(NOW + HOUR)
    rows = [await read(backend, task) for task in failed]
    assert all(await backend.update([Change(row, settle(row, Requeued(), NOW + HOUR)) for row in rows]))
    assert len(await started(backend, NOW + HOUR)) == 1
