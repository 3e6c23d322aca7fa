"""Tasks that are pushed after others which are there already, on each store: none starts before these have ended."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import TaskQ, injected
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change, Room
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.core.gate import Flow
from aiotaskq.core.groups import CANCEL, FAIL, RULES, RUN, callback_id, waiting
from aiotaskq.core.outcome import Cancelled, Completed, Failed, Outcome, Requeued, Rerun, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, TaskFilter
from aiotaskq.errors import NotFound, QueueFull
from aiotaskq.runtime.copy import copy
from aiotaskq.types import TaskHandle
from tests.contract.test_groups import BROKEN, LATER, claimed, outline, pushed, settled
from tests.support.backends import Store
from tests.support.gated import gated
from tests.support.machine import within
from tests.support.rows import NOW, new, read
from tests.support.waiting import eventually


def child(parents: dict[str, str], **fields: object) -> Task:
    """A task that waits for these, each with its rule, as a call makes it."""
    task = new(type="child", **fields)
    flow = replace(task.flow or Flow(), parents=tuple((key, "") for key in parents), rules=tuple(parents.values()))
    return waiting(replace(task, flow=flow), len(parents), task.due_us)


async def follow(backend: Backend) -> dict[str, str]:
    return await backend.after.follow_all(LATER)


async def put(backend: Backend, parents: dict[str, str], **fields: object) -> Task:
    task = child(parents, **fields)
    assert await backend.after.push([task], NOW) == [task]
    return await read(backend, task)


async def running(backend: Backend, count: int = 1) -> list[Task]:
    await backend.push([new(type=f"parent{n}") for n in range(count)])
    return await claimed(backend)


@pytest.mark.promise("groups, chains and workflows")
async def test_a_child_of_a_running_parent_starts_when_that_has_completed(backend: Backend) -> None:
    (parent,) = await running(backend)
    task = await put(backend, {parent.task_id: CANCEL})
    assert (task.waits, task.parked, task.due_us) == (1, True, NOW)
    assert await follow(backend) == {parent.task_id: parent.task_id}
    assert await claimed(backend) == []
    assert await backend.after.children(parent.task_id) == [task.task_id]
    await settled(backend, parent)  # of the row as it was claimed
    assert await backend.after.follow([parent.task_id], LATER) == {}
    assert await backend.after.children(parent.task_id) == []
    (started,) = await claimed(backend)
    assert (started.task_id, started.waits) == (task.task_id, 0)
    assert started.flow is not None and started.flow.parents == ((parent.task_id, "parent0"),)
    assert await follow(backend) == {}


async def test_the_hint_of_an_end_is_all_that_a_settle_costs(backend: Backend) -> None:
    parents = await running(backend, 3)
    await put(backend, {parents[0].task_id: CANCEL})
    for parent in parents[1:]:
        await settled(backend, parent)
        assert await backend.after.follow([parent.task_id], LATER) == {}
    assert await follow(backend) == {parents[0].task_id: parents[0].task_id}


async def test_a_parent_that_is_pending_may_run_as_often_as_it_has_to(backend: Backend) -> None:
    await backend.push([parent := new(max_retries=1)])
    await put(backend, {parent.task_id: CANCEL})
    (run,) = await claimed(backend)
    retried = settle(run, Failed("once"), NOW)
    assert await backend.update([Change(run, retried)]) == [True]
    await follow(backend)
    assert [task.type for task in await claimed(backend, retried.run_at)] == ["t"]
    assert await follow(backend) == {parent.task_id: parent.task_id}


@pytest.mark.parametrize("order", ["ended before", "ends after"])
@pytest.mark.parametrize("end", [BROKEN, Cancelled()])
@pytest.mark.parametrize(("rule", "status"), [(CANCEL, Status.CANCELLED), (FAIL, Status.FAILED), (RUN, Status.RUNNING)])
async def test_a_parent_that_does_not_complete_acts_by_the_rule(
    backend: Backend, order: str, end: Failed | Cancelled, rule: str, status: Status
) -> None:
    parent, other = await running(backend, 2)
    if order == "ended before":
        await settled(backend, parent, end)
        task = await put(backend, {parent.task_id: rule})
    else:
        task = await put(backend, {parent.task_id: rule})
        await settled(backend, parent, end)
        await follow(backend)
    await claimed(backend)
    found = await read(backend, task)
    assert found.status is status
    if found.final:
        assert f"not started: task {parent.task_id} (parent0), for which it waits" in (found.error_message or "")
    assert await follow(backend) == {}
    assert other.status is Status.RUNNING


async def test_a_parent_that_has_completed_holds_nothing_up(backend: Backend) -> None:
    (parent,) = await running(backend)
    await settled(backend, parent)
    task = await put(backend, dict.fromkeys([parent.task_id], CANCEL), run_at=LATER)
    assert (task.waits, task.run_at, task.parked) == (0, LATER, False)
    assert await follow(backend) == {}


async def test_a_child_of_several_parents_waits_for_the_last_end_and_ends_at_the_first_that_fails(
    backend: Backend,
) -> None:
    one, two, three = await running(backend, 3)
    last = await put(backend, {one.task_id: CANCEL, two.task_id: RUN, three.task_id: CANCEL})
    ends = await put(backend, {two.task_id: FAIL, three.task_id: RUN})
    await settled(backend, one)
    await follow(backend)
    assert (await read(backend, last)).waits == 2
    await settled(backend, two, BROKEN)
    assert await follow(backend) == {three.task_id: three.task_id}
    assert ((await read(backend, last)).waits, (await read(backend, ends)).status) == (1, Status.FAILED)
    await settled(backend, three)
    assert await follow(backend) == {}
    assert [task.task_id for task in await claimed(backend)] == [last.task_id]


async def test_a_child_of_a_child_ends_with_it(backend: Backend) -> None:
    (parent,) = await running(backend)
    first = await put(backend, {parent.task_id: CANCEL})
    second = await put(backend, {first.task_id: FAIL})
    third = await put(backend, {second.task_id: RUN})
    await settled(backend, parent, BROKEN)
    assert await follow(backend) == {}
    found = [(await read(backend, task)).status for task in (first, second, third)]
    assert found == [Status.CANCELLED, Status.FAILED, Status.PENDING]
    assert [task.task_id for task in await claimed(backend)] == [third.task_id]


async def test_a_parent_that_does_not_exist_is_refused_and_nothing_is_written(backend: Backend) -> None:
    (parent,) = await running(backend)
    with pytest.raises(NotFound, match="after: there is no task and no group 'gone'"):
        await backend.after.push([new(), child({parent.task_id: CANCEL, "gone": RUN})], NOW)
    assert await backend.find(TaskFilter(status=(Status.PENDING,)), 9) == []
    assert await follow(backend) == {}


@pytest.mark.parametrize("rule", RULES)
async def test_a_parent_that_is_deleted_before_its_end_counts_as_cancelled(backend: Backend, rule: str) -> None:
    (parent,) = await running(backend)
    task = await put(backend, {parent.task_id: rule})
    assert await backend.delete([parent.task_id]) == 1
    assert await follow(backend) == {}
    await claimed(backend)
    found = (await read(backend, task)).status
    assert found == {CANCEL: Status.CANCELLED, FAIL: Status.FAILED, RUN: Status.RUNNING}[rule]


async def test_a_parent_that_is_deleted_after_its_end_has_counted(backend: Backend) -> None:
    one, two = await running(backend, 2)
    task = await put(backend, {one.task_id: CANCEL, two.task_id: CANCEL})
    await settled(backend, one)
    await follow(backend)
    assert await backend.purge(TaskFilter(status=(Status.COMPLETED,)), 9) == 1
    await follow(backend)
    assert await backend.groups.mend(LATER) == 0
    assert (await read(backend, task)).waits == 1
    await settled(backend, two)
    await follow(backend)
    assert [started.task_id for started in await claimed(backend)] == [task.task_id]


async def test_a_purge_leaves_a_parent_whose_end_its_child_does_not_know(backend: Backend) -> None:
    parent, other = await running(backend, 2)
    task = await put(backend, {parent.task_id: CANCEL})
    for each in (parent, other):
        await settled(backend, each)
    completed = TaskFilter(status=(Status.COMPLETED,))
    assert await backend.purge(completed, 9) == 1, "the one that none waits for"
    await follow(backend)
    assert await backend.purge(completed, 9) == 1
    assert [started.task_id for started in await claimed(backend)] == [task.task_id]


async def test_a_child_that_is_brought_back_waits_for_no_parent_that_is_gone(backend: Backend) -> None:
    done, broken = await running(backend, 2)
    task = await put(backend, {done.task_id: CANCEL, broken.task_id: CANCEL})
    await settled(backend, done)
    failed = await settled(backend, broken, BROKEN)
    await follow(backend)
    assert await backend.purge(TaskFilter(status=(Status.COMPLETED,)), 9) == 1
    await settled(backend, failed, Requeued())
    await settled(backend, await read(backend, task), Requeued())
    await follow(backend)
    (run,) = await claimed(backend)
    assert run.task_id == broken.task_id
    await settled(backend, run)
    await follow(backend)
    assert [started.task_id for started in await claimed(backend)] == [task.task_id]


async def test_a_parent_that_runs_again_is_waited_for_by_what_still_waits(backend: Backend) -> None:
    one, two = await running(backend, 2)
    free = await put(backend, {one.task_id: RUN})
    task = await put(backend, {one.task_id: RUN, two.task_id: CANCEL})
    ended = await settled(backend, one, BROKEN)
    await follow(backend)
    await settled(backend, ended, Requeued())
    await settled(backend, two)
    assert await follow(backend) == {one.task_id: one.task_id}
    assert [(await read(backend, each)).waits for each in (free, task)] == [0, 1]
    await settled(backend, next(each for each in await claimed(backend) if each.type == "parent0"))
    await follow(backend)
    assert [started.task_id for started in await claimed(backend)] == [task.task_id]


@pytest.mark.parametrize("again", ["completes", "fails again", "is deleted"])
async def test_a_child_that_is_brought_back_alone_waits_for_another_end_of_its_parent(
    backend: Backend, again: str
) -> None:
    (parent,) = await running(backend)
    task = await put(backend, {parent.task_id: CANCEL})
    failed = await settled(backend, parent, BROKEN)
    await follow(backend)
    await settled(backend, await read(backend, task), Requeued())
    await follow(backend)
    assert (await read(backend, task)).waits == 1
    if again == "is deleted":
        assert await backend.delete([parent.task_id]) == 1
    else:
        await settled(backend, failed, Requeued())
        await follow(backend)
        (run,) = await claimed(backend)
        await settled(backend, run, Completed() if again == "completes" else BROKEN)
    await follow(backend)
    started = [each.task_id for each in await claimed(backend)]
    assert started == ([task.task_id] if again == "completes" else [])
    assert (await read(backend, task)).final == (again != "completes")


async def test_a_child_whose_parents_have_completed_runs_again_at_once(backend: Backend) -> None:
    (parent,) = await running(backend)
    await put(backend, {parent.task_id: CANCEL})
    await settled(backend, parent)
    await follow(backend)
    (run,) = await claimed(backend)
    failed = await settled(backend, run, BROKEN)
    await settled(backend, failed, Rerun(new(task_id=run.task_id, seq=LATER)))
    assert [each.task_id for each in await claimed(backend)] == [run.task_id]


async def test_a_child_that_was_cancelled_leaves_nothing_behind(backend: Backend) -> None:
    (parent,) = await running(backend)
    one, two = [await put(backend, {parent.task_id: CANCEL}) for _ in range(2)]
    await settled(backend, one, Cancelled())
    assert await backend.delete([two.task_id]) == 1
    await settled(backend, parent)
    assert await follow(backend) == {}
    assert await backend.store.look(lambda tx: list(tx.side.owners("after", 9))) == []
    assert (await read(backend, one)).status is Status.CANCELLED


async def test_a_child_passes_its_limit_after_its_parents(backend: Backend) -> None:
    await backend.push([gated(type="first")])
    first, parent = sorted(await running(backend), key=lambda task: task.type)
    task = await put(backend, {parent.task_id: CANCEL}, flow=first.flow)
    assert task.gate is None
    await settled(backend, parent)
    await follow(backend)
    found = await read(backend, task)
    assert (found.waits, found.gate, found.parked) == (0, "g", True)
    await settled(backend, first)
    assert [each.task_id for each in await claimed(backend)] == [task.task_id]


@pytest.mark.parametrize("then", [True, False])
async def test_a_group_is_a_parent_that_ends_with_its_callback(backend: Backend, then: bool) -> None:
    made = outline(new(type="member"), then=new(type="then", seq=NOW) if then else None)
    group_id = await pushed(backend, made)
    task = await put(backend, {group_id: CANCEL})
    (group,) = await backend.groups.get([group_id])
    assert group is not None
    assert await follow(backend) == {group_id: group_id, callback_id(group, "then"): group_id}
    (member,) = await claimed(backend)
    await settled(backend, member)
    await follow(backend)
    if then:
        (callback,) = await claimed(backend)
        assert callback.type == "then"
        await settled(backend, callback)
        await follow(backend)
    assert [each.task_id for each in await claimed(backend)] == [task.task_id]


async def test_a_key_that_is_taken_gives_the_task_that_has_it(backend: Backend) -> None:
    (parent,) = await running(backend)
    first = await put(backend, {parent.task_id: CANCEL}, unique_key="k")
    again = child({parent.task_id: CANCEL}, unique_key="k")
    (stored,) = await backend.after.push([again], NOW)
    assert (stored.task_id, stored.waits) == (first.task_id, 1)
    await settled(backend, parent)
    await follow(backend)
    assert [each.task_id for each in await claimed(backend)] == [first.task_id]


async def test_what_waits_does_not_count_for_the_bound_of_a_queue(backend: Backend) -> None:
    (parent,) = await running(backend)
    room = Room(1, NOW)
    await backend.after.push([child({parent.task_id: CANCEL}) for _ in range(3)], NOW, room=room)
    await backend.push([new()], room)
    with pytest.raises(QueueFull):
        await backend.push([new()], room)
    assert await backend.count_ready(LATER) == 1


async def test_a_workflow_and_what_was_pushed_after_it_mend_alone(backend: Backend) -> None:
    (parent,) = await running(backend)
    task = await put(backend, {parent.task_id: CANCEL})
    assert await backend.groups.mend(LATER) == 0
    await settled(backend, parent)
    assert await backend.groups.mend(LATER) == 0
    assert (await read(backend, task)).waits == 1


@pytest.mark.parametrize("seed", range(3))
async def test_parents_and_children_in_any_order(store: Store, seed: int) -> None:
    """Pushes, ends, looks and deletions at the same moments; at the end each child is as its parents say."""
    chance, backend = random.Random(seed), store.backend
    backends = [backend, await store.another()] if store.url != "memory://" else [backend, backend]
    parents = {task.task_id: task for task in await running(backend, 12)}
    children: list[Task] = []
    ends: dict[str, Status] = {}

    async def push() -> None:
        made = [
            child({key: chance.choice(RULES) for key in chance.sample(sorted(parents), chance.randint(1, 3))})
            for _ in range(3)
        ]
        assert await chance.choice(backends).after.push(made, NOW) == made
        children.extend(made)

    async def end(task: Task) -> None:
        outcome: Outcome = BROKEN if chance.random() < 0.3 else Completed()
        ends[task.task_id] = (await settled(chance.choice(backends), task, outcome)).status
        await chance.choice(backends).after.follow([task.task_id], LATER)

    work = [end(task) for task in parents.values()] + [push() for _ in range(8)]
    chance.shuffle(work)
    for start in range(0, len(work), 4):
        await asyncio.gather(*work[start : start + 4])
    assert await follow(backend) == {}
    for made in children:
        row = await read(backend, made)
        assert (made.flow is not None and row.waits == 0) or row.final
        each = zip((key for key, _ in made.flow.parents), made.flow.rules, strict=True) if made.flow else ()
        bad = {rule for key, rule in each if ends[key] is not Status.COMPLETED and rule != RUN}
        words = {CANCEL: Status.CANCELLED, FAIL: Status.FAILED}
        assert row.status in ({words[rule] for rule in bad} if bad else {Status.PENDING})


async def test_a_copy_of_a_store_waits_for_the_same_ends(backend: Backend) -> None:
    one, two = await running(backend, 2)
    task = await put(backend, {one.task_id: CANCEL, two.task_id: CANCEL})
    await settled(backend, one)
    await follow(backend)
    target = connect("memory://")
    await copy(backend, target, LATER, running=True)
    assert await target.purge(TaskFilter(status=(Status.COMPLETED,)), 9) == 1
    assert await follow(target) == {two.task_id: two.task_id}
    (run,) = await claimed(target)
    await settled(target, run)
    await follow(target)
    assert [started.task_id for started in await claimed(target)] == [task.task_id]


# ---- how an end is heard of ------------------------------------------------------------------------------------------


def application(store: Store, **options: Any) -> tuple[TaskQ, asyncio.Event, Any, Any]:
    tq, free = TaskQ(store.url, **options), asyncio.Event()

    @tq.task
    async def first() -> int:
        await free.wait()
        return 1

    @tq.task
    async def then(results: list[int] = injected()) -> list[int]:
        return results

    return tq, free, first, then


@pytest.mark.stores("sqlite", "postgresql", "mysql", "redis")
async def test_the_process_that_pushed_notices_the_end_at_once(store: Store) -> None:
    tq, free, first, then = application(store, reap_interval=600)
    async with tq.running():
        parent = await first.push()
        await eventually(lambda: is_running(parent))
        child = await then.options(after=parent).push()
        free.set()
        assert await child.result(within(10)) == [1]


@pytest.mark.stores("postgresql", "redis")  # the hints of the others tell no names
async def test_a_worker_hears_of_the_end_when_the_process_that_pushed_is_gone(store: Store) -> None:
    await after_the_pusher(store, reap_interval=600)


@pytest.mark.stores("sqlite", "postgresql", "mysql", "redis")
async def test_the_reaper_finds_the_end_where_no_hint_came(store: Store) -> None:
    await after_the_pusher(store, reap_interval=0.2)


async def after_the_pusher(store: Store, reap_interval: float) -> None:
    """Push after a running task from a process that is gone by its end; without hints if the reaper is quick."""
    tq, free, first, _ = application(store, reap_interval=reap_interval)
    pusher, _, _, then = application(store)
    async with tq.running():
        parent = await first.push()
        await eventually(lambda: is_running(parent))
        if reap_interval < 1:
            await tq.queue.after_sweep.stop()
        async with pusher:
            child = await then.options(after=parent.task_id).push()
        free.set()
        assert await tq.handle(child.task_id).result(within(10)) == [1]


async def is_running(handle: TaskHandle[Any]) -> bool:
    return await handle.status() is Status.RUNNING


@pytest.mark.parametrize("ends", ["before the commit", "after the commit"])
async def test_a_child_of_a_callers_transaction_waits_from_its_commit_on(sql_store: Store, ends: str) -> None:
    tq, free, first, then = application(sql_store, reap_interval=600)
    engine = create_async_engine(parse_url(sql_store.url))
    async with tq.running():
        parent = await first.push()
        await eventually(lambda: is_running(parent))
        async with AsyncSession(engine) as session:
            child = await then.options(after=parent, session=session).push()
            if ends == "before the commit" and not sql_store.name.startswith("sqlite"):  # that has one writer
                free.set()
                await parent.result(within(10))
            await session.commit()
        free.set()
        assert await child.result(within(10)) == [1]
    await engine.dispose()
