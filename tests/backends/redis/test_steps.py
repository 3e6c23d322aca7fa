"""Redis: an event is stored by a script, and what waits for it is woken after that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotaskq.backends.base import Change
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.steps import Leave
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.steps import NEVER, EventValue, NewStep, Step
from aiotaskq.core.task import Status, Task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.retention import Retention
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new, read
from tests.support.servers import Server

PAID = EventValue(key="paid", text="1", at=NOW)


async def waiting(backend: RedisBackend, at: int = NOW) -> Task:
    """Push a task that waits for an event."""
    await backend.push([new()])
    (task,) = await backend.claim("w", NOW, 1, lease_until=LEASE)
    asleep = task.replace(status=Status.PENDING, run_at=NEVER, lease_owner=None, lease_until=None)
    step = NewStep(task.task_id, task.seq, task.fence, Step(name="paid", text=str(NEVER), kind="wait", at=at))
    assert await backend.steps.suspend([Leave(Change(task, asleep), [step], asleep.replace(run_at=NOW))]) == [True]
    return task


async def emit_and_die(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch, event: EventValue = PAID) -> None:
    """Emit the event, and lose the process before it has woken what waits."""

    async def away(changes: Any) -> Any:
        raise DatabaseUnavailable("the process has died")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "update", away)
        with pytest.raises(DatabaseUnavailable):
            await backend.steps.emit([event])


async def test_what_was_not_woken_is_mended(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    task = await waiting(backend)
    assert await backend.steps.mend(NOW) == 0
    await emit_and_die(backend, monkeypatch)
    assert (await read(backend, task)).run_at == NEVER
    assert await backend.steps.mend(NOW) == 1
    assert (await read(backend, task)).run_at == NOW
    assert await backend.steps.mend(NOW) == 0
    assert await backend.steps.event("paid", NOW) == PAID


async def test_what_was_not_woken_by_an_event_that_has_expired_is_mended(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, short = await waiting(backend), EventValue(key="paid", text="7", at=NOW, expires_at=NOW + 1)
    await emit_and_die(backend, monkeypatch, short)
    late = await waiting(backend, NOW + 2)
    assert await backend.steps.mend(NOW + 2) == 1
    assert [(await read(backend, each)).run_at for each in (task, late)] == [NOW + 2, NEVER]
    assert [step.text for step in await backend.steps.read(task.task_id, task.seq)][1:] == ["7"]
    assert await backend.steps.mend(NOW + 3) == 0


async def test_an_emit_that_is_repeated_wakes_the_rest(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    task = await waiting(backend)
    await emit_and_die(backend, monkeypatch)
    assert await backend.steps.emit([EventValue(key="paid", text="2", at=NOW + 1)]) == [PAID]
    assert (await read(backend, task)).run_at == NOW + 1


async def test_a_wait_of_an_earlier_run_hides_no_later_one(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await waiting(backend)
    await emit_and_die(backend, monkeypatch)
    row = await read(backend, task)
    assert await backend.update([Change(row, row.replace(run_at=NOW))]) == [True]  # its wait is over without that
    (again,) = await backend.claim("w", NOW + 5, 1, lease_until=LEASE)
    asleep = again.replace(status=Status.PENDING, run_at=NEVER, lease_owner=None, lease_until=None)
    step = NewStep(again.task_id, again.seq, again.fence, Step(name="sent", text=str(NEVER), kind="wait", at=NOW + 5))
    assert await backend.steps.suspend([Leave(Change(again, asleep), [step], asleep.replace(run_at=NOW + 5))]) == [True]
    await backend.steps.emit([EventValue(key="sent", text="1", at=NOW + 6), PAID])
    assert (await read(backend, task)).run_at == NOW + 6


async def test_a_key_is_awaited_as_long_as_a_task_waits(backend: RedisBackend, server: Server, prefix: str) -> None:
    def awaited() -> list[bytes]:
        return list(server.ask("SMEMBERS", f"{{{prefix}}}:awaited"))

    deleted, late = await waiting(backend), await waiting(backend)
    assert await backend.delete([deleted.task_id]) == 1
    assert awaited() == [b"paid"]
    row = await read(backend, late)
    assert await backend.update([Change(row, row.replace(run_at=NOW))]) == [True]
    (task,) = await backend.claim("w", NOW + 1, 1, lease_until=LEASE)
    asleep = row.replace(fence=task.fence, began_at=task.began_at)
    sleep = NewStep(task.task_id, task.seq, task.fence, Step(name="night", text=str(NEVER), kind="sleep", at=NOW))
    assert await backend.steps.suspend([Leave(Change(task, asleep), [sleep])]) == [True]
    assert awaited() == []
    last = await waiting(backend)
    assert awaited() == [b"paid"]
    assert await backend.delete([last.task_id]) == 1
    assert awaited() == []
    lost = await waiting(backend)
    server.ask("HDEL", f"{{{prefix}}}:state", lost.task_id)
    await backend.steps.drop(await backend.steps.orphans(9))
    assert awaited() == []


async def test_a_worker_mends_though_it_deletes_nothing(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, mended = VirtualClock(NOW), asyncio.Event()

    async def mend(_now: int) -> int:
        mended.set()
        return 0

    monkeypatch.setattr(backend.steps, "mend", mend)
    retention = Retention(backend, clock, ended=None, failed=None)
    await retention.start()
    try:
        async with asyncio.timeout(within(20)):
            await mended.wait()
    finally:
        await retention.stop()
