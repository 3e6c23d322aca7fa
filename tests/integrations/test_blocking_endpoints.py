"""A web application with ``def`` endpoints and blocking sessions, and its tests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import aiotaskq.sync
from aiotaskq import Status, TaskQ
from aiotaskq.errors import ClosedError, ValidationError, WrongLoop
from aiotaskq.integrations.fastapi import SessionPush, router, session_push, setup
from aiotaskq.testing import override
from tests.support.waiting import wait_until


class Shop:
    """An application in the style of a FastAPI template: ``def`` endpoints, a blocking session for each request."""

    def __init__(self, folder: Path, *, workers: bool | None = None) -> None:
        self.tq = TaskQ(f"sqlite:///{folder}/shop.db", poll_interval=0.05)
        self.engine = create_engine(f"sqlite:///{folder}/shop.db", connect_args={"timeout": 30})
        self.sent: list[int] = []
        self.app = FastAPI()
        setup(self.app, self.tq, workers=workers, drain=5, grace=1)
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE orders (id INTEGER)"))

        @self.tq.task
        async def receipt(order: int) -> None:
            self.sent.append(order)

        def get_session() -> Iterator[Session]:
            with Session(self.engine) as session:
                yield session

        @self.app.post("/plain/{order}")
        def plain(order: int) -> str:
            return receipt.options(priority=1).push_sync(order=order)

        @self.app.post("/by-name/{order}")
        def by_name(order: int) -> list[str]:
            return [self.tq.sync.push("receipt", {"order": order}), *self.tq.sync.push_many([receipt.call(order + 1)])]

        @self.app.post("/orders/{order}")
        def with_session(
            order: int,
            session: Annotated[Session, Depends(get_session)],
            push: Annotated[SessionPush, Depends(session_push(get_session))],
            fail: bool = False,
        ) -> str:
            session.execute(text("INSERT INTO orders VALUES (:order)"), {"order": order})
            task_id = push.sync(receipt, order=order)
            if not fail:
                session.commit()
            return task_id

        self.receipt = receipt


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.engine.dispose()


# ---- pushes from threads ---------------------------------------------------------------------------------------------


def test_blocking_endpoints_push_on_the_same_task_queue(shop: Shop) -> None:
    with TestClient(shop.app) as client:
        assert client.post("/plain/1").status_code == 200
        assert len(client.post("/by-name/2").json()) == 2
        assert client.post("/orders/4").status_code == 200
        assert client.post("/orders/5?fail=true").status_code == 200
        wait_until(lambda: len(shop.sent) == 4)
        assert sorted(shop.sent) == [1, 2, 3, 4], "what was rolled back is no task"
        with shop.engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM orders")).scalar() == 1


def test_a_process_that_only_pushes(tmp_path: Path) -> None:
    shop = Shop(tmp_path, workers=False)
    with TestClient(shop.app) as client:
        assert client.post("/plain/1").status_code == 200
        assert client.post("/orders/2").status_code == 200
    assert shop.sent == []

    async def pending() -> list[Status]:
        async with TaskQ(shop.tq.url) as tq:
            return [task.status for task in await tq.find()]

    assert asyncio.run(pending()) == [Status.PENDING, Status.PENDING]
    shop.engine.dispose()


async def test_a_push_from_a_thread_names_the_problem(tmp_path: Path) -> None:
    tq = TaskQ("memory://")

    @tq.task
    async def work() -> None: ...

    with pytest.raises(WrongLoop, match=r"await tq\.push"):
        work.push_sync()
    with pytest.raises(ClosedError, match=r"setup\(app, tq\)"):
        await asyncio.to_thread(work.push_sync)
    async with tq:
        task_id = await asyncio.to_thread(work.push_sync)
        assert (await tq.get(task_id)).status is Status.PENDING
        with pytest.raises(ValidationError, match="params"):
            await asyncio.to_thread(tq.sync.push, "work", {"x": object()})


def test_a_blocking_task_queue_is_refused_with_the_remedy(tmp_path: Path) -> None:
    blocking: Any = aiotaskq.sync.TaskQ(f"sqlite:///{tmp_path}/x.db")
    for use in (lambda: setup(FastAPI(), blocking), lambda: router(blocking)):
        with pytest.raises(ValidationError, match=r"aiotaskq\.TaskQ is needed .*push_sync"):
            use()


# ---- the application's tests -----------------------------------------------------------------------------------------


def test_override_around_the_test_client_starts_no_worker(shop: Shop) -> None:
    with override(shop.tq) as pushes, TestClient(shop.app) as client:
        for order in range(1, 20):
            client.post(f"/orders/{order}")
            pushes.assert_pushed(shop.receipt, {"order": order}, count=1)  # at once: the request has committed
        client.post("/orders/20?fail=true")
        client.post("/plain/21")
        pushes.assert_pushed(shop.receipt, count=20)
        pushes.assert_not_pushed(shop.receipt, {"order": 20})
        assert shop.tq.worker is None
    pushes.assert_pushed(shop.receipt, count=20)
    assert shop.sent == []
    with TestClient(shop.app) as client:
        client.post("/plain/9")
        wait_until(lambda: shop.sent == [9])


def test_override_starts_no_worker_where_the_application_asks_for_workers(tmp_path: Path) -> None:
    shop = Shop(tmp_path, workers=True)
    shop.app.include_router(router(shop.tq), prefix="/ops")
    with override(shop.tq) as pushes, TestClient(shop.app) as client:
        assert client.post("/plain/1").status_code == 200
        assert "workers" not in client.get("/ops/readyz").json()["parts"]
        pushes.assert_pushed("receipt", {"order": 1}, count=1)
    assert shop.sent == []
    with TestClient(shop.app) as client:
        client.post("/plain/2")
        wait_until(lambda: shop.sent == [2])
    shop.engine.dispose()


def test_override_inside_the_test_client_reaches_no_worker(shop: Shop) -> None:
    with TestClient(shop.app) as client:
        with override(shop.tq) as pushes:
            client.post("/plain/1")
            client.post("/orders/2")
            pushes.assert_pushed(shop.receipt, count=2)
        client.post("/plain/3")
        wait_until(lambda: shop.sent == [3])
    assert shop.sent == [3]


def test_override_without_a_lifespan(shop: Shop) -> None:
    """``TestClient(app)`` that is not entered runs no lifespan: the push of an ``async def`` endpoint works."""

    @shop.app.post("/async/{order}")
    async def awaited(order: int) -> str:
        return (await shop.receipt.push(order=order)).task_id

    with override(shop.tq) as pushes:
        assert TestClient(shop.app).post("/async/1").status_code == 200
        pushes.assert_pushed(shop.receipt, {"order": 1}, count=1)
    assert shop.sent == []


async def test_a_push_with_a_session_under_override_follows_the_transaction(tmp_path: Path) -> None:
    tq = TaskQ("postgresql://nowhere/shop")
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")

    @tq.task
    async def work(order: int) -> None: ...

    with override(tq) as pushes:
        async with AsyncSession(engine) as session:
            await session.execute(text("CREATE TABLE orders (id INTEGER)"))
            handle = await work.options(session=session).push(order=1)
            assert handle.created and await tq.find() == []
            await session.commit()
            pushes.assert_pushed(work, {"order": 1}, count=1)
            assert [task.task_id for task in await tq.find()] == [handle.task_id]
            await work.options(session=session).push(order=2)
            await session.rollback()
        assert len(await tq.find()) == 1
        async with engine.connect() as connection:
            await work.options(session=connection).push(order=3)
            await connection.commit()
            assert len(await tq.find()) == 2
        await asyncio.sleep(0)  # the events come now
        pushes.assert_pushed(work, count=2)
    await engine.dispose()


async def test_under_override_a_push_is_taken_down_when_the_commit_returns(tmp_path: Path) -> None:
    tq = TaskQ("postgresql://nowhere/shop")
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")

    @tq.task
    async def work(order: int) -> None: ...

    with override(tq) as pushes, Session(engine) as session:
        await work.options(session=session).push(order=1)
        pushes.assert_not_pushed(work)
        session.commit()  # the loop of this test does nothing meanwhile
        pushes.assert_pushed(work, {"order": 1}, count=1)
        await work.options(session=session).push(order=2)
        session.rollback()
        await asyncio.sleep(0)
        assert [task.params for task in pushes.pushed] == [{"order": 1}]
    engine.dispose()


# ---- what a host's log must not hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_a_push_that_fails_in_the_hosts_session_shows_no_params(tmp_path: Path, kind: str) -> None:
    tq = TaskQ(f"sqlite:///{tmp_path}/x.db")

    @tq.task
    async def work(card: str) -> None: ...

    async with tq:
        await work.push(card="first")
        blocking = create_engine(f"sqlite:///{tmp_path}/x.db")
        with blocking.begin() as connection:
            connection.execute(text("ALTER TABLE task_queue RENAME TO gone"))
        awaiting = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/x.db")
        session: Any = AsyncSession(awaiting) if kind == "async" else Session(blocking)
        with pytest.raises(DBAPIError) as caught:
            await work.options(session=session).push(card="4242 4242")
        assert "4242" not in str(caught.value) + repr(caught.value)
        assert "task_queue" in str(caught.value)
        await (session.close() if kind == "async" else asyncio.to_thread(session.close))
        blocking.dispose()
        await awaiting.dispose()


async def test_a_push_with_a_session_says_what_to_do_where_the_tables_are_gone(tmp_path: Path) -> None:
    tq, engine = TaskQ(f"sqlite:///{tmp_path}/x.db"), create_engine(f"sqlite:///{tmp_path}/x.db")
    async with tq:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE task_queue"))
        with Session(engine) as session, pytest.raises(OperationalError, match="no such table: task_queue") as failed:
            await tq.push("any", session=session)
    (note,) = failed.value.__notes__
    assert note.startswith("aiotaskq: it was dropped") and "'aiotaskq db upgrade'" in note
    engine.dispose()
