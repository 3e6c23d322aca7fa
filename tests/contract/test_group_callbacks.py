"""When a group calls back on each store, with what, and what a cancel of it means."""

from __future__ import annotations

import pytest

from aiotaskq.backends.base import Backend
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.groups import GroupState, derived_id
from aiotaskq.core.outcome import Cancelled, Outcome, Requeued
from aiotaskq.core.plan import in_group
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.contract.test_groups import BROKEN, DONE, LATER, claimed, counts, outline, pushed, settled, state
from tests.support.backends import Store
from tests.support.logs import logged
from tests.support.rows import NOW, new, read


async def callback(backend: Backend, group_id: str, kind: str = "then", generation: int = 1) -> Task | None:
    (found,) = await backend.get([derived_id(group_id, kind, generation)])
    return found


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("end", "kind"), [(DONE, "then"), (BROKEN, "on_failure")])
async def test_the_delay_and_the_expiry_of_a_callback_count_from_the_end(
    backend: Backend, end: Outcome, kind: str, gated: bool
) -> None:
    call = new(type="late", seq=NOW, run_at=NOW + 30 * SECOND, expires_at=NOW + 90 * SECOND)
    if gated:
        call = call.replace(flow=Flow(gates=(("g", Bounds(cap=1)),)))
    group_id = await pushed(backend, outline(new(), then=call, on_failure=call))
    await settled(backend, *await claimed(backend), end)
    made = await callback(backend, group_id, kind)
    assert made is not None
    assert (made.due_us, made.expires_at) == (LATER + 30 * SECOND, LATER + 90 * SECOND)
    assert (made.created_at, made.seq) == (LATER // SECOND, made.seq) and made.seq >= LATER
    for late, ready in ((29, []), (30, ["late"])):
        await backend.gates.admit(LATER + late * SECOND, 10)
        assert [task.type for task in await claimed(backend, LATER + late * SECOND)] == ready


async def test_a_callback_that_is_not_claimed_in_time_expires(backend: Backend) -> None:
    await pushed(backend, outline(new(), then=new(type="late", seq=NOW, expires_at=NOW + 60 * SECOND)))
    await settled(backend, *await claimed(backend))
    assert await claimed(backend, LATER + 60 * SECOND) == []
    assert [task.type for task in await backend.overdue(LATER + 60 * SECOND, 10)] == ["late"]


async def cancelled_group(backend: Backend) -> tuple[str, list[Task]]:
    """A group that was cancelled, and its two members, of which one has completed meanwhile."""
    group_id = await pushed(backend, outline(new(), new()))
    one, two = await claimed(backend)
    assert await backend.groups.request_cancel(group_id)
    return group_id, [await settled(backend, one), await settled(backend, two, Cancelled())]


async def test_a_cancelled_group_of_which_a_member_is_retried_calls_back(backend: Backend) -> None:
    group_id, (_, two) = await cancelled_group(backend)
    assert await claimed(backend) == []
    await settled(backend, two, Requeued())
    found = await state(backend, group_id)
    assert (found.cancel_requested, found.status, found.generation) == (False, Status.RUNNING, 2)
    assert await backend.groups.cancelling(10) == []
    await settled(backend, *await claimed(backend))
    assert [task.type for task in await claimed(backend)] == ["then"]
    assert (await state(backend, group_id)).status is Status.COMPLETED


async def test_a_cancelled_group_whose_members_completed_is_cancelled(backend: Backend) -> None:
    inner = outline(new())
    outer = await pushed(backend, outline(inner, new()))
    tasks = await claimed(backend)
    assert await backend.groups.request_cancel(inner.group_id)
    for task in tasks:
        await settled(backend, task)
    found: GroupState = await state(backend, inner.group_id)
    assert (found.status, found.completed, found.cancelled) == (Status.CANCELLED, 1, 0)
    assert await counts(backend, outer) == (2, 0, 0, 1), "it is not one that completed"
    assert [task.type for task in await claimed(backend)] == ["alert"]


async def test_a_cancel_of_the_group_around_cancels_the_groups_in_it(backend: Backend) -> None:
    inner = outline(new())
    outer = await pushed(backend, outline(outline(inner), new()))
    tasks = await claimed(backend)
    await settled(backend, tasks[0])
    assert await backend.groups.request_cancel(outer)
    assert await backend.groups.cancelling(10) == [outer], "the others have ended"
    for task in await claimed(backend):
        await settled(backend, task)
    await settled(backend, tasks[1])
    assert (await state(backend, outer)).status is Status.CANCELLED
    assert (await state(backend, inner.group_id)).status is Status.COMPLETED
    assert await callback(backend, outer) is await callback(backend, outer, "on_failure") is None


async def test_the_end_of_a_callback_does_not_change_when_the_group_ended(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new()))
    await settled(backend, *await claimed(backend))
    (then,) = await claimed(backend)
    await settled(backend, then, now=LATER + 60 * SECOND)
    found = await state(backend, group_id)
    assert (found.ended_at, found.needed_by, found.generation) == (LATER, 0, 1)


async def test_members_without_a_name_and_added_ones(backend: Backend) -> None:
    group_id = await pushed(backend, outline(new()))
    (more,) = made = [in_group(new(created_at=0), group_id, "more", LATER)]
    assert await backend.groups.add(group_id, made, LATER) == 1
    found = await backend.groups.members(group_id, 9)
    assert [(member.position, member.name) for member in found] == [(0, None), (1, None)]
    assert (await read(backend, more)).created_at == LATER // SECOND


async def test_a_group_whose_callback_cannot_be_read_is_logged_and_holds_up_nothing(sql_store: Store) -> None:
    backend = sql_store.backend
    damaged, good = await pushed(backend, outline(new(), new())), await pushed(backend, outline(new()))
    tasks = await claimed(backend)
    sql_store.execute("UPDATE aiotaskq_group SET then_task = :text WHERE group_id = :id", text="{", id=damaged)
    with logged() as lines:
        for task in tasks:
            await settled(backend, task)
        assert [group.group_id for group in await backend.groups.find(10)] == [good]
        assert await backend.groups.get([damaged]) == [None]
        assert await backend.groups.mend(LATER) == 0
    assert any(f"group {damaged} cannot be read" in line for line in lines)
    assert [task.type for task in await claimed(backend)] == ["then"]
    sql_store.execute("UPDATE aiotaskq_group SET then_task = NULL WHERE group_id = :id", id=damaged)
    assert await backend.groups.mend(LATER) == 1  # what has ended meanwhile is subtracted
    assert (await state(backend, damaged)).remaining == 0
