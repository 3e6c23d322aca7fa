"""``update``: its guards, and the fields that it writes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.listeners import ENDED, READY
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.pushes import insert
from aiotaskq.core.outcome import Cancelled, Rerun, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, ended, ids, new, pushed, read, running
from tests.support.sql import tx_on

FINAL = [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED]


def to_end(task: Task, status: Status = Status.COMPLETED, **fields: Any) -> Task:
    return task.replace(status=status, completed_at=NOW // SECOND, lease_owner=None, lease_until=None, **fields)


def to_pending(task: Task, **fields: Any) -> Task:
    return task.replace(status=Status.PENDING, lease_owner=None, lease_until=None, **fields)


async def test_nothing(backend: Backend) -> None:
    assert await backend.update([]) == []


@pytest.mark.parametrize("status", FINAL)
async def test_writes_the_fields_of_after(backend: Backend, status: Status) -> None:
    task = await running(backend, params={"a": 1})
    after = to_end(task, status, result={"r": [1, "ä"]}, error_message="why", retry_count=2, crashes=1)
    assert await backend.update([Change(task, after)]) == [True]
    assert await read(backend, task) == after


async def test_a_retry_is_claimed_when_it_is_due(backend: Backend) -> None:
    task = await running(backend)
    after = to_pending(task, run_at=NOW + 7, retry_count=1, error_message="once more")
    assert await backend.update([Change(task, after)]) == [True]
    assert await backend.claim("o", NOW + 6, 1) == []
    (again,) = await backend.claim("o", NOW + 7, 1)
    assert (again.task_id, again.fence, again.retry_count) == (task.task_id, 2, 1)


async def test_content_of_a_released_task(backend: Backend) -> None:
    task = await running(backend, params={"a": 1})
    after = to_pending(
        task,
        type="other",
        params={"b": 2},
        extra={"own": True},
        priority=-3,
        queue="q2",
        max_retries=9,
        seq=task.seq + 9,
    )
    assert await backend.update([Change(task, after)]) == [True]
    assert await read(backend, task) == after
    assert ids(await backend.claim("o", NOW, 5, queues=["q2"])) == [task.task_id]
    assert await backend.count_ready(NOW) == 0


async def test_unchanged_params_are_not_written(sql_store: Store) -> None:
    task = await running(sql_store.backend, params={"a": 1})
    other = '{ "a" :  2 }'
    sql_store.execute("UPDATE task_queue SET params = :p WHERE task_id = :id", p=other, id=task.task_id)
    assert await sql_store.backend.update([Change(task, to_end(task))]) == [True]
    assert sql_store.execute("SELECT params FROM task_queue") == [(other,)]


async def test_progress_is_not_written(backend: Backend) -> None:
    task = await running(backend)
    assert await backend.report([(task.task_id, task.fence, {"done": 3})]) == [True]
    assert await backend.update([Change(task, to_end(task))]) == [True]  # as the worker read it: without progress
    assert (await read(backend, task)).progress == {"done": 3}


# ---- the guard ----------------------------------------------------------------------------------------------------


async def test_another_fence_changes_nothing(backend: Backend) -> None:  # B10
    task = await running(backend)
    assert await backend.update([Change(task, to_pending(task))]) == [True]
    (again,) = await backend.claim("second", NOW, 1, lease_until=LEASE)
    assert again.fence == task.fence + 1
    zombie = [
        Change(task, to_end(task, result="late")),
        Change(task, to_pending(task, retry_count=1)),
        Change(task, to_end(task, Status.FAILED), then=(new(),)),
    ]
    for change in zombie:
        assert await backend.update([change]) == [False]
    assert await backend.report([(task.task_id, task.fence, {"n": 1})]) == [False]
    assert await read(backend, task) == again
    assert await backend.count_ready(NOW) == 0


async def test_a_row_read_before_its_id_ran_again_changes_nothing(backend: Backend) -> None:
    task = await pushed(backend, params={"a": 1})  # never claimed: its first fence, and its status, come back
    cancelled = settle(task, Cancelled(), NOW)
    assert await backend.update([Change(task, cancelled)]) == [True]
    again = settle(cancelled, Rerun(new(task_id=task.task_id)), NOW)
    assert await backend.update([Change(cancelled, again)]) == [True]
    assert await backend.update([Change(task, cancelled)]) == [False]
    assert await read(backend, task) == again


async def test_another_status_changes_nothing(backend: Backend) -> None:
    task = await pushed(backend)
    (claimed,) = await backend.claim("o", NOW, 1)
    assert await backend.update([Change(task, to_end(task, Status.CANCELLED))]) == [False]  # it was pending when read
    assert await read(backend, task) == claimed


@pytest.mark.parametrize("status", FINAL)
async def test_a_final_row_does_not_change_by_accident(backend: Backend, status: Status) -> None:
    task = await running(backend)
    after = to_end(task, status)
    assert await backend.update([Change(task, after)]) == [True]
    for other in FINAL:
        assert await backend.update([Change(task, to_end(task, other, result="other"))]) == [False]
    assert await backend.update([Change(task, to_pending(task))]) == [False]
    assert await read(backend, task) == after


async def test_a_missing_row_is_not_held(backend: Backend) -> None:
    task = await running(backend)
    assert await backend.delete([task.task_id]) == 1
    assert await backend.update([Change(task, to_end(task), then=(new(),))]) == [False]
    assert await backend.get([task.task_id]) == [None]
    assert await backend.count_ready(NOW) == 0


async def test_one_that_does_not_hold_does_not_stop_the_others(backend: Backend) -> None:
    await backend.push([new() for _ in range(30)])
    tasks = await backend.claim("o", NOW, 30, lease_until=LEASE)
    odd = tasks[1::2]
    assert await backend.update([Change(task, to_end(task, Status.CANCELLED)) for task in odd]) == [True] * 15
    held = await backend.update([Change(task, to_end(task)) for task in tasks])
    assert held == [True, False] * 15
    assert (await backend.stats(NOW)).counts["completed"] == 15
    assert (await backend.stats(NOW)).counts["cancelled"] == 15


async def test_of_two_changes_of_one_row_in_one_call_the_second_loses(backend: Backend) -> None:  # A5
    # Group commit brings the writes of a holder and of its rival into one call.
    task = await running(backend)
    follower, rival = new(), new()
    changes = [
        Change(task, to_end(task, result="mine"), then=(follower,)),
        Change(task, to_end(task, Status.FAILED), then=(rival,)),
        Change(task, to_pending(task, retry_count=1)),
    ]
    assert await backend.update(changes) == [True, False, False]
    assert (await read(backend, task)).result == "mine"
    assert [row is not None for row in await backend.get([follower.task_id, rival.task_id])] == [True, False]


async def test_changes_of_one_row_apply_one_after_the_other(backend: Backend) -> None:
    task = await running(backend, params={"a": 1})
    pending = to_pending(task, params={"a": 2})
    cancelled = to_end(pending, Status.CANCELLED)
    assert await backend.update([Change(task, pending), Change(pending, cancelled)]) == [True, True]
    assert await read(backend, task) == cancelled


@pytest.mark.heavy
async def test_racing_writers_have_one_winner(store: Store) -> None:  # A5, D10
    other = await store.another() if store.backend.shared else store.backend
    for _ in range(25):
        task = await running(store.backend)
        ends = [to_end(task, status, result=str(status)) for status in FINAL]
        followers = [new(), new(), new(), new()]
        backends = [store.backend, other, store.backend, other]
        answers = await asyncio.gather(
            *(b.update([Change(task, e, then=(f,))]) for b, e, f in zip(backends, ends, followers, strict=True))
        )
        (winner,) = [number for number, (held,) in enumerate(answers) if held]
        assert await read(store.backend, task) == ends[winner]
        there = await store.backend.get([follower.task_id for follower in followers])
        assert [row is not None for row in there] == [number == winner for number in range(4)]
        await store.backend.delete([followers[winner].task_id])


# ---- the cancel flag ----------------------------------------------------------------------------------------------


async def test_a_cancel_is_not_lost_with_a_task_that_goes_on(backend: Backend) -> None:  # D6
    task = await running(backend)
    assert await backend.request_cancel([task.task_id]) == [True]
    assert await backend.update([Change(task, to_pending(task, retry_count=1))]) == [False]
    row = await read(backend, task)
    assert row.cancel_requested
    assert row.status is Status.RUNNING
    assert await backend.update([Change(row, to_end(row, Status.CANCELLED))]) == [True]


async def test_a_cancel_does_not_stop_an_end(backend: Backend) -> None:
    task = await running(backend)
    assert await backend.request_cancel([task.task_id]) == [True]
    assert await backend.update([Change(task, to_end(task, result=1))]) == [True]
    assert (await read(backend, task)).status is Status.COMPLETED


# ---- the lease ----------------------------------------------------------------------------------------------------


async def overdue_one(backend: Backend, **fields: Any) -> Task:
    task = await running(backend, lease_until=NOW + 10, **fields)
    assert await backend.overdue(NOW + 10, 5) == [task]
    return task


def reaped(task: Task) -> Change:
    return Change(task, to_pending(task, crashes=1), then=(new(type="reaped"),), lease_over=True)


async def test_a_reaper_writes_when_nothing_came_in_between(backend: Backend) -> None:
    task = await overdue_one(backend)
    assert await backend.update([reaped(task)]) == [True]
    assert (await read(backend, task)).crashes == 1
    assert [t.type for t in await backend.find(TaskFilter(type="reaped"), 5)] == ["reaped"]


@pytest.mark.parametrize("gap", ["longer lease", "complete", "release", "release and claim", "delete", "fail"])
async def test_a_reaper_that_paused_changes_nothing(backend: Backend, gap: str) -> None:  # A5, A6
    task = await overdue_one(backend)
    # Here the reaper has read the row and is paused; meanwhile:
    if gap == "longer lease":
        assert await backend.update([Change(task, task.replace(lease_until=NOW + 99))]) == [True]
    elif gap == "complete":
        assert await backend.update([Change(task, to_end(task, result=1))]) == [True]
    elif gap == "fail":
        assert await backend.update([Change(task, to_end(task, Status.FAILED))]) == [True]
    elif gap == "delete":
        assert await backend.delete([task.task_id]) == 1
    else:
        assert await backend.update([Change(task, to_pending(task))]) == [True]
        if gap == "release and claim":
            (again,) = await backend.claim("second", NOW, 1, lease_until=task.lease_until)
            assert again.task_id == task.task_id
    before = await backend.get([task.task_id])
    assert await backend.update([reaped(task)]) == [False]
    assert await backend.get([task.task_id]) == before
    assert await backend.find(TaskFilter(type="reaped"), 5) == []


async def test_a_late_write_of_the_former_owner_changes_nothing(backend: Backend) -> None:  # A5, the reverse
    task = await overdue_one(backend)
    assert await backend.update([reaped(task)]) == [True]
    assert await backend.update([Change(task, to_end(task, result=1))]) == [False]
    assert (await read(backend, task)).status is Status.PENDING


@pytest.mark.heavy
async def test_the_reaper_and_the_owner_at_the_same_time(store: Store) -> None:  # A5
    other = await store.another() if store.backend.shared else store.backend
    for number in range(25):
        task = await overdue_one(store.backend)
        pair = [other.update([reaped(task)]), store.backend.update([Change(task, to_end(task, result=1))])]
        answers = await asyncio.gather(*(pair if number % 2 else reversed(pair)))
        assert sorted(held for (held,) in answers) == [False, True]
        row = await read(store.backend, task)
        followers = await store.backend.find(TaskFilter(type="reaped"), 5)
        assert (row.status is Status.PENDING) == (len(followers) == 1)
        await store.backend.delete([task.task_id, *(follower.task_id for follower in followers)])


async def test_an_outcome_counts_after_the_lease(backend: Backend) -> None:
    # The lease is over, but no worker has claimed the task again: its result counts.
    task = await overdue_one(backend)
    assert await backend.update([Change(task, to_end(task, result=1))]) == [True]


# ---- then ---------------------------------------------------------------------------------------------------------


async def test_a_follow_up_is_pushed_with_the_change(backend: Backend) -> None:
    task = await running(backend)
    followers = (new(params={"n": 1}), new(params={"n": 2}))
    assert await backend.update([Change(task, to_end(task), then=followers)]) == [True]
    assert await backend.get([follower.task_id for follower in followers]) == list(followers)


async def test_a_follow_up_that_conflicts_is_not_doubled(backend: Backend) -> None:
    there = await pushed(backend, queue="other", idempotency_key="once")
    task = await running(backend, priority=-1)
    followers = (new(task_id=there.task_id, type="x"), new(idempotency_key="once"))
    assert await backend.update([Change(task, to_end(task), then=followers)]) == [True]
    assert await read(backend, there) == there
    assert await backend.count_ready(NOW) == 1


async def test_an_invalid_follow_up_undoes_the_change(durable_store: Store) -> None:
    backend = durable_store.backend
    task = await running(backend)
    with pytest.raises(Exception, match=r"."):
        await backend.update([Change(task, to_end(task), then=(new(params={"a": object()}),))])
    assert await read(backend, task) == task


# ---- uniqueness ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", FINAL)
async def test_a_unique_key_is_free_once_its_task_is_final(backend: Backend, status: Status) -> None:  # A18
    task = await ended(backend, status, unique_key="k")
    assert (await read(backend, task)).unique_key == "k"
    again = new(unique_key="k")
    assert (await backend.push([again]))[0] is again


async def test_the_follower_may_have_the_key_of_the_task_that_ends(backend: Backend) -> None:
    task = await running(backend, unique_key="k")
    follower = new(unique_key="k")
    assert await backend.update([Change(task, to_end(task), then=(follower,))]) == [True]
    assert await backend.get([follower.task_id]) == [follower]


async def test_a_dead_letter_does_not_come_back_beside_a_newer_one(backend: Backend) -> None:
    dead = await ended(backend, Status.FAILED, unique_key="k")
    newer = await pushed(backend, unique_key="k")
    assert await backend.update([Change(dead, to_pending(dead))]) == [False]
    assert await read(backend, dead) == dead
    assert await backend.update([Change(newer, to_end(newer, Status.CANCELLED))]) == [True]
    assert await backend.update([Change(dead, to_pending(dead))]) == [True]
    assert ids(await backend.push([new(unique_key="k")])) == [dead.task_id]


async def test_of_two_dead_letters_with_one_key_one_comes_back(backend: Backend) -> None:
    first = await ended(backend, Status.FAILED, unique_key="k")
    second = await ended(backend, Status.FAILED, unique_key="k")
    third = await ended(backend, Status.FAILED, unique_key="other")
    changes = [Change(task, to_pending(task)) for task in (first, second, third)]
    assert await backend.update(changes) == [True, False, True]


async def test_a_key_set_free_in_the_same_call_can_be_taken(backend: Backend) -> None:
    dead = await ended(backend, Status.FAILED, unique_key="k")
    newer = await pushed(backend, unique_key="k")
    changes = [Change(newer, to_end(newer, Status.CANCELLED)), Change(dead, to_pending(dead))]
    assert await backend.update(changes) == [True, True]


@pytest.mark.stores("postgresql", "mysql")  # the others have one writer at a time
async def test_a_key_that_is_taken_between_the_read_and_the_write_is_read_again(
    sql_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, newer, other = sql_store.backend, new(unique_key="k"), sync_engine(sql_store.url)
    assert isinstance(backend, SqlBackend)
    dead = [await ended(backend, Status.FAILED, unique_key=key) for key in ("before", "k", "behind")]
    # InnoDB also locks the gap up to the next key: "between" lets another transaction take "k" beside "before".
    await pushed(backend, unique_key="between")
    dialect, attempts = backend.database.dialect, list[str]()
    write = dialect.write

    def late(connection: Connection, changes: Sequence[Change]) -> None:
        attempts.extend(change.before.task_id for change in changes)
        if attempts.count(dead[1].task_id) == 1 and changes[0].before is dead[1]:
            with other.begin() as theirs:
                insert(tx_on(theirs), [newer])
        write(connection, changes)

    monkeypatch.setattr(dialect, "write", late)
    try:
        assert await backend.update([Change(task, to_pending(task)) for task in dead]) == [True, False, True]
        assert attempts == [task.task_id for task in (*dead[:2], dead[0], dead[2])]
        assert await backend.get([dead[1].task_id, newer.task_id]) == [dead[1], newer]

        # The transaction of a caller is not ours to repeat.
        assert await backend.update([Change(newer, to_end(newer, Status.CANCELLED))]) == [True]
        attempts.clear()
        newer = new(unique_key="k")
        with pytest.raises(IntegrityError), Session(other) as session:
            await backend.update_with(session, [Change(dead[1], to_pending(dead[1]))])
        assert attempts == [dead[1].task_id]
        assert await backend.get([dead[1].task_id, newer.task_id]) == [dead[1], newer]
    finally:
        other.dispose()


# ---- hints --------------------------------------------------------------------------------------------------------


async def test_hints(backend: Backend, hints: list[Any]) -> None:
    await backend.push([new() for _ in range(4)])
    tasks = await backend.claim("o", NOW, 4, lease_until=LEASE)
    hints.clear()
    await backend.update([Change(tasks[0], to_end(tasks[0])), Change(tasks[0], to_end(tasks[0]))])
    assert hints == [(ENDED, [tasks[0].task_id])]
    hints.clear()
    await backend.update([Change(tasks[1], to_pending(tasks[1]))])
    assert hints == [(READY, [])]
    hints.clear()
    await backend.update([Change(tasks[2], to_end(tasks[2]), then=(new(),))])
    assert sorted(hints) == [(ENDED, [tasks[2].task_id]), (READY, [])]
    hints.clear()
    assert await backend.update([Change(tasks[2], to_end(tasks[2]), then=(new(),))]) == [False]
    assert hints == []
