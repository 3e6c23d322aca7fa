"""Steps and events in a handler's own transaction."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import current_task, sleep_for, step
from aiotaskq.backends.sql import sqlite_file
from aiotaskq.testing import virtual
from tests.support.machine import within
from tests.testing.backoffs import STEADY


@pytest.mark.parametrize("durable", [False, True])
async def test_a_step_and_its_effect_in_one_transaction(durable: bool, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    async with virtual(url=url if durable else None, history=False, retention=None) as kit, asyncio.timeout(within(30)):
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE payment (amount INT)"))

        @kit.tq.task(backoff=STEADY)
        async def order(fails: bool) -> int:
            async with AsyncSession(engine) as session, session.begin():

                async def pay() -> int:
                    await session.execute(text("INSERT INTO payment VALUES (5)"))
                    return 5

                paid = await step("pay", pay, session=session)
                await kit.tq.emit(f"paid {fails}", paid, session=session)
                if fails and current_task().task.retry_count == 0:
                    raise ConnectionError("before the commit")
            await sleep_for("night", hours=8)
            return paid

        for fails in (False, True):
            handle = await order.push(fails=fails)
            await kit.drain(delayed=True)
            assert await handle.result() == 5
        assert [each.value for each in await kit.tq.list_events("paid")] == [5, 5]
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM payment"))).scalar() == 2
    await engine.dispose()


async def test_a_step_beside_an_open_transaction_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/app.db"
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.05)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    async with virtual(url=url, history=False, retention=None) as kit, asyncio.timeout(within(30)):
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE payment (amount INT)"))

        @kit.tq.task(max_retries=0)
        async def known() -> None:
            async with AsyncSession(engine) as session, session.begin():
                await step("pay", int, session=session)
                await step("note", int)

        @kit.tq.task(max_retries=0)
        async def unknown() -> None:
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(text("INSERT INTO payment VALUES (5)"))
                await step("note", int)

        for task, why in ((known, "step note: the transaction of an earlier step is open"), (unknown, "stays locked")):
            handle = await task.push()
            await kit.drain(delayed=True)
            row = await handle.task()
            assert why in str(row.error_message) and await kit.tq.steps(row.task_id) == []
    await engine.dispose()
