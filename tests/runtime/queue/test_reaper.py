"""Unsettled pops: the visibility timeout, the reaper, bounded memory; and bounded queues."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aiotaskq import (
    LeaseLost,
    MemoryQueue,
    Status,
)
from aiotaskq.backends import connect
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import ALONE, MAX_CRASHES
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.queue.queue import Queue
from tests.runtime.queue.reaping import reap
from tests.support.rows import worker_info


async def test_visibility_timeout_counts_retries_then_fails(tmp_path: Path) -> None:
    clock = VirtualClock()
    backend = connect(f"sqlite:///{tmp_path}/v.db")
    queue = Queue(backend, clock, visibility=300)
    task_id = await queue.push_task({"type": "t", "max_retries": 2})
    for attempt in range(3):
        task = await queue.pop_task(0)
        assert task is not None and task["retry_count"] == attempt
        assert await queue.pop_task(0) is None
        clock.step(301)
        await reap(queue)
        with pytest.raises(LeaseLost, match="visibility timeout"):
            await queue.task_done(task_id)
    last = await queue.get(task_id)
    assert (last.status, last.error_message) == (Status.FAILED, "not settled within its visibility timeout")
    await backend.close()


@pytest.mark.parametrize("popped", [True, False])
async def test_the_end_of_a_pop_is_no_death_of_a_worker(tmp_path: Path, popped: bool) -> None:
    clock = VirtualClock()
    backend = connect(f"sqlite:///{tmp_path}/v.db")
    queue = Queue(backend, clock, visibility=300)
    task_id = await queue.push_task({"type": "t"})
    if popped:
        assert await queue.pop_task(0) is not None
    else:
        assert len(await backend.claim("w", clock.now(), 1)) == 1
    clock.step(301)
    lost: list[str] = []
    await queue.reaper.reap(lost=lambda: lost.append(task_id))
    assert lost == ([] if popped else [task_id])
    assert (await queue.get(task_id)).status is Status.PENDING
    await backend.close()


async def test_a_reaper_leaves_what_living_workers_hold(tmp_path: Path) -> None:  # A6, A7
    clock = VirtualClock()
    backend = connect(f"sqlite:///{tmp_path}/v.db")
    queue = Queue(backend, clock)
    lost: list[str] = []
    queue.hooks.on("lost", lambda event: lost.append(event.task.task_id))
    assert backend.workers is not None
    ids = []
    for number, owner in enumerate(("lives", "late", "dead")):
        until = clock.now() + (10 - number * 4) * SECOND
        await backend.workers.register(worker_info(owner, seen_at=until - 2 * SECOND, lease_until=until))
        ids.append(await queue.push_task({"type": "t"}))
        assert len(await backend.claim(owner, clock.now(), 1)) == 1
    clock.step(5)
    await queue.reaper.reap()
    assert [(await queue.get(task_id)).crashes for task_id in ids] == [0, 0, 1]
    assert lost == ids[2:]
    assert {worker.owner for worker in await backend.workers.all()} == {"lives", "late"}
    clock.step(1)
    await queue.reaper.reap()
    assert [(await queue.get(task_id)).crashes for task_id in ids] == [0, 1, 1]
    await backend.close()


async def test_poison_is_told_as_lost_and_as_failed(tmp_path: Path) -> None:
    clock = VirtualClock()
    backend = connect(f"sqlite:///{tmp_path}/v.db")
    queue = Queue(backend, clock)
    events: list[str] = []
    for name in ("lost", "failed"):
        queue.hooks.on(name, lambda event: events.append(event.name))
    assert backend.workers is not None
    task_id = await queue.push_task({"type": "t"})
    for number in range(MAX_CRASHES):
        owner = f"dead{number}{ALONE}"
        await backend.workers.register(worker_info(owner, seen_at=clock.now(), lease_until=clock.now() + SECOND))
        assert len(await backend.claim(owner, clock.now(), 1)) == 1
        clock.step(2)
        await queue.reaper.reap()
    assert (await queue.get(task_id)).status is Status.FAILED
    assert events == ["lost"] * MAX_CRASHES + ["failed"]
    await backend.close()


async def test_unsettled_pops_in_memory_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotaskq.runtime.queue.unacked.MAX_UNACKED", 100)
    queue = MemoryQueue()
    for _ in range(1000):
        await queue.push_task({"type": "t"})
        await queue.pop_task(0)
    await asyncio.sleep(0)
    assert len(queue.unacked._unacked) == 100
    assert (await queue.stats()).counts["running"] <= 101
