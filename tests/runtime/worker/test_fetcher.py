"""Outcomes are written together, after the slot is free, however long the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.backends.url import DURABLE_FAKE
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.status import Status
from aiotaskq.core.stopping import ExitCode
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.runtime.context import current_task
from aiotaskq.runtime.queue.claims import Claims
from tests.runtime.worker.workers import until_counts
from tests.support.logs import logged
from tests.support.machine import within
from tests.support.waiting import eventually


async def test_quick_tasks_are_written_by_the_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TaskQ(DURABLE_FAKE) as tq:
        count, written = 4_000, asyncio.Event()

        @tq.task
        async def quick(left: int) -> None:
            if not left:
                written.set()

        await tq.push_many([("quick", {"left": count - number - 1}) for number in range(count)])
        exchanges = 0
        exchange = Claims.exchange

        async def counted(*args: Any, **options: Any) -> Any:
            nonlocal exchanges
            exchanges += 1
            return await exchange(*args, **options)

        monkeypatch.setattr(Claims, "exchange", counted)
        async with tq.running(concurrency=10):
            await written.wait()
    # One for each 500 at best; a slow machine claims less ahead. One for each turn of the loop would be 200.
    assert exchanges <= 80


async def test_a_store_that_is_away_is_not_asked_by_each_task_that_ends() -> None:  # A17
    clock = VirtualClock()
    tq = TaskQ(DURABLE_FAKE, clock=clock)
    tries = 0

    async def away(*_args: Any, **_options: Any) -> Any:
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable("away")

    @tq.task
    async def work(seconds: float) -> None:
        await clock.sleep(seconds)

    async with tq.running(concurrency=200, scheduler=False):
        await tq.push_many([work.call(seconds=number / 20) for number in range(1, 201)])
        await clock.settle()
        tq.queue.backend.exchange = away  # type: ignore[method-assign]
        await clock.advance(10.0)
        del tq.queue.backend.exchange  # type: ignore[method-assign]
        await clock.advance(4.0)
        assert (await tq.stats()).counts["completed"] == 200
    assert 3 <= tries < 20, "one after the other by the back-off, not one for each"


@pytest.mark.parametrize("back", ["before the stop", "in the drain"])
async def test_a_stop_asks_a_store_that_was_away_at_once(monkeypatch: pytest.MonkeyPatch, back: str) -> None:  # A17
    monkeypatch.setattr(
        "aiotaskq.concurrency.failure_backoff.random.uniform", lambda _low, high: high
    )  # tries every 4 s in the end
    clock = VirtualClock()
    tq = TaskQ(DURABLE_FAKE, clock=clock)

    async def away(*_args: Any, **_options: Any) -> Any:
        raise DatabaseUnavailable("away")

    @tq.task
    async def work(seconds: float) -> None:
        await clock.sleep(seconds)

    async with tq.running(concurrency=3, scheduler=False):
        await tq.push_many([work.call(seconds=seconds) for seconds in (1.0, 20.5, 60.0)])
        await clock.settle()
        tq.queue.backend.exchange = away  # type: ignore[method-assign]
        await clock.advance(20.0)
        if back == "before the stop":
            del tq.queue.backend.exchange  # type: ignore[method-assign]
        assert tq.worker is not None
        stopping = asyncio.create_task(tq.worker.stop(drain=1.0, grace=1.0))
        await clock.advance(0.7)
        if back == "in the drain":
            del tq.queue.backend.exchange  # type: ignore[method-assign]
        await clock.advance(3.0)
        code, counts = await stopping, (await tq.stats()).counts
    assert (code, counts["completed"], counts["pending"]) == (ExitCode.RELEASED, 2, 1)


async def test_an_error_of_one_outcome_fails_no_other(tmp_path: Path) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    exchange, update = tq.queue.backend.exchange, tq.queue._updates._write

    def check(changes: Sequence[Change]) -> None:
        if any(change.before.params["number"] == 7 for change in changes):
            raise ValueError("cannot be written")

    async def exchanging(changes: Any, *args: Any, **options: Any) -> Any:
        check(changes)
        return await exchange(changes, *args, **options)

    async def updating(changes: Any) -> Any:
        check(changes)
        return await update(changes)

    tq.queue.backend.exchange = exchanging  # type: ignore[method-assign]
    tq.queue._updates._write = updating

    @tq.task
    async def work(number: int) -> int:
        return number

    async with tq.running(concurrency=5):
        handles = await tq.push_many([("work", {"number": number}) for number in range(20)])
        await until_counts(tq, completed=19)
        assert await handles[7].status() is Status.RUNNING, "it comes back when its lease ends"


@pytest.mark.parametrize("committed", [False, True])
async def test_a_write_whose_answer_was_lost_is_repeated(tmp_path: Path, committed: bool) -> None:  # A20, G-5
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    exchange = tq.queue.backend.exchange
    cuts = 2
    events: list[str] = []
    runs: list[int] = []

    async def cut(changes: Any, *args: Any, **options: Any) -> Any:
        nonlocal cuts
        answer = await exchange(changes, *args, **options) if committed or not cuts else None
        if changes and cuts:
            cuts -= 1
            raise DatabaseUnavailable("cut off")
        return answer or await exchange(changes, *args, **options)

    tq.queue.backend.exchange = cut  # type: ignore[method-assign]
    tq.on("completed", lambda event: events.append(event.task.task_id))
    tq.on("lost", lambda event: events.append("lost"))

    @tq.task
    async def work() -> str:
        runs.append(1)
        return "done"

    async with tq.running(concurrency=1):
        handle = await work.push()
        assert await handle.result(within(10)) == "done"
        await eventually(lambda: events)
    assert (runs, events, cuts) == ([1], [handle.task_id], 0)


async def test_an_outcome_that_the_store_does_not_answer_for_is_not_called_drained(tmp_path: Path) -> None:  # F8
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db", poll_interval=0.05)
    silent, answers = asyncio.Event(), asyncio.Event()
    exchange = tq.queue.backend.exchange

    async def hang(*args: Any, **options: Any) -> Any:
        silent.set()
        await answers.wait()
        return await exchange(*args, **options)

    tq.queue.backend.exchange = hang  # type: ignore[method-assign]

    @tq.task
    async def work() -> None: ...

    async with tq.running(concurrency=1):
        await work.push()
        await silent.wait()
        assert tq.worker is not None
        code = await tq.worker.stop(0, 0)
        answers.set()
    assert code is ExitCode.ABANDONED


@pytest.mark.parametrize("failures", [1, 3])
async def test_a_completion_that_cannot_be_read_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    monkeypatch.setattr("aiotaskq.runtime.worker.fetcher.backoff", lambda *_: 0.0)
    url = f"sqlite:///{tmp_path}/q.db"
    tq = TaskQ(url)
    engine = create_async_engine(parse_url(url))
    reads, read = 0, asyncio.Event()
    get = tq.queue.backend.get

    async def unreadable(ids: Sequence[str]) -> Any:
        nonlocal reads
        reads += 1
        if reads <= failures:
            raise DatabaseUnavailable("away")
        read.set()
        return await get(ids)

    @tq.task
    async def book() -> None:
        async with AsyncSession(engine) as session:
            await current_task().complete(session)
            await session.commit()
        tq.queue.backend.get = unreadable  # type: ignore[method-assign]

    with logged() as lines:
        async with tq.running(concurrency=1, scheduler=False):
            await book.push()
            async with asyncio.timeout(within(10)):
                await read.wait()
    await engine.dispose()
    assert len([line for line in lines if "cannot be read yet" in line]) == 1
