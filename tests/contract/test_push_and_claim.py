"""``push_and_claim``: as ``push`` and then ``exchange``; on SQLite in one transaction. And ``fire_and_claim``."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq.backends.base import Backend, Change, Claim, ScheduleChange, Schedules
from aiotaskq.backends.listeners import READY
from aiotaskq.core.outcome import Completed, Failed, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, ids, new, new_schedule, pushed, read, running


async def test_what_is_pushed_is_claimed_at_once(backend: Backend) -> None:
    task = new(params={"a": 1})
    stored, _, claimed = await backend.push_and_claim([task], Claim("me", NOW, 5, lease_until=LEASE))
    assert stored[0] is task and task.status is Status.PENDING
    assert claimed == [task.replace(status=Status.RUNNING, fence=1, lease_owner="me", lease_until=LEASE,
                                    started_at=NOW // SECOND, began_at=NOW)]  # fmt: skip
    assert await read(backend, task) == claimed[0]


async def test_tasks_that_were_pushed_before_are_claimed_first(backend: Backend) -> None:
    waiting = [await pushed(backend, priority=priority) for priority in (1, 0, 0)]
    first, second = new(priority=0), new(priority=0)
    stored, _, claimed = await backend.push_and_claim([first, second], Claim("o", NOW, 3, lease_until=LEASE))
    assert stored[0] is first and stored[1] is second
    assert ids(claimed) == ids([waiting[1], waiting[2], first])
    assert ids(await backend.claim("o", NOW, 9)) == ids([second, waiting[0]])


async def test_a_task_that_is_not_due_or_paused_or_of_another_queue_stays_pending(backend: Backend) -> None:
    later, paused, other, due = new(run_at=NOW + 1), new(queue="p"), new(queue="other"), new(queue="mine")
    await backend.set_paused("p", True)
    tasks = [later, paused, other, due]
    stored, _, claimed = await backend.push_and_claim(tasks, Claim("o", NOW, 9, queues=["default", "p", "mine"]))
    assert stored == tasks and ids(claimed) == [due.task_id]
    assert [task.status for task in await backend.get(ids(tasks)) if task] == ["pending"] * 3 + ["running"]


async def test_a_conflicting_row_is_returned_and_not_claimed_again(backend: Backend) -> None:
    runs = await running(backend, unique_key="u", idempotency_key="i")
    stored, _, claimed = await backend.push_and_claim(
        [new(unique_key="u"), new(idempotency_key="i")], Claim("o", NOW, 9)
    )
    assert stored == [runs, runs] and claimed == []
    assert await read(backend, runs) == runs


async def test_nothing_for_nothing(backend: Backend) -> None:
    assert await backend.push_and_claim([], Claim("o", NOW, 0)) == ([], [], [])
    task, second = new(), new()
    assert await backend.push_and_claim([task], Claim("o", NOW, 0)) == ([task], [], [])
    assert ids((await backend.push_and_claim([], Claim("o", NOW, 9)))[2]) == [task.task_id]
    assert ids((await backend.push_and_claim([second], Claim("o", NOW, 9)))[2]) == [second.task_id]


async def test_what_has_ended_is_written_and_what_was_lost_is_not(backend: Backend) -> None:
    ended, lost = await running(backend), await running(backend)
    await backend.update([Change(lost, settle(lost, Failed("no"), NOW))])
    changes = [Change(task, settle(task, Completed(7), NOW)) for task in (ended, lost)]
    task = new()
    stored, held, claimed = await backend.push_and_claim([task], Claim("o", NOW, 9, lease_until=LEASE), changes)
    assert (stored, held, ids(claimed)) == ([task], [True, False], [task.task_id])
    assert await read(backend, ended) == changes[0].after


async def test_hints_name_what_is_left(backend: Backend, hints: list[tuple[str, list[str]]]) -> None:
    await backend.push_and_claim([new(), new()], Claim("o", NOW, 1))
    assert READY in [kind for kind, _ in hints]
    await backend.claim("o", NOW, 9)
    hints.clear()
    await backend.push_and_claim([new(), new(run_at=NOW + SECOND)], Claim("o", NOW, 9))
    assert READY in [kind for kind, _ in hints]
    if backend.shared == "host":
        hints.clear()
        await backend.push_and_claim([new(), new()], Claim("o", NOW, 9))
        assert hints == [], "who waits would look in vain"


@pytest.mark.stores("sqlite")  # elsewhere it is two transactions
async def test_both_or_neither(sql_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiotaskq.backends.sql import claim as sql_claim

    backend = sql_store.backend
    assert backend.shared == "host"
    waiting, task = await pushed(backend), new()
    real = sql_claim.claim

    class Broken(Exception):
        pass

    def broken(*args: Any) -> list[Task]:
        assert ids(real(*args)) == [waiting.task_id, task.task_id]
        raise Broken

    monkeypatch.setattr(sql_claim, "claim", broken)
    with pytest.raises(Broken):
        await backend.push_and_claim([task], Claim("o", NOW, 10, lease_until=LEASE))
    monkeypatch.setattr(sql_claim, "claim", real)
    assert await backend.get([task.task_id, waiting.task_id]) == [None, waiting]


# ---- fire_and_claim -------------------------------------------------------------------------------------------------


async def fires(schedules: Schedules, *tasks: Task) -> ScheduleChange:
    (schedule,) = await schedules.add([new_schedule()])
    return ScheduleChange(schedule, schedule.replace(run_count=schedule.run_count + 1), tasks)


async def test_what_a_schedule_fires_is_claimed_at_once(store: Store, schedules: Schedules) -> None:
    task, lost = new(params={"a": 1}), new()
    change = await fires(schedules, task)
    again = ScheduleChange(change.before.replace(version=7), change.after, (lost,))
    held, _, claimed = await store.backend.fire_and_claim([change], Claim("me", NOW, 5, lease_until=LEASE))
    assert held == [True] and ids(claimed) == [task.task_id]
    assert await read(store.backend, task) == claimed[0] and claimed[0].status is Status.RUNNING
    assert await store.backend.fire_and_claim([again], Claim("me", NOW, 5, lease_until=LEASE)) == ([False], [], [])
    assert await store.backend.get([lost.task_id]) == [None]


async def test_a_firing_writes_what_has_ended(store: Store, schedules: Schedules) -> None:
    ended, task = await running(store.backend), new()
    changes = [Change(ended, settle(ended, Completed(), NOW))]
    wanted = Claim("o", NOW, 5, lease_until=LEASE)
    fired, held, claimed = await store.backend.fire_and_claim([await fires(schedules, task)], wanted, changes)
    assert (fired, held, ids(claimed)) == ([True], [True], [task.task_id])
    assert await read(store.backend, ended) == changes[0].after


@pytest.mark.stores("sqlite")
async def test_firing_hints_only_at_what_is_left(store: Store, schedules: Schedules) -> None:
    ready: list[str] = []
    store.backend.listeners.listen(lambda kind, _names: ready.append(kind), READY)
    await store.backend.fire_and_claim([await fires(schedules, new())], Claim("me", NOW, 5, lease_until=LEASE))
    assert ready == []
    await store.backend.fire_and_claim([await fires(schedules, new(), new())], Claim("me", NOW, 1, lease_until=LEASE))
    assert ready == [READY]
