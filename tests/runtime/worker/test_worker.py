"""The worker as a whole: how it starts, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from aiotaskq import TaskQ
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from tests.support.machine import within


async def test_registrations_and_runs_that_could_never_work_are_refused(tq: TaskQ) -> None:
    with pytest.raises(ValidationError, match="a generator's body would never run"):

        @tq.task
        def generates() -> Any:
            yield 1

    with pytest.raises(ValidationError, match="retry_on: exception classes are needed"):
        tq.task(retry_on=5)(os.getcwd)  # type: ignore[arg-type]
    for queues in ("default", [], [5]):
        with pytest.raises(ValidationError, match="queues: "):
            async with tq.running(queues=queues):  # type: ignore[arg-type]
                pass
    with pytest.raises(ValidationError, match="drain: must be at least 0"):
        async with tq.running(drain=-1):
            pass


async def test_latency_of_an_idle_worker_is_a_hint_not_a_poll(url: str) -> None:
    tq = TaskQ(url, poll_interval=3600)

    @tq.task
    async def work() -> float:
        return time.monotonic()

    async with tq.running(concurrency=1):
        await asyncio.sleep(0.1)  # the worker is idle, asleep for its whole poll interval
        pushed = time.monotonic()
        assert await (await work.push()).result(within(29)) - pushed < within(5)


async def test_a_store_that_cannot_be_opened_raises_its_own_error(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/no/such/folder/x.db")
    with pytest.raises(DatabaseUnavailable, match="check the folder"):
        async with tq.running():
            pytest.fail("it cannot run")
    with pytest.raises(DatabaseUnavailable, match="check the folder"):
        await tq.run()
