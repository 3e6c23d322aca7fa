"""The registry of workers: one lease for all tasks of a worker, and what becomes of them when it is over."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.side_rows import WORKER, SideRow
from aiotaskq.backends.workers import ANSWERED, VERSION, Workers
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.history import DAY
from aiotaskq.core.instants import to_iso
from aiotaskq.core.outcome import LeaseExpired, Released, marked, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.core.worker_info import RunStack, WorkerStack
from aiotaskq.runtime.queue.queue import Queue
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, completed, ids, new, pushed, read, running
from tests.support.rows import worker_info as info

LATER = LEASE + 1_000 * SECOND


@pytest.fixture
def workers(registry: Store) -> Workers:
    assert registry.backend.workers is not None
    return registry.backend.workers


@pytest.fixture
def backend(registry: Store) -> Backend:
    return registry.backend


async def claimed(backend: Backend, owner: str, number: int = 1, **fields: Any) -> list[Task]:
    """Push some tasks, and claim them for a worker."""
    await backend.push([new(**fields) for _ in range(number)])
    return await backend.claim(owner, NOW, number)


async def test_the_registry_reads_what_was_written(workers: Workers) -> None:
    assert await workers.all() == []
    second = info("b", started_at=NOW + 1, queues=("q", "ü '\"\\"), host="höst 1", pid=2**31, version="1.2.3", busy=7)
    first, third = info("a"), info("c", started_at=NOW + 2, queues=())
    for worker in (third, second, first):
        await workers.register(worker)
    assert await workers.all() == [first, second, third]
    newer = replace(second, seen_at=NOW + 5, lease_until=LEASE + 5, busy=1)
    await workers.register(newer)
    assert await workers.all() == [first, newer, third]


async def test_a_lost_attempt_names_the_worker_and_its_last_heartbeat(workers: Workers, backend: Backend) -> None:
    clock = VirtualClock(NOW)
    owner = "worker-db1-42-0-0123456789ab"
    worker = info(owner, version="2.4.1", seen_at=NOW - SECOND, lease_until=NOW + SECOND)
    await workers.register(worker)
    (task,) = await claimed(backend, owner)
    reaper = Queue(backend, clock).reaper
    await reaper.reap()
    clock.step(2)
    assert await workers.remove(worker), "by another process, which dies before it settles the task"
    await reaper.reap()
    (attempt,) = (await read(backend, task)).attempts
    assert (attempt.outcome, attempt.worker, attempt.host, attempt.version) == ("lost", owner, "db1", "2.4.1")
    error = f"its process died, or its lease was not renewed: worker {owner}, last seen {to_iso(NOW - SECOND)}"
    assert attempt.error == error


async def test_a_version_is_noted_when_it_first_starts(workers: Workers, backend: Backend) -> None:
    month, year = 30 * DAY * SECOND, 365 * DAY * SECOND
    await workers.note_version(info("w"))
    assert await workers.versions(NOW) == []
    for at, version in ((0, "2.4.0"), (month, "v 2.4.1 ü"), (2 * month, "2.4.0"), (2 * month, "v 2.4.1 ü")):
        await workers.note_version(info("w", version=version, started_at=NOW + at))
    assert await workers.versions(NOW + 4 * month) == [(NOW, "2.4.0"), (NOW + month, "v 2.4.1 ü")]
    await workers.note_version(info("w", version="3", started_at=NOW + year))
    assert await workers.versions(0) == [(NOW + year, "3")], "those that did not start for long are deleted"
    assert await workers.versions(NOW + 2 * year) == []
    await backend.side.put(VERSION, [SideRow("odd", "no number")])
    assert [version for _, version in await workers.versions(0)] == ["3"]


async def test_processes_that_start_together_note_one_version(workers: Workers) -> None:
    starts = [info(f"w{n}", version="2.4.1", started_at=NOW + n) for n in range(5)]
    await asyncio.gather(*(workers.note_version(each) for each in starts))
    (found,) = await workers.versions(NOW)
    assert found[1] == "2.4.1" and NOW <= found[0] < NOW + 5


async def test_a_row_that_cannot_be_read_stops_no_other_worker(workers: Workers, backend: Backend) -> None:
    await workers.register(info("a"))
    await backend.side.put(WORKER, [SideRow("b", "{")])
    assert await workers.all() == [info("a")] and await workers.get("b") is None
    assert not await workers.steer("b", quiet=True) and not await workers.remove(info("b"))
    assert await workers.heartbeat(info("b"))  # the worker itself knows what belongs there
    assert await workers.all() == [info("a"), info("b")]


async def test_a_heartbeat_writes_the_row_of_its_worker_and_no_task(workers: Workers, backend: Backend) -> None:
    other = info("other")
    await workers.register(other)
    assert await workers.heartbeat(info()) is False
    assert await workers.all() == [other], "a heartbeat registers no worker"
    await workers.register(info())
    tasks = await claimed(backend, "w", 3)
    beat = info(seen_at=NOW + 9, lease_until=LEASE + 9, busy=3, concurrency=20, queues=("q",))
    assert await workers.heartbeat(beat) is True
    assert await workers.all() == [other, beat]
    assert await backend.get(ids(tasks)) == tasks


async def test_the_same_heartbeat_twice_finds_its_row_twice(workers: Workers) -> None:
    """MySQL counts the rows that an update changes, unless it is told to count those it finds."""
    await workers.register(info())
    assert [await workers.heartbeat(info()) for _ in range(2)] == [True, True]


async def test_tasks_of_a_worker_are_held_until_it_is_removed(workers: Workers, backend: Backend) -> None:
    for owner in ("w", "lives"):
        await workers.register(info(owner))
    mine, others = await claimed(backend, "w", 2), await claimed(backend, "lives", 2)
    assert all(task.lease_until is None and task.lease_owner == "w" for task in mine)
    assert await backend.overdue(LATER, 10) == [], "over, but the worker is not removed"
    assert await workers.remove(info("w")) is True
    assert sorted(ids(await backend.overdue(NOW, 10))) == sorted(ids(mine))
    assert [task.lease_owner for task in await backend.overdue(LATER, 1)] == ["w"]
    assert await backend.get(ids(others)) == others


async def test_a_worker_is_removed_only_with_the_lease_that_was_read(workers: Workers, backend: Backend) -> None:
    await workers.register(info())  # A6: pause the reaper between read and write
    await claimed(backend, "w")
    (read_before,) = await workers.all()
    assert await workers.heartbeat(info(lease_until=LEASE + 1)) is True
    assert await workers.remove(read_before) is False
    assert await workers.all() == [info(lease_until=LEASE + 1)]
    assert await backend.overdue(LATER, 10) == []
    assert await workers.remove(info("unknown")) is False


async def test_a_removed_worker_learns_it_by_its_heartbeat(workers: Workers, backend: Backend) -> None:  # A5, B10
    await workers.register(info())
    (task,) = await claimed(backend, "w")
    assert await workers.remove(info()) is True
    assert await workers.remove(info()) is False, "one reaper removes it"
    assert await workers.heartbeat(info(lease_until=LATER)) is False
    assert await workers.all() == []
    assert ids(await backend.overdue(NOW, 10)) == [task.task_id]


async def test_a_removal_and_a_heartbeat_at_once_have_one_winner(registry: Store, workers: Workers) -> None:  # G-7
    far = (await registry.another()).workers
    assert far is not None
    for number in range(30):
        owner = f"w{number}"
        await workers.register(info(owner))
        verbs = [workers.remove(info(owner)), far.heartbeat(info(owner, lease_until=LATER))]
        done = await asyncio.gather(*(verbs if number % 2 else verbs[::-1]))
        assert sum(done) == 1, "either it lives, or it is removed and knows it"
        assert [worker.owner for worker in await workers.all()] == ([owner] if done[number % 2] else [])
        await workers.remove(info(owner, lease_until=LATER))


async def test_a_claim_for_a_worker_that_was_removed_meanwhile_is_overdue_at_once(
    workers: Workers, backend: Backend
) -> None:
    """The claim was sent while the lease was valid, and arrives after another worker's reaper has been there."""
    await workers.register(info())
    await workers.remove(info())
    (task,) = await claimed(backend, "w")
    assert await backend.overdue(NOW, 10) == [task]
    await workers.register(info("again"))
    assert await backend.overdue(NOW, 10) == [task], "its worker is another one now"


async def test_another_reaper_goes_on_where_one_has_died(registry: Store, workers: Workers) -> None:
    await workers.register(info())
    tasks = await claimed(registry.backend, "w", 3)
    assert await workers.remove(info()) is True
    after = settle(tasks[0], LeaseExpired(), LATER)
    assert await registry.backend.update([Change(tasks[0], after, lease_over=True)]) == [True]
    far = await registry.another()
    assert sorted(ids(await far.overdue(LATER, 10))) == sorted(ids(tasks[1:]))


async def test_a_marked_task_is_held_and_lost_with_its_worker(workers: Workers, backend: Backend) -> None:
    await workers.register(info())
    (task,) = await claimed(backend, "w")
    assert await backend.update([Change(task, marked(task))]) == [True]
    assert await backend.overdue(LATER, 10) == []
    assert (await workers.held(["w"]))["w"] == [(task.task_id, task.fence, False)]
    await workers.remove(info())
    assert [late.lease_owner for late in await backend.overdue(NOW, 10)] == ["w!alone"]


async def test_a_reapers_write_loses_against_a_mark_it_has_not_seen(workers: Workers, backend: Backend) -> None:
    await workers.register(info())
    (task,) = await claimed(backend, "w")
    await workers.remove(info())
    (late,) = await backend.overdue(NOW, 10)
    assert await backend.update([Change(task, marked(task))]) == [True]
    assert await backend.update([Change(late, settle(late, LeaseExpired(), NOW), lease_over=True)]) == [False]
    (late,) = await backend.overdue(NOW, 10)
    assert await backend.update([Change(late, settle(late, LeaseExpired(), NOW), lease_over=True)]) == [True]
    assert await backend.overdue(NOW, 10) == []


async def test_a_result_counts_until_its_task_is_taken_back(workers: Workers, backend: Backend) -> None:
    await workers.register(info())
    first, second = await claimed(backend, "w", 2)
    await workers.remove(info())
    late = [task for task in await backend.overdue(NOW, 10) if task.task_id == first.task_id]
    assert await backend.update([Change(first, completed(first))]) == [True]
    after = settle(late[0], LeaseExpired(), NOW)
    assert await backend.update([Change(late[0], after, lease_over=True)]) == [False]
    assert ids(await backend.overdue(NOW, 10)) == [second.task_id]
    taken = settle(second, LeaseExpired(), NOW)
    assert await backend.update([Change(second, taken, lease_over=True)]) == [True]
    assert await backend.update([Change(second, completed(second))]) == [False]


async def test_a_task_with_a_lease_of_its_own_is_held_until_that_is_over(workers: Workers, backend: Backend) -> None:
    await workers.register(info())
    first = await running(backend)
    await backend.push([new()])
    (second,) = await backend.claim("another", NOW, 1, lease_until=LEASE + 1)
    (third,) = await claimed(backend, "w")
    assert await backend.overdue(LEASE - 1, 10) == []
    assert await backend.overdue(LEASE, 10) == [first]
    assert await backend.overdue(LEASE + 1, 10) == [first, second]
    assert await backend.overdue(LEASE + 1, 1) == [first]
    await workers.remove(info())
    assert await backend.overdue(LEASE, 10) == [third, first]


async def test_tasks_of_dead_workers_come_before_what_is_over_by_time(workers: Workers, backend: Backend) -> None:
    popped = await running(backend, lease_until=NOW + 1)
    expired = await pushed(backend, expires_at=NOW + 2, run_at=LATER)
    (orphan,) = await claimed(backend, "gone")
    assert await backend.overdue(NOW + 5, 10) == [orphan, popped, expired]
    assert await backend.overdue(NOW + 5, 2) == [orphan, popped]
    assert await workers.all() == []


async def test_what_a_worker_holds(workers: Workers, backend: Backend) -> None:
    for owner in ("w", "w1"):
        await workers.register(info(owner))
    first, second, ended, back = await claimed(backend, "w", 4)
    await claimed(backend, "w1", 2)
    await pushed(backend)
    assert await backend.update([Change(ended, completed(ended))]) == [True]
    assert await backend.update([Change(back, settle(back, Released("r", LATER), NOW))]) == [True]
    await backend.request_cancel([second.task_id])
    assert sorted((await workers.held(["w"]))["w"]) == sorted([(first.task_id, 1, False), (second.task_id, 1, True)])
    assert (await workers.held(["nobody"]))["nobody"] == []
    await backend.delete([first.task_id])
    assert (await workers.held(["w"]))["w"] == [(second.task_id, 1, True)]
    flagged = second.replace(cancel_requested=True)
    assert await backend.update([Change(flagged, marked(flagged))]) == [True]
    found = await workers.held(["w1", "nobody", "w"])
    assert (len(found.pop("w1")), found) == (2, {"nobody": [], "w": [(second.task_id, 1, True)]})
    assert await workers.held([]) == {}


async def test_a_worker_may_hold_many(workers: Workers, backend: Backend) -> None:
    await workers.register(info())
    tasks = await claimed(backend, "w", 2_500)
    assert sorted((await workers.held(["w"]))["w"]) == sorted((task.task_id, 1, False) for task in tasks)
    await workers.remove(info())
    assert len(await backend.overdue(NOW, 3_000)) == 2_500
    assert len(set(ids(await backend.overdue(NOW, 2_000)))) == 2_000
    changes = [Change(task, settle(task, LeaseExpired(), NOW), lease_over=True) for task in tasks]
    assert await backend.update(changes) == [True] * 2_500
    assert await backend.overdue(NOW, 10) == []
    assert {row.status for row in await backend.find(TaskFilter(), 5_000)} == {Status.PENDING}


@pytest.mark.parametrize("owner", ["a b", "a", "a!", "a!b", "-", "1", "ü", "a%20b", "'\"\\", "x" * 90])
async def test_any_owner_id_will_do(workers: Workers, backend: Backend, owner: str) -> None:
    await workers.register(info("a b c"))
    await workers.register(info(owner))
    await claimed(backend, "a b c")
    (task,) = await claimed(backend, owner)
    assert (await workers.held([owner]))[owner] == [(task.task_id, 1, False)]
    assert await backend.update([Change(task, marked(task))]) == [True]
    assert await read(backend, task) == marked(task)
    assert (await workers.held([owner]))[owner] == [(task.task_id, 1, False)]
    assert await backend.overdue(LATER, 10) == []
    await workers.remove(info(owner))
    assert await backend.overdue(LATER, 10) == [marked(task)]


async def test_rows_of_no_owner_are_nobodys(backend: Backend) -> None:
    """A program that knows only the documented columns sets a row to running, and ends it."""
    task = await running(backend)
    assert await backend.update([Change(task, task.replace(lease_owner=None, lease_until=None))]) == [True]
    assert await backend.overdue(LATER, 10) == []


async def test_running_tasks_are_found_whoever_holds_them(workers: Workers, backend: Backend) -> None:
    await workers.register(info())
    popped, (mine,) = await running(backend), await claimed(backend, "w")
    (orphan,) = await claimed(backend, "gone")
    where = TaskFilter(status=(Status.RUNNING,))
    assert await backend.find(where, 10) == [orphan, mine, popped]
    assert (await backend.stats(NOW)).counts["running"] == 3


async def test_what_a_worker_is_asked_for_is_read_and_a_heartbeat_leaves_it(workers: Workers) -> None:
    await workers.register(info())
    await workers.register(info("other"))
    assert await workers.get("w") == info()
    assert await workers.steer("w", quiet=True) is True
    assert await workers.get("w") == info(quiet=True)
    assert await workers.steer("w", concurrency=3) is True
    beat = info(seen_at=NOW + 9, lease_until=LEASE + 9, types=("a", "b é"))
    assert await workers.heartbeat(beat) is True
    expected = replace(beat, quiet=True, wanted_concurrency=3)
    assert await workers.get("w") == expected
    assert await workers.all() == [info("other"), expected]
    assert await workers.steer("w", quiet=False, concurrency=4) is True
    assert await workers.get("w") == replace(beat, wanted_concurrency=4)
    assert await workers.steer("w") is True
    assert await workers.get("w") == replace(beat, wanted_concurrency=4)


async def test_who_is_not_there_is_asked_for_nothing(workers: Workers) -> None:
    assert await workers.steer("w", quiet=True, concurrency=7) is False
    assert await workers.get("w") is None
    await workers.register(info())
    assert await workers.get("w") == info()
    assert await workers.steer("w", quiet=True, concurrency=7) is True
    assert await workers.remove(info()) is True
    assert await workers.steer("w", quiet=True) is False
    await workers.register(info())
    assert await workers.get("w") == info(), "a new registration has nothing of the removed row"
    asked = info(quiet=True, wanted_concurrency=2)
    await workers.register(asked)  # as a worker does that lost its row, and had been asked before
    assert await workers.get("w") == asked


async def test_an_answer_is_read_until_it_is_too_old(registry: Store, workers: Workers) -> None:
    await workers.register(info("w"))
    assert await workers.answered("w", 0) is None
    stood = WorkerStack(7, NOW, (RunStack("a", "t", None, 1, "loop", ("x.py:1 é",)),), 2)
    await workers.answer("w", stood)
    assert await workers.answered("w", 7) == stood and await workers.answered("v", 7) is None
    assert await workers.answered("w", 8) is None, "it was asked again"
    await workers.answer("v", WorkerStack(1, NOW + ANSWERED, ()))
    assert await workers.answered("w", 7) is None, "deleted with what another worker writes later"
    assert await workers.steer("w", stack_asked=9) is True
    assert await workers.steer("w", stack_asked=8, quiet=True) is True, "both are answered with the later one"
    assert await workers.heartbeat(info("w")) is True
    found = await workers.get("w")
    assert found is not None and found.stack_asked == 9
