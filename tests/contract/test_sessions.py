"""Pushing and completing in the caller's own transaction: the task exists exactly when that transaction does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.util import await_

import aiotaskq.sync
from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Change
from aiotaskq.backends.sql import caller_session
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.core.limits import Limit
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import NotSupported, QueueFull, ValidationError
from aiotaskq.runtime.context import current_task
from tests.support.backends import Store
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, completed, new
from tests.support.waiting import eventually

KINDS = ["session", "connection"]


@pytest.fixture
async def engine(sql_store: Store) -> AsyncIterator[AsyncEngine]:
    """The application's own engine on the same database, with a table of its own."""
    engine = create_async_engine(sql_store.place)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
    yield engine
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE orders"))
    await engine.dispose()


def opened(engine: AsyncEngine, kind: str) -> AsyncSession | AsyncConnection:
    return AsyncSession(engine) if kind == "session" else AsyncConnection(engine)


async def orders(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(text("SELECT count(*) FROM orders"))).scalar() or 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("push in the caller's transaction")
async def test_a_push_exists_when_the_transaction_does(  # A11
    sql_store: Store, engine: AsyncEngine, kind: str
) -> None:
    tq = TaskQ(sql_store.url)
    told: list[str] = []
    tq.on("pushed", lambda event: told.append(event.task.task_id))
    async with tq:
        async with opened(engine, kind) as transaction:
            await transaction.execute(text("INSERT INTO orders VALUES (1)"))
            handle = await tq.push("mail", {"order": 1}, session=transaction)
            assert await tq.find() == [], "seen before the commit"
            assert told == []
            await transaction.commit()
        assert await handle.status() is Status.PENDING
        async with asyncio.timeout(within(10)):
            while not told:
                await asyncio.sleep(0.01)
        assert told == [handle.task_id]

        async with opened(engine, kind) as transaction:
            await transaction.execute(text("INSERT INTO orders VALUES (2)"))
            await tq.push("mail", {"order": 2}, session=transaction)
            await transaction.rollback()
        assert [task.task_id for task in await tq.find()] == [handle.task_id]
        assert await orders(engine) == 1
        assert told == [handle.task_id]


async def test_many_in_one_transaction_of_the_caller(sql_store: Store, engine: AsyncEngine) -> None:  # A11
    async with TaskQ(sql_store.url) as tq, opened(engine, "session") as session:
        calls = [{"type": "mail", "params": {"n": n}, "session": session} for n in range(3)]
        handles = await tq.push_many(calls)
        assert await tq.find() == []
        await session.commit()
        assert [(await handle.task()).params for handle in handles] == [{"n": 0}, {"n": 1}, {"n": 2}]
        with pytest.raises(ValidationError, match="session: push_many writes in one transaction"):
            await tq.push_many([calls[0], {"type": "mail"}])
        assert len(await tq.find()) == 3
        await tq.push_many([("mail", {}), {"type": "mail", "priority": 1}, calls[0]], session=session)
        await session.rollback()
        assert len(await tq.find()) == 3, "all are in the transaction"
        async with opened(engine, "session") as other:
            with pytest.raises(ValidationError, match="session: push_many writes in one transaction"):
                await tq.push_many([calls[0]], session=other)


async def test_keys_hold_in_the_transaction_of_the_caller(sql_store: Store, engine: AsyncEngine) -> None:
    async with TaskQ(sql_store.url) as tq, opened(engine, "session") as session:
        first = await tq.push("mail", {}, unique_key="k")
        again = await tq.push("mail", {}, unique_key="k", session=session)
        await session.commit()
        assert (again.task_id, again.created) == (first.task_id, False)
        assert len(await tq.find()) == 1


async def test_a_waiting_worker_runs_it_after_the_commit(sql_store: Store, engine: AsyncEngine) -> None:  # A11
    tq = TaskQ(sql_store.url, poll_interval=0.2)

    @tq.task
    async def double(n: int) -> int:
        return 2 * n

    async with tq.running(concurrency=2):
        async with opened(engine, "session") as session:
            handle = await double.options(session=session).push(n=21)
            await session.commit()
        assert await handle.result(within(10)) == 42


async def test_bad_input_leaves_the_transaction_as_it_was(sql_store: Store, engine: AsyncEngine) -> None:
    async with TaskQ(sql_store.url) as tq, opened(engine, "session") as session:
        await session.execute(text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(ValidationError, match="params"):
            await tq.push("mail", {"bad": {1, 2}}, session=session)
        await session.commit()
        assert await orders(engine) == 1
        assert await tq.find() == []


async def test_a_session_of_another_database_is_refused(sql_store: Store, tmp_path: Any) -> None:
    other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    async with TaskQ(sql_store.url) as tq, AsyncSession(other) as session:
        with pytest.raises(ValidationError, match="session: it is connected to sqlite"):
            await tq.push("mail", session=session)
        with pytest.raises(ValidationError, match="session: a SQLAlchemy AsyncSession"):
            await tq.push("mail", session=object())
        assert await tq.find() == []
    await other.dispose()


@pytest.mark.stores("memory", "redis")
async def test_a_store_that_is_not_sql_raises(store: Store) -> None:
    async with TaskQ(store.url) as tq:
        with pytest.raises(NotSupported, match="cannot join a transaction"):
            await tq.push("mail", session=object())


@pytest.mark.parametrize("kind", KINDS)
def test_blocking_sessions_push_through_the_facade(kind: str, tmp_path: Any) -> None:  # A11
    url = f"sqlite:///{tmp_path}/facade.db"
    engine = sync_engine(url)
    with aiotaskq.sync.TaskQ(url) as tq:
        for commits in (True, False):
            with Session(engine) if kind == "session" else engine.connect() as transaction:
                handle = tq.push("mail", {"commits": commits}, session=transaction)
                (transaction.commit if commits else transaction.rollback)()
            assert [task.params["commits"] for task in tq.find()] == [True]
        assert not handle.created or handle.task_id not in [task.task_id for task in tq.find()]
    engine.dispose()


# ---- completing ------------------------------------------------------------------------------------------------------


class Ledger:
    """A worker whose handler writes an order and completes in one transaction; each test says how."""

    def __init__(self, url: str, engine: AsyncEngine, way: str, kind: str = "session") -> None:
        self.tq = TaskQ(url, poll_interval=0.05)
        self.events: list[str] = []
        for name in ("completed", "retried", "failed", "lost"):
            self.tq.on(name, lambda event: self.events.append(event.name))
        self.runs = 0

        @self.tq.task(max_retries=1, backoff=0)
        async def book() -> str:
            self.runs += 1
            async with opened(engine, kind) as transaction:
                await transaction.execute(text("INSERT INTO orders VALUES (1)"))
                if way == "taken over" and self.runs == 1:
                    await self.take_over(current_task().task)
                await current_task().complete(transaction, result="booked")
                if way == "raises before" and self.runs == 1:
                    raise RuntimeError("before the commit")
                if way == "forgets" and self.runs == 1:
                    return "not committed"
                if way == "completed elsewhere":
                    await transaction.rollback()
                    await self.take_over(current_task().task, complete=True)
                await transaction.commit()
            if way == "raises after":
                raise RuntimeError("after the commit")
            return "ignored"

        self.book = book

    async def take_over(self, task: Task, *, complete: bool = False) -> None:
        back = task.replace(status=Status.PENDING, lease_owner=None, lease_until=None)
        other = self.tq.queue.backend.another()
        assert await other.update([Change(task, back)]) == [True]
        if complete:
            now = self.tq.queue.clock.now()
            (again,) = await other.claim("another worker", now, 1, lease_until=now + 60 * SECOND)
            assert await other.update([Change(again, settle(again, Completed("by another worker"), now))]) == [True]
        await other.close()

    async def run(self) -> Task:
        async with self.tq.running(concurrency=1):
            handle = await self.book.push()
            return await self.tq.queue.wait_for_end(handle.task_id, within(10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.promise("complete in the caller's transaction")
async def test_complete_joins_the_callers_transaction(sql_store: Store, engine: AsyncEngine, kind: str) -> None:
    ledger = Ledger(sql_store.url, engine, "commits", kind)
    task = await ledger.run()
    assert (task.status, task.result, ledger.runs) == (Status.COMPLETED, "booked", 1)
    assert ledger.events == ["completed"]
    assert await orders(engine) == 1


async def test_a_slow_commit_of_a_connection_is_waited_for(
    sql_store: Store, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller_session, "COMMIT_TIME", 0)
    tq = TaskQ(sql_store.url)
    told: list[str] = []
    tq.on("pushed", lambda event: told.append(event.task.task_id))
    reads: list[Any] = []
    dialect = engine.sync_engine.dialect
    commit, get = dialect.do_commit, tq.queue.backend.get

    async def noted(ids: Any) -> Any:
        reads.append(await get(ids))
        return reads[-1]

    def slow(connection: Any) -> None:
        for _ in range(300):  # turns of the loop
            if not reads:
                await_(asyncio.sleep(0))
        commit(connection)

    async with tq, AsyncConnection(engine) as connection:
        monkeypatch.setattr(tq.queue.backend, "get", noted)
        handle = await tq.push("mail", session=connection)
        monkeypatch.setattr(dialect, "do_commit", slow)
        await connection.commit()
        async with asyncio.timeout(within(10)):
            while not reads:
                await asyncio.sleep(0.01)
    assert told == [handle.task_id]


async def test_many_changes_are_undone_with_the_callers_transaction(sql_store: Store, engine: AsyncEngine) -> None:
    backend = sql_store.backend
    await backend.push([new(), new()])
    tasks = await backend.claim("owner", NOW, 2, lease_until=LEASE)
    changes = [Change(task, completed(task)) for task in tasks]
    async with AsyncSession(engine) as session:
        assert await backend.update_with(session, changes) == [True, True]
        await session.rollback()
    assert await backend.get([task.task_id for task in tasks]) == tasks
    async with AsyncSession(engine) as session:
        assert await backend.update_with(session, changes) == [True, True]
        await session.commit()
    assert await backend.get([task.task_id for task in tasks]) == [change.after for change in changes]


async def test_a_rolled_back_task_runs_again(sql_store: Store, engine: AsyncEngine) -> None:
    ledger = Ledger(sql_store.url, engine, "raises before")
    task = await ledger.run()
    assert (task.status, ledger.runs, task.retry_count) == (Status.COMPLETED, 2, 1)
    assert ledger.events == ["retried", "completed"]
    assert await orders(engine) == 1


async def test_a_commit_that_was_forgotten_is_a_failure(sql_store: Store, engine: AsyncEngine) -> None:
    ledger = Ledger(sql_store.url, engine, "forgets")
    task = await ledger.run()
    assert (task.status, ledger.runs) == (Status.COMPLETED, 2)
    assert ledger.events == ["retried", "completed"]
    assert await orders(engine) == 1


async def test_an_error_after_the_commit_changes_nothing(sql_store: Store, engine: AsyncEngine) -> None:
    ledger = Ledger(sql_store.url, engine, "raises after")
    task = await ledger.run()
    assert (task.status, task.result, ledger.runs) == (Status.COMPLETED, "booked", 1)
    assert ledger.events == ["completed"]


async def test_a_task_that_another_worker_completed_is_lost_here(sql_store: Store, engine: AsyncEngine) -> None:
    ledger = Ledger(sql_store.url, engine, "completed elsewhere")
    task = await ledger.run()
    assert (task.status, task.result, task.fence, ledger.runs) == (Status.COMPLETED, "by another worker", 2, 1)
    assert ledger.events == ["lost"]
    assert await orders(engine) == 0


@pytest.mark.stores("postgresql", "mysql")  # with one writer no worker can take the task over within the transaction
async def test_a_handler_whose_lease_was_lost_cannot_complete_the_task(
    sql_store: Store, engine: AsyncEngine
) -> None:  # B10
    ledger = Ledger(sql_store.url, engine, "taken over")
    task = await ledger.run()
    assert (task.status, ledger.runs) == (Status.COMPLETED, 2)
    assert await orders(engine) == 1  # the first one's was rolled back


async def test_complete_raises_lease_lost(sql_store: Store, engine: AsyncEngine) -> None:  # B10
    tq = TaskQ(sql_store.url)
    async with tq, opened(engine, "session") as session:
        await tq.push("mail")
        now = tq.queue.clock.now() + SECOND  # a better reading of the store's clock may have set ours back since
        (task,) = await tq.queue.backend.claim("w", now, 1, lease_until=now)
        stale = task.replace(fence=task.fence - 1)
        assert await tq.queue.complete_with(session, stale, None, then=lambda _task: ()) is None
        assert await tq.queue.complete_with(session, task, None, then=lambda _task: ()) is not None
        await session.commit()
        assert (await tq.get(task.task_id)).status is Status.COMPLETED


# On SQLite the application's own driver says what a savepoint is: see its documentation on transactions.
@pytest.mark.stores("postgresql", "mysql")
async def test_a_released_savepoint_is_no_commit(sql_store: Store) -> None:  # A11
    engine = create_async_engine(sql_store.place)
    tq = TaskQ(sql_store.url)
    told: list[str] = []
    tq.on("pushed", lambda event: told.append(event.task.task_id))

    async def settled() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async with tq:
        async with AsyncSession(engine) as session:
            async with session.begin_nested():
                handle = await tq.push("mail", session=session)
            await settled()
            assert told == [], "told at the end of the savepoint"
            await session.commit()
            await eventually(lambda: bool(told))
            assert told == [handle.task_id]
        async with AsyncSession(engine) as session:
            async with session.begin_nested():
                await tq.push("mail", session=session)
            await session.rollback()
            await session.commit()
        async with AsyncSession(engine) as session:
            after = await tq.push("mail", session=session)
            async with session.begin_nested() as savepoint:
                await tq.push("mail", session=session)
                await savepoint.rollback()
            await session.commit()
        await eventually(lambda: len(told) > 1)
        await settled()
        assert told == [handle.task_id, after.task_id], "told of a push that its savepoint has taken back"
        assert {task.task_id for task in await tq.find()} == {handle.task_id, after.task_id}
    await engine.dispose()


async def test_a_wait_for_a_task_that_completes_in_a_transaction_ends(sql_store: Store, engine: AsyncEngine) -> None:
    tq = TaskQ(sql_store.url, poll_interval=3600, reap_interval=3600)

    @tq.task
    async def book() -> None:
        async with AsyncSession(engine) as session:
            await asyncio.sleep(0.2)
            await current_task().complete(session, result="booked")
            await session.commit()

    async with tq.running(concurrency=1):
        assert await (await book.push()).result(within(10)) == "booked"


async def test_a_push_of_more_than_an_operator_lets_wait_is_refused(sql_store: Store, engine: AsyncEngine) -> None:
    async with TaskQ(sql_store.url) as tq:

        @tq.task(name="slow", limit=Limit(1))
        async def slow() -> None: ...

        await slow.push()
        await slow.push()
        await tq.limits.set("slow", max_waiting=1)
        async with AsyncSession(engine) as session:
            with pytest.raises(QueueFull, match="max_waiting=1"):
                await slow.options(session=session).push()
            await session.rollback()
        (gate,) = await tq.limits.list()
        assert (gate.held, gate.waiting) == (1, 1)
