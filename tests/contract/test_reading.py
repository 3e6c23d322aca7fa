"""The reading verbs: ``get``, ``find``, ``overdue``, ``next_run_at``, ``count_ready``, ``stats``, ``active``."""

from __future__ import annotations

import random

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.task import SECOND, Status, Task, TaskFilter
from tests.support.rows import LEASE, NOW, ended, ids, new, pushed, running


async def test_get_answers_in_order_with_none_for_what_is_missing(backend: Backend) -> None:
    tasks = await backend.push([new() for _ in range(700)])  # more than one statement takes
    wanted = [tasks[650].task_id, "missing", tasks[3].task_id, tasks[3].task_id, ""]
    assert await backend.get(wanted) == [tasks[650], None, tasks[3], tasks[3], None]
    assert await backend.get([task.task_id for task in tasks]) == tasks
    assert await backend.get([]) == []


# ---- find -----------------------------------------------------------------------------------------------------------


async def test_find_lists_the_newest_push_first(backend: Backend) -> None:
    tasks = [new(priority=n % 3, run_at=NOW - n) for n in range(20)]
    for task in random.Random(1).sample(tasks, 20):
        await backend.push([task])
    assert await backend.find(TaskFilter(), 100) == tasks[::-1]
    assert await backend.find(TaskFilter(), 7) == tasks[::-1][:7]


@pytest.mark.parametrize("same_stamp", [False, True])
async def test_find_continues_behind_an_id(backend: Backend, same_stamp: bool) -> None:
    fields = {"seq": NOW} if same_stamp else {}
    tasks = await backend.push([new(**fields) for _ in range(25)])
    pages: list[list[Task]] = []
    after = None
    while page := await backend.find(TaskFilter(after=after), 4):
        pages.append(page)
        after = page[-1].task_id
    assert [len(page) for page in pages] == [4, 4, 4, 4, 4, 4, 1]
    listed = [task for page in pages for task in page]
    assert listed == await backend.find(TaskFilter(), 100)
    assert sorted(ids(listed)) == sorted(ids(tasks))


async def test_find_continues_behind_a_row_that_the_filter_leaves_out(backend: Backend) -> None:
    tasks = await backend.push([new(queue=f"q{n % 2}") for n in range(6)])
    found = await backend.find(TaskFilter(queue="q0", after=tasks[3].task_id), 10)
    assert found == [tasks[2], tasks[0]]


async def test_find_filters(backend: Backend) -> None:
    a = await ended(backend, Status.FAILED, type="a", queue="q1", scheduler_task_id="s1")
    b = await ended(backend, Status.COMPLETED, type="b", queue="q1")
    c = await running(backend, type="a", queue="q2")
    d = await pushed(backend, type="A", queue="Q1", scheduler_task_id="s2")

    async def found(where: TaskFilter) -> list[Task]:
        return await backend.find(where, 10)

    assert await found(TaskFilter(status=(Status.FAILED,))) == [a]
    assert await found(TaskFilter(status=(Status.PENDING, Status.RUNNING))) == [d, c]
    assert await found(TaskFilter(type="a")) == [c, a]
    assert await found(TaskFilter(queue="q1")) == [b, a]
    assert await found(TaskFilter(scheduler_task_id="s1")) == [a]
    assert await found(TaskFilter(completed_before=NOW // SECOND)) == []
    assert await found(TaskFilter(completed_before=NOW // SECOND + 1)) == [b, a]
    assert await found(TaskFilter(type="a", queue="q1", status=(Status.FAILED,))) == [a]
    assert await found(TaskFilter(type="a", queue="q1", status=(Status.PENDING,))) == []


# ---- overdue --------------------------------------------------------------------------------------------------------


async def test_overdue_gives_the_longest_overdue_first(backend: Backend) -> None:
    a = await running(backend, lease_until=NOW + 30)
    b = await running(backend, lease_until=NOW + 10)
    forever = await running(backend, lease_until=None)
    c = await pushed(backend, expires_at=NOW + 20)
    d = await pushed(backend, expires_at=NOW + 40, run_at=NOW + 10**9)
    later = await pushed(backend, run_at=NOW + 10**9)
    assert await backend.overdue(NOW + 9, 10) == []
    assert await backend.overdue(NOW + 10, 10) == [b]
    assert await backend.overdue(NOW + 40, 10) == [b, c, a, d]
    assert await backend.overdue(NOW + 40, 2) == [b, c]
    assert forever.task_id not in ids(await backend.overdue(NOW + 10**12, 10))
    assert later.task_id not in ids(await backend.overdue(NOW + 10**12, 10))


async def test_overdue_is_not_hidden_by_live_ones(backend: Backend) -> None:  # B7
    await backend.push([new() for _ in range(2_000)])
    await backend.claim("o", NOW, 2_000, lease_until=LEASE)
    dead = await running(backend, lease_until=LEASE - 1)
    assert await backend.overdue(LEASE - 1, 5) == [dead]


async def test_a_freshly_claimed_task_is_not_overdue(backend: Backend) -> None:  # A7
    task = await running(backend, lease_until=NOW + 1_000)
    for now in range(NOW, NOW + 1_000, 50):
        assert await backend.overdue(now, 10) == []
    assert await backend.overdue(NOW + 1_000, 10) == [task]


async def test_an_ended_task_is_not_overdue(backend: Backend) -> None:
    await ended(backend, lease_until=NOW + 1)
    gone = await pushed(backend, expires_at=NOW + 1)
    assert await backend.update([Change(gone, gone.replace(status=Status.EXPIRED))]) == [True]
    assert await backend.overdue(NOW + 10**9, 10) == []


# ---- next_run_at, count_ready, stats, active ----------------------------------------------------------------------


async def test_next_run_at(backend: Backend) -> None:
    assert await backend.next_run_at(NOW) is None
    await pushed(backend, run_at=NOW + 500, queue="a")
    assert await backend.next_run_at(NOW) == NOW + 500
    await pushed(backend, run_at=NOW + 100, queue="b")
    await pushed(backend, run_at=NOW + 50, queue="c")
    await backend.set_paused("c", True)
    assert await backend.next_run_at(NOW) == NOW + 100
    assert await backend.next_run_at(NOW, ["a"]) == NOW + 500
    assert await backend.next_run_at(NOW, ["c", "unknown"]) is None
    assert await backend.next_run_at(NOW, []) is None
    at = await backend.next_run_at(NOW + 100)
    assert at is not None and at <= NOW + 100
    await backend.claim("o", NOW + 100, 10)
    assert await backend.next_run_at(NOW + 100) == NOW + 500


async def test_next_run_at_counts_pending_tasks_only(backend: Backend) -> None:
    await running(backend)
    await ended(backend)
    assert await backend.next_run_at(NOW) is None


async def test_count_ready(backend: Backend) -> None:
    await backend.push([new(queue=f"q{n % 2}", run_at=NOW + n) for n in range(10)])
    assert await backend.count_ready(NOW - 1) == 0
    assert await backend.count_ready(NOW + 4) == 5
    assert await backend.count_ready(NOW + 4, ["q0"]) == 3
    assert await backend.count_ready(NOW + 4, []) == 0
    await backend.set_paused("q0", True)
    assert await backend.count_ready(NOW + 4) == 2
    assert await backend.count_ready(NOW + 4, ["q0"]) == 0
    await backend.claim("o", NOW + 4, 1)
    assert await backend.count_ready(NOW + 4) == 1


async def test_stats(backend: Backend) -> None:
    empty = await backend.stats(NOW)
    assert empty.counts == dict.fromkeys(map(str, Status), 0)
    assert (empty.ready, empty.oldest, empty.queues) == (0, None, {})
    await ended(backend, Status.FAILED, queue="a")
    await ended(backend, Status.COMPLETED, queue="a")
    await running(backend, queue="b")
    await backend.push([new(queue="a", run_at=NOW - 5), new(queue="a"), new(queue="b", run_at=NOW + 1)])
    await backend.push([new(queue="p", run_at=NOW - 9), new(queue="a", run_at=NOW - 9, expires_at=NOW)])
    await backend.set_paused("p", True)
    stats = await backend.stats(NOW)
    assert stats.counts == {
        "pending": 5, "running": 1, "completed": 1, "failed": 1, "cancelled": 0, "expired": 0
    }  # fmt: skip
    assert (stats.ready, stats.oldest) == (2, NOW - 5)
    assert {queue: counts for queue, counts in stats.queues.items() if counts} == {
        "a": {"failed": 1, "completed": 1, "pending": 3},
        "b": {"running": 1, "pending": 1},
        "p": {"pending": 1},
    }


async def test_active_counts_unfinished_tasks_by_schedule(backend: Backend) -> None:
    await ended(backend, scheduler_task_id="s1")
    await running(backend, scheduler_task_id="s1")
    await backend.push([new(scheduler_task_id="s1"), new(scheduler_task_id="s2"), new()])
    assert await backend.active(["s1", "s2", "s3"]) == {"s1": 2, "s2": 1, "s3": 0}
    assert await backend.active([]) == {}
