"""A limited read that takes too long is cancelled where it runs: on the server, and on the thread of SQLite."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from aiotaskq.backends.read_limit import ReadTooLong, limited_reads
from aiotaskq.backends.sql.backend import SqlBackend
from tests.support.backends import Store
from tests.support.machine import within

TEN = " UNION ALL ".join(f"SELECT {number} AS i" for number in range(10))
TABLES = ", ".join(f"({TEN}) AS t{number}" for number in range(12))
SUM = " + ".join(f"t{number}.i" for number in range(12))  # of all, so that no table is left out
ENDLESS = sa.text(f"SELECT count(*) AS endless FROM {TABLES} WHERE {SUM} < 0")
LIKE = "LIKE 'SELECT count(*) AS endless%'"
RUNNING = {
    "postgresql": f"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query {LIKE}",
    "mysql": f"SELECT count(*) FROM information_schema.processlist WHERE info {LIKE}",
}


async def test_a_read_that_takes_too_long_is_cancelled_by_the_store(sql_store: Store) -> None:
    backend = sql_store.backend
    assert isinstance(backend, SqlBackend)
    database, began = backend.database, time.monotonic()
    for read in (
        lambda: database.read(lambda connection: connection.execute(ENDLESS).scalar()),
        lambda: database.read_session(lambda session: session.scalar(ENDLESS)),
    ):
        with limited_reads(0.2), pytest.raises(ReadTooLong, match=r"longer than 0\.2 s"):
            await read()
    assert time.monotonic() - began < within(8)  # without the limit a server is left alone for 10 s each
    if sql_store.name in RUNNING:
        assert sql_store.execute(RUNNING[sql_store.name]) == [(0,)]


async def test_a_limit_ends_with_its_block_and_leaves_the_connections_as_they_were(sql_store: Store) -> None:
    backend = sql_store.backend
    assert isinstance(backend, SqlBackend)
    slow = {"postgresql": "SELECT pg_sleep(0.3)", "mysql": "SELECT sleep(0.3)"}.get(sql_store.name, "SELECT 1")
    with limited_reads(0.1):
        assert await backend.paused() == []
        with pytest.raises(ReadTooLong):
            await backend.database.read(lambda connection: connection.execute(ENDLESS).scalar())
    for _ in range(2):
        await backend.database.read(lambda connection: connection.execute(sa.text(slow)).all())
    await backend.set_paused("q", True)
    with limited_reads(0.1):
        assert await backend.paused() == ["q"]
        await backend.set_paused("q", False)  # writes are not limited
    assert await backend.paused() == []
