"""The documented names of the database: engine, sessions, ``init_db``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from aiotaskq import database as database_module
from aiotaskq.backends.sql.engines import sync_engine
from tests.backends.sql.sqlite.stores import ENV
from tests.support import nursery
from tests.support.machine import within

DOCUMENTED = """
import asyncio, json
from sqlalchemy import text
from aiotaskq import database

async def main():
    async with database.engine.begin() as connection:
        await connection.run_sync(database.Base.metadata.create_all)
    answers = []
    async for session in database.get_db():
        answers.append((await session.execute(text("SELECT count(*) FROM task_queue"))).scalar())
        answers.append((await session.execute(text("PRAGMA synchronous"))).scalar())
    async with database.SessionLocal() as session:
        answers.append((await session.execute(text("SELECT count(*) FROM scheduler_task"))).scalar())
    assert database.engine is database.engine
    await database.engine.dispose()
    print(json.dumps(answers))

asyncio.run(main())
"""


def test_the_documented_names(url: str, path: Path) -> None:
    done = nursery.run(
        [sys.executable, "-c", DOCUMENTED],
        env={**ENV, "AIOTASKQ_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=within(20),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [0, 2, 0]
    assert path.exists()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = database_module.nonsense


def test_the_blocking_session(url: str) -> None:
    engine = sync_engine(url)
    with sessionmaker(bind=engine, autoflush=False)() as session:
        assert session.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()
