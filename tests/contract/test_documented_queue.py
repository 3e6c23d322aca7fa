"""The documented queue's rules, on each store: what ``task_done`` and a push of a known id do to the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiotaskq.clock import VirtualClock
from aiotaskq.log import logger
from aiotaskq.queue import Queue
from aiotaskq.task import Status
from tests.backends import Store
from tests.contract.rows import NOW

VISIBILITY = 300.0  # seconds


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW)


@pytest.fixture
def queue(store: Store, clock: VirtualClock) -> Queue:
    return Queue(store.backend, clock, visibility=VISIBILITY)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is logged as a warning."""
    lines: list[str] = []
    logger.enable("aiotaskq")
    sink = logger.add(lambda line: lines.append(str(line).strip()), level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)
    logger.disable("aiotaskq")


# ---- the guide's worker ---------------------------------------------------------------------------------------------


async def work(queue: Queue, handle: Callable[[dict[str, Any]], None]) -> list[str]:
    """Work as the guide's worker does until nothing is ready: ``task_done`` only after success."""
    errors = []
    while (task := await queue.pop_task(timeout=0)) is not None:
        try:
            handle(task)
            await queue.task_done()
        except ConnectionError as error:
            errors.append(f"{task['task_id']}: {error}")
    return errors


@pytest.mark.stores("rehearsal", "sqlite", "postgresql", "mysql", "redis")
async def test_the_guides_worker_under_failures(queue: Queue, clock: VirtualClock, warnings: list[str]) -> None:
    runs: list[tuple[str, int]] = []

    def handle(task: dict[str, Any]) -> None:
        runs.append((task["task_id"], task["retry_count"]))
        if task["type"] == "fails":
            raise ConnectionError("as told")

    await queue.push_task({"task_id": "A", "type": "fails", "max_retries": 2})
    await queue.push_task({"task_id": "B", "type": "works"})
    assert await work(queue, handle) == ["A: as told"]
    assert [(await queue.get(name)).status for name in "AB"] == [Status.RUNNING, Status.COMPLETED]
    assert warnings == ["queue: fails A was popped and not settled; it comes back after its visibility timeout"]

    await clock.advance(VISIBILITY - 1)
    assert await work(queue, handle) == []  # it is still invisible
    for retry in (1, 2):
        await clock.advance(VISIBILITY)
        await queue.push_task({"task_id": f"later {retry}", "type": "works"})
        assert await work(queue, handle) == ["A: as told"]
        assert ((await queue.get("A")).status, (await queue.get("A")).retry_count) == (Status.RUNNING, retry)
    await clock.advance(VISIBILITY)
    assert await work(queue, handle) == []

    dead = await queue.get("A")
    assert (dead.status, dead.error_message) == (Status.FAILED, "not settled within its visibility timeout")
    assert runs == [("A", 0), ("B", 0), ("A", 1), ("later 1", 0), ("A", 2), ("later 2", 0)]
    assert (await queue.stats()).counts["completed"] == 3
