"""Marks and counts of lost leases on each store."""

from __future__ import annotations

from aiotaskq.backends.base import Backend, Change
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Completed, LeaseExpired, marked, settle, unmarked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.runtime.queue.queue import Queue
from tests.support.rows import LEASE, NOW, read, running


async def test_a_running_task_is_marked_and_unmarked_under_its_fence(backend: Backend) -> None:
    task = await running(backend)
    later = LEASE + 5 * SECOND
    after = marked(task).replace(lease_until=later)
    assert await backend.update([Change(task.replace(fence=task.fence + 1), after)]) == [False]
    assert await backend.update([Change(task, after)]) == [True]
    assert await read(backend, task) == after and after.lease_owner == "owner!alone"
    assert [late.task_id for late in await backend.overdue(later + SECOND, 5)] == [task.task_id]
    assert await backend.update([Change(after, unmarked(after))]) == [True]
    assert (await read(backend, task)).lease_owner == "owner"
    ended = settle(task, Completed(1), NOW)
    assert await backend.update([Change(task, ended)]) == [True]
    assert await read(backend, task) == ended


async def test_a_mark_loses_against_a_cancel(backend: Backend) -> None:
    task = await running(backend)
    await backend.request_cancel([task.task_id])
    assert await backend.update([Change(task, marked(task))]) == [False]


async def lose(backend: Backend, task: Task) -> Task:
    row = await read(backend, task)
    after = settle(row, LeaseExpired(), LEASE)
    assert await backend.update([Change(row, after, lease_over=True)]) == [True]
    return after


async def test_a_count_is_taken_back_from_the_row_as_it_is_now(backend: Backend) -> None:
    reaper = Queue(backend, VirtualClock(NOW)).reaper
    first = await running(backend)
    await lose(backend, first)
    await reaper.uncount(first)
    row = await read(backend, first)
    assert (row.status, row.crashes) == (Status.PENDING, 0)

    (second,) = await backend.claim("second", NOW, 1, lease_until=LEASE)
    assert (await lose(backend, second)).crashes == 1
    (third,) = await backend.claim("third", NOW, 1, lease_until=LEASE)
    await reaper.uncount(second)
    row = await read(backend, first)
    assert row == third.replace(crashes=0), "its lease and its fence are as they were"
    await reaper.uncount(second)
    assert await read(backend, first) == row, "once"

    ended = settle(third, Completed(), NOW)
    assert await backend.update([Change(third, ended)]) == [True]
    before = await read(backend, first)
    await reaper.uncount(first.replace(crashes=-1))
    assert await read(backend, first) == before, "what has ended stays as it is"
