"""The database: which engine a URL gives, and transactions that end before or after, never between."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, exc, text

from aiotaskq import database as database_module
from aiotaskq.backends.base import Change, ScheduleChange
from aiotaskq.backends.sql import engines
from aiotaskq.backends.sql.backend import SqlBackend
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.engines import ASYNC_DRIVERS, SYNC_DRIVERS, parse_url, sync_engine, sync_session_factory
from aiotaskq.backends.sql.migrations import HEAD
from aiotaskq.backends.sql.sqlite_connections import READERS, SqliteConnections
from aiotaskq.concurrency.sheltered import Sheltered
from aiotaskq.core.task import Status, Task, TaskFilter, new_id
from aiotaskq.errors import (
    ClosedError,
    DatabaseUnavailable,
    MissingExtra,
    SchemaTooNew,
    ValidationError,
    WrongLoop,
)
from tests.support.machine import within
from tests.support.rows import LEASE, NOW, new, new_schedule

ROOT = Path(__file__).resolve().parent.parent.parent.parent
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::ResourceWarning"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
async def backend(url: str) -> AsyncIterator[SqlBackend]:
    made = SqlBackend(url)
    await made.open()
    yield made
    await made.close()


def assert_lock_free(path: Path, patience: float = 1.0) -> None:
    """Another program gets the write lock within a second."""
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    connection.close()


def open_files(path: Path) -> int:
    """How many files of the database this process has open."""
    count = 0
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{entry}").startswith(str(path))
    return count


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")


# ---- which engine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "asynchronous", "synchronous"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite:///a.db", "sqlite+pysqlite:///a.db"),
        ("sqlite+pysqlite:////tmp/a.db", "sqlite+aiosqlite:////tmp/a.db", "sqlite+pysqlite:////tmp/a.db"),
        ("SQLite:///a.db", "sqlite+aiosqlite:///a.db", "sqlite+pysqlite:///a.db"),
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgres://u@h:1/d", "postgresql+asyncpg://u@h:1/d", "postgresql+psycopg://u@h:1/d"),
        ("postgresql+psycopg2://h/d", "postgresql+asyncpg://h/d", "postgresql+psycopg://h/d"),
        ("mysql://h/d?charset=utf8", "mysql+asyncmy://h/d", "mysql+pymysql://h/d"),
        ("mysql+pymysql://u@h/d", "mysql+asyncmy://u@h/d", "mysql+pymysql://u@h/d"),
        ("mariadb+mariadbconnector://h/d", "mysql+asyncmy://h/d", "mysql+pymysql://h/d"),
    ],
)
def test_the_driver_is_ours(url: str, asynchronous: str, synchronous: str) -> None:
    assert str(parse_url(url, ASYNC_DRIVERS)) == asynchronous
    assert str(parse_url(url, SYNC_DRIVERS)) == synchronous


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://", "url: memory is no SQL database; use sqlite:///, postgresql:// or mysql://"),
        ("redis://h", "url: redis is no SQL database; use sqlite:///, postgresql:// or mysql://"),
        (
            "sqlite://app.db",
            "url: sqlite://app.db names a host; write a file after three slashes, as in sqlite:///app.db",
        ),
        ("postgresql://u:secret@h:port/d", "url: cannot be parsed (got postgresql://u:***@h:port/d)"),
    ],
)
def test_a_url_that_is_none(url: str, message: str) -> None:  # J9
    with pytest.raises(ValidationError) as raised:
        Database(url)
    assert str(raised.value) == message


@pytest.mark.parametrize("url", [5, "", None, "a.db", "oracle://h", "sqlite:a.db", "user:secret@host"])
def test_a_url_without_a_known_scheme(url: Any) -> None:
    with pytest.raises(ValidationError, match=r"^url: ") as raised:
        Database(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"),
        *("sqlite:///file::memory:?uri=true", "sqlite:///file:x?mode=memory&uri=true"),
    ],
)
@pytest.mark.parametrize("make", [Database, sync_engine])
def test_sqlite_in_memory_is_refused(url: str, make: Callable[[str], object]) -> None:
    with pytest.raises(
        ValidationError, match="an in-memory SQLite database is lost with its connection; use memory://"
    ):
        make(url)


def test_a_driver_that_is_not_installed() -> None:
    def missing(url: object, **options: object) -> None:
        raise ModuleNotFoundError("No module named 'asyncmy'", name="asyncmy")

    with pytest.raises(MissingExtra, match=r"asyncmy is not installed; .*: pip install 'asyncmy>=[^']*' 'pymysql>="):
        engines._create(missing, parse_url("mysql://h/d", ASYNC_DRIVERS))


# ---- errors -------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_away() -> None:  # J9
    database = Database("postgresql://user:sesame@127.0.0.1:1/d")
    with pytest.raises(DatabaseUnavailable, match=r"postgresql://user:\*\*\*@127\.0\.0\.1:1/d") as raised:
        await database.read(lambda connection: connection.scalar(text("SELECT 1")))
    assert "sesame" not in str(raised.value) + repr(raised.value)
    await database.close()


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    backend = SqlBackend(f"sqlite:///{tmp_path / 'no' / 'a.db'}")
    message = r"cannot open sqlite:///.*/no/a\.db: No such file or directory; check the folder and its rights"
    with pytest.raises(DatabaseUnavailable, match=message):
        await backend.open()
    with pytest.raises(DatabaseUnavailable, match=message):
        await backend.push([new()])
    with pytest.raises(DatabaseUnavailable, match=message):
        sync_engine(f"sqlite:///{tmp_path / 'no' / 'a.db'}")
    (tmp_path / "no").mkdir()
    await backend.push([new()])  # put right, it goes on
    await backend.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database, but quite long enough to be looked at" * 100)
    for place, message in ((tmp_path, "unable to open"), (tmp_path / "a.db", "not a database")):
        database = Database(f"sqlite:///{place}")
        with pytest.raises(DatabaseUnavailable, match=message):
            await database.open()
        await database.close()
    assert open_files(tmp_path) == 0


async def test_params_are_not_in_error_texts(backend: SqlBackend, path: Path) -> None:  # J8
    secret = "sesame-open-yourself"
    texts = []
    for bad in (new(type=None, params={"p": secret}), new(run_at=2**70, params={"p": secret})):
        with pytest.raises(Exception, match=r".") as raised:
            await backend.push([bad])
        texts.append(_with_causes(raised.value))
    raw = sqlite3.connect(path)
    raw.execute("DROP TABLE task_queue")
    raw.close()
    with pytest.raises(DatabaseUnavailable, match="no such table") as raised_too:
        await backend.push([new(params={"p": secret})])
    texts.append(_with_causes(raised_too.value))
    assert not [text for text in texts if secret in text]


def _with_causes(error: BaseException | None) -> str:
    texts = []
    while error is not None:
        texts.append(f"{error!r} {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


# ---- the file -----------------------------------------------------------------------------------------------------


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


# ---- transactions -------------------------------------------------------------------------------------------------


async def trace(database: Database) -> list[tuple[int, str]]:
    """Every statement that reaches SQLite from now on, with its connection."""
    seen: list[tuple[int, str]] = []
    connections = await database._ready()
    assert isinstance(connections, SqliteConnections)
    for store in (connections.writer, *connections.readers):

        def note(statement: str, number: int = id(store)) -> None:
            seen.append((number, statement))

        await store.run(lambda store=store, note=note: store.raw.set_trace_callback(note))  # type: ignore[misc]
    return seen


async def every_verb(backend: SqlBackend) -> None:
    tasks = await backend.push([new(unique_key="u"), new(), new(idempotency_key="i")])
    await backend.push([*tasks, new(unique_key="u")])
    claimed = await backend.claim("o", NOW, 10, lease_until=LEASE)
    ends = [task.replace(status=Status.FAILED) for task in claimed]
    await backend.heartbeat([(claimed[0].task_id, 1)], LEASE)
    await backend.report([(claimed[0].task_id, 1, {"a": 1})])
    await backend.request_cancel([claimed[0].task_id])
    await backend.update([Change(a, b, (new(),)) for a, b in zip(claimed, ends, strict=True)])
    await backend.update([Change(a, a.replace(status=Status.PENDING, params={})) for a in ends])
    await backend.get([tasks[0].task_id])
    await backend.find(TaskFilter(), 5)
    await backend.overdue(NOW, 5)
    await backend.next_run_at(NOW)
    await backend.count_ready(NOW)
    await backend.stats(NOW)
    await backend.active(["s"])
    await backend.purge(TaskFilter(), 5)
    await backend.delete([tasks[0].task_id])
    await backend.set_paused("q", True)
    await backend.set_paused("q", False)
    await backend.paused()
    await backend.values.put([("k", 1, NOW)])
    await backend.values.get(["k"], NOW)
    await backend.values.keys(NOW)
    await backend.values.count(NOW)
    await backend.values.expire(NOW, 5)
    await backend.values.delete(["k"], NOW)
    await backend.values.clear()
    assert backend.schedules is not None
    (schedule,) = await backend.schedules.add([new_schedule()])
    await backend.schedules.change([ScheduleChange(schedule, schedule.replace(run_count=1), (new(),))])
    await backend.schedules.get([schedule.task_id])
    await backend.schedules.all()
    await backend.schedules.due(NOW, 5)
    await backend.schedules.next_due()
    await backend.schedules.delete([schedule.task_id])


async def test_every_write_transaction_begins_immediate(backend: SqlBackend) -> None:  # F1
    seen = await trace(backend.database)
    await every_verb(backend)
    writing: dict[int, bool] = {}
    writes = 0
    for connection, statement in seen:
        word = statement.split()[0].upper()
        if word == "BEGIN":
            assert statement.upper() == "BEGIN IMMEDIATE"
            writing[connection] = True
        elif word in ("COMMIT", "ROLLBACK"):
            writing[connection] = False
        elif word in ("INSERT", "UPDATE", "DELETE", "REPLACE"):
            assert writing.get(connection), statement
            writes += 1
    assert writes > 20
    assert not any(writing.values())


async def test_readers_do_not_wait_for_a_writer(backend: SqlBackend, path: Path) -> None:
    await backend.push([new()])
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    async with asyncio.timeout(within(30)):
        assert await backend.count_ready(NOW) == 1
    raw.close()


async def test_hundreds_at_once(backend: SqlBackend) -> None:
    verbs: list[Awaitable[Any]] = []
    for _ in range(150):
        verbs += [backend.push([new()]), backend.stats(NOW), backend.claim("o", NOW, 1, lease_until=LEASE)]
    await asyncio.gather(*verbs)
    assert sum((await backend.stats(NOW)).counts.values()) == 150


HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


async def hold_lock(path: Path, seconds: float) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(path), str(seconds), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    return process


async def test_another_program_holds_the_write_lock(backend: SqlBackend, path: Path) -> None:  # F2
    process = await hold_lock(path, 4)
    begin = time.monotonic()
    (stored,) = await backend.push([new()])
    assert 2 < time.monotonic() - begin < within(20)
    assert await backend.get([stored.task_id]) == [stored]
    await process.wait()


async def test_another_program_holds_it_for_too_long(  # F2
    monkeypatch: pytest.MonkeyPatch, url: str, path: Path
) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.2)
    backend = SqlBackend(url)
    await backend.open()
    process = await hold_lock(path, within(1.2))
    task = new()
    with pytest.raises(DatabaseUnavailable, match="locked"):
        await backend.push([task])
    await process.wait()
    assert await backend.get([task.task_id]) == [None]
    assert await backend.push([task]) == [task]
    await backend.close()


WORKER = """
import asyncio, random, sys, time
from aiotaskq.backends import connect
from aiotaskq.backends.base import Change
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.task import new_task

async def main(url, seconds):
    backend = connect(url)
    await backend.open()
    now = lambda: time.time_ns() // 1000
    end = time.monotonic() + seconds
    counts = {"pushed": 0, "completed": 0}
    owner = f"w{random.random()}"

    async def producer():
        while time.monotonic() < end:
            tasks = [new_task("t", {"n": n}, now=now()) for n in range(5)]
            counts["pushed"] += len(await backend.push(tasks))

    async def consumer():
        while time.monotonic() < end:
            claimed = await backend.claim(owner, now(), 7, lease_until=now() + 60_000_000)
            await backend.heartbeat([(task.task_id, task.fence) for task in claimed], now() + 60_000_000)
            held = await backend.update([Change(task, settle(task, Completed(1), now())) for task in claimed])
            assert all(held)
            counts["completed"] += len(held)
            await backend.stats(now())

    await asyncio.gather(producer(), consumer(), consumer())
    await backend.close()
    print(counts["pushed"], counts["completed"])

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


async def test_many_processes_on_one_file(url: str, path: Path) -> None:  # F1, F18
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, url, "4"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENV,
        )
        for _ in range(8)  # all start on a file that is not there
    ]
    answers = [await process.communicate() for process in processes]
    assert [err.decode() for _, err in answers] == [""] * 8
    pushed, completed = (sum(column) for column in zip(*(map(int, out.split()) for out, _ in answers), strict=True))
    assert pushed > 100 and completed > 100
    backend = SqlBackend(url)
    counts = (await backend.stats(NOW)).counts
    assert (counts["completed"], sum(counts.values()), counts["running"]) == (completed, pushed, 0)
    await backend.close()


# ---- cancellation -------------------------------------------------------------------------------------------------


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
        assert self.backend.schedules is not None
        (self.schedule,) = await self.backend.schedules.add([new_schedule()])

    async def act(self) -> None:
        assert self.backend.schedules is not None
        after = self.schedule.replace(run_count=1)
        await self.backend.schedules.change([ScheduleChange(self.schedule, after, (new(type="fired"),))])

    async def happened(self) -> bool:  # C9
        assert self.backend.schedules is not None
        (row,) = await self.backend.schedules.get([self.schedule.task_id])
        tasks = await self.backend.find(TaskFilter(type="fired"), 5)
        assert row is not None and (row.run_count, len(tasks)) in ((0, 0), (1, 1))
        return bool(tasks)


@pytest.mark.parametrize("scenario", [Push, Claim, Update, Fire])
@pytest.mark.parametrize("victim", ["caller", "transaction", "sheltered"])
async def test_cancelled_at_each_statement(  # D1, F3, F4
    backend: SqlBackend, path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Any, victim: str
) -> None:
    """The caller is cancelled while its transaction is at its n-th statement; or the transaction itself is, as at the
    end of the loop, in its own task or in a sheltered one. Each time it runs to its end, which is waited for, and the
    lock and the pool are free."""
    real = {name: getattr(Database, name) for name in ("_write", "_write_session")}
    case = scenario(backend)
    connections = await backend.database._ready()
    assert isinstance(connections, SqliteConnections)
    before = [connections.writer, *connections.readers]
    loop = asyncio.get_running_loop()
    targets: list[asyncio.Task[Any] | None] = []

    def noted(name: str) -> Any:
        async def write(self: Database, *args: Any) -> Any:
            targets.append(asyncio.current_task() if victim == "transaction" else caller)
            return await real[name](self, *args)

        return write

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

        for name in real:
            monkeypatch.setattr(Database, name, noted(name))
        for name in ("before_cursor_execute", "commit"):
            event.listen(connections.sync_engine, name, cut)
        caller = asyncio.create_task(case.act()) if victim != "sheltered" else Sheltered(case.act())
        async with asyncio.timeout(within(30)):
            (answer,) = await asyncio.gather(caller, return_exceptions=True)
            assert isinstance(answer, asyncio.CancelledError) == (reached[0] >= at)
            running = list(backend.database._running)
            assert victim == "caller" or not running
            await asyncio.gather(*running)
        for name in ("before_cursor_execute", "commit"):
            event.remove(connections.sync_engine, name, cut)
        for name, function in real.items():
            monkeypatch.setattr(Database, name, function)
        assert_lock_free(path)
        assert await case.happened()
        await case.clear()
        if reached[0] < at:
            break
    else:
        pytest.fail("it never came to its end")
    assert at > 3
    assert [connections.writer, *connections.readers] == before


async def test_a_sheltered_transaction_needs_no_task_and_is_waited_for(backend: SqlBackend) -> None:
    begun, go = threading.Event(), threading.Event()

    def body(_connection: Connection) -> set[asyncio.Task[Any]]:
        begun.set()
        assert go.wait(within(30))
        return asyncio.all_tasks(loop)

    loop = asyncio.get_running_loop()
    sheltered = Sheltered(backend.database.write(body))
    await asyncio.to_thread(begun.wait, 30)
    others = asyncio.all_tasks()
    assert len(backend.database.pending) == 1
    closing = asyncio.create_task(backend.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    go.set()
    assert await sheltered <= others | {closing}
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

        def broken(connection: Connection, words: str = words) -> None:
            connection.execute(text(words))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await act(broken)
    assert_lock_free(path)
    assert await backend.count_ready(NOW) == 1


@pytest.mark.parametrize("how", ["write", "read"])
async def test_a_connection_that_is_broken_is_replaced(backend: SqlBackend, how: str) -> None:
    await backend.push([new()])
    act = backend.database.write if how == "write" else backend.database.read
    connections = await backend.database._ready()
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
    engine = await backend.database._ready()
    begun, go_on = threading.Event(), threading.Event()

    def wait(_connection: Any) -> None:
        begun.set()
        assert go_on.wait(within(60))

    first = asyncio.create_task(backend.database._write(engine, wait))
    assert await asyncio.to_thread(begun.wait, 60)
    happened: list[Any] = []
    second = asyncio.create_task(backend.database._write(engine, happened.append))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second], timeout=within(30))
    go_on.set()
    await first
    await backend.push([new()])
    assert second.cancelled() and happened == []


@linux
async def test_opening_cancelled_at_each_await(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # D1, D11, D12
    real = Database._open_engine
    monkeypatch.setattr(SqlBackend, "_upgrade", lambda self, connection: connection.execute(text("SELECT 1")))

    async def cancelled_at(at: int) -> bool:
        backend = SqlBackend(f"sqlite:///{tmp_path / f'{at}.db'}")
        reached = [0]

        async def open_engine(self: Database) -> Any:
            return await counted(real(self), at, lambda: caller.cancel(), reached)

        monkeypatch.setattr(Database, "_open_engine", open_engine)
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


# ---- closing ------------------------------------------------------------------------------------------------------


@linux
async def test_closing_gives_everything_back(url: str, path: Path) -> None:
    threads = threading.active_count()
    backend = SqlBackend(url)
    await asyncio.gather(*(backend.push([new()]) for _ in range(5)), *(backend.stats(NOW) for _ in range(8)))
    assert open_files(path) > 0
    await backend.close()
    await backend.close()
    assert open_files(path) == 0
    async with asyncio.timeout(within(30)):  # they end just after they have answered
        while threading.active_count() > threads:
            await asyncio.sleep(0.01)
    assert not path.with_name("tasks.db-wal").exists()  # the last connection has moved it into the file


async def test_closed_means_closed_until_it_is_opened(url: str) -> None:
    backend = SqlBackend(url)
    await backend.push([new()])
    await backend.close()
    for _ in range(2):
        with pytest.raises(ClosedError, match="was closed; open it again"):
            await backend.push([new()])
    await backend.open()
    await backend.push([new()])
    assert (await backend.stats(NOW)).ready == 2
    await backend.close()


async def test_closed_before_it_was_opened(url: str) -> None:  # D12
    backend = SqlBackend(url)
    await backend.close()
    with pytest.raises(ClosedError):
        await backend.push([new()])
    await backend.open()
    await backend.push([new()])
    await backend.close()


@linux
async def test_closed_twice_at_once_under_load(url: str, path: Path) -> None:  # D12
    backend = SqlBackend(url)
    await backend.open()
    tasks = [new() for _ in range(50)]
    pushes = [asyncio.create_task(backend.push([task])) for task in tasks]
    await asyncio.sleep(0.005)
    async with asyncio.timeout(within(10)):
        await asyncio.gather(backend.close(), backend.close())
    answers = await asyncio.gather(*pushes, return_exceptions=True)
    assert {type(answer) for answer in answers} <= {list, ClosedError}
    assert open_files(path) == 0
    await backend.open()
    there = await backend.get([task.task_id for task in tasks])
    assert [row is not None for row in there] == [isinstance(answer, list) for answer in answers]
    await backend.close()


@linux
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 20, 100])
async def test_closed_while_it_opens(url: str, path: Path, steps: int) -> None:  # D11, D12
    backend = SqlBackend(url)
    opening = asyncio.create_task(backend.open())
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(within(10)):
        await backend.close()
    await asyncio.gather(opening, return_exceptions=True)
    assert opening.done()
    if backend.database._closed:
        with pytest.raises(ClosedError):
            await backend.stats(NOW)
    await backend.close()
    assert open_files(path) == 0


# ---- loops and processes ------------------------------------------------------------------------------------------


async def test_a_second_loop_is_told_so(backend: SqlBackend) -> None:  # E12
    await backend.push([new()])

    def in_another_loop() -> str:
        async def use() -> str:
            async with asyncio.timeout(within(30)):
                with pytest.raises(WrongLoop) as raised:
                    await backend.push([new()])
                with pytest.raises(WrongLoop):
                    await backend.open()
            return str(raised.value)

        return asyncio.run(use())

    message = await asyncio.to_thread(in_another_loop)
    assert "is open in another event loop; make one object per loop" in message
    await backend.push([new()])  # the first is none the worse
    assert (await backend.stats(NOW)).ready == 2
    await backend.close()

    async def after_the_close() -> int:
        await backend.open()
        ready = (await backend.stats(NOW)).ready
        await backend.close()
        return ready

    assert await asyncio.to_thread(lambda: asyncio.run(after_the_close())) == 2


def collect(*functions: Any) -> None:
    """Drop what these closures refer to now, while its warning is ignored."""
    for function in functions:
        for cell in function.__closure__:
            with contextlib.suppress(AttributeError):
                cell.cell_contents.database._engine = None
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("closed", [True, False])
def test_the_next_loop_opens_it_afresh(url: str, path: Path, closed: bool) -> None:  # E12
    backend = SqlBackend(url)

    async def use() -> int:
        async with asyncio.timeout(within(30)):
            await backend.open()
            await backend.push([new()])
            ready = (await backend.stats(NOW)).ready
            if closed:
                await backend.close()
            return ready

    assert [asyncio.run(use()) for _ in range(3)] == [1, 2, 3]
    assert_lock_free(path)
    collect(use)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_loop_that_ends_in_the_middle_leaves_no_lock(url: str, path: Path) -> None:  # E5, F3
    backend = SqlBackend(url)

    async def leave(delay: float) -> None:
        await backend.open()
        pushes = [asyncio.ensure_future(backend.push([new() for _ in range(300)])) for _ in range(3)]
        await asyncio.sleep(delay)
        del pushes

    for delay in (0, 0.001, 0.002, 0.004, 0.008, 0.016):
        asyncio.run(leave(delay))
        assert_lock_free(path)

    async def count() -> int:
        async with asyncio.timeout(within(30)):
            ready = (await backend.stats(NOW)).ready
            await backend.close()
            return ready

    assert asyncio.run(count()) % 300 == 0
    collect(leave)


FORK = """
import asyncio, os, sys
from aiotaskq.backends import connect
from aiotaskq.core.task import new_task

backend = connect(sys.argv[1])
loop = asyncio.new_event_loop()
push = lambda name: backend.push([new_task(name, now=1)])
loop.run_until_complete(push("before"))
pids = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        asyncio.run(push(f"child-{number}"))
        sys.exit(0)
    pids.append(pid)
for number in range(5):
    loop.run_until_complete(push("parent"))
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
loop.run_until_complete(push("after"))
loop.run_until_complete(backend.close())
loop.close()
"""


def run_script(script: str, *args: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    env = {**ENV, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", script, *args], env=env, capture_output=True, text=True, timeout=timeout
    )


async def test_a_forked_child_makes_connections_of_its_own(url: str, path: Path) -> None:  # E1, E2
    done = run_script(FORK, url)
    assert (done.returncode, done.stderr) == (0, "")
    backend = SqlBackend(url)
    names = sorted(task.type for task in await backend.find(TaskFilter(), 100))
    assert names == ["after", "before", "child-0", "child-1", "child-2", *["parent"] * 5]
    await backend.close()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    raw.close()


PUSHER = """
import asyncio, sys
from aiotaskq.backends import connect
from aiotaskq.core.task import new_task

async def main(url):
    backend = connect(url)
    while True:
        (task,) = await backend.push([new_task("t", {"x": "y" * 300}, now=1)])
        print(task.task_id, flush=True)  # acknowledged

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
async def test_what_was_acknowledged_survives_kill_9(url: str, path: Path) -> None:
    acknowledged: list[str] = []
    for lines in (3, 17, 41):
        process = subprocess.Popen(
            [sys.executable, "-c", PUSHER, url], stdout=subprocess.PIPE, env=ENV, text=True, bufsize=1
        )
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.read().split("\n")[:-1]  # a last line that was cut is no answer
        process.wait()
        process.stdout.close()
    assert len(acknowledged) >= 61
    backend = SqlBackend(url)
    there = await backend.get(acknowledged)
    assert None not in there
    # At most the push in flight of each process is there without its answer having been read.
    assert len(acknowledged) <= (await backend.stats(NOW)).ready <= len(acknowledged) + 3
    await backend.close()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    raw.close()


END = """
import asyncio, sys
from aiotaskq.backends import connect
from aiotaskq.core.task import new_task

async def main(url, how):
    backend = connect(url)
    await backend.push([new_task(how, now=1)])
    if how == "exit":
        sys.exit(3)
    if how == "error":
        raise SystemError("on purpose")

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("exit", 3), ("error", 1)])
async def test_a_script_that_never_closes_ends(url: str, how: str, code: int) -> None:  # E5
    begin = time.monotonic()
    done = run_script(END, url, how)
    assert time.monotonic() - begin < within(8)
    assert done.returncode == code
    if how == "error":
        assert done.stderr.strip().endswith("SystemError: on purpose")
        assert done.stderr.count("Traceback") == 1
    else:
        assert done.stderr == ""
    backend = SqlBackend(url)
    assert [task.type for task in await backend.find(TaskFilter(), 5)] == [how]
    await backend.close()


# ---- the documented names -----------------------------------------------------------------------------------------

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
    done = subprocess.run(
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
    with sync_session_factory(engine)() as session:
        assert session.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


async def test_integrity_errors_are_about_the_row(backend: SqlBackend) -> None:
    with pytest.raises(exc.IntegrityError, match="NOT NULL"):
        await backend.push([new(type=None)])
