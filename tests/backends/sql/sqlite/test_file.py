"""The SQLite file: durability, access rights, locks, and a newer schema."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.migrations import HEAD
from aiotaskq.backends.sql.sqlite_connections import READERS
from aiotaskq.errors import (
    SchemaTooNew,
)
from tests.backends.sql.sqlite.stores import assert_lock_free
from tests.support.machine import within
from tests.support.rows import NOW, new


async def test_every_connection_is_durable(backend: SqlBackend) -> None:
    together = threading.Barrier(READERS)

    def pragmas(connection: Connection) -> tuple[int, dict[str, Any]]:
        names = ("journal_mode", "synchronous", "busy_timeout")
        # A connection that has read nothing may not know the file's journal yet, and names the default.
        connection.exec_driver_sql("SELECT count(*) FROM task_queue").scalar()
        values = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
        return id(connection.connection.dbapi_connection), values

    def at_once(connection: Connection) -> tuple[int, dict[str, Any]]:
        together.wait(within(30))  # so that each reads in a thread of its own
        return pragmas(connection)

    reading = await asyncio.gather(*(backend.database.read(at_once) for _ in range(READERS)))
    seen = dict([*reading, await backend.database.write(pragmas)])
    assert list(seen.values()) == [{"journal_mode": "wal", "synchronous": 2, "busy_timeout": 100}] * (1 + READERS)


async def test_after_its_first_transaction_the_writer_journals_statements_in_memory(url: str) -> None:
    def temp_store(connection: Connection) -> Any:
        return connection.exec_driver_sql("PRAGMA temp_store").scalar()

    backend = SqlBackend(url)
    await backend.open()  # the first transaction creates the tables
    assert await backend.database.write(temp_store) == 2
    assert await backend.database.read(temp_store) == 0
    await backend.close()
    await backend.open()
    assert [await backend.database.write(temp_store) for _ in range(2)] == [0, 2]
    await backend.close()


def test_the_blocking_engine_is_durable_too(url: str) -> None:
    engine = sync_engine(url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()


@pytest.mark.parametrize("opener", ["async", "sync"])
async def test_the_file_is_its_owners_only(url: str, path: Path, opener: str) -> None:  # J13
    before = os.umask(0)
    try:
        if opener == "async":
            backend = SqlBackend(url)
            await backend.push([new()])
        else:
            engine = sync_engine(url)
            with engine.begin() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                connection.exec_driver_sql("CREATE TABLE t (a)")
        files = list(path.parent.glob("tasks.db*"))
        assert len(files) == 3  # with the WAL and its index
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    finally:
        os.umask(before)
    if opener == "async":
        await backend.close()
    else:
        engine.dispose()


async def test_the_rights_of_a_file_that_is_there_are_kept(url: str, path: Path) -> None:
    path.touch(0o640)
    path.chmod(0o640)
    backend = SqlBackend(url)
    await backend.open()
    await backend.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


LOCKED = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # SQLite's range of shared locks
    except OSError:
        print("held")
    else:
        print("free")
"""


async def test_a_second_opening_keeps_the_locks_of_the_first(backend: SqlBackend, url: str, path: Path) -> None:
    """POSIX: closing any descriptor of a file drops the locks that the whole process has on it."""

    def held() -> str:
        done = subprocess.run([sys.executable, "-c", LOCKED, str(path)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    await backend.push([new()])
    assert held() == "held"
    second = SqlBackend(url)
    await second.open()
    engine = sync_engine(url)
    assert held() == "held"
    await second.close()
    engine.dispose()
    assert held() == "held"
    await backend.push([new()])


async def test_a_newer_schema_is_refused(backend: SqlBackend, url: str, path: Path) -> None:  # F19
    await backend.push([new()])
    await backend.close()
    raw = sqlite3.connect(path)
    raw.execute("UPDATE aiotaskq_version SET version_num = '9999'")
    raw.commit()
    other = SqlBackend(url)
    for _ in range(2):
        with pytest.raises(SchemaTooNew, match="9999"):
            await other.open()
    with pytest.raises(SchemaTooNew):
        await other.push([new()])
    assert_lock_free(path)
    raw.execute("UPDATE aiotaskq_version SET version_num = :head", {"head": HEAD})
    raw.commit()
    raw.close()
    assert (await other.stats(NOW)).ready == 1
    await other.close()
