"""What retention and purges leave of groups on each store, and what is left when a member is deleted by its id."""

from __future__ import annotations

import pytest

from aiotaskq.backends.base import Backend
from aiotaskq.core.groups import CANCEL
from aiotaskq.core.outcome import Cancelled, Requeued
from aiotaskq.core.task import SECOND, Status, TaskFilter
from tests.contract.test_groups import BROKEN, LATER, claimed, graph, outline, pushed, settled, state
from tests.support.rows import ended, ids, new

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


@pytest.mark.parametrize("end", [BROKEN, Cancelled()])
async def test_members_that_did_not_complete_stay_too(backend: Backend, end: object) -> None:
    await pushed(backend, outline(new(), new()))
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
