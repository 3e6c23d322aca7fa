"""The attempts of a task on each store: kept through retries, an operator's retry and a lost lease."""

from __future__ import annotations

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.sql.changes import groups
from aiotaskq.core.outcome import (
    MAX_ATTEMPTS,
    Completed,
    Failed,
    LeaseExpired,
    Outcome,
    Requeued,
    Rerun,
    attempts_of,
    settle,
)
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.runtime.queue.bulk import run_now
from aiotaskq.runtime.steps import sleep_for
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new, pushed, read, running
from tests.support.waiting import eventually

FAILED = Failed("ValueError: no 🙂\n\nTraceback (most recent call last):\n…")


async def ended(backend: Backend, outcome: Outcome, began: int, took: int = 5) -> Task:
    """Claim the only task, and end that run."""
    (task,) = await backend.claim("owner", began, 1, lease_until=LEASE)
    after = settle(task, outcome, began + took)
    assert await backend.update([Change(task, after)]) == [True]
    return after


async def test_each_run_is_kept(backend: Backend) -> None:
    task = await pushed(backend, max_retries=9)
    later = NOW + 100 * SECOND
    await ended(backend, FAILED, later)
    await ended(backend, LeaseExpired(), 2 * later)
    await ended(backend, Failed("fatal", retryable=False), 3 * later)
    dead = await read(backend, task)
    assert await backend.update([Change(dead, settle(dead, Requeued(), 3 * later))]) == [True]
    await ended(backend, Completed(1), 4 * later)
    found = attempts_of(await read(backend, task))
    assert [(each.number, each.began_at, each.outcome, each.error) for each in found] == [
        (1, later, "failed", "ValueError: no 🙂"),
        (2, 2 * later, "lost", "its process died, or its lease was not renewed: worker owner"),
        (3, 3 * later, "failed", "fatal"),
        (4, 4 * later, "completed", None),
    ]
    assert [each.seconds for each in found] == [5 / SECOND] * 4
    done = await read(backend, task)
    again = settle(done, Rerun(new(task_id=task.task_id)), 5 * later)
    assert await backend.update([Change(done, again)]) == [True]
    assert (await read(backend, task)).attempts == ()


async def test_the_newest_are_kept(backend: Backend) -> None:
    task = await pushed(backend, max_retries=99)
    for number in range(1, MAX_ATTEMPTS + 4):
        after = await ended(backend, FAILED, NOW + number * 10_000_000 * SECOND)
    row = await read(backend, task)
    assert row == after
    assert [attempt.number for attempt in row.attempts] == list(range(4, MAX_ATTEMPTS + 4))


async def test_a_batch_of_first_and_later_attempts(backend: Backend) -> None:
    """Some of the rows of one statement write attempts, and the others lose none."""
    first, second = await backend.push([new(max_retries=9), new(max_retries=9)])
    tasks = await backend.claim("owner", NOW, 2, lease_until=LEASE)
    await backend.update([Change(task, settle(task, FAILED, NOW)) for task in tasks])
    late = NOW + 100 * SECOND
    tasks = await backend.claim("owner", late, 2, lease_until=LEASE)
    outcomes: tuple[Outcome, ...] = (Completed(1), FAILED)
    changes = [Change(task, settle(task, each, late)) for task, each in zip(tasks, outcomes, strict=True)]
    assert await backend.update(changes) == [True, True]
    rows = [await read(backend, task) for task in (first, second)]
    assert sorted(len(row.attempts) for row in rows) == [1, 2]


async def test_each_says_where_it_ran(backend: Backend) -> None:
    await pushed(backend, max_retries=9)
    (task,) = await backend.claim("worker-db1-42-0-0123456789ab", NOW, 1, lease_until=LEASE)
    after = settle(task, FAILED, NOW + 5, "2.4.1")
    assert await backend.update([Change(task, after)]) == [True]
    (attempt,) = (await read(backend, task)).attempts
    assert (attempt.host, attempt.version, attempt.fence) == ("db1", "2.4.1", 1)
    assert attempt.worker == "worker-db1-42-0-0123456789ab"


async def test_a_worker_notes_the_version_of_its_application(store: Store) -> None:
    tq = TaskQ(store.url, poll_interval=0.05, version="2.4.1")
    runs: list[int] = []

    @tq.task(max_retries=3, backoff=0.01)
    async def flaky() -> None:
        runs.append(1)
        await sleep_for("nap", 3600)
        if len(runs) == 2:
            raise RuntimeError("not yet")

    async def left() -> bool:
        task = await handle.task()
        return task.status is Status.PENDING and bool(task.attempts)

    async with tq.running(concurrency=1):
        assert tq.worker is not None
        owner = tq.worker.owner
        handle = await flaky.push()
        await eventually(left)
        await run_now(tq.queue, await handle.task())  # which ends its sleep
        await handle.result(within(30))
        slept, failed, done = await handle.attempts()
        if (registry := tq.queue.backend.workers) is not None:
            assert [each.version for each in await registry.all()] == ["2.4.1"]
            await eventually(lambda: registry.versions(0))
            assert [version for _, version in await registry.versions(0)] == ["2.4.1"]
    assert (slept.outcome, failed.outcome, done.outcome) == ("released", "failed", "completed")
    assert [(each.worker, each.version) for each in (slept, failed)] == [(owner, "2.4.1")] * 2
    # The end of the sleep took a fence as well.
    assert done.worker is None and [each.fence for each in (slept, failed, done)] == [1, 3, 4]


async def test_handles_return_them(store: Store) -> None:
    tq = TaskQ(store.url, poll_interval=0.05)
    runs: list[int] = []

    @tq.task(max_retries=3, backoff=0.01)
    async def flaky() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("not yet")
        return "done"

    async with tq.running(concurrency=1):
        handle = await flaky.push()
        assert await handle.result(within(30)) == "done"
        failed, done = await handle.attempts()
        assert await (await flaky.options(delay=60).push()).attempts() == []
    assert (failed.number, failed.outcome, failed.error) == (1, "failed", "RuntimeError: not yet")
    assert (done.number, done.outcome, done.error) == (2, "completed", None)
    assert failed.began_at and failed.ended_at and done.began_at and done.ended_at
    assert failed.began_at <= failed.ended_at <= done.began_at <= done.ended_at


async def test_a_first_attempt_that_completes_writes_no_attempts(sql_store: Store) -> None:
    task = await running(sql_store.backend)
    (group,) = groups([Change(task, settle(task, Completed(1), NOW + 5))])
    assert "result" in group.names and "attempts" not in group.names
    (group,) = groups([Change(task, settle(task, FAILED, NOW + 5))])
    assert "attempts" in group.names
    await sql_store.backend.update([Change(task, settle(task, Completed(1), NOW + 5))])
    assert sql_store.execute("SELECT attempts FROM task_queue") == [(None,)]


@pytest.mark.stores("redis")
async def test_nor_does_it_in_redis(store: Store) -> None:
    from aiotaskq.backends.redis.rows import changed_words

    task = await running(store.backend)
    assert "attempts" not in str(changed_words(Change(task, settle(task, Completed(1), NOW + 5))))
    assert "attempts" in str(changed_words(Change(task, settle(task, FAILED, NOW + 5))))


async def test_attempts_that_cannot_be_read_are_reported_and_kept(sql_store: Store) -> None:
    backend = sql_store.backend
    bad, good = await backend.push([new(), new()])
    broken = '[{"number": "one"}]'
    sql_store.execute("UPDATE task_queue SET attempts = :text WHERE task_id = :id", text=broken, id=bad.task_id)
    tasks = await backend.claim("owner", NOW, 2, lease_until=LEASE)
    assert [(task.task_id, "attempts" in (task.undecodable or "")) for task in tasks] == [
        (bad.task_id, True),
        (good.task_id, False),
    ]
    failed = [settle(task, Failed("undecodable", retryable=False), NOW) for task in tasks]
    assert await backend.update([Change(a, b) for a, b in zip(tasks, failed, strict=True)]) == [True, True]
    rows = [await read(backend, task) for task in tasks]
    assert [row.status for row in rows] == [Status.FAILED, Status.FAILED]
    revived = [settle(row, Requeued(), NOW) for row in rows]
    assert await backend.update([Change(a, b) for a, b in zip(rows, revived, strict=True)]) == [True, True]
    stored = dict(map(tuple, sql_store.execute("SELECT task_id, attempts FROM task_queue")))
    assert stored[bad.task_id] == broken
    assert [attempt.outcome for attempt in (await read(backend, good)).attempts] == ["failed"]
