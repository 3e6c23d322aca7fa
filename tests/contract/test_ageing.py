"""``age``: a task that has waited for long is claimed before all others, until it has been claimed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotaskq import Limit, TaskQ
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.outcome import Completed, Failed, Released
from aiotaskq.core.status import Status
from aiotaskq.core.task import HIGHEST, SECOND, Task
from aiotaskq.runtime.queue import reaper
from tests.support.backends import Store
from tests.support.rows import new

HOUR = 3600


@pytest.fixture
async def tq(store: Store) -> AsyncIterator[TaskQ]:
    async with TaskQ(store.url) as opened:

        @opened.task(name="slow", age=HOUR, priority=9)
        async def slow() -> None: ...

        yield opened


async def waiting(tq: TaskQ, *seconds: float, **fields: Any) -> list[str]:
    """Push tasks that have been due for so many seconds; return their ids."""
    now = tq.queue.clock.now()
    fields = {"type": "slow", "priority": 9, **fields}
    rows = [new(run_at=now - int(each * SECOND), **fields) for each in seconds]
    return [row.task_id for row in await tq.queue.backend.push(rows)]


async def claimed(tq: TaskQ, limit: int = 9) -> list[Task]:
    now = tq.queue.clock.now() + SECOND  # a store whose time was asked meanwhile may be some milliseconds behind
    return await tq.queue.backend.claim("w", now, limit, lease_until=now + 9 * HOUR * SECOND)


async def test_a_task_that_has_waited_for_long_goes_first(tq: TaskQ) -> None:
    late, later, early = await waiting(tq, HOUR + 1, HOUR + 2, HOUR - 60)
    (other,) = await waiting(tq, 9 * HOUR, type="other")
    (urgent,) = await waiting(tq, 1, priority=-5)
    (delayed,) = await waiting(tq, -60)
    for _ in range(2):
        await tq.queue.reaper.reap()
    row = await tq.get(late)
    assert row is not None and (row.priority, row.aged_from, row.params) == (HIGHEST, 9, {})
    row = await tq.get(early)
    assert row is not None and (row.priority, row.aged_from) == (9, None)
    assert [row.task_id for row in await claimed(tq)] == [later, late, urgent, other, early]
    assert (await tq.get(delayed)).status is Status.PENDING  # type: ignore[union-attr]


async def test_its_next_wait_starts_again(tq: TaskQ) -> None:
    first, second, third = await waiting(tq, HOUR + 3, HOUR + 2, HOUR + 1)
    await tq.queue.reaper.reap()
    rows = await claimed(tq)
    assert [row.priority for row in rows] == [HIGHEST] * 3
    queue = tq.queue
    await queue.settle(rows[0], Failed("no"))
    await queue.settle(rows[1], Released("its worker was stopped", ran=True))
    await queue.settle(rows[2], Completed(None))
    for task_id in (first, second):
        row = await tq.get(task_id)
        assert row is not None and (row.priority, row.extra, row.status) == (9, {}, Status.PENDING)
    row = await tq.get(third)
    assert row is not None and row.aged_from == 9
    copy = await (await tq.rerun(third)).task()
    assert (copy.priority, copy.extra) == (9, {})


async def test_the_same_push_and_edits_of_an_aged_task(tq: TaskQ) -> None:
    await waiting(tq, 2 * HOUR, task_id="a")
    await tq.queue.reaper.reap()
    handle = await tq.push("slow", task_id="a")
    assert handle.created is False and (await handle.task()).aged_from == 9
    await tq.edit("a", max_retries=7)
    assert (await handle.task()).priority == HIGHEST
    await tq.edit("a", priority=3)
    row = await handle.task()
    assert (row.priority, row.extra) == (3, {})


async def test_a_round_is_bounded_and_the_next_one_goes_on(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "LIMIT", 2)
    monkeypatch.setattr(reaper, "AGE_PAGES", 1)
    ids = await waiting(tq, *[2 * HOUR] * 5)
    counts = []
    for _ in range(3):
        await tq.queue.reaper.reap()
        rows = await tq.queue.backend.get(ids)
        counts.append(sum(row is not None and row.priority == HIGHEST for row in rows))
    assert counts == [2, 4, 5]
    (newer,) = await waiting(tq, 2 * HOUR)
    await tq.queue.reaper.reap()
    assert (await tq.get(newer)).priority == HIGHEST, "it begins with the newest again"  # type: ignore[union-attr]


class Later(SystemClock):
    def now(self) -> int:
        return super().now() + 2 * HOUR * SECOND


async def test_it_goes_first_at_a_limit_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async with TaskQ(store.url) as tq:
        door = Limit(1, name="door")

        @tq.task(age=HOUR, priority=9, limit=door)
        async def patient() -> None: ...

        @tq.task(limit=door)
        async def urgent() -> None: ...

        await urgent.push()
        (running,) = await claimed(tq)
        await urgent.push()
        old = await patient.push()
        monkeypatch.setattr(tq.queue.reaper, "_clock", Later())
        await tq.queue.reaper.reap()
        row = await old.task()
        assert row.parked and row.aged_from == 9
        await tq.queue.settle(running, Completed(None))
        assert [row.task_id for row in await claimed(tq)] == [old.task_id]
