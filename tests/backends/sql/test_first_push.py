"""The first push of a process, in a transaction of the application that has already written to SQLite."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import aiotaskq.sync
from aiotaskq import Status, TaskQ
from tests.support.machine import within


@pytest.fixture(params=["a new database", "one with our tables"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/app.db"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER)"))
    engine.dispose()
    if request.param == "one with our tables":
        with aiotaskq.sync.TaskQ(url):
            pass
    return url


async def there(url: str) -> list[Any]:
    async with TaskQ(url) as tq:
        return [(task.type, task.status) for task in await tq.find()]


async def test_it_works_at_once(url: str) -> None:
    tq = TaskQ(url)
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    async with asyncio.timeout(within(10)):
        async with AsyncSession(engine) as session:
            await session.execute(text("INSERT INTO orders VALUES (1)"))
            await tq.push("mail", {"order": 1}, session=session)
            await session.commit()
        assert await there(url) == [("mail", Status.PENDING)]
        async with AsyncSession(engine) as session:
            await session.execute(text("INSERT INTO orders VALUES (2)"))
            await tq.push("mail", {"order": 2}, session=session)
            await session.rollback()
        assert len(await tq.find()) == 1
    await tq.close()
    await engine.dispose()


async def test_what_is_rolled_back_leaves_no_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    tq, engine = TaskQ(url), create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    async with AsyncSession(engine) as session:
        await session.execute(text("CREATE TABLE orders (id INTEGER)"))
        await session.commit()
        await session.execute(text("INSERT INTO orders VALUES (1)"))
        await tq.push("mail", session=session)
        await session.rollback()
        assert (await session.execute(text("SELECT count(*) FROM orders"))).scalar() == 0
    async with asyncio.timeout(within(10)):
        handle = await tq.push("mail")
        assert await handle.status() is Status.PENDING
    await tq.close()
    await engine.dispose()


def test_it_works_at_once_in_blocking_code(url: str) -> None:
    engine = create_engine(url)
    tq = aiotaskq.sync.TaskQ(url)
    with Session(engine) as session:
        session.execute(text("INSERT INTO orders VALUES (1)"))
        tq.push("mail", {"order": 1}, session=session)
        session.commit()
    assert [task.type for task in tq.find()] == ["mail"]
    assert "task_queue" in inspect(engine).get_table_names()
    tq.close()
    engine.dispose()
