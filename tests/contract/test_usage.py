"""What tasks use up, on each store: sums that only rise, written by the run that has the task, kept over attempts."""

from __future__ import annotations

import asyncio

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.notes import NewNote, NewNotes
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.core.usage import MAX_SUM
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, ended, pushed, running


def used(task: Task, **usage: float) -> NewNotes:
    return NewNotes(task.task_id, task.fence, (), usage)


async def usage_of(backend: Backend, task: Task) -> dict[str, float] | None:
    (row,) = await backend.get([task.task_id])
    assert row is not None
    return row.usage


async def test_reports_may_be_repeated_and_sums_only_rise(backend: Backend) -> None:
    task, other = await running(backend), await running(backend)
    assert await usage_of(backend, task) is None
    assert await backend.notes.add([used(task, tokens=1200, cost=0.018)]) == [True]
    assert await usage_of(backend, task) == {"tokens": 1200, "cost": 0.018}
    for _ in range(2):
        assert await backend.notes.add([used(task, tokens=1900, cost=0.018, calls=0)]) == [True]
        assert await usage_of(backend, task) == {"tokens": 1900, "cost": 0.018, "calls": 0}
    assert await backend.notes.add([used(task, tokens=5)]) == [True]  # an older one, which comes late
    assert await usage_of(backend, task) == {"tokens": 1900, "cost": 0.018, "calls": 0}
    assert await usage_of(backend, other) is None
    most = used(other, most=MAX_SUM, third=1 / 3, 输入=7)
    assert await backend.notes.add([most]) == [True]
    found = await usage_of(backend, other)
    assert found is not None
    assert found["most"] == MAX_SUM
    assert found["输入"] == 7
    assert abs(found["third"] - 1 / 3) < 1e-9


async def test_only_the_run_that_has_the_task_adds(backend: Backend) -> None:
    held, waiting, finished = await running(backend), await pushed(backend), await ended(backend)
    zombie = NewNotes(held.task_id, held.fence - 1, (), {"tokens": 1})
    missing = NewNotes("missing", 1, (), {"tokens": 1})
    early, late = used(waiting, tokens=1), used(finished, tokens=1)
    assert await backend.notes.add([zombie, missing, early, late]) == [False] * 4
    assert [await usage_of(backend, each) for each in (held, waiting, finished)] == [None] * 3
    assert await backend.notes.add([zombie, late, used(held, tokens=2)], last=True) == [False, True, True]
    assert await usage_of(backend, held) == {"tokens": 2}
    assert await usage_of(backend, finished) == {"tokens": 1}


async def test_a_completed_task_that_reports_goes_on_to_be_counted_and_purged(backend: Backend) -> None:
    task = await ended(backend)
    assert await backend.notes.add([used(task, tokens=1)], last=True) == [True]
    assert (await backend.stats(NOW)).counts["completed"] == 1
    assert await backend.last_ended(Status.COMPLETED, 9) == [task.task_id]
    assert await backend.purge(TaskFilter(status=(Status.COMPLETED,)), 9) == 1
    assert (await backend.stats(NOW)).counts["completed"] == 0


async def test_notes_and_usage_are_one_write(backend: Backend) -> None:
    task = await running(backend)
    both = NewNotes(task.task_id, task.fence, (NewNote(NOW, "log", "asked"),), {"tokens": 3})
    assert await backend.notes.add([both, used(await running(backend), tokens=1)]) == [True, True]
    assert [note.text for note in await backend.notes.read(task.task_id, 0, 9)] == ["asked"]
    assert await usage_of(backend, task) == {"tokens": 3}


async def test_usage_outlives_the_attempts_and_is_read_by_the_next_claim(backend: Backend) -> None:
    first = await running(backend)
    await backend.notes.add([used(first, tokens=10)])
    again = first.replace(status=Status.PENDING, lease_owner=None, lease_until=None, run_at=NOW, error_message="E")
    assert await backend.update([Change(first, again)]) == [True]
    assert await usage_of(backend, first) == {"tokens": 10}
    (second,) = await backend.claim("w2", NOW, 1, lease_until=NOW + LEASE)
    assert second.usage == {"tokens": 10}
    await backend.notes.add([used(second, tokens=25)])
    done = second.replace(status=Status.COMPLETED, completed_at=NOW // SECOND, lease_owner=None, lease_until=None)
    assert await backend.update([Change(second, done)]) == [True]
    assert await usage_of(backend, second) == {"tokens": 25}
    assert await backend.delete([second.task_id]) == 1
    assert await usage_of(backend, await running(backend, task_id=second.task_id)) is None


async def test_two_writers_lose_nothing(shared_store: Store) -> None:
    backends = [shared_store.backend, await shared_store.another()]
    tasks = [await running(backends[0]) for _ in range(2)]

    async def write(backend: Backend) -> None:
        for number in range(1, 11):
            assert await backend.notes.add([used(each, tokens=number) for each in tasks], last=True) == [True, True]

    async with asyncio.timeout(within(30)):
        await asyncio.gather(*map(write, backends))
    assert [await usage_of(backends[0], each) for each in tasks] == [{"tokens": 10}] * 2
