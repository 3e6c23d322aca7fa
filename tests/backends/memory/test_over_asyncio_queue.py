"""A queue in memory is an ``asyncio.Queue``, and the store works by its methods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aiotaskq import Backoff
from aiotaskq.backends.base import Change
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.backends.memory.ready_queue import TaskQueue
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.gate import Bounds
from aiotaskq.core.outcome import Completed, Failed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Flow
from aiotaskq.runtime.queue.queue import Queue
from tests.backends.memory.queues import settled
from tests.support.rows import NOW, new


class Broken(Exception):
    pass


def broken(*args: Any) -> Any:
    raise Broken


async def push(backend: MemoryBackend) -> None:
    await Queue(backend, VirtualClock()).push_task({"type": "t"})


async def push_gated(backend: MemoryBackend) -> None:
    await backend.push([parked(new(seq=NOW, flow=Flow(gates=(("g", Bounds(cap=1)),))), NOW)])


async def push_keyed(backend: MemoryBackend) -> None:
    await backend.push([new(run_at=0, unique_key="u")])


async def enqueue(backend: MemoryBackend) -> None:
    await asyncio.to_thread(backend.enqueue, new(run_at=0))
    await backend.count_ready(NOW)


async def release(backend: MemoryBackend) -> None:
    await backend.push([new(run_at=NOW, seq=0)])
    await backend.count_ready(NOW)


async def claim(backend: MemoryBackend) -> None:
    await backend.claim("o", NOW, 2)


async def claim_of_two_queues(backend: MemoryBackend) -> None:
    await backend.claim("o", NOW, 2, queues=["default", "other"])


async def claim_in_a_step(backend: MemoryBackend) -> None:
    backend.step("o", NOW)


async def pop(backend: MemoryBackend) -> None:
    await Queue(backend, VirtualClock()).pop_task(0)


async def pop_in_a_thread(backend: MemoryBackend) -> None:
    await asyncio.to_thread(Queue(backend, VirtualClock()).pop_now, 0)


async def end(backend: MemoryBackend) -> None:
    (task,) = await backend.claim("o", NOW, 1)
    await backend.update([Change(task, settle(task, Completed(), NOW))])


async def end_in_a_step(backend: MemoryBackend) -> None:
    (task,) = await backend.claim("o", NOW, 1)
    backend.step("o", NOW, (), task, settle(task, Completed(), NOW))


async def pop_that_waits(backend: MemoryBackend) -> None:
    await backend.claim("o", NOW, 10)
    await Queue(backend, VirtualClock()).pop_task()


THROUGH: dict[str, tuple[Callable[[MemoryBackend], Any], ...]] = {
    "put_nowait": (push, push_gated, push_keyed, enqueue, release),
    "get_nowait": (claim, claim_of_two_queues, claim_in_a_step, pop, pop_in_a_thread),
    "task_done": (end, end_in_a_step),
    "get": (pop_that_waits,),
}


@pytest.mark.parametrize(
    ("method", "does"), [pytest.param(m, does, id=f"{m}-{does.__name__}") for m in THROUGH for does in THROUGH[m]]
)
async def test_a_store_in_memory_works_by_the_methods_of_asyncio(
    method: str, does: Callable[[MemoryBackend], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    await backend.push([new(run_at=0), new(run_at=0, queue="other")])
    monkeypatch.setattr(asyncio.Queue, method, broken)
    with pytest.raises(Broken):
        await does(backend)


def opened(clock: VirtualClock | None = None) -> tuple[Queue, TaskQueue]:
    backend = MemoryBackend()
    return Queue(backend, clock or VirtualClock()), backend.queues["default"]


async def test_the_queue_of_a_store_is_an_asyncio_queue() -> None:
    queue, tasks = opened()
    assert isinstance(tasks, asyncio.Queue) and tasks.empty() and not tasks.full()
    getting = asyncio.create_task(tasks.get())
    await settled()
    await queue.push_task({"type": "t", "task_id": "a"})
    assert (await getting).task_id == "a" and tasks.empty()
    await queue.push_task({"type": "t", "task_id": "b"})
    assert (tasks.qsize(), await queue.get_queue_size()) == (1, 1)
    popped = await queue.pop_task(0)
    assert popped is not None and popped["task_id"] == "b"
    with pytest.raises(asyncio.QueueEmpty):
        tasks.get_nowait()


async def test_it_holds_the_tasks_that_are_due() -> None:
    clock = VirtualClock()
    queue, tasks = opened(clock)
    now = clock.now()
    await queue.add([new(run_at=now + SECOND, seq=now), new(run_at=now, seq=now)])
    assert tasks.qsize() == 1
    tasks.get_nowait()
    assert tasks.empty()
    await clock.advance(1)
    assert await queue.get_queue_size() == 1  # says what time it is
    assert tasks.qsize() == 1


async def test_join_waits_until_every_task_has_ended() -> None:
    clock = VirtualClock()
    queue, tasks = opened(clock)
    await asyncio.wait_for(tasks.join(), 1)
    await queue.add([new(task_id="copied", status=Status.RUNNING)])
    joining = asyncio.create_task(tasks.join())
    await settled()
    assert not joining.done()
    await queue.backend.delete(["copied"])
    await joining
    ids = [await queue.push_task({"type": "t"}) for _ in range(3)]
    joining = asyncio.create_task(tasks.join())
    for _ in ids[:2]:
        await queue.pop_task(0)
    row = await queue.get(ids[0])
    assert await queue.settle(row, Failed("no", True, Backoff(), 0.0)) is not None  # pending again
    await queue.task_done(ids[1])
    assert await queue.cancel(ids[2])
    await settled()
    assert not joining.done()
    assert await queue.backend.delete([ids[0]]) == 1
    await joining
