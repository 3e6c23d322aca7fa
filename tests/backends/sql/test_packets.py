"""Values that are larger than a server accepts: refused, and not taken for an outage and sent again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from aiotaskq import Parent, TaskFailed, TaskQ, current_task
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change, Claim
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.dialects.mysql import LEAST_PACKET
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from tests.support.rows import LEASE, NOW, new
from tests.support.servers import Server, Valkey, mariadb

WATCHDOG = 60.0
MIB = 1024 * 1024
SMALL = 256 * 1024
QUOTED = '"' * 1000  # twice as long in JSON, and again in SQL
_numbers = iter(range(10**6))


@pytest.fixture
def server() -> Server:
    return mariadb(durable=False)


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """An empty database of a server whose limit the test may set."""
    ((usual,),) = server.execute("SELECT @@global.max_allowed_packet")
    name = f"packets_{next(_numbers)}"
    yield server.create(name)
    limit(server, usual)
    server.drop(name)


def limit(server: Server, size: int) -> None:
    server.execute(f"SET GLOBAL max_allowed_packet = {size}")


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlBackend]:
    backend = connect(url)
    assert isinstance(backend, SqlBackend)
    await backend.open()
    try:
        yield backend
    finally:
        await backend.close()


async def running(backend: Backend, count: int) -> list[Task]:
    await backend.push([new(params={"n": n}) for n in range(count)])
    tasks = await backend.claim("o", NOW, count, lease_until=LEASE)
    assert len(tasks) == count
    return tasks


def completed(task: Task, result: Any) -> Change:
    return Change(task, settle(task, Completed(result), NOW))


# ---- MySQL ----------------------------------------------------------------------------------------------------------


async def test_a_result_that_is_too_large_fails_its_task_alone(server: Server, url: str) -> None:
    limit(server, MIB)
    tq = TaskQ(url, poll_interval=0.05)
    runs: list[int] = []

    @tq.task(max_retries=3, backoff=0.01)
    async def work(size: int) -> str:
        runs.append(size)
        return "x" * size

    large = [await work.push(size=2 * MIB) for _ in range(3)]
    others = [await work.push(size=n) for n in range(20)]
    async with tq.running(concurrency=4):
        for number, handle in enumerate(others):
            assert await handle.result(WATCHDOG) == "x" * number
        for handle in large:
            with pytest.raises(TaskFailed, match=r"result_unserializable: result: 2,097,.* 1,048,576 bytes"):
                await handle.result(WATCHDOG)
        assert (await tq.health())["workers"] is None
    assert sorted(runs) == [*range(20), *[2 * MIB] * 3]  # each ran once


@pytest.mark.parametrize("text", ["x", QUOTED, "é", "🙂", "\x1a'"], ids=["plain", "quoted", "two", "four", "other"])
async def test_rows_that_are_estimated_to_fit_do_fit(server: Server, url: str, text: str) -> None:
    """Around the limit each size is either stored or refused, and the connection is never lost."""
    limit(server, SMALL)
    async with opened(url) as backend:
        fits, refused = 0, SMALL
        while refused - fits > 8:
            size = (fits + refused) // 2
            (task,) = await running(backend, 1)
            value = (text * (size // len(text) + 1))[:size]
            said = await asyncio.gather(backend.update([completed(task, value)]), return_exceptions=True)
            (row,) = await backend.get([task.task_id])
            assert row is not None
            if said == [[True]]:
                assert row.result == value
                fits = size
            else:
                assert isinstance(said[0], ValidationError)
                assert "max_allowed_packet of the server is 262,144 bytes" in str(said[0])
                assert row.status is Status.RUNNING  # nothing was written
                assert await backend.update([completed(task, None)]) == [True]
                refused = size
        assert fits > SMALL // 10


async def test_params_that_are_too_large_are_refused_at_the_call(server: Server, url: str) -> None:
    limit(server, SMALL)
    large, small = {"text": QUOTED * 100}, {"text": "x"}
    async with TaskQ(url) as tq:
        answers = await asyncio.gather(
            *(tq.push("job", small) for _ in range(5)), tq.push("job", large), return_exceptions=True
        )
        assert [type(each).__name__ for each in answers] == ["TaskHandle"] * 5 + ["ValidationError"]
        assert str(answers[-1]).startswith("params: 400,") and "262,144 bytes; store a reference" in str(answers[-1])
        with pytest.raises(ValidationError, match="params: "):
            await tq.push_many([("job", small), ("job", large)])
        engine = create_async_engine(parse_url(url))
        async with engine.begin() as connection:
            with pytest.raises(ValidationError, match="params: "):
                await tq.push("job", large, session=connection)
            await tq.push("job", small, session=connection)  # the transaction goes on
        await engine.dispose()
        assert (await tq.stats()).counts["pending"] == 6
        with pytest.raises(ValidationError, match="value: "):
            await tq.values.set_public("k", large)
        with pytest.raises(ValidationError, match="params: "):
            await tq.schedules.add("n", "job", params=large, interval=60)
        schedule = (await tq.schedules.add("n", "job", params=small, interval=60)).task_id
        with pytest.raises(ValidationError, match="params: "):
            await tq.schedules.update(schedule, params=large)
        assert [row.params for row in await tq.schedules.list()] == [small]


async def test_progress_that_is_too_large_is_refused_at_the_call(server: Server, url: str) -> None:
    limit(server, SMALL)
    async with opened(url) as backend:
        one, other = await running(backend, 2)
        reports = [(task.task_id, task.fence, {"text": text}) for task, text in ((one, "x"), (other, QUOTED * 100))]
        with pytest.raises(ValidationError, match=r"progress: 400,.* 262,144 bytes"):
            await backend.report(reports)
        assert [row.progress for row in await backend.get([one.task_id, other.task_id]) if row] == [None, None]
        assert await backend.report(reports[:1]) == [True]
    tq = TaskQ(url)

    @tq.task
    async def work() -> None:
        await current_task().progress(1, 2, QUOTED)  # messages are short: they always fit

    async with tq.running(concurrency=1):
        await (await work.push()).result(WATCHDOG)


@pytest.mark.parametrize("size", [10, 1_000, 30_000])
async def test_batches_are_split_by_bytes(server: Server, url: str, size: int) -> None:
    limit(server, SMALL)
    text = (QUOTED * (size // len(QUOTED) + 1))[:size]
    async with opened(url) as backend:
        sent: list[int] = []
        engine: Any = await backend.database.connections()
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *a: sent.append(len(a[2]) + len(str(a[3]))))
        tasks = [new(params={"text": text}) for _ in range(100)]
        assert await backend.push(tasks) == tasks
        claimed = await backend.claim("o", NOW, 100, lease_until=LEASE)
        assert [task.params for task in claimed] == [{"text": text}] * 100
        assert await backend.update([completed(task, [text]) for task in claimed]) == [True] * 100
        rows = await backend.find(TaskFilter(status=(Status.COMPLETED,)), 1_000)
        assert [row.result for row in rows] == [[text]] * 100
        # What goes together is not cut finer than it must be.
        assert len(sent) < {10: 15, 1_000: 25, 30_000: 110}[size]
        await backend.values.put([(f"k{n}", text, None) for n in range(100)])
        assert await backend.values.count(NOW) == 100


async def test_a_row_of_many_texts_counts_as_a_whole(server: Server, url: str) -> None:
    limit(server, SMALL)
    async with opened(url) as backend:
        halves = new(params={"text": "x" * (SMALL // 2)}, extra={"text": "x" * (SMALL // 2)})
        with pytest.raises(ValidationError, match="more than one statement can hold"):
            await backend.push([new(), halves])
        assert (await backend.stats(NOW)).counts["pending"] == 0


async def test_whoever_waits_for_the_failure_is_told(server: Server, url: str) -> None:
    limit(server, MIB)
    tq = TaskQ(url, poll_interval=0.05)
    told: list[tuple[Any, str]] = []

    @tq.task
    async def after(parent: Parent[Any]) -> None:
        told.append((parent.result, parent.error or ""))

    @tq.task
    async def work() -> str:
        return "x" * 2 * MIB

    await tq.push("work", on_failure="after", on_success="after")
    async with tq.running(concurrency=2), asyncio.timeout(WATCHDOG):
        while not told:
            await asyncio.sleep(0.01)
    ((result, error),) = told
    assert result is None and error.startswith("result_unserializable: result: ")


async def test_a_server_with_too_small_a_packet_is_refused(server: Server, url: str) -> None:
    limit(server, LEAST_PACKET // 2)
    backend = connect(url)
    with pytest.raises(DatabaseUnavailable, match=r"max_allowed_packet is 65,536 bytes, and at least 131,072"):
        await backend.open()
    limit(server, LEAST_PACKET)
    await backend.open()
    await backend.push([new() for _ in range(600)])
    await backend.close()


async def test_a_setting_that_was_changed_counts_for_new_connections(server: Server, url: str) -> None:
    limit(server, SMALL)
    large = [new(params={"text": "x" * SMALL})]
    async with opened(url) as backend:
        with pytest.raises(ValidationError, match="262,144"):
            await backend.push(large)
        limit(server, 16 * MIB)
        engine: Any = await backend.database.connections()
        await engine.dispose()
        assert await backend.push(large) == large


async def test_the_session_of_a_task_refuses_too(server: Server, url: str) -> None:
    limit(server, SMALL)
    engine = create_async_engine(parse_url(url))
    tq = TaskQ(url)

    @tq.task(max_retries=0)
    async def work() -> str:
        async with engine.begin() as connection:
            with pytest.raises(ValidationError, match="result: "):
                await current_task().complete(connection, "x" * SMALL)
            await current_task().complete(connection, "a reference")
        return ""

    async with tq.running(concurrency=1):
        assert await (await work.push()).result(WATCHDOG) == "a reference"
    await engine.dispose()


# ---- Redis ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow() -> Iterator[str]:
    """The URL of a server that takes 1 MiB in one argument, which is the least."""
    made = Valkey(durable=False, proto_max_bulk_len="1mb")
    yield made.url("packets")
    made.kill()


async def test_redis_a_result_that_is_too_large_fails_its_task_alone(narrow: str) -> None:
    tq = TaskQ(narrow, poll_interval=0.05)

    @tq.task(max_retries=3, backoff=0.01)
    async def work(size: int) -> str:
        return "x" * size

    large = [await work.push(size=2 * MIB) for _ in range(3)]
    others = [await work.push(size=n) for n in range(20)]
    async with tq.running(concurrency=4):
        for number, handle in enumerate(others):
            assert await handle.result(WATCHDOG) == "x" * number
        for handle in large:
            with pytest.raises(TaskFailed, match=r"result_unserializable: 2,097,.* 1,048,576 .*proto-max-bulk-len"):
                await handle.result(WATCHDOG)


async def test_redis_batches_are_split_by_bytes(narrow: str) -> None:
    backend = connect(narrow)
    await backend.open()
    try:
        text = "x" * 100_000
        tasks = [new(params={"text": text}) for _ in range(120)]
        assert await backend.push(tasks) == tasks
        claimed = await backend.claim("o", NOW, 120, lease_until=LEASE)
        assert len(claimed) == 120
        changes = [completed(task, text) for task in claimed]
        assert await backend.update(changes[:60]) == [True] * 60
        held, more = await backend.exchange([*changes[60:], changes[60]], Claim("o", NOW + SECOND, 5))
        assert (held, more) == ([True] * 60 + [False], [])
        rows = await backend.find(TaskFilter(status=(Status.COMPLETED,)), 1_000)
        assert sum(row.result == text for row in rows) == 120
        assert await backend.push([]) == []
        with pytest.raises(ValidationError, match="1,048,576"):
            await backend.push([new(), new(params={"text": "x" * 2 * MIB})])
        assert (await backend.stats(NOW)).counts["pending"] == 0
    finally:
        await backend.close()
