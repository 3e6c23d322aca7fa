"""A pending task that has expired holds its unique key only until a push meets it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, new_task
from aiotaskq.runtime.queue.queue import Queue
from tests.support.backends import Store
from tests.support.rows import NOW


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def queue(store: Store, clock: VirtualClock) -> Queue:
    return Queue(store.backend, clock)


def keyed(clock: VirtualClock, **options: Any) -> Task:
    return new_task("mail", unique_key="one", now=clock.now(), **options)


async def test_a_push_takes_the_place_of_one_that_has_expired(queue: Queue, clock: VirtualClock) -> None:
    told: list[str] = []
    queue.hooks.on("expired", lambda event: told.append(event.task.task_id))
    old = keyed(clock, expires_at=clock.now() + SECOND)
    assert await queue.add([old]) == [old]
    (there,) = await queue.add([keyed(clock)])
    assert there.task_id == old.task_id, "it has not expired yet"
    await clock.advance(1)
    new = keyed(clock)
    (stored,) = await queue.add([new])
    assert stored is new
    assert (await queue.get(old.task_id)).status is Status.EXPIRED
    assert (await queue.get(new.task_id)).status is Status.PENDING
    await clock.settle()
    assert told == [old.task_id]
    (again,) = await queue.add([keyed(clock)])
    assert again.task_id == new.task_id, "the key is held again"


async def test_among_many_in_one_push(queue: Queue, clock: VirtualClock) -> None:
    old = keyed(clock, expires_at=clock.now() + SECOND)
    await queue.add([old])
    await clock.advance(1)
    tasks = [new_task("mail", now=clock.now()), keyed(clock), keyed(clock), new_task("mail", now=clock.now())]
    stored = await queue.add(tasks)
    assert [task.task_id for task in stored] == [tasks[n].task_id for n in (0, 1, 1, 3)]
    assert (await queue.backend.stats(clock.now())).counts["pending"] == 3


async def test_behind_another_task_in_one_push(queue: Queue, clock: VirtualClock) -> None:
    await queue.add([keyed(clock, expires_at=clock.now() + SECOND)])
    await clock.advance(1)
    tasks = [new_task("mail", now=clock.now()), keyed(clock)]
    assert await queue.add(tasks) == tasks


async def test_of_many_pushes_at_once_one_takes_the_place(queue: Queue, clock: VirtualClock) -> None:
    await queue.add([keyed(clock, expires_at=clock.now() + SECOND)])
    await clock.advance(1)
    tasks = [keyed(clock) for _ in range(20)]
    stored = [row for (row,) in await asyncio.gather(*(queue.add([task]) for task in tasks))]
    assert len({row.task_id for row in stored}) == 1
    assert stored[0].task_id in {task.task_id for task in tasks}
    counts = (await queue.backend.stats(clock.now())).counts
    assert (counts["pending"], counts["expired"]) == (1, 1)


async def test_in_the_transaction_of_the_caller(sql_store: Store, clock: VirtualClock) -> None:
    queue = Queue(sql_store.backend, clock)
    old = keyed(clock, expires_at=clock.now() + SECOND)
    await queue.add([old])
    await clock.advance(1)
    engine = create_async_engine(sql_store.place)
    try:
        async with AsyncSession(engine) as session:
            new = keyed(clock)
            (stored,) = await queue.add([new], session)
            assert stored is new
            await session.rollback()
        assert (await queue.get(old.task_id)).status is Status.PENDING
        async with AsyncSession(engine) as session:
            (stored,) = await queue.add([new], session)
            assert stored is new
            await session.commit()
        assert (await queue.get(old.task_id)).status is Status.EXPIRED
        assert (await queue.get(new.task_id)).status is Status.PENDING
    finally:
        await engine.dispose()
