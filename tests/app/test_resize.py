"""``tq.resize``: the worker of this process has more or fewer slots while it runs, and nothing is cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import aiotaskq.sync
from aiotaskq import Backoff, TaskQ
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.runtime.handler import make_handler
from aiotaskq.runtime.worker.executors import Executors
from aiotaskq.testing import Kit, virtual
from tests.support.machine import within
from tests.support.waiting import eventually


@pytest.fixture(params=["memory://", "sqlite"])
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kit]:
    url = f"sqlite:///{tmp_path}/kit.db" if request.param == "sqlite" else request.param
    async with (
        virtual(url=url, concurrency=2, scheduler=False, history=False) as made,
        asyncio.timeout(within(30)),
    ):
        yield made


async def test_it_grows_and_shrinks_while_handlers_run(kit: Kit) -> None:
    now, most, cancelled = 0, 0, 0

    @kit.tq.task
    async def work() -> None:
        nonlocal now, most, cancelled
        now += 1
        most = max(most, now)
        try:
            await kit.clock.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        finally:
            now -= 1

    handles = [await work.push() for _ in range(12)]
    await kit.advance(30)
    assert now == 2
    await kit.tq.resize(5)
    await kit.advance(1)
    assert now == 5, "the free slots are filled at once"
    await kit.tq.resize(1)
    await kit.advance(1)
    assert now == 5, "what runs goes on"
    await kit.advance(28)
    assert now == 3, "of those that have ended none is replaced"
    await kit.advance(31)
    assert now == 1
    most = now
    # Any heartbeat in between tells the same number.
    await kit.advance(hours=2)
    assert most == 1 and cancelled == 0
    assert [await handle.status() for handle in handles] == ["completed"] * 12
    assert kit.tq.worker is not None and kit.tq.worker.occupancy().slots == 1


async def test_the_registry_shows_it_and_the_latest_call_counts(tmp_path: Path) -> None:
    async with virtual(url=f"sqlite:///{tmp_path}/x.db", concurrency=2, scheduler=False, history=False) as kit:
        await kit.start()
        worker = kit.tq.worker
        assert worker is not None
        await kit.tq.resize(7)
        assert (worker.concurrency, (await kit.tq.workers.get(worker.owner)).wanted_concurrency) == (7, 7)
        await kit.tq.workers.resize(worker.owner, 3)
        await kit.advance(hours=1)
        assert worker.concurrency == 3
        await kit.tq.resize(4)
        await kit.advance(hours=1)
        assert worker.concurrency == 4


def compute() -> None: ...


async def test_threads_follow() -> None:
    tq = TaskQ("memory://")
    go_on = threading.Event()

    @tq.task
    def block() -> None:
        go_on.wait(within(20))

    def threads() -> int:
        return sum(each.name.startswith("aiotaskq-handler") for each in threading.enumerate())

    async with tq.running(concurrency=1), asyncio.timeout(within(30)):
        handles = [await block.push() for _ in range(6)]
        await tq.resize(3)
        await eventually(lambda: threads() == 3)
        await tq.resize(2)
        go_on.set()
        for handle in handles:
            await handle.result()
        await eventually(lambda: threads() == 2)
        await tq.resize(1)
        await eventually(lambda: threads() == 1)
        assert await (await block.push()).result() is None


async def test_a_pool_of_another_size_takes_the_place_of_one_whose_work_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    class Pool:
        def __init__(self, size: int, **_: object) -> None:
            self.size, self.work, self.ended = size, Future[int](), False
            made.append(self)

        def submit(self, *_: object) -> Future[int]:
            return self.work

        def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
            self.ended = not wait and not cancel_futures

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", Pool)
    handler = make_handler(None, compute, executor="process", backoff=Backoff())
    executors = Executors(2)
    first = executors.start(handler, {})
    executors.resize(2)
    assert executors.start(handler, {}) is first
    executors.resize(64)
    assert [each.ended for each in made] == [True] and not first.cancelled()
    assert executors.start(handler, {}) is not first
    assert [each.size for each in made] == [2, 4], "no more than there are processors"
    executors.resize(5)
    assert executors.start(handler, {}) is made[1].work and not made[1].ended


async def test_it_needs_a_worker_and_a_number_of_slots() -> None:
    tq = TaskQ("memory://")
    async with tq:
        with pytest.raises(NotFound, match="no worker runs in this process"):
            await tq.resize(2)
    async with tq.running():
        for wrong in (0, 10_001, True, 1.5):
            with pytest.raises(ValidationError, match="concurrency"):
                await tq.resize(wrong)  # type: ignore[arg-type]


def test_the_blocking_twin() -> None:
    tq = aiotaskq.sync.TaskQ("memory://")
    with tq.running(concurrency=1):
        tq.resize(3)
        worker = tq._reach().worker
        assert worker is not None and worker.concurrency == 3
