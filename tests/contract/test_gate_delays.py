"""Tasks that wait at a gate for their due time, on each store: when they pass, in which order, and what finds them."""

from __future__ import annotations

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.gate import Bounds
from aiotaskq.core.outcome import Cancelled, Expired, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import QueueFull
from tests.support.backends import Store
from tests.support.gated import CAP_1, MINUTE, claimed, counts, gated, settled, state
from tests.support.rows import NOW, ids, read
from tests.support.sql import tx_on

LATE = NOW + MINUTE


async def test_what_a_clock_ahead_has_pushed_passes_when_it_is_due(backend: Backend) -> None:
    first, ahead = gated(), gated(due=LATE).replace(seq=LATE)
    await backend.push([first])
    await backend.push([ahead])
    (run,) = await claimed(backend)
    await settled(backend, run)
    assert await counts(backend) == (0, 1)
    assert await backend.gates.admit(NOW + SECOND, 10) == LATE
    await backend.gates.admit(LATE, 10)
    assert ids(await claimed(backend, LATE)) == [ahead.task_id]


async def in_order(backend: Backend, now: int) -> list[str]:
    """End one task after the other; return the ids in the order of their starts."""
    found = []
    while tasks := await claimed(backend, now):
        found += ids(tasks)
        for task in tasks:
            await settled(backend, task, now=now)
    return found


async def test_tasks_pass_by_their_priorities_once_they_are_due(backend: Backend) -> None:
    late = [gated(due=LATE + n, priority=priority) for n, priority in enumerate((3, -1, 0, 2, -5))]
    soon, later = gated(priority=1), gated(due=2 * LATE, priority=-9)
    await backend.push([*late, soon, later])
    assert await counts(backend) == (1, 6)
    assert await in_order(backend, NOW + SECOND) == [soon.task_id]
    assert (await state(backend)).gate.next_at == LATE
    await backend.gates.admit(LATE + 9, 10)
    assert await in_order(backend, LATE + 9) == ids([late[n] for n in (4, 1, 2, 3, 0)])
    assert (await state(backend)).gate.next_at == 2 * LATE
    assert await counts(backend) == (0, 1)


async def test_what_becomes_due_passes_what_has_waited_by_its_priority(backend: Backend) -> None:
    first, waits, late = gated(), gated(priority=1), gated(due=LATE)
    await backend.push([first, waits, late])
    (run,) = await claimed(backend)
    await settled(backend, run, now=LATE)  # the end is the first look at the gate since then
    assert ids(await claimed(backend, LATE)) == [late.task_id]


async def test_those_that_wait_are_listed_by_priority_whether_they_are_due_or_not(backend: Backend) -> None:
    await backend.push([gated()])
    tasks = [gated(due=due, priority=priority) for due, priority in ((NOW, 2), (LATE, 1), (NOW, 0), (LATE, 3))]
    await backend.push(tasks)
    _, waiting = await backend.gates.tasks("g", 10)
    assert waiting == ids([tasks[n] for n in (2, 1, 0, 3)])
    assert (await backend.gates.tasks("g", 2))[1] == waiting[:2]


async def test_what_has_expired_counts_among_those_that_wait_until_it_is_settled(backend: Backend) -> None:
    first, late, last = gated(), gated(expires_at=LATE), gated()
    never = gated(due=LATE + MINUTE, expires_at=LATE)
    await backend.push([first, late, last, never])
    (run,) = await claimed(backend)
    await settled(backend, run, now=LATE)
    assert ids(await claimed(backend, LATE)) == [last.task_id]
    assert await counts(backend) == (1, 2)
    await backend.gates.admit(LATE + 2 * MINUTE, 10)
    assert await counts(backend) == (1, 2)
    assert sorted((await backend.gates.tasks("g", 10))[1]) == sorted(ids([late, never]))
    for task in await backend.overdue(LATE + 2 * MINUTE, 10):
        if task.task_id in ids([late, never]):
            await settled(backend, task, Expired(), LATE + 2 * MINUTE)
    assert await counts(backend) == (1, 0)
    assert (await backend.gates.tasks("g", 10))[1] == []


def moved(task: Task, due: int) -> Change:
    """A change of the due time, as that of a debounced task."""
    return Change(task, parked(task.replace(fence=task.fence + 1), due))


async def test_a_task_that_waits_for_its_time_can_be_moved_cancelled_and_deleted(backend: Backend) -> None:
    bounds = ("g", Bounds(cap=9))
    sooner, later, cancelled, deleted = (gated(bounds, due=LATE) for _ in range(4))
    await backend.push([sooner, later, cancelled, deleted])
    changes = [moved(await read(backend, sooner), NOW + 2 * SECOND), moved(await read(backend, later), 2 * LATE)]
    assert await backend.update(changes) == [True, True]
    row = await read(backend, cancelled)
    assert await backend.update([Change(row, settle(row, Cancelled(), NOW + SECOND))]) == [True]
    assert await backend.delete([deleted.task_id]) == 1
    assert await counts(backend) == (0, 2)
    await backend.gates.admit(NOW + SECOND, 10)
    assert (await state(backend)).gate.next_at == NOW + 2 * SECOND
    await backend.gates.admit(NOW + 2 * SECOND, 10)
    assert ids(await claimed(backend, LATE)) == [sooner.task_id]
    await backend.gates.admit(2 * LATE, 10)
    assert ids(await claimed(backend, 2 * LATE)) == [later.task_id]
    assert (await read(backend, later)).due_us == 2 * LATE


async def test_tasks_that_are_not_due_count_among_those_that_wait(backend: Backend) -> None:
    full = ("g", Bounds(cap=1, max_waiting=2))
    await backend.push([gated(full), gated(full, due=LATE), gated(full, due=LATE)])
    with pytest.raises(QueueFull):
        await backend.push([gated(full)])
    with pytest.raises(QueueFull):
        await backend.push([gated(full, due=LATE)])
    assert await counts(backend) == (1, 2)


async def test_a_task_that_has_become_due_is_before_those_of_a_push(backend: Backend) -> None:
    """The push is the first look at the gate since then."""
    first, second = gated(due=LATE), gated(due=LATE + 1)
    await backend.push([first])
    await backend.push([second.replace(seq=LATE + 1)])
    assert await counts(backend) == (1, 1)
    assert ids(await claimed(backend, LATE + 1)) == [first.task_id]


async def test_a_bounded_push_does_not_pass_a_task_that_has_become_due(backend: Backend) -> None:
    bounded = ("g", Bounds(cap=1, max_waiting=1))
    await backend.push([gated(bounded, due=LATE)])
    pushed = [gated(bounded, due=LATE + 1).replace(seq=LATE + 1) for _ in range(2)]
    with pytest.raises(QueueFull):
        await backend.push(pushed)
    assert await counts(backend) == (0, 1)


@pytest.mark.parametrize("key", [None, "u"])
async def test_a_task_that_is_due_by_the_end_of_its_push_passes(backend: Backend, key: str | None) -> None:
    """It was not due when it was made, and is by the time of another task of the push."""
    wide = ("g", Bounds(cap=2))
    first, second = gated(wide, due=NOW + 5, unique_key=key), gated(wide, due=NOW + 9)
    await backend.push([first.replace(seq=NOW), second.replace(seq=NOW + 9)])
    assert await counts(backend) == (2, 0)
    assert sorted(ids(await claimed(backend))) == sorted(ids([first, second]))


@pytest.mark.parametrize("due", [NOW, NOW + SECOND // 2])
async def test_a_bounded_push_passes_no_heavy_task_that_waits(backend: Backend, due: int) -> None:
    bounded = ("g", Bounds(interval=SECOND, burst=2, max_waiting=1))
    await backend.push([gated(bounded, weight=2), gated(bounded, weight=2, due=due)])
    await claimed(backend, NOW)
    assert await counts(backend) == (1, 1)
    now = NOW + SECOND + SECOND // 4
    light = gated(bounded, due=now).replace(seq=now)
    with pytest.raises(QueueFull):  # there is a token for it, but the one before it needs two
        await backend.push([light])
    assert await counts(backend) == (1, 1)


async def test_a_push_in_the_transaction_of_a_caller_sees_what_is_due_by_then(sql_store: Store) -> None:
    backend = sql_store.backend
    assert isinstance(backend, SqlBackend)
    await backend.push([gated(due=LATE), gated(("expiring", CAP_1), due=LATE, expires_at=LATE + SECOND)])
    for now, found in ((LATE - 1, set()), (LATE, {"g", "expiring"}), (LATE + SECOND, {"g"})):
        assert await backend.database.read(lambda c, now=now: tx_on(c).with_due(["g", "expiring"], now)) == found
    await backend.set_paused("default", True)
    assert await backend.database.read(lambda c: tx_on(c).with_due(["g", "expiring"], LATE)) == set()


async def test_delayed_tasks_of_a_paused_queue_hold_back_no_others(backend: Backend) -> None:
    asleep, awake = gated(queue="asleep", due=LATE, priority=-1), gated(queue="awake", due=LATE)
    await backend.push([asleep, awake])
    await backend.set_paused("asleep", True)
    await backend.gates.admit(LATE, 10)
    (run,) = await claimed(backend, LATE)
    assert run.task_id == awake.task_id
    await settled(backend, run, now=LATE)
    assert await claimed(backend, LATE) == []
    await backend.set_paused("asleep", False)
    await backend.gates.admit(LATE, 10)
    assert ids(await claimed(backend, LATE)) == [asleep.task_id]


async def test_very_many_that_become_due_at_once_all_pass(backend: Backend) -> None:
    wide = ("g", Bounds(cap=10_000))
    await backend.push([gated(wide, due=LATE, priority=n % 300) for n in range(600)])
    while await backend.gates.admit(LATE, 10) == LATE:
        pass
    assert await counts(backend) == (600, 0)
    assert len(await claimed(backend, LATE, 1_000)) == 600


async def test_a_gate_that_lost_its_next_time_is_mended(backend: Backend) -> None:
    task = gated(("g", CAP_1), due=LATE)
    await backend.push([task])
    await backend.gates.mend(NOW)
    await backend.gates.admit(LATE, 10)
    assert ids(await claimed(backend, LATE)) == [task.task_id]
