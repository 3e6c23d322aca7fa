"""SQLite's file while it is in use: deleted, moved, replaced; and its write-ahead log after a long reader."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from aiotaskq import TaskQ
from aiotaskq.backends.sql import sqlite_connections
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.engines import sync_engine
from aiotaskq.backends.sql.sqlite_file import WAL_LIMIT, SqliteFile
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.models import OUR_TABLES
from tests.support.rows import NOW, new

SUFFIXES = ("", "-wal", "-shm")


@pytest.fixture
async def tq(path: Path) -> AsyncIterator[TaskQ]:
    async with TaskQ(f"sqlite:///{path}") as made:
        yield made


def delete(path: Path) -> None:
    for suffix in SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def delete_the_file_only(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    """Put a copy in its place, as a restored backup is."""
    copy = path.with_name("copy.db")
    with contextlib.closing(sqlite3.connect(path)) as here, contextlib.closing(sqlite3.connect(copy)) as there:
        here.backup(there)
    delete(path)
    copy.rename(path)


CASES = [
    (delete, "was deleted or moved"),
    (delete_the_file_only, "was deleted or moved"),
    (move, "was deleted or moved"),
    (replace, "was replaced by another file"),
]


@pytest.mark.parametrize(("change", "said"), CASES)
async def test_nothing_is_written_to_a_file_that_is_gone(
    tq: TaskQ, path: Path, change: Callable[[Path], None], said: str
) -> None:
    kept = await tq.push("kept")
    assert await tq.health() == {"store": None}
    change(path)
    calls = (tq.push("t"), tq.push_many([("t", {})]), tq.get(kept.task_id), tq.stats(), tq.values.set_public("k", 1))
    for call in calls:
        with pytest.raises(DatabaseUnavailable, match=said) as raised:
            await call
        assert str(path) in str(raised.value) and "start them again" in str(raised.value)
    found = (await tq.health())["store"]
    assert found is not None and said in found
    with pytest.raises(DatabaseUnavailable, match=said):
        await tq.queue.backend.ping()
    assert path.exists() == (change is replace), "no file was made in its place"


@pytest.mark.parametrize(("change", "said"), CASES)
async def test_a_push_in_the_callers_session_writes_nothing_to_a_file_that_is_gone(
    tq: TaskQ, path: Path, change: Callable[[Path], None], said: str
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with AsyncSession(engine) as session:
        await tq.push("t", session=session)
        await session.commit()
        change(path)
        with pytest.raises(DatabaseUnavailable, match=said):
            await tq.push("t", session=session)
    await engine.dispose()


async def test_a_file_that_is_put_back_goes_on(tq: TaskQ, path: Path) -> None:
    kept = await tq.push("kept")
    for suffix in SUFFIXES:
        Path(f"{path}{suffix}").rename(f"{path}{suffix}.away")
    with pytest.raises(DatabaseUnavailable, match="was deleted or moved"):
        await tq.push("t")
    for suffix in SUFFIXES:
        Path(f"{path}{suffix}.away").rename(f"{path}{suffix}")
    assert (await tq.get(kept.task_id)).type == "kept"
    assert await tq.health() == {"store": None}


async def test_opened_again_it_is_the_new_file(path: Path) -> None:
    tq = TaskQ(f"sqlite:///{path}")
    async with tq:
        await tq.push("before")
        delete(path)
        with pytest.raises(DatabaseUnavailable):
            await tq.push("t")
    async with tq:
        pushed = await tq.push("after")
        assert [task.task_id for task in await tq.find()] == [pushed.task_id]


async def test_deleted_while_a_push_waits_for_the_lock(tq: TaskQ, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = sqlite_connections.begin_immediate

    def wait(connection: sqlite3.Connection) -> None:
        delete(path)
        begin(connection)

    await tq.push("before")
    monkeypatch.setattr(sqlite_connections, "begin_immediate", wait)
    with pytest.raises(DatabaseUnavailable, match="was deleted or moved"):
        await tq.push("t")


@pytest.mark.parametrize("database", ["tasks.db", "file:tasks.db?mode=rwc", "file:{tmp_path}/tasks.db"])
def test_the_file_of_a_url(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = SqliteFile(database.format(tmp_path=tmp_path))
    monkeypatch.chdir("/")
    assert file.path == str(tmp_path / "tasks.db") and file.identity() is None and file.wal_size() == 0
    file.check()  # nothing is known of it yet
    file.connected(lambda: sqlite3.connect(file.path)).close()
    file.check()
    assert file.identity() is not None


def test_a_connection_to_another_file_is_closed_at_once(path: Path) -> None:
    file = SqliteFile(str(path))
    file.connected(lambda: sqlite3.connect(path)).close()
    opened: list[sqlite3.Connection] = []

    def late() -> sqlite3.Connection:
        path.rename(path.with_name("away.db"))  # between the look and the opening
        opened.append(sqlite3.connect(path))
        return opened[0]

    with pytest.raises(DatabaseUnavailable, match="replaced"):
        file.connected(late)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


@pytest.mark.parametrize("table", OUR_TABLES)
async def test_a_missing_table_fails_the_ping(tq: TaskQ, path: Path, table: str) -> None:
    engine = sync_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TABLE {table}"))
    engine.dispose()
    found = (await tq.health())["store"]
    assert found is not None and f"no such table: {table}" in found and "aiotaskq db upgrade" in found


# ---- the write-ahead log --------------------------------------------------------------------------------------------


async def grow(backend: SqlBackend, path: Path) -> None:
    """Write more than the limit while a reader keeps its snapshot, which then ends."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM task_queue").fetchone()
        while SqliteFile(str(path)).wal_size() <= WAL_LIMIT + 5_000_000:
            await backend.push([new(params={"text": "x" * 250_000}) for _ in range(40)])
        await backend.tidy()
        assert SqliteFile(str(path)).wal_size() > WAL_LIMIT, "the reader needs it"
        reader.execute("ROLLBACK")


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SqlBackend]:
    made = SqlBackend(f"sqlite:///{path}")
    await made.open()
    yield made
    await made.close()


async def test_the_log_shrinks_after_a_long_reader_by_the_next_writes(backend: SqlBackend, path: Path) -> None:  # F22
    await grow(backend, path)
    for _ in range(3):
        await backend.push([new()])
    assert SqliteFile(str(path)).wal_size() <= WAL_LIMIT


async def test_the_log_shrinks_after_a_long_reader_without_a_write(backend: SqlBackend, path: Path) -> None:  # F22
    await grow(backend, path)
    await backend.tidy()
    assert SqliteFile(str(path)).wal_size() <= WAL_LIMIT
    assert await backend.count_ready(NOW) > 0


async def test_a_worker_tidies_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tidied: list[SqlBackend] = []

    async def tidy(self: SqlBackend) -> None:
        tidied.append(self)

    monkeypatch.setattr(SqlBackend, "tidy", tidy)
    tq = TaskQ(f"sqlite:///{path}")
    async with tq.running(scheduler=False):
        assert tq.worker is not None
        await tq.worker.leases.reap()
    assert tidied
