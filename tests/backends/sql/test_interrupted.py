"""A read whose caller is cancelled is interrupted, so that statements of callers that are gone do not pile up."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from aiotaskq.backends.sql.database import Database
from tests.support.machine import within

ENDLESS = sa.text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")


async def test_a_cancelled_read_ends_at_once(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.open()
    begin = time.monotonic()
    for _ in range(6):  # more than there are connections that read
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await database.read(lambda connection: connection.execute(ENDLESS).scalar())
    assert time.monotonic() - begin < within(5.0)
    assert not database.pending
    # The connections are as before.
    answers = await asyncio.gather(
        *(database.read(lambda c: c.execute(sa.text("SELECT 7")).scalar()) for _ in range(9))
    )
    assert answers == [7] * 9
    await database.close()


async def test_a_cancelled_read_of_many_statements_ends_too(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.open()
    counted = []

    def many(connection: sa.Connection) -> None:
        while True:
            counted.append(connection.execute(sa.text("SELECT 1")).scalar())
            time.sleep(0.0001)  # most interrupts come between two statements
            connection.execute(
                sa.text(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT max(i) FROM n"
                )
            ).scalar()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await database.read(many)
    assert counted and not database.pending
    await database.close()


async def test_a_cancelled_write_goes_on_to_its_end(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.open()
    await database.write(lambda c: c.execute(sa.text("CREATE TABLE t (i INTEGER)")).close())
    long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) INSERT INTO t SELECT i FROM n"
    writing = asyncio.ensure_future(database.write(lambda c: c.execute(sa.text(long)).close()))
    while not database.pending:
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await database.read(lambda c: c.execute(sa.text("SELECT count(*) FROM t")).scalar()) in (0, 300_000)
    await database.close()
