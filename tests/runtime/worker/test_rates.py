"""A rate holds where its tasks are claimed, also after a time without any sweep of the gates."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotaskq import Rate, TaskQ
from aiotaskq.app.internal import RunOptions
from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.task import TaskFilter
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.queue.claims import Claims
from tests.runtime.worker.workers import started

pytestmark = pytest.mark.parametrize("url", ["memory://", DURABLE_FAKE])


class Rated:
    """A queue with one handler, which is called once a second and saves two calls."""

    def __init__(self, url: str) -> None:
        self.clock, self.calls = VirtualClock(), list[int]()
        self.tq = TaskQ(url, clock=self.clock)

        @self.tq.task(rate=Rate(1, per=1, burst=2))
        async def call(number: int) -> None:
            self.calls.append(number)

        self._call = call

    async def push(self) -> None:
        await self.tq.push_many([self._call.call(number=number) for number in range(6)])


async def test_a_worker_that_comes_late_starts_one_burst(url: str) -> None:
    rated = Rated(url)
    clock, tq, calls = rated.clock, rated.tq, rated.calls

    await rated.push()
    await clock.advance(10)
    async with started(tq):
        await clock.settle()
        assert calls == [0, 1]
        await clock.advance(1)
        assert calls == [0, 1, 2]


async def test_a_process_that_stood_still_starts_one_burst(url: str) -> None:
    rated = Rated(url)
    clock, tq, calls = rated.clock, rated.tq, rated.calls
    release = asyncio.Event()

    @tq.task
    async def hold() -> None:
        await release.wait()

    async with started(tq, concurrency=2):
        await tq.push_many([hold.call(), hold.call()])
        await clock.settle()
        await rated.push()
        await clock.advance(0.5)
        clock._now += 10_000_000  # no timer of this process has rung meanwhile
        release.set()
        await clock.settle()
        assert calls == [0, 1]
        await clock.advance(1)
        assert calls == [0, 1, 2]


@pytest.mark.parametrize("start", ["the first start", "a later one"])
async def test_tokens_saved_while_a_late_claim_is_made_are_not_given_twice(
    url: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated = Rated(url)
    clock, tq, calls = rated.clock, rated.tq, rated.calls
    exchange = Claims.exchange

    async def slow(*args: Any, **options: Any) -> Any:
        answer = await exchange(*args, **options)
        if not calls and answer[1]:
            clock._now += 3_000_000
        return answer

    if start == "a later one":
        await tq._start_running(RunOptions(4, scheduler=False))
        await clock.settle()
        await tq._stop_running(0.01, 0.01)
    await rated.push()
    await clock.advance(10)
    monkeypatch.setattr(Claims, "exchange", slow)
    async with started(tq):
        await clock.settle()
        await clock.advance(5)
    rows = await tq.queue.backend.find(TaskFilter(), 100)
    began = sorted(row.began_at for row in rows if row.began_at is not None)
    assert len(began) == 6
    for first, begin in enumerate(began):
        assert sum(at <= begin + 1_000_000 for at in began[first:]) <= 3


async def test_tasks_without_a_rate_do_not_wait_for_a_sweep_that_fails(url: str) -> None:
    clock = VirtualClock()
    tq = TaskQ(url, clock=clock)
    done: list[int] = []

    @tq.task
    async def work(number: int) -> None:
        done.append(number)

    async def broken(_now: int, _limit: int) -> int | None:
        raise ValueError("a gate that cannot be read")

    async def away(_now: int, _limit: int) -> int | None:
        raise DatabaseUnavailable("away")

    tq.queue.backend.gates.admit = broken  # type: ignore[method-assign]
    async with started(tq):
        await work.push(number=1)
        await clock.settle()
        assert done == [1]
        tq.queue.backend.gates.admit = away  # type: ignore[method-assign]
        await work.push(number=2)
        await clock.settle()
        del tq.queue.backend.gates.admit  # type: ignore[method-assign]
        await clock.advance(5)
        assert done == [1, 2]
