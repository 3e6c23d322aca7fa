"""``exchange``: the same as ``update`` and then ``claim``; in SQL both in one transaction."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotaskq.backends.base import Backend, Change, Claim
from aiotaskq.backends.listeners import ENDED, READY
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, completed, ids, new, pushed, read, running


def retried(task: Task, run_at: int) -> Task:
    back: dict[str, Any] = {"status": Status.PENDING, "lease_owner": None, "lease_until": None}
    return task.replace(**back, run_at=run_at, retry_count=task.retry_count + 1)


async def test_nothing_for_nothing(backend: Backend) -> None:
    assert await backend.exchange([], Claim("o", NOW, 0)) == ([], [])
    task = await pushed(backend)
    assert await backend.exchange([], Claim("o", NOW, 0)) == ([], [])
    assert (await read(backend, task)).status is Status.PENDING


async def test_only_a_claim(backend: Backend) -> None:
    task = await pushed(backend)
    held, claimed = await backend.exchange([], Claim("me", NOW, 5, lease_until=LEASE))
    assert held == []
    assert claimed == [task.replace(status=Status.RUNNING, fence=1, lease_owner="me", lease_until=LEASE,
                                    started_at=NOW // SECOND, began_at=NOW)]  # fmt: skip
    assert await read(backend, task) == claimed[0]


async def test_only_an_update(backend: Backend) -> None:
    task = await running(backend)
    other = await pushed(backend)
    assert await backend.exchange([Change(task, completed(task))], Claim("o", NOW, 0)) == ([True], [])
    assert await read(backend, task) == completed(task)
    assert await read(backend, other) == other


async def test_many_for_many_in_claim_order(backend: Backend) -> None:
    await backend.push([new() for _ in range(120)])
    first = await backend.claim("o", NOW, 120, lease_until=LEASE)
    waiting = [new(priority=n % 3, run_at=NOW - n % 5) for n in range(130)]
    await backend.push(waiting)
    changes = [Change(task, completed(task, result={"n": n})) for n, task in enumerate(first)]
    held, claimed = await backend.exchange(changes, Claim("o", NOW, 100, lease_until=LEASE))
    assert held == [True] * 120
    in_order = sorted(waiting, key=lambda task: (task.priority, task.run_at, task.seq))
    assert ids(claimed) == ids(in_order[:100])
    assert {(task.status, task.fence, task.lease_until) for task in claimed} == {(Status.RUNNING, 1, LEASE)}
    assert await backend.get(ids(first)) == [change.after for change in changes]


async def test_guards_hold_one_by_one(backend: Backend) -> None:
    mine = await running(backend)
    lost = await running(backend)
    assert await backend.update([Change(lost, retried(lost, NOW))]) == [True]
    (theirs,) = await backend.claim("other", NOW, 1, lease_until=LEASE)
    asked = await running(backend)
    assert await backend.request_cancel([asked.task_id]) == [True]
    gone = new(fence=1, status=Status.RUNNING)
    waiting = await pushed(backend)
    changes = [
        *(Change(mine, completed(mine)), Change(lost, completed(lost))),
        *(Change(asked, retried(asked, NOW)), Change(gone, completed(gone))),
    ]
    held, claimed = await backend.exchange(changes, Claim("o", NOW, 10, lease_until=LEASE))
    assert held == [True, False, False, False]
    assert ids(claimed) == [waiting.task_id]
    assert await read(backend, mine) == completed(mine)
    assert await read(backend, theirs) == theirs
    assert (await read(backend, asked)).status is Status.RUNNING


async def test_an_ended_task_is_not_claimed(backend: Backend) -> None:
    task = await running(backend)
    stale = await pushed(backend)
    (fresh,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
    assert fresh.task_id == stale.task_id
    held, claimed = await backend.exchange([Change(t, completed(t)) for t in (task, fresh)], Claim("o", NOW, 10))
    assert (held, claimed) == ([True, True], [])
    assert (await backend.stats(NOW)).counts["completed"] == 2


async def test_a_released_task_may_be_claimed_in_the_same_call(backend: Backend) -> None:
    due, later = await running(backend), await running(backend)
    changes = [Change(due, retried(due, NOW)), Change(later, retried(later, NOW + 1))]
    held, claimed = await backend.exchange(changes, Claim("again", NOW, 10, lease_until=LEASE))
    assert held == [True, True]
    assert [(task.task_id, task.fence, task.lease_owner) for task in claimed] == [(due.task_id, 2, "again")]
    assert (await read(backend, later)).status is Status.PENDING


async def test_a_follow_up_may_be_claimed_in_the_same_call(backend: Backend) -> None:
    task, lost = await running(backend), new(status=Status.RUNNING, fence=9)
    follower, orphan = new(), new()
    changes = [Change(task, completed(task), (follower,)), Change(lost, completed(lost), (orphan,))]
    held, claimed = await backend.exchange(changes, Claim("o", NOW, 10, lease_until=LEASE))
    assert held == [True, False]
    assert ids(claimed) == [follower.task_id]
    assert await backend.get([orphan.task_id]) == [None]


async def test_only_of_these_queues(backend: Backend) -> None:
    task = await running(backend, queue="a")
    a, _b, c = [await pushed(backend, queue=queue) for queue in "abc"]
    await backend.set_paused("c", True)
    held, claimed = await backend.exchange([Change(task, completed(task))], Claim("o", NOW, 10, queues=["a", "c"]))
    assert (held, ids(claimed)) == ([True], [a.task_id])
    await backend.set_paused("c", False)
    assert ids((await backend.exchange([], Claim("o", NOW, 10, queues=["a", "c"])))[1]) == [c.task_id]


async def test_a_unique_key_is_free_for_the_follower(backend: Backend) -> None:
    task = await running(backend, unique_key="u")
    follower = new(unique_key="u")
    held, claimed = await backend.exchange([Change(task, completed(task), (follower,))], Claim("o", NOW, 10))
    assert (held, ids(claimed)) == ([True], [follower.task_id])


async def test_hints_name_what_ended_and_what_is_ready(backend: Backend, hints: list[tuple[str, list[str]]]) -> None:
    task, other = await running(backend), await running(backend)
    hints.clear()
    await backend.exchange([Change(task, completed(task))], Claim("o", NOW, 10))
    assert (ENDED, [task.task_id]) in hints and READY not in [kind for kind, _ in hints]
    hints.clear()
    await backend.exchange([Change(other, retried(other, NOW + SECOND))], Claim("o", NOW, 10))
    assert READY in [kind for kind, _ in hints]


async def test_no_task_is_handed_out_twice(store: Store) -> None:
    backend = store.backend
    await backend.push([new() for _ in range(200)])
    seen: list[tuple[str, int]] = []

    async def work(owner: str) -> None:
        ran: list[Task] = []
        while True:
            changes = [Change(task, completed(task)) for task in ran]
            held, ran = await backend.exchange(changes, Claim(owner, NOW, 7, lease_until=LEASE))
            assert all(held)
            seen.extend((task.task_id, task.fence) for task in ran)
            if not ran and not changes:
                return

    await asyncio.gather(*(work(f"o{n}") for n in range(4)))
    assert len(seen) == len(set(seen)) == 200
    assert (await backend.stats(NOW)).counts["completed"] == 200


async def test_both_or_neither(sql_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiotaskq.backends.sql import claim as sql_claim

    backend = sql_store.backend
    task = await running(backend)
    follower, waiting = new(), await pushed(backend)
    real = sql_claim.claim

    class Broken(Exception):
        pass

    def broken(*args: Any) -> list[Task]:
        assert ids(real(*args)) == [follower.task_id, waiting.task_id]
        raise Broken

    monkeypatch.setattr(sql_claim, "claim", broken)
    with pytest.raises(Broken):
        await backend.exchange([Change(task, completed(task), (follower,))], Claim("o", NOW, 10, lease_until=LEASE))
    monkeypatch.setattr(sql_claim, "claim", real)
    assert await backend.get([task.task_id, follower.task_id, waiting.task_id]) == [task, None, waiting]
