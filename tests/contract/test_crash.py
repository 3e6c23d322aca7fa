"""kill -9 of real processes on each durable store: acknowledged pushes are stored, and running tasks run again."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.status import Status
from aiotaskq.core.task import TaskFilter
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.programs import Program, programs_in

PRODUCER = """
    import asyncio, sys
    from aiotaskq import TaskQ

    async def main():
        async with TaskQ(sys.argv[1]) as tq:
            async def produce(number):
                for n in range(1000000):
                    handle = await tq.push("mail", {"n": n}, task_id=f"{number}-{n}")
                    print(handle.task_id, flush=True)
            await asyncio.gather(*map(produce, range(8)))

    asyncio.run(main())
"""
WORKER = """
    import asyncio, os, sys
    from aiotaskq import TaskQ, current_task
    from tests.support.machine import within

    tq = TaskQ(sys.argv[1], lease=within(1.0), heartbeat=0.2, reap_interval=0.2, poll_interval=0.1)

    @tq.task(timeout=3600, max_retries=3)
    async def long(first: bool = False):
        print("started", flush=True)
        if current_task().task.fence == 1:
            await asyncio.sleep(3600)
        return os.getpid()

    @tq.task
    async def deadly():
        print("started", flush=True)
        os._exit(7)

    asyncio.run(tq.run(concurrency=2))
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    with programs_in(tmp_path) as start:
        yield start


async def test_acknowledged_pushes_of_a_killed_producer_are_on_disk(  # A20
    process_store: Store, program: Callable[..., Program]
) -> None:
    producer = program(PRODUCER, process_store.url)
    assert producer.popen.stdout is not None
    told = [producer.popen.stdout.readline().strip() for _ in range(300)]
    producer.signal(signal.SIGKILL)
    told += producer.popen.stdout.read().split()
    if not told[-1].partition("-")[2]:
        told.pop()  # cut in the middle of the line
    backend = process_store.backend
    rows = await backend.find(TaskFilter(), 100_000)
    assert set(told) <= {row.task_id for row in rows}
    assert set(Counter(row.task_id for row in rows).values()) == {1}
    assert len(rows) - len(told) <= 8, "more than was under way"
    async with TaskQ(process_store.url) as tq:  # the last pushes may or may not be stored: push the same again
        last = max(rows, key=lambda row: row.seq)
        again = await tq.push(last.type, last.params, task_id=last.task_id)
        assert not again.created
        # A server may still have stored some of those that were under way.
        assert {row.task_id for row in rows} <= {row.task_id for row in await tq.find(limit=100_000)}


@pytest.mark.promise("survives kill -9 of the process")
async def test_tasks_of_a_killed_worker_run_again(  # A1, A10, A12, B5
    process_store: Store, program: Callable[..., Program]
) -> None:
    first = program(WORKER, process_store.url)
    async with TaskQ(process_store.url, poll_interval=0.1) as tq:
        handle = await tq.push("long", {}, timeout=3600)
        first.wait_for("started")
        before = await handle.task()
        first.signal(signal.SIGKILL)
        second = program(WORKER, process_store.url)
        assert await handle.result(within(30)) == second.popen.pid
        after = await handle.task()
    assert (after.fence, after.crashes, after.retry_count) == (2, 1, 0)
    assert before.lease_owner is not None and after.lease_owner is None
    second.signal(signal.SIGTERM)
    lost = "its lease was over, the worker died or stood still (1 times); it is run again"
    second.end(stderr=f"lost long {handle.task_id}: {lost}")


async def test_a_task_that_kills_its_process_ends_as_poison(  # A4
    process_store: Store, program: Callable[..., Program]
) -> None:
    async with TaskQ(process_store.url, poll_interval=0.1) as tq:
        handle = await tq.push("deadly", {})
        for _ in range(3):
            victim: Any = program(WORKER, process_store.url)
            victim.wait_for("started")
            victim.popen.wait(within(40))
        good = await tq.push("long", {}, task_id="good")
        last = program(WORKER, process_store.url)
        task = await tq.queue.wait_for_end(handle.task_id, within(30))
        assert (task.status, task.crashes) == (Status.FAILED, 3)
        assert "poison" in (task.error_message or "")
        assert await good.status() in (Status.PENDING, Status.RUNNING)
        last.stop()
