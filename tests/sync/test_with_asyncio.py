"""One queue for an asyncio application and for threads."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

import aiotaskq
import aiotaskq.errors
import aiotaskq.sync
from aiotaskq.core.status import Status
from aiotaskq.errors import (
    NotFound,
)
from tests.support.machine import watchdog, within
from tests.support.threads import in_thread
from tests.sync.threads import PROMPT


def drain(queue: aiotaskq.sync.MemoryQueue) -> None:
    while queue.pop_task(0) is not None:
        queue.task_done()


async def test_tasks_of_an_asyncio_producer_wake_consumers_in_threads() -> None:
    blocking = await asyncio.to_thread(aiotaskq.sync.get_queue)
    awaited = await aiotaskq.get_queue()
    await asyncio.to_thread(drain, blocking)
    got: list[tuple[str, float]] = []
    lock = threading.Lock()

    def consume() -> None:
        while (task := blocking.pop_task(timeout=watchdog())) is not None and task["type"] != "stop":
            with lock:
                got.append((task["task_id"], time.monotonic() - task["pushed"]))
            blocking.task_done()
        blocking.task_done()

    threads = [in_thread(consume) for _ in range(3)]
    ids = []
    for number in range(30):
        ids.append(await awaited.push_task({"type": "x", "pushed": time.monotonic()}))
        await asyncio.sleep(0.01 if number % 10 == 0 else 0)
    for _ in threads:
        await awaited.push_task({"type": "stop"}, priority=1)
    for thread in threads:
        await asyncio.wrap_future(thread)
    assert sorted(task_id for task_id, _ in got) == sorted(ids)
    assert max(late for _, late in got) < within(PROMPT)
    assert (await awaited.get(ids[0])).status is Status.COMPLETED


async def test_tasks_of_producer_threads_wake_an_asyncio_consumer() -> None:
    awaited = await aiotaskq.get_queue()
    await asyncio.to_thread(lambda: drain(aiotaskq.sync.get_queue()))
    late: list[float] = []

    def produce(name: str) -> list[str]:
        return [aiotaskq.sync.push_task({"type": name, "pushed": time.monotonic()}) for _ in range(20)]

    async def consume() -> list[str]:
        got: list[str] = []
        while len(got) < 40:
            task = await awaited.pop_task(timeout=watchdog())
            assert task is not None
            late.append(time.monotonic() - task["pushed"])
            await awaited.task_done()
            got.append(task["task_id"])
        return got

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0.02)  # so that it waits
    pushed = await asyncio.gather(asyncio.to_thread(produce, "a"), asyncio.to_thread(produce, "b"))
    assert sorted(await consumer) == sorted(pushed[0] + pushed[1])
    assert max(late) < within(PROMPT)


async def test_public_values_are_the_same_on_both_sides() -> None:
    await aiotaskq.set_public("cookie", {"a": 1}, ttl=60)
    assert await asyncio.to_thread(aiotaskq.sync.get_public, "cookie") == {"a": 1}
    assert await asyncio.to_thread(aiotaskq.sync.delete_public, "cookie") is True
    assert await aiotaskq.get_public("cookie") is None


async def test_a_thread_handler_of_an_asyncio_app_reports_progress_to_its_own_loop(tmp_path: Path) -> None:
    tq = aiotaskq.TaskQ(f"sqlite:///{tmp_path}/app.db", poll_interval=0.2)
    seen = []

    @tq.task
    def convert(count: int) -> str:
        context = aiotaskq.sync.current_task()
        for number in range(count):
            context.progress(number + 1, count, message="busy")
        seen.append((context.task.type, context.cancel_requested))
        with pytest.raises(aiotaskq.errors.ValidationError, match="session: a SQLAlchemy"):
            context.complete(session=None)
        return threading.current_thread().name

    async with tq.running():
        handle = await convert.push(count=3)
        assert (await handle.result(timeout=watchdog())).startswith("aiotaskq-handler")
        assert await handle.progress() == {"done": 3, "total": 3, "message": "busy"}
    assert seen == [("convert", False)]
    with pytest.raises(NotFound):
        aiotaskq.sync.current_task()
