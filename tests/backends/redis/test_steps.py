"""Redis: an event is stored in one transaction, and what waits for it is woken in others after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotaskq.backends import steps
from aiotaskq.backends.base import Change
from aiotaskq.backends.change import Leave
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NEVER, EventValue, NewStep, Step
from aiotaskq.core.task import Task
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

    async def away(*_: Any) -> Any:
        raise DatabaseUnavailable("the process has died")

    with monkeypatch.context() as patch:
        patch.setattr(backend.steps, "_wake", away)
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


async def test_an_event_that_has_expired_is_not_deleted_before_it_has_woken_what_waits(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, short = await waiting(backend), EventValue(key="paid", text="7", at=NOW, expires_at=NOW + 1)
    await emit_and_die(backend, monkeypatch, short)
    assert await backend.steps.expire(NOW + 2, 9) == 1
    assert (await read(backend, task)).run_at == NOW + 2


async def test_what_waits_is_woken_in_parts(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [await waiting(backend) for _ in range(5)]
    monkeypatch.setattr(steps, "MOST_WOKEN", 2)
    await backend.steps.emit([PAID])
    assert [(await read(backend, task)).run_at for task in tasks] == [NOW] * 5


async def test_what_begins_to_wait_does_not_keep_an_event_from_being_stored(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [await waiting(backend)]
    await backend.steps.emit([EventValue(key="other", text="1", at=NOW)])
    evaluate, commits = backend._redis.evaluate, 0

    async def meanwhile(name: str, *words: Any) -> Any:
        nonlocal commits
        if name == "commit":
            commits += 1
            if commits == 1:
                tasks.append(await waiting(backend))
        return await evaluate(name, *words)

    monkeypatch.setattr(backend._redis, "evaluate", meanwhile)
    await backend.steps.emit([PAID])
    assert [(await read(backend, task)).run_at for task in tasks] == [NOW] * 2
    assert commits == 3, "the event, the wait that came meanwhile, and what both waits become"


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


async def test_the_waits_of_tasks_that_are_gone_are_deleted(backend: RedisBackend, server: Server, prefix: str) -> None:
    def awaited() -> list[bytes]:
        return list(server.ask("ZRANGE", f"{{{prefix}}}:owners:wait", "0", "-1"))

    deleted, stays = await waiting(backend), await waiting(backend)
    assert await backend.delete([deleted.task_id]) == 1
    await backend.steps.expire(NOW, 9)
    assert (awaited(), await backend.steps.awaited(9)) == ([b"paid"], {"paid": 1})
    assert await backend.delete([stays.task_id]) == 1
    await backend.steps.expire(NOW, 9)
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
