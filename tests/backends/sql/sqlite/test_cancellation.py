"""Transactions on SQLite that are cancelled or fail at any statement: done or not done, never in between."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession

from aiotaskq.backends.base import Change, ScheduleChange
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.sqlite_connections import READERS, SqliteConnections
from aiotaskq.concurrency.uninterrupted import ShieldedTask
from aiotaskq.core.ids import new_id
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task, TaskFilter
from aiotaskq.errors import (
    DatabaseUnavailable,
)
from tests.backends.sql.sqlite.stores import assert_lock_free, every_verb
from tests.support.machine import within
from tests.support.programs import linux, open_files
from tests.support.rows import LEASE, NOW, new, new_schedule
from tests.support.statements import at_each_statement


@types.coroutine
def counted(
    work: Any, at: int, act: Callable[[], object], reached: list[int]
) -> Generator[Any, Any, Any]:  # drives a coroutine, and acts at its n-th suspension
    value: Any = None
    failure: BaseException | None = None
    while True:
        try:
            waited = work.send(value) if failure is None else work.throw(failure)
        except StopIteration as stop:
            return stop.value
        reached[0] += 1
        if reached[0] == at:
            asyncio.get_running_loop().call_soon(act)
        value, failure = None, None
        try:
            value = yield waited
        except BaseException as error:
            failure = error


class Scenario:
    """One transaction, and how to tell whether it has happened: wholly, or not at all."""

    def __init__(self, backend: SqlBackend) -> None:
        self.backend = backend
        self.task = Task(task_id="", type="")

    async def prepare(self) -> None:
        await self.backend.push([new(task_id=new_id())])
        (self.task,) = await self.backend.claim("o", NOW, 1, lease_until=LEASE)

    async def clear(self) -> None:
        await self.backend.delete([task.task_id for task in await self.backend.find(TaskFilter(), 1_000)])


class Push(Scenario):
    async def act(self) -> None:
        await self.backend.push([new(type="pushed") for _ in range(600)])

    async def happened(self) -> bool:
        count = len(await self.backend.find(TaskFilter(type="pushed"), 1_000))
        assert count in (0, 600)
        return count == 600


class Claim(Scenario):
    async def prepare(self) -> None:
        await super().prepare()
        await self.backend.push([new() for _ in range(600)])

    async def act(self) -> None:
        await self.backend.claim("other", NOW, 600, lease_until=LEASE)

    async def happened(self) -> bool:
        counts = (await self.backend.stats(NOW)).counts
        assert (counts["pending"], counts["running"]) in ((600, 1), (0, 601))
        return counts["pending"] == 0


class Update(Scenario):
    async def act(self) -> None:
        end = self.task.replace(status=Status.COMPLETED, result=1)
        await self.backend.update([Change(self.task, end, (new(type="then"), new(type="then")))])

    async def happened(self) -> bool:
        (row,) = await self.backend.get([self.task.task_id])
        assert row is not None
        followers = await self.backend.find(TaskFilter(type="then"), 5)
        assert (row.status, len(followers)) in ((Status.COMPLETED, 2), (Status.RUNNING, 0))
        return bool(followers)


class Fire(Scenario):
    async def prepare(self) -> None:
        (self.schedule,) = await self.backend.schedules.add([new_schedule()])

    async def act(self) -> None:
        after = self.schedule.replace(run_count=1)
        await self.backend.schedules.change([ScheduleChange(self.schedule, after, (new(type="fired"),))])

    async def happened(self) -> bool:  # C9
        (row,) = await self.backend.schedules.get([self.schedule.task_id])
        tasks = await self.backend.find(TaskFilter(type="fired"), 5)
        assert row is not None and (row.run_count, len(tasks)) in ((0, 0), (1, 1))
        return bool(tasks)


@pytest.mark.parametrize("scenario", [Push, Claim, Update, Fire])
@pytest.mark.parametrize("victim", ["caller", "transaction", "shielded"])
async def test_cancelled_at_each_statement(  # D1, F3, F4
    backend: SqlBackend, path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Any, victim: str
) -> None:
    """The caller is cancelled while its transaction is at its n-th statement; or the transaction itself is, as at the
    end of the loop, in its own task or in a shielded one. Each time it runs to its end, which is waited for, and the
    lock and the pool are free."""
    real = SqliteConnections.write
    case = scenario(backend)
    connections = await backend.database.connections()
    assert isinstance(connections, SqliteConnections)
    before = [connections.writer, *connections.readers]
    loop = asyncio.get_running_loop()
    targets: list[asyncio.Task[Any] | None] = []

    async def noted(self: SqliteConnections, *args: Any) -> Any:
        targets.append(asyncio.current_task() if victim == "transaction" else caller)
        return await real(self, *args)

    for at in range(1, 200):
        await case.prepare()
        reached = [0]
        delivered = threading.Event()

        def cancel(delivered: threading.Event = delivered) -> None:
            assert targets[-1] is not None and targets[-1].cancel()
            loop.call_soon(loop.call_soon, delivered.set)

        def cut(*_: Any, at: int = at, reached: list[int] = reached, act: Any = cancel, then: Any = delivered) -> None:
            reached[0] += 1
            if reached[0] == at:
                loop.call_soon_threadsafe(act)
                assert then.wait(within(60))

        monkeypatch.setattr(SqliteConnections, "write", noted)
        caller = asyncio.create_task(case.act()) if victim != "shielded" else ShieldedTask(case.act())
        with at_each_statement(connections.sync_engine, cut):
            async with asyncio.timeout(within(30)):
                (answer,) = await asyncio.gather(caller, return_exceptions=True)
                assert isinstance(answer, asyncio.CancelledError) == (reached[0] >= at)
                running = list(backend.database._running)
                assert victim == "caller" or not running
                await asyncio.gather(*running)
        monkeypatch.setattr(SqliteConnections, "write", real)
        assert_lock_free(path)
        assert await case.happened()
        await case.clear()
        if reached[0] < at:
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 3
    assert [connections.writer, *connections.readers] == before


async def test_a_shielded_transaction_needs_no_task_and_is_waited_for(backend: SqlBackend) -> None:
    begun, go = threading.Event(), threading.Event()

    def body(_connection: Connection) -> set[asyncio.Task[Any]]:
        begun.set()
        assert go.wait(within(30))
        return asyncio.all_tasks(loop)

    loop = asyncio.get_running_loop()
    shielded = ShieldedTask(backend.database.write(body))
    await asyncio.to_thread(begun.wait, 30)
    others = asyncio.all_tasks()
    assert len(backend.database.pending) == 1
    closing = asyncio.create_task(backend.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    go.set()
    assert await shielded <= others | {closing}
    await closing
    assert not backend.database.pending


async def test_an_error_in_a_body_leaves_its_connection_as_it_was(backend: SqlBackend, path: Path) -> None:
    await backend.push([new()])
    for act, words in ((backend.database.write, "DELETE FROM task_queue"), (backend.database.read, "SELECT 1")):

        def broken(connection: Connection, words: str = words) -> None:
            connection.execute(text(words))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await act(broken)
    assert_lock_free(path)
    assert await backend.count_ready(NOW) == 1

    in_session = (
        (backend.database.write_session, "DELETE FROM task_queue"),
        (backend.database.read_session, "SELECT 1"),
    )
    for act, words in in_session:

        async def broken_session(session: AsyncSession, words: str = words) -> None:
            await session.execute(text(words))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await act(broken_session)
    assert_lock_free(path)
    assert await backend.count_ready(NOW) == 1


@pytest.mark.parametrize("how", ["write", "read"])
async def test_a_connection_that_is_broken_is_replaced(backend: SqlBackend, how: str) -> None:
    await backend.push([new()])
    act = backend.database.write if how == "write" else backend.database.read
    connections = await backend.database.connections()
    assert isinstance(connections, SqliteConnections)
    threads = threading.active_count()

    def broken(connection: Connection) -> None:
        connection.connection.driver_connection.close()  # type: ignore[union-attr]
        connection.exec_driver_sql("SELECT 1")

    for _ in range(5):
        with pytest.raises(DatabaseUnavailable, match="closed database"):
            await act(broken)
        assert await backend.count_ready(NOW) == 1
    assert len(connections.readers) == READERS
    await backend.push([new()])
    async with asyncio.timeout(within(30)):  # those of the old ones end
        while threading.active_count() > threads:
            await asyncio.sleep(0.01)


async def test_between_transactions_nothing_of_the_file_is_held(backend: SqlBackend, path: Path) -> None:
    await every_verb(backend)
    with contextlib.closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)  # no reader is in the way


async def test_cancelled_before_its_turn(backend: SqlBackend) -> None:  # D1, F3
    """One that waits for the thread when the loop ends does not happen any more."""
    await backend.open()
    connections = await backend.database.connections()
    begun, go_on = threading.Event(), threading.Event()

    def wait(_connection: Any) -> None:
        begun.set()
        assert go_on.wait(within(60))

    first = asyncio.create_task(connections.write(wait))
    assert await asyncio.to_thread(begun.wait, 60)
    happened: list[Any] = []
    second = asyncio.create_task(connections.write(happened.append))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second], timeout=within(30))
    go_on.set()
    await first
    await backend.push([new()])
    assert second.cancelled() and happened == []


@linux
async def test_opening_cancelled_at_each_await(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D1, D11, D12
    real = Database._connect
    monkeypatch.setattr(SqlBackend, "_upgrade", lambda self, connection: connection.execute(text("SELECT 1")))

    async def cancelled_at(at: int) -> bool:
        backend = SqlBackend(f"sqlite:///{tmp_path / f'{at}.db'}")
        reached = [0]

        async def connect(self: Database) -> Any:
            return await counted(real(self), at, lambda: caller.cancel(), reached)

        monkeypatch.setattr(Database, "_connect", connect)
        caller = asyncio.create_task(backend.open())
        await asyncio.gather(caller, return_exceptions=True)
        async with asyncio.timeout(within(30)):
            await backend.close()
        assert open_files(tmp_path) == 0
        return reached[0] >= at

    for at in range(1, 200):
        if not await cancelled_at(at):
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 3


async def test_a_cancelled_opening_can_be_tried_again(url: str) -> None:
    for delay in (0, 0.001, 0.005, 0.02):
        backend = SqlBackend(url)
        caller = asyncio.create_task(backend.open())
        await asyncio.sleep(delay)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        await backend.push([new()])
        await backend.close()
