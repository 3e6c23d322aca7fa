"""What groups use up, and their budgets, on each store: sums that repetitions leave alone, gates that close in time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import Limit, TaskQ, chain, current_task, group
from aiotaskq.app.handle import TaskCall
from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.sql.transaction import SqlTransaction
from aiotaskq.core.gate import Bounds, Flow, Gate
from aiotaskq.core.groups import GroupState
from aiotaskq.core.ids import new_id
from aiotaskq.core.notes import NewNote, NewNotes
from aiotaskq.core.outcome import Backoff, Completed, Failed, LeaseExpired, Outcome, Released, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.plan import Node, Outline, in_group, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.usage import USED_UP_UNTIL
from aiotaskq.errors import QueueFull, ResultTimeout, ValidationError
from aiotaskq.testing import virtual
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new

LATER = NOW + SECOND


def outline(*whats: Task | Outline, **fields: Any) -> Outline:
    nodes = tuple(Node(str(number), what) for number, what in enumerate(whats))
    return Outline(**{"group_id": new_id(), "nodes": nodes, **fields})


async def pushed(backend: Backend, made: Outline) -> str:
    assert await backend.groups.push(plan(made, NOW))
    return made.group_id


async def claimed(backend: Backend, limit: int = 100, now: int = LATER) -> list[Task]:
    await backend.gates.admit(now, 100)
    return await backend.claim("o", now, limit, lease_until=LEASE)


async def spend(backend: Backend, task: Task, **usage: float) -> None:
    assert await backend.notes.add([NewNotes(task.task_id, task.fence, (), usage)], last=True) == [True]


async def state(backend: Backend, group_id: str) -> GroupState:
    (found,) = await backend.groups.get([group_id])
    assert found is not None
    return found


async def row(backend: Backend, task: Task) -> Task:
    (found,) = await backend.get([task.task_id])
    assert found is not None
    return found


def limited(key: str, cap: int | None = None) -> Task:
    """A task that passes a limit."""
    task = new()
    return parked(task.replace(flow=Flow(gates=((key, Bounds(cap=cap)),))), task.run_at)


# ---- sums ------------------------------------------------------------------------------------------------------------


async def test_a_group_has_the_sums_of_its_members_and_of_the_groups_in_it(backend: Backend) -> None:
    inner = outline(new(), new())
    outer = await pushed(backend, outline(new(), inner))
    alone = await pushed(backend, outline(new()))
    assert (await state(backend, outer)).usage == {}
    tasks: dict[str, list[Task]] = {}
    for task in await claimed(backend):
        assert task.flow is not None
        assert task.flow.group is not None
        tasks.setdefault(task.flow.group, []).append(task)
    one, two = tasks[inner.group_id]
    await spend(backend, one, tokens=10, cost=0.1)
    await spend(backend, one, tokens=10, cost=0.1)  # repeated, as after an answer that was lost
    await spend(backend, two, tokens=5, cost=0.2)
    await spend(backend, tasks[outer][0], tokens=1)
    both = [NewNotes(task.task_id, task.fence, (), {"tokens": 30, "cost": 0.3}) for task in (one, two)]
    assert await backend.notes.add(both) == [True, True]
    assert (await state(backend, inner.group_id)).usage == {"tokens": 60, "cost": 0.6}
    assert (await state(backend, outer)).usage == {"tokens": 61, "cost": 0.6}
    assert (await state(backend, alone)).usage == {}
    (found,) = [each for each in await backend.groups.find(10) if each.group_id == outer]
    assert found.usage == {"tokens": 61, "cost": 0.6}


async def test_ints_stay_ints_in_the_sums_and_in_the_budget(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new(), budget={"tokens": 5, "cost": 1.0}))
    (task,) = await claimed(backend)
    await spend(backend, task, tokens=3, cost=2.0)
    group, (listed,) = await state(backend, group_id), await backend.groups.find(10)
    for sums in (group.usage, listed.usage, group.budget, listed.budget, (await row(backend, task)).usage):
        assert sums is not None
        assert {name: type(amount) for name, amount in sums.items()} == {"tokens": int, "cost": float}


async def test_the_sums_of_a_group_outlive_its_members_and_go_with_it(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new(), budget={"tokens": 5}))
    (task,) = await claimed(backend)
    await spend(backend, task, tokens=7)
    after = settle(task, Completed(None), LATER)
    assert await backend.update([Change(task, after)]) == [True]
    assert await backend.delete([task.task_id]) == 1
    assert (await state(backend, group_id)).usage == {"tokens": 7}
    assert await backend.groups.purge(LATER + 1, 10) == 1
    assert await backend.groups.get([group_id]) == [None]
    assert await backend.gates.find([f"budget:{group_id}"]) == []
    assert await backend.groups.push(plan(outline(new(), group_id=group_id), NOW))
    assert ((await state(backend, group_id)).usage, (await state(backend, group_id)).budget) == ({}, {})


async def test_two_writers_lose_nothing(shared_store: Store) -> None:
    backends = [shared_store.backend, await shared_store.another()]
    made = outline(*(new() for _ in range(6)), budget={"tokens": 30})
    group_id = await pushed(backends[0], made)
    tasks = await claimed(backends[0], 4)

    async def work(backend: Backend, mine: list[Task]) -> None:
        for number in range(1, 11):
            for task in mine:
                await spend(backend, task, tokens=number)

    async with asyncio.timeout(within(60)):
        await asyncio.gather(*(work(backend, tasks[n::2]) for n, backend in enumerate(backends)))
    assert (await state(backends[0], group_id)).usage == {"tokens": 40}
    assert await claimed(backends[0]) == []


# ---- budgets ---------------------------------------------------------------------------------------------------------


async def test_what_has_not_started_waits_when_the_budget_is_used_up(backend: Backend) -> None:
    made = outline(*(new() for _ in range(5)), budget={"tokens": 100, "cost": 5})
    group_id = await pushed(backend, made)
    other = new(priority=5)
    await backend.push([other])
    assert (await state(backend, group_id)).budget == {"tokens": 100, "cost": 5}
    first, second = await claimed(backend, 2)
    await spend(backend, first, tokens=99, cost=4.99, calls=1_000)
    (third,) = await claimed(backend, 1)
    await spend(backend, second, tokens=1)
    assert [task.task_id for task in await claimed(backend)] == [other.task_id]
    left = [node.what.task_id for node in made.nodes if node.what.task_id not in {first.task_id, second.task_id}]  # type: ignore[union-attr]
    found = [each for each in await backend.get(left) if each is not None and each.status is Status.PENDING]
    assert [(each.parked, each.gate, each.due_us) for each in found] == [(True, f"budget:{group_id}", NOW)] * 2
    await spend(backend, third, tokens=70)  # what runs goes on
    assert (await state(backend, group_id)).usage == {"tokens": 170, "cost": 4.99, "calls": 1_000}
    assert (await state(backend, group_id)).used_up

    assert (await backend.groups.set_budget(group_id, {"tokens": 170}, LATER)).used_up  # type: ignore[union-attr]
    assert await claimed(backend) == []
    raised = await backend.groups.set_budget(group_id, {"tokens": 171}, LATER)
    assert raised is not None
    assert (raised.budget, raised.used_up) == ({"tokens": 171}, False)
    assert raised == await state(backend, group_id)
    assert len(await claimed(backend, 1)) == 1
    await backend.groups.set_budget(group_id, {"tokens": 1}, LATER)  # lowered below what is used up
    assert await claimed(backend) == []
    await backend.groups.set_budget(group_id, {"cost": 10}, LATER)
    assert len(await claimed(backend)) == 1


async def test_of_a_budget_that_is_used_up_from_the_beginning_nothing_starts(backend: Backend) -> None:
    key = new_id()
    inner = outline(limited(key, 5), budget={"tokens": 0})
    outer = outline(inner, new(), budget={"tokens": 10, "cost": 1})
    await pushed(backend, outer)
    (other,) = await claimed(backend)
    assert (other.flow.group if other.flow else None) == outer.group_id
    (gate,) = await backend.gates.find([f"budget:{inner.group_id}"])
    assert (gate.held, gate.waiting, gate.gate.closed_until) == (0, 1, USED_UP_UNTIL)
    assert not (await state(backend, outer.group_id)).used_up
    await backend.groups.set_budget(inner.group_id, {"tokens": 1}, LATER)
    assert len(await claimed(backend)) == 1


async def test_a_push_that_is_refused_closes_no_gate(backend: Backend) -> None:
    key, task = new_id(), new()
    flow = Flow(gates=((key, Bounds(cap=0, max_waiting=0)),))
    inner = outline(new(), budget={"tokens": 0})
    made = outline(inner, parked(task.replace(flow=flow), NOW))
    with pytest.raises(QueueFull):
        await backend.groups.push(plan(made, NOW))
    found = await backend.gates.find([f"budget:{inner.group_id}"])
    assert [each.gate.closed_until for each in found] in ([], [0])


@pytest.mark.stores("postgresql", "mysql")  # SQLite has one writer
async def test_pushes_in_open_transactions_do_not_wait_for_each_other(sql_store: Store) -> None:
    backend = sql_store.backend
    plans = [plan(outline(new(), budget={"tokens": 0}), NOW) for _ in range(2)]
    engine = create_async_engine(sql_store.place)
    async with AsyncSession(engine) as one, AsyncSession(engine) as two:
        async with asyncio.timeout(within(5)):
            for session, made in zip((one, two), plans, strict=True):
                assert await backend.groups.push(made, session, lambda: None)
        await one.commit()
        await two.commit()
    await engine.dispose()
    assert await claimed(backend) == []
    for made in plans:
        await backend.groups.set_budget(made.groups[0].group_id, {"tokens": 1}, LATER)
    assert len(await claimed(backend)) == 2


async def test_the_sums_and_the_gate_are_one_transaction(sql_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = sql_store.backend
    made = outline(*(new() for _ in range(3)), budget={"tokens": 10})
    group_id = await pushed(backend, made)
    (first,) = await claimed(backend, 1)
    usage = NewNotes(first.task_id, first.fence, (NewNote(NOW, "log", "a"),), {"tokens": 10})

    write_gates = SqlTransaction.write_gates

    def dies(tx: SqlTransaction, gates: Sequence[Gate]) -> None:
        write_gates(tx, gates)
        raise OSError("the process dies here")

    with monkeypatch.context() as patched:
        patched.setattr(SqlTransaction, "write_gates", dies)
        with pytest.raises(OSError, match="dies here"):
            await backend.notes.add([usage], last=True)
    assert (await row(backend, first)).usage is None
    assert await backend.notes.read(first.task_id, 0, 9) == []
    assert (await state(backend, group_id)).usage == {}
    (gate,) = await backend.gates.find([f"budget:{group_id}"])
    assert (gate.gate.closed_until, gate.held, gate.waiting) == (0, 3, 0)
    assert await backend.notes.add([usage], last=True) == [True]
    (gate,) = await backend.gates.find([f"budget:{group_id}"])
    assert (gate.held, gate.waiting) == (1, 2)


async def test_only_a_group_that_was_pushed_with_a_budget_gets_another(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new()))
    assert await backend.groups.set_budget(group_id, {"tokens": 1}, LATER) is None
    assert await backend.groups.set_budget("missing", {"tokens": 1}, LATER) is None
    assert (await state(backend, group_id)).budget == {}


async def test_what_waits_at_a_limit_gives_way_and_takes_no_slot(backend: Backend) -> None:
    key = new_id()
    made = outline(*(limited(key, 1) for _ in range(3)), budget={"tokens": 10})
    group_id = await pushed(backend, made)
    outside = limited(key, 1)
    await backend.push([outside])
    (first,) = await claimed(backend)
    await spend(backend, first, tokens=10)
    after = settle(first, Completed(None), LATER)
    assert await backend.update([Change(first, after)]) == [True]
    # The slot goes to the task of no group, though two members were before it.
    assert [task.task_id for task in await claimed(backend)] == [outside.task_id]
    (gate,) = await backend.gates.find([f"budget:{group_id}"])
    assert (gate.held, gate.waiting) == (0, 2)
    (gate,) = await backend.gates.find([key])
    assert (gate.held, gate.waiting) == (1, 0)
    await backend.groups.set_budget(group_id, {"tokens": 11}, LATER)
    (gate,) = await backend.gates.find([key])
    assert (gate.held, gate.waiting) == (1, 2)


async def test_slots_that_ready_members_held_go_to_others(backend: Backend) -> None:
    key = new_id()
    made = outline(*(limited(key, 2) for _ in range(2)), budget={"tokens": 10})
    await pushed(backend, made)
    outside = limited(key, 2)
    await backend.push([outside])
    (first,) = await claimed(backend, 1)
    await spend(backend, first, tokens=10)
    assert [task.task_id for task in await claimed(backend)] == [outside.task_id]


async def test_the_budget_of_a_group_around_a_group_counts_for_both(backend: Backend) -> None:
    inner = outline(new(), new(), budget={"tokens": 10})
    outer = outline(inner, new(), budget={"tokens": 20})
    await pushed(backend, outer)
    await claimed(backend, 1)
    found = [task for task in await backend.get([node.what.task_id for node in inner.nodes]) if task]  # type: ignore[union-attr]
    running = [task for task in found if task.status is Status.RUNNING]
    if not running:
        running = [task for task in await claimed(backend, 1) if task.flow and task.flow.group == inner.group_id]
    await spend(backend, running[0], tokens=10)
    waits = [task for task in await backend.get([node.what.task_id for node in inner.nodes]) if task and task.parked]  # type: ignore[union-attr]
    assert [task.gate for task in waits] in ([f"budget:{inner.group_id}"], [f"budget:{outer.group_id}"])
    await backend.gates.admit(LATER, 100)
    waits = [await row(backend, task) for task in waits]
    assert [task.gate for task in waits] == [f"budget:{inner.group_id}"]
    await spend(backend, running[0], tokens=25)
    await backend.groups.set_budget(inner.group_id, {"tokens": 100}, LATER)
    assert await claimed(backend) == []  # the outer one is used up
    waits = [await row(backend, task) for task in waits]
    await backend.groups.set_budget(outer.group_id, {"tokens": 100}, LATER)
    assert waits[0].task_id in [task.task_id for task in await claimed(backend)]


async def test_retries_and_what_is_given_back_wait_too(backend: Backend) -> None:
    group_id = await pushed(backend, outline(*(new() for _ in range(4)), budget={"tokens": 10}))
    tasks = await claimed(backend)
    await spend(backend, tasks[0], tokens=10)
    broken = Failed("Boom: no", backoff=Backoff(base=1, factor=1, limit=1, jitter=False))
    outcomes: list[Outcome] = [broken, Released("never started"), LeaseExpired(), Completed(None)]
    for task, outcome in zip(tasks, outcomes, strict=True):
        change = Change(task, settle(task, outcome, LATER), lease_over=isinstance(outcome, LeaseExpired))
        assert await backend.update([change]) == [True]
    assert await claimed(backend, now=LATER + 10 * SECOND) == []
    (gate,) = await backend.gates.find([f"budget:{group_id}"])
    assert (gate.held, gate.waiting) == (0, 3)
    await backend.groups.set_budget(group_id, {"tokens": 11}, LATER)
    assert len(await claimed(backend, now=LATER + 10 * SECOND)) == 3


async def test_members_that_are_added_and_children_wait_too(backend: Backend) -> None:
    parent, child = Node("a", new()), Node("b", new(), {"a": "cancel"})
    made = Outline(group_id=new_id(), nodes=(parent, child), budget={"tokens": 10})
    await pushed(backend, made)
    (first,) = await claimed(backend)
    await spend(backend, first, tokens=10)
    added = in_group(new(), made.group_id, new_id(), NOW, [made.group_id])
    assert await backend.groups.add(made.group_id, [added], LATER) == 1
    after = settle(first, Completed(None), LATER)
    assert await backend.update([Change(first, after)]) == [True]
    assert await claimed(backend) == []
    await backend.groups.set_budget(made.group_id, {"tokens": 11}, LATER)
    assert len(await claimed(backend)) == 2


async def test_mending_keeps_the_gate_closed(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new(), new(), budget={"tokens": 10}))
    (first,) = await claimed(backend, 1)
    await spend(backend, first, tokens=10)
    after = settle(first, Completed(None), LATER)
    assert await backend.update([Change(first, after)]) == [True]
    await backend.gates.mend(LATER)
    assert await claimed(backend) == []
    await backend.groups.set_budget(group_id, {"tokens": 11}, LATER)
    assert len(await claimed(backend)) == 1


async def test_a_group_that_is_cancelled_ends_though_its_budget_is_used_up(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new(), new(), budget={"tokens": 1}))
    (first,) = await claimed(backend, 1)
    await spend(backend, first, tokens=1)
    after = settle(first, Completed(None), LATER)
    assert await backend.update([Change(first, after)]) == [True]
    assert await backend.groups.request_cancel(group_id)
    members = await backend.groups.members(group_id, 10)
    found = [task for task in await backend.get([each.member_id for each in members]) if task and not task.final]
    changes = [Change(task, replace(task, status=Status.CANCELLED, ended_at=LATER)) for task in found]
    assert await backend.update(changes) == [True]
    assert (await state(backend, group_id)).ended_at == LATER


async def test_only_a_larger_budget_opens_its_gate(store: Store) -> None:
    async with TaskQ(store.url) as tq:
        calls = [TaskCall("a", {}, {}), TaskCall("a", {}, {})]
        handle: Any = await tq.group(calls, budget={"tokens": 10})
        # A second later: a better reading of the store's clock may have set ours back since the push.
        (first,) = await claimed(tq.queue.backend, 1, tq.queue.clock.now() + SECOND)
        await spend(tq.queue.backend, first, tokens=10)
        key = f"budget:{handle.group_id}"
        for change in (
            tq.limits.pause(key, 0),
            tq.limits.pause_for(key, 1),
            tq.limits.set(key, 5),
            tq.limits.reset(key),
            tq.limits.charge(key, 1),
            tq.limits.resume(key),
        ):
            with pytest.raises(ValidationError, match=f"only the budget of group {handle.group_id}"):
                await change
        assert (await tq.limits.get(key)).state == "used_up"
        assert not await handle.set_budget({"tokens": 11})
        with pytest.raises(ValidationError, match="only the budget"):
            await tq.limits.resume(key)
        assert (await tq.limits.set("budget:other", 5)).cap == 5  # a gate of a limit whose parameter is named so
        assert (await tq.limits.pause("budget:other", 60)).state == "paused"


async def test_a_member_that_is_edited_keeps_its_budget(store: Store) -> None:
    async with TaskQ(store.url) as tq:

        @tq.task(limit=Limit(5, key="model"))
        async def ask(number: int, model: str = "small") -> None: ...

        handle: Any = await tq.group([ask.call(number) for number in range(2)], budget={"tokens": 10})
        (first,) = await claimed(tq.queue.backend, 1, tq.queue.clock.now() + SECOND)
        await spend(tq.queue.backend, first, tokens=10)
        (waits,) = [task for task in await handle.tasks() if task.task_id != first.task_id]
        await tq.queue.edit(waits.task_id, params={"number": 7, "model": "large"}, priority=-5)
        assert await claimed(tq.queue.backend, now=tq.queue.clock.now() + SECOND) == []
        await handle.set_budget({"tokens": 11})
        (task,) = await claimed(tq.queue.backend, now=tq.queue.clock.now() + SECOND)
        assert (task.task_id, task.params) == (waits.task_id, {"number": 7, "model": "large"})
        assert [gate for gate, _ in task.flow.gates] == [f"budget:{handle.group_id}", "model:large"]  # type: ignore[union-attr]


# ---- with workers, in virtual time -----------------------------------------------------------------------------------


async def test_a_group_that_waits_for_its_budget_and_goes_on(store: Store) -> None:
    async with virtual(url=store.url, schedules=None) as kit:

        @kit.tq.task(limit=Limit(1, key="model"))
        async def ask(number: int, model: str = "m") -> int:
            current_task().usage(tokens=60)
            await kit.clock.sleep(1)
            current_task().usage(tokens=40, cost=0.01)
            if number == 0 and current_task().task.retry_count == 0:
                raise ConnectionError("not yet")
            return number

        calls = [ask.call(number=number) for number in range(4)]
        handle: Any = await kit.tq.group([chain(*calls[:2]), group(calls[2:])], budget={"tokens": 250})
        await kit.advance(minutes=10)
        assert await handle.usage() == {"tokens": 300, "cost": 0.03}
        assert (await handle.progress()).remaining == 1
        with pytest.raises(ResultTimeout, match="1 of 2 members have not ended after 0 s, and its budget is used up"):
            await handle.result(timeout=0)
        assert not await handle.set_budget({"tokens": 1_000})
        await kit.advance(minutes=10)
        assert await handle.usage() == {"tokens": 500, "cost": 0.05}  # with the attempt that failed
        assert await handle.result(timeout=1) == [[0, 1], [2, 3]]
