"""What retention and purges leave of groups on each store, and what is left when a member is deleted by its id."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.groups import CANCEL
from aiotaskq.core.outcome import Cancelled, Requeued, Rerun, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, TaskFilter
from tests.contract.test_groups import BROKEN, LATER, claimed, graph, outline, pushed, rows, settled, state
from tests.support.backends import Store
from tests.support.rows import NOW, ended, ids, new

WEEK = 7 * 86_400 * SECOND


def older_than(instant: int) -> TaskFilter:
    return TaskFilter(completed_before=instant // SECOND)


async def test_members_stay_until_their_group_has_ended(backend: Backend) -> None:
    made = graph({"a": {}, "b": {}, "c": {"a": CANCEL, "b": CANCEL}})
    await pushed(backend, made)
    alone = await ended(backend, priority=-1)
    a, b = await claimed(backend)
    a = await settled(backend, a)
    assert await backend.purge(older_than(LATER + WEEK), 10) == 1
    assert await backend.get([a.task_id, alone.task_id]) == [a, None]
    await settled(backend, b, now=LATER + WEEK)
    assert await backend.purge(TaskFilter(), 10) == 0
    (c,) = await claimed(backend, LATER + WEEK)
    await settled(backend, c, now=LATER + 2 * WEEK)
    assert await backend.purge(older_than(LATER + 2 * WEEK), 10) == 0, "they are as old as their group"
    assert await backend.purge(older_than(LATER + 2 * WEEK + SECOND), 10) == 3


async def test_a_child_that_did_not_start_is_as_old_as_its_end(backend: Backend) -> None:
    await pushed(backend, graph({"a": {}, "b": {"a": CANCEL}}))
    await settled(backend, *await claimed(backend), Cancelled())
    assert await backend.purge(older_than(LATER), 10) == 0
    assert await backend.purge(older_than(LATER + SECOND), 10) == 2


@pytest.mark.parametrize("end", [BROKEN, Cancelled()])
async def test_members_that_did_not_complete_stay_too(backend: Backend, end: object) -> None:
    await pushed(backend, outline(new(), new(), on_failure=None))
    one, two = await claimed(backend)
    one = await settled(backend, one, end)  # type: ignore[arg-type]
    assert await backend.purge(TaskFilter(status=(one.status,)), 10) == 0
    await settled(backend, two)
    assert await backend.purge(TaskFilter(status=(one.status,)), 10) == 1


async def test_a_group_in_another_one_stays_with_it(backend: Backend) -> None:
    inner = outline(outline(new(), then=None), then=None)
    outer = await pushed(backend, outline(inner, new(), then=None))
    one, two = await claimed(backend)
    await settled(backend, one)
    assert (await state(backend, inner.group_id)).ended_at == LATER
    assert await backend.purge(TaskFilter(), 10) == 0
    assert await backend.groups.purge(LATER + WEEK, 10) == 0
    await settled(backend, two, now=LATER + WEEK)
    assert await backend.groups.purge(LATER + WEEK, 10) == 0
    assert await backend.groups.purge(LATER + WEEK + 1, 10) == 3
    assert await backend.groups.get([outer, inner.group_id]) == [None, None]
    assert await backend.groups.members(inner.group_id, 9) == []
    assert await backend.purge(TaskFilter(), 10) == 2


async def test_a_purge_goes_on_behind_the_members_that_it_leaves(backend: Backend) -> None:
    await pushed(backend, outline(*[new() for _ in range(7)], new(priority=9)))
    for number, task in enumerate(await claimed(backend, limit=7)):
        await settled(backend, task, now=LATER + number // 3 * SECOND)
    others = [await ended(backend, priority=-1) for _ in range(2)]
    later = [await ended(backend, priority=-1, queue="z") for _ in range(5)]
    for task in later:
        after = task.replace(completed_at=(LATER + 9 * SECOND) // SECOND)
        await backend.delete([task.task_id])
        await backend.push([after])
    assert [await backend.purge(TaskFilter(), 3) for _ in range(4)] == [3, 3, 1, 0]
    assert await backend.get(ids([*others, *later])) == [None] * 7
    assert (await backend.stats(LATER)).counts[Status.COMPLETED] == 7


async def test_a_purge_goes_on_behind_members_without_a_time_of_their_end(sql_store: Store) -> None:
    backend = sql_store.backend
    await pushed(backend, outline(*[new() for _ in range(5)], new(priority=9)))
    members = [await settled(backend, task) for task in await claimed(backend, limit=5)]
    others = [await ended(backend, priority=-1) for _ in range(4)]
    for task in (*members[:3], *others[:2]):  # as another program may write it
        sql_store.execute("UPDATE task_queue SET completed_at = NULL WHERE task_id = :id", id=task.task_id)
    assert [await backend.purge(TaskFilter(), 2) for _ in range(3)] == [2, 2, 0]
    assert await backend.get(ids(others)) == [None] * 4
    assert (await backend.stats(LATER)).counts[Status.COMPLETED] == 5


async def test_members_of_a_group_that_runs_again_stay_again(backend: Backend) -> None:
    made = outline(new(), new(), on_failure=None)
    await pushed(backend, made)
    one, two = await claimed(backend)
    one = await settled(backend, one)
    two = await settled(backend, two, Cancelled())
    await settled(backend, two, Requeued())
    assert await backend.purge(TaskFilter(), 10) == 0
    assert await backend.get([one.task_id]) == [one]


async def test_the_members_of_a_group_that_is_gone_are_as_any_tasks(backend: Backend) -> None:
    await pushed(backend, outline(new(), then=None))
    (task,) = await claimed(backend)
    task = await settled(backend, task)
    assert await backend.groups.purge(LATER + 1, 10) == 1
    assert await backend.purge(older_than(LATER), 10) == 0
    assert await backend.purge(older_than(LATER + SECOND), 10) == 1


# ---- what keeps a group that has ended -------------------------------------------------------------------------------


async def everything_purged(backend: Backend, now: int) -> tuple[int, int]:
    """Let a sweep of retention find what ended before; return how many tasks and groups are gone."""
    others = TaskFilter(
        status=(Status.COMPLETED, Status.CANCELLED, Status.EXPIRED), completed_before=(now + WEEK) // SECOND
    )
    return await backend.purge(others, 100), await backend.groups.purge(now + WEEK, 100)


async def test_a_graph_stays_as_long_as_a_dead_letter_of_it(backend: Backend) -> None:
    made = graph({"a": {}, "b": {"a": CANCEL}, "c": {}})
    made = replace(made, then=new(type="then", seq=NOW), on_failure=new(type="alert", seq=NOW))
    group_id = await pushed(backend, made)
    a, c = await claimed(backend)
    await settled(backend, c)
    a = await settled(backend, a, BROKEN)
    (alert,) = await claimed(backend)
    await settled(backend, alert)
    assert await everything_purged(backend, LATER) == (1, 0), "only the callback, which is no member"
    assert (await state(backend, group_id)).needed_by == 1
    await settled(backend, a, Requeued())
    await settled(backend, (await rows(backend, made))["b"], Requeued())
    (a,) = await claimed(backend)
    await settled(backend, a)
    (b,) = await claimed(backend)
    await settled(backend, b)
    (then,) = await claimed(backend)
    assert (b.type, then.type) == ("b", "then")
    await settled(backend, then)
    assert await everything_purged(backend, LATER) == (4, 1)


@pytest.mark.parametrize("end", ["purged", "deleted", "rerun"])
async def test_a_group_goes_when_its_last_dead_letter_has_gone(backend: Backend, end: str) -> None:
    inner = outline(new(), new(), then=None, on_failure=None)
    outer = await pushed(
        backend, outline(outline(inner, then=None, on_failure=None), new(), on_failure=None, then=None)
    )
    tasks = await claimed(backend)
    dead = [await settled(backend, task, BROKEN) for task in tasks[:2]]
    await settled(backend, tasks[2])
    assert [(await state(backend, each)).needed_by for each in (inner.group_id, outer)] == [2, 2]
    assert await everything_purged(backend, LATER) == (0, 0)
    assert await backend.delete([dead[0].task_id], ended=True) == 1
    assert (await state(backend, outer)).needed_by == 1
    assert await everything_purged(backend, LATER) == (0, 0)
    if end == "purged":
        assert await backend.purge(TaskFilter(status=(Status.FAILED,)), 10) == 1
    elif end == "deleted":
        assert await backend.delete([dead[1].task_id]) == 1
    else:
        again = settle(dead[1], Rerun(new(task_id=dead[1].task_id)), LATER)
        assert await backend.update([Change(dead[1], again)]) == [True]
        assert (await state(backend, outer)).remaining == 1, "it is a member still"
        await settled(backend, *await claimed(backend))
    assert (await state(backend, outer)).needed_by == 0
    assert await everything_purged(backend, LATER) == (2 if end == "rerun" else 1, 3)


@pytest.mark.parametrize("nested", [False, True])
async def test_members_stay_until_the_callback_has_ended(backend: Backend, nested: bool) -> None:
    made = outline(new())
    group_id = await pushed(backend, outline(made, then=None) if nested else made)
    (task,) = await claimed(backend)
    await settled(backend, task)
    assert (await state(backend, group_id)).needed_by == 1
    assert await everything_purged(backend, LATER) == (0, 0)
    (callback,) = await claimed(backend)
    callback = await settled(backend, callback, BROKEN)
    assert await everything_purged(backend, LATER) == (0, 0)
    await settled(backend, callback, Requeued())
    assert await everything_purged(backend, LATER) == (0, 0)
    (callback,) = await claimed(backend)
    await settled(backend, callback)
    assert (await state(backend, group_id)).needed_by == 0
    assert await everything_purged(backend, LATER) == (2, 1 + nested)


async def test_a_cancelled_callback_that_is_put_back_keeps_its_group(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new()))
    await settled(backend, *await claimed(backend))
    cancelled = await settled(backend, *await claimed(backend), Cancelled())
    assert (await state(backend, group_id)).needed_by == 0
    await settled(backend, cancelled, Requeued())
    assert (await state(backend, group_id)).needed_by == 1
    await settled(backend, *await claimed(backend))
    assert (await state(backend, group_id)).needed_by == 0


@pytest.mark.parametrize("end", ["cancelled", "deleted", "purged"])
async def test_a_callback_that_does_not_run_keeps_nothing(backend: Backend, end: str) -> None:
    group_id = await pushed(backend, outline(outline()))
    inner, outer = await claimed(backend)
    assert (await state(backend, group_id)).needed_by == 2
    await settled(backend, inner)
    if end == "cancelled":
        await settled(backend, outer, Cancelled())
    elif end == "deleted":
        assert await backend.delete([outer.task_id]) == 1
    else:
        await settled(backend, outer, BROKEN)
        assert (await state(backend, group_id)).needed_by == 1
        assert await backend.purge(TaskFilter(status=(Status.FAILED,)), 10) == 1
    assert (await state(backend, group_id)).needed_by == 0
    assert await backend.groups.purge(LATER + WEEK, 10) == 2


async def test_a_purge_leaves_what_is_in_a_group_that_cannot_be_read(sql_store: Store) -> None:
    backend = sql_store.backend
    inner = outline(new(), then=None)
    damaged = await pushed(backend, outline(inner, new(), on_failure=None))
    tasks = await claimed(backend)
    sql_store.execute("UPDATE aiotaskq_group SET then_task = :text WHERE group_id = :id", text="{", id=damaged)
    for task in tasks:
        await settled(backend, task)
    assert await backend.purge(TaskFilter(), 10) == 0
    sql_store.execute("UPDATE aiotaskq_group SET then_task = NULL WHERE group_id = :id", id=damaged)
    await backend.groups.mend(LATER)
    assert await backend.purge(TaskFilter(), 10) == 2
