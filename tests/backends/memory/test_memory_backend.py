"""What the memory backend promises beyond the contract: small in lines and in memory, and threads may share it."""

from __future__ import annotations

import asyncio
import random
import resource
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import aiotaskq.sync
from aiotaskq.backends.base import Change
from aiotaskq.backends.memory import backend as memory
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.outcome import Cancelled, Completed, Expired, Released, settle
from aiotaskq.core.schedule import new_schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.scheduler.scheduler import Scheduler
from tests.support.rows import NOW, new


def test_it_stays_under_300_lines() -> None:
    """The price of one more backend tells whether the seam is right."""
    assert len(Path(memory.__file__).read_text().splitlines()) < 300


def test_what_comes_while_the_intake_is_entered_does_not_nest() -> None:
    lock = BriefLock()
    entered: list[int] = []

    def enter(number: int) -> None:
        entered.append(number)
        if number < 2_000:
            lock.intake.append(number + 1)  # another thread pushes, and a consumer that is woken looks
        with lock:
            pass

    lock.enter = enter
    lock.intake.append(0)
    while lock.intake:
        with lock:
            pass
    assert entered == list(range(2_001))


@pytest.mark.no_cover  # the slower the threads, the more often they stop
def test_there_is_no_lock_convoy_between_threads() -> None:
    """A thread is not made to wait each time it wants the lock, once another has found it taken."""
    queue = aiotaskq.sync.MemoryQueue()
    stops: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.002)  # so that they meet often

    def work(number: int) -> None:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for _ in range(3_000):
            queue.push_task({"type": "work"})
            while queue.pop_task(timeout=0) is None:
                pass
            queue.task_done()
        stops.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)

    try:
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(work, range(3))) == [None] * 3
    finally:
        sys.setswitchinterval(interval)
    assert sum(stops) < 9_000, "a stop for each task"


def entries(backend: MemoryBackend) -> int:
    """How many entries the queues hold, dead ones too."""
    return sum(queue.entries() for queue in backend.queues.values())


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize("delay", [0, 3600 * SECOND])
async def test_cancelled_tasks_leave_nothing_behind(delay: int, looked_at: bool) -> None:  # H3
    backend = MemoryBackend(keep=100)
    await backend.push(
        [new(priority=-9), new(priority=-9, run_at=NOW + 1)]
    )  # never claimed, though first in claim order
    for _ in range(6_000):
        (task,) = await backend.push([new(run_at=NOW + delay, unique_key="u", idempotency_key="i")])
        assert await backend.update([Change(task, settle(task, Cancelled(), NOW))]) == [True]
        if looked_at:
            await backend.count_ready(NOW)
        assert await backend.delete([task.task_id]) == 1
    assert entries(backend) < 2_100
    assert len(backend._tasks) == 2
    assert not backend._keys
    assert await backend.count_ready(NOW + 1) == 2


async def test_claimed_tasks_that_would_have_expired_leave_nothing_behind() -> None:  # H3
    backend = MemoryBackend(keep=100)
    for _ in range(3_000):
        await backend.push([new(expires_at=NOW + 3600 * SECOND)])
        assert len(await backend.claim("o", NOW, 1)) == 1
    assert entries(backend) < 1_100
    await backend.push([new(expires_at=NOW + 3600 * SECOND) for _ in range(3_000)])
    assert len(await backend.claim("o", NOW, 3_000)) == 3_000
    assert entries(backend) < 1_100


async def test_pushing_and_deleting_the_same_object_leaves_no_entries() -> None:  # H3
    backend = MemoryBackend()
    task = new()
    for _ in range(10_000):
        await backend.push([task])
        await backend.delete([task.task_id])
    await backend.push([task])
    assert entries(backend) < 2_100
    assert len(await backend.claim("o", NOW, 10)) == 1
    assert await backend.claim("o", NOW, 10) == []


async def test_finished_tasks_are_kept_up_to_a_limit() -> None:  # H3, H10
    backend = MemoryBackend(keep=50)
    for _ in range(500):
        await backend.push([new(idempotency_key=f"{random.random()}")])
        (task,) = await backend.claim("o", NOW, 1)
        await backend.update([Change(task, settle(task, Completed(), NOW))])
    assert (await backend.stats(NOW)).counts["completed"] == 50
    assert len(backend._tasks) == len(backend._keys) == 50
    newest = await backend.find(TaskFilter(), 1)
    assert newest[0].task_id == task.task_id


def test_threads_share_it() -> None:  # E15
    backend = MemoryBackend(keep=10**6)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    async def mixed(seed: int) -> Counter[str]:
        chance, did = random.Random(seed), Counter[str]()
        claimed: list[Task] = []
        for n in range(300):
            verb = chance.choice(["push", "push", "claim", "settle", "give back", "read", "purge"])
            if verb == "push":
                await backend.push([new(queue=f"q{n % 3}", run_at=NOW + chance.randrange(3))])
            elif verb == "claim":
                claimed += await backend.claim(f"o{seed}", NOW + chance.randrange(4), 3)
            elif verb == "settle" and claimed:
                task = claimed.pop()
                assert await backend.update([Change(task, settle(task, Completed(), NOW))]) == [True]
            elif verb == "give back" and claimed:
                task = claimed.pop()
                assert await backend.update([Change(task, settle(task, Released("r"), NOW))]) == [True]
                verb = "gave back"
            elif verb == "purge":
                did["purged"] += await backend.purge(TaskFilter(), 2)
            else:
                await backend.stats(NOW)
                await backend.find(TaskFilter(), 5)
                await backend.next_run_at(NOW)
            did[verb] += 1
        for task in claimed:
            assert await backend.update([Change(task, settle(task, Released("end"), NOW))]) == [True]
        return did

    try:
        with ThreadPoolExecutor(16) as pool:
            did = sum(pool.map(lambda seed: asyncio.run(mixed(seed)), range(16)), Counter[str]())
    finally:
        sys.setswitchinterval(before)

    async def rest() -> tuple[dict[str, int], int]:
        counts = (await backend.stats(NOW)).counts
        left = 0
        while part := await backend.claim("last", NOW + SECOND, 50):
            left += len(part)
        return counts, left

    counts, left = asyncio.run(rest())
    settled = did["push"] - counts["pending"]
    assert counts["running"] == 0
    assert settled == counts["completed"] + did["purged"]
    assert left == counts["pending"] > 0
    assert not any(task.status is Status.PENDING for task in backend._tasks.values())


async def test_a_fired_task_is_due_at_once_after_the_wall_clock_was_set_forward(tmp_path: Path) -> None:
    # Schedules go by the wall clock, this queue by a steady one: between them there may be hours.
    store = SqlBackend(f"sqlite:///{tmp_path / 'schedules.db'}")
    backend = MemoryBackend()
    steady, wall = VirtualClock(NOW), VirtualClock(NOW + 3600 * SECOND)
    queue = Queue(backend, steady)
    scheduler = Scheduler(store.schedules, queue, backend, wall)
    await scheduler.add([new_schedule("n", "t", "interval", interval_seconds=1, now=wall.now())])
    await wall.advance(1)
    await scheduler._look()
    assert await queue.get_queue_size() == 1
    popped = await queue.pop_task(timeout=0)
    assert popped is not None and popped["type"] == "t"
    await store.close()


async def test_a_task_found_expired_by_a_count_is_never_claimed() -> None:
    backend = MemoryBackend()
    await backend.push([new(expires_at=NOW + 1), new()])
    assert await backend.count_ready(NOW + 1) == 1
    assert (await backend.stats(NOW + 1)).counts["pending"] == 2
    assert [task.expires_at for task in await backend.claim("o", NOW, 10)] == [None], "also when the clock was set back"
    (late,) = await backend.overdue(NOW + 1, 10)
    assert await backend.update([Change(late, settle(late, Expired(), NOW + 1))]) == [True]
    assert (await backend.stats(NOW + 1)).counts["pending"] == 0
    assert await backend.count_ready(NOW + 1) == 0
