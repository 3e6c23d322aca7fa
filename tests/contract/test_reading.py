"""The reading verbs: ``get``, ``find``, ``overdue``, ``next_run_at``, ``count_ready``, ``stats``, ``active``."""

from __future__ import annotations

import asyncio
import itertools
import random

import msgspec
import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.core.outcome import Released, Requeued, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.backends import Store
from tests.support.rows import LEASE, NOW, completed, ended, ids, new, pushed, running
from tests.support.statements import at_each_statement


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


async def test_find_in_a_window_finds_what_is_in_it(backend: Backend) -> None:
    for number in range(12):
        queue = {"queue": f"q{number % 2}"}
        await ended(backend, Status.COMPLETED, **queue)
        await ended(backend, Status.FAILED, **queue)
        await backend.push([new(**queue, run_at=NOW - number)])
    await running(backend, queue="q1")
    order = await backend.find(TaskFilter(), 100)
    statuses: list[tuple[Status, ...]] = [(), (Status.PENDING,), (Status.FAILED,), (Status.RUNNING, Status.COMPLETED)]
    for status, newest, after in itertools.product(statuses, (1, 3, 40), (None, order[4])):
        behind = order if after is None else order[5:]
        where = TaskFilter(status=status, queue="q1", newest=newest, after=None if after is None else after.task_id)
        found = await backend.find(where, 100)
        wanted = [task for task in behind if not status or task.status in status]
        live = {Status.PENDING, Status.RUNNING}.intersection(status)
        counted = [task for task in behind if task in wanted or (live and not task.final)]
        looked = [task for task in counted[:newest] if task in wanted and task.queue == "q1"]
        assert {*ids(looked)} <= {*ids(found)}
        assert all(task in wanted and task.queue == "q1" for task in found)
        assert found == [task for task in behind if task in found]
        if newest == 40:
            assert found == await backend.find(msgspec.structs.replace(where, newest=None), 100)


@pytest.mark.parametrize("first", ["running", "pending"])
async def test_find_sees_a_task_that_changes_its_status_meanwhile(sql_store: Store, first: str) -> None:
    backend = sql_store.backend
    assert isinstance(backend, SqlBackend)
    await pushed(backend, task_id="moves")
    statuses = itertools.cycle([first, *({"running", "pending"} - {first})])

    def move(_statement: str) -> None:
        sql_store.execute("UPDATE task_queue SET status = :status", status=next(statuses))

    with at_each_statement((await backend.database.connections()).sync_engine, move):
        found = await backend.find(TaskFilter(), 10)
        both = await backend.find(TaskFilter(status=(Status.PENDING, Status.RUNNING)), 10)
    assert ids(found) == ids(both) == ["moves"]


@pytest.mark.parametrize("same_stamp", [False, True])
async def test_find_continues_behind_an_id(backend: Backend, same_stamp: bool) -> None:
    fields = {"seq": NOW} if same_stamp else {}
    tasks = await backend.push([new(**fields) for _ in range(25)])
    claimed = await backend.claim("o", NOW, 12, lease_until=LEASE)
    assert all(await backend.update([Change(task, completed(task)) for task in claimed[::2]]))
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


async def test_find_filters_by_the_time_of_creation(backend: Backend) -> None:
    second = NOW // SECOND
    old, new_one = [await pushed(backend, created_at=second + n, type='","created_at":9') for n in (-1, 0)]
    unknown = await pushed(backend, created_at=0)
    assert await backend.find(TaskFilter(created_since=second), 10) == [new_one]
    assert await backend.find(TaskFilter(created_since=second - 1), 10) == [new_one, old]
    assert await backend.find(TaskFilter(created_since=0), 10) == [unknown, new_one, old]
    assert await backend.find(TaskFilter(created_since=second - 1, queue="other"), 10) == []


ERRORS = ['Value: "x" ', 'Type: 50%_\\n "error_message":"Value"', "x: \n 长城 \u2028", ""]


async def test_find_filters_by_a_part_of_the_error(backend: Backend) -> None:
    tasks = [await ended(backend, Status.FAILED, error_message=error) for error in ERRORS]
    await ended(backend, Status.COMPLETED, result='"error_message":"Value x"')
    await pushed(backend, type="Value x")
    for text, found in [
        *[("Value", [0, 1]), ("value", []), ('"x"', [0]), ("%_\\n", [1]), ("%", [1]), ("_m", [1]), ("n", [1])],
        *[("\n 长", [2]), ("城 \u2028", [2]), ("长长", []), (" ", [0, 1, 2]), ("x", [0, 2]), ("", [0, 1, 2, 3])],
    ]:
        assert await backend.find(TaskFilter(error=text), 10) == [tasks[number] for number in reversed(found)], text
    assert await backend.purge(TaskFilter(error="%"), 10) == 1
    assert await backend.purge(TaskFilter(error="x"), 10) == 2
    assert await backend.find(TaskFilter(error=""), 10) == [tasks[3]]


async def test_find_filters_by_the_beginning_of_the_error(backend: Backend) -> None:
    errors = ["ValueError: x", "valueError", "Value_rror\n", "长城: x", "a ValueError", ""]
    tasks = [await ended(backend, Status.FAILED, error_message=error) for error in errors]
    await pushed(backend, type="ValueError")
    for text, found in [
        *[
            ("ValueError", [0]),
            ("ValueError ", []),
            ("Value", [0, 2]),
            ("v", [1]),
            ("Value_", [2]),
            ("%", []),
            ("x", []),
        ],
        *[("长", [3]), ("城", []), ("长城", [3]), ("a ", [4]), ("ValueErrors", [])],
    ]:
        where = TaskFilter(error_type=text)
        assert await backend.find(where, 10) == [tasks[number] for number in reversed(found)], text
    assert await backend.find(TaskFilter(error_type="Value", error="x"), 10) == [tasks[0]]
    assert await backend.purge(TaskFilter(error_type="Value"), 10) == 2


async def test_the_latest_ends(backend: Backend) -> None:
    rows = [
        new(status=Status.FAILED, completed_at=NOW // SECOND - number * 7 % 12, queue=f"q{number % 3}")
        for number in range(12)
    ]
    others = [new(status=Status.CANCELLED, completed_at=NOW // SECOND + 9), new()]
    await backend.push([*rows, *others, new(status=Status.FAILED)])
    by_end = sorted(rows, key=lambda row: -(row.completed_at or 0))
    assert await backend.last_ended(Status.FAILED, 20) == ids(by_end)
    assert await backend.last_ended(Status.FAILED, 5) == ids(by_end)[:5]
    assert await backend.last_ended(Status.CANCELLED, 5) == ids(others)[:1]
    assert await backend.last_ended(Status.EXPIRED, 5) == []
    await backend.delete([by_end[0].task_id])
    assert await backend.update([Change(by_end[1], settle(by_end[1], Requeued(), NOW))]) == [True]
    assert await backend.last_ended(Status.FAILED, 2) == ids(by_end)[2:4]


async def test_ids_with_a_prefix(backend: Backend) -> None:
    names = ["a", "a-1", "a-10", "a-2", "A-1", "a%b", "a_b", "a*b", "a[1]", "a\\b", "长-1", "长-2", "b c", "b"]
    await running(backend, task_id="a-11")
    await backend.push([new(task_id=name) for name in names])

    async def found(*prefixes: str, limit: int = 50) -> list[list[str]]:
        return await backend.ids_with_prefix(prefixes, limit)

    assert await found("a-") == [["a-1", "a-10", "a-11", "a-2"]]
    assert await found("a-1", "a-2", "z", "a-1", "A") == [
        ["a-1", "a-10", "a-11"], ["a-2"], [], ["a-1", "a-10", "a-11"], ["A-1"],
    ]  # fmt: skip
    for name in ("a%", "a_", "a*", "a[", "a\\"):
        ((one,),) = await found(name)
        assert one.startswith(name)
    assert await found("长", "长-2", "a-10", "a-100") == [["长-1", "长-2"], ["长-2"], ["a-10"], []]
    assert sorted((await found("b"))[0]) == ["b", "b c"]
    assert sorted((await found(""))[0]) == sorted([*names, "a-11"])
    ((one, other),) = await found("a-", limit=2)
    assert one != other and {one, other} <= {"a-1", "a-10", "a-11", "a-2"}
    assert await found() == []


async def test_an_id_with_a_prefix_is_found_among_thousands(backend: Backend) -> None:
    await backend.push([new(task_id=f"{number % 7}-{number}") for number in range(3_000)])
    assert await backend.ids_with_prefix(["3-2998", "4-2998", "2-2998"], 2) == [[], [], ["2-2998"]]
    (found,) = await backend.ids_with_prefix(["3-10"], 50)
    assert found == sorted(f"3-{number}" for number in (10, 101, 108, *range(1_004, 1_096, 7)))


# ---- overdue --------------------------------------------------------------------------------------------------------


async def test_overdue_gives_the_longest_overdue_first(backend: Backend) -> None:
    a = await running(backend, lease_until=NOW + 30)
    b = await running(backend, lease_until=NOW + 10)
    forever = await running(backend)
    assert await backend.update([Change(forever, forever.replace(lease_owner=None, lease_until=None))]) == [True]
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


async def test_stats_count_each_task_once_while_it_is_claimed_and_given_back(store: Store) -> None:
    backend, other = store.backend, await store.another()
    await backend.push([new()])
    ended = False

    async def move() -> None:
        while not ended:
            (task,) = await other.claim("o", NOW, 1, lease_until=LEASE)
            assert await other.update([Change(task, settle(task, Released("later"), NOW))]) == [True]
            await asyncio.sleep(0)  # memory waits for nothing

    moving = asyncio.create_task(move())
    counted = [sum((await backend.stats(NOW)).counts.values()) for _ in range(300)]
    ended = True
    await moving
    assert set(counted) == {1}


async def test_active_counts_unfinished_tasks_by_schedule(backend: Backend) -> None:
    await ended(backend, scheduler_task_id="s1")
    await running(backend, scheduler_task_id="s1")
    await backend.push([new(scheduler_task_id="s1"), new(scheduler_task_id="s2"), new()])
    assert await backend.active(["s1", "s2", "s3"]) == {"s1": 2, "s2": 1, "s3": 0}
    assert await backend.active([]) == {}
