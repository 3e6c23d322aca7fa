"""From a database URL to engines, and the transactions that run on them.

``engine``, ``SessionLocal``, ``get_db`` and ``Base`` are the documented names, awaited; they open the database that
``AIOTASKQ_DATABASE_URL`` names. Their blocking twins are in ``aiotaskq.sync``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from aiotaskq.backends import mask, scheme_of
from aiotaskq.errors import AiotaskqError, ClosedError, DatabaseUnavailable, MissingExtra, ValidationError, WrongLoop
from aiotaskq.models import Base

__all__ = ["Base", "Database", "SessionLocal", "engine", "get_db", "sync_engine", "sync_session_factory"]

T = TypeVar("T")

ASYNC_DRIVERS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mysql": "asyncmy"}
SYNC_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg", "mysql": "pymysql"}
EXTRAS = {"asyncmy": "mysql", "pymysql": "mysql", "psycopg": "postgres"}
BUSY_TIMEOUT = 30.0  # seconds that SQLite waits for another process's transaction


def parse_url(url: str, drivers: dict[str, str]) -> URL:
    """Return the URL with the driver of ours for its database, whatever driver it names; raises ValidationError."""
    scheme = scheme_of(url)
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ValidationError(f"url: cannot be parsed (got {mask(url)})") from None
    database = {"postgres": "postgresql", "mariadb": "mysql"}.get(scheme, scheme)
    if database not in drivers:
        raise ValidationError(f"url: {scheme} is no SQL database; use sqlite:///, postgresql:// or mysql://")
    place = parsed.database or ":memory:"
    if database == "sqlite" and (place.endswith(":memory:") or parsed.query.get("mode") == "memory"):
        raise ValidationError("url: an in-memory SQLite database is lost with its connection; use memory:// or a file")
    return parsed.set(drivername=f"{database}+{drivers[database]}")


def _prepare_sqlite(url: URL) -> None:
    """Make the file readable by its owner only, before SQLite would make it with the process's umask."""
    path = str(url.database)
    if path.startswith("file:"):
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass  # and not opened: closing it would drop the locks that this process has on it (POSIX), and SQLite's trust
    except OSError as error:
        raise DatabaseUnavailable(
            f"cannot open sqlite:///{path}: {error.strerror}; check the folder and its rights"
        ) from None


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


# One text that is not UTF-8, written by somebody else, must not make whole pages of rows unreadable.
_lenient_text = functools.partial(str, encoding="utf-8", errors="backslashreplace")
# Engines of a parent process: SQLite forbids a forked child even to close its parent's connections.
_inherited: list[object] = []


def sync_engine(url: str, **options: Any) -> Engine:
    """Return a plain synchronous engine on the database, for code that is not asynchronous."""
    parsed = parse_url(url, SYNC_DRIVERS)
    if parsed.get_backend_name() == "sqlite":
        _prepare_sqlite(parsed)
    made: Engine = _create(create_engine, parsed, **options)
    if made.dialect.name == "sqlite":
        event.listen(made, "connect", _on_sqlite_connect)
    return made


def sync_session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return the documented ``SessionLocal`` for an engine."""
    return sessionmaker(bind=engine, autoflush=False)


def _create(factory: Callable[..., T], url: URL, **options: Any) -> T:
    try:
        return factory(url, **{"hide_parameters": True, **options})  # errors are logged, params never
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name), "all")
        raise MissingExtra(f"{error.name} is not installed; install the extra: pip install -e '.[{extra}]'") from None


class Database:
    """One async engine and its transactions; it belongs to the loop that opens it.

    A transaction body is a plain function over a ``Connection``: it can run in the caller's own transaction as well. It
    always runs to its end: a cancelled caller leaves the database before or after it, never between, and the connection
    goes back to the pool.
    """

    def __init__(self, url: str, prepare: Callable[[Connection], None] | None = None) -> None:
        self.url = parse_url(url, ASYNC_DRIVERS)
        self.shown = mask(url)
        self._prepare = prepare
        self._engine: AsyncEngine | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._turn = asyncio.Lock()
        self._opening = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def sqlite(self) -> bool:
        """Whether this is SQLite, which has one writer at a time."""
        return self.url.get_backend_name() == "sqlite"

    async def open(self) -> None:
        """Open the engine in the running loop and prepare the schema; idempotent.

        Raises DatabaseUnavailable, and WrongLoop if another loop that still runs has it open.
        """
        self._closed = False
        await self._ready()

    async def _ready(self) -> AsyncEngine:
        here = asyncio.get_running_loop()
        if self._closed:
            raise ClosedError(f"the database {self.shown} was closed; open it again with 'async with'")
        if self._engine is not None and self._loop is here and self._pid == os.getpid():
            return self._engine
        if self._loop is not here or self._pid != os.getpid():
            if self._loop is not None and self._loop.is_running() and self._pid == os.getpid():
                raise WrongLoop(f"the database {self.shown} is open in another event loop; make one object per loop")
            # The loop (or, after a fork, the process) that had it open is gone, and its connections with it.
            if self._pid not in (0, os.getpid()):
                _inherited.append(self._engine)
            self._engine, self._loop, self._pid = None, here, os.getpid()
            self._turn, self._opening, self._running = asyncio.Lock(), asyncio.Lock(), set()
        return await self._to_its_end(self._open_once())

    async def _open_once(self) -> AsyncEngine:
        async with self._opening:
            if self._engine is None:
                self._engine = await self._open_engine()
            return self._engine

    async def _open_engine(self) -> AsyncEngine:
        if self.sqlite:
            _prepare_sqlite(self.url)
        engine = _create(create_async_engine, self.url, pool_size=5, max_overflow=5)
        if self.sqlite:
            event.listen(engine.sync_engine, "connect", self._on_connect)
            event.listen(engine.sync_engine, "begin", self._on_begin)
            event.listen(engine.sync_engine, "invalidate", self._on_invalidate)
        try:
            if self.sqlite:
                await self._enable_wal(engine)
            if self._prepare is not None:
                await self._write(engine, self._prepare)
        except BaseException:
            await engine.dispose()
            raise
        return engine

    @staticmethod
    def _on_connect(connection: Any, record: object) -> None:
        # The driver's own idea of when a transaction begins would make it deferred; ours begin in `_on_begin`.
        connection.isolation_level = None
        connection.driver_connection.text_factory = _lenient_text
        _on_sqlite_connect(connection, record)

    @staticmethod
    def _on_begin(connection: Connection) -> None:
        # A transaction that reads and then writes would fail at once as busy, whatever the timeout; so writers say so
        # when they begin. Readers need none: each of their statements is its own snapshot.
        if connection.get_execution_options().get("aiotaskq_begin"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    @staticmethod
    def _on_invalidate(connection: Any, _record: object, _error: object) -> None:
        # The loop ended in the middle. A closed connection keeps its lock while one of its statements is referred to,
        # by a traceback for instance.
        with contextlib.suppress(Exception):
            connection.rollback()

    async def _enable_wal(self, engine: AsyncEngine) -> None:
        for attempt in range(100):
            try:
                mode = await self._pragma(engine, "journal_mode")
                if mode == "wal" or await self._pragma(engine, "journal_mode = WAL") == "wal":
                    return
            except exc.OperationalError as error:
                # Switching the journal does not honour the busy timeout while other processes do the same.
                if "locked" not in str(error) or attempt == 99:
                    raise
            await asyncio.sleep(0.01 * (1 + attempt % 10))
        raise DatabaseUnavailable(f"cannot switch {self.shown} to WAL (a network file system?); use a local disk")

    async def _pragma(self, engine: AsyncEngine, pragma: str) -> object:
        return await self._read(engine, lambda c: c.exec_driver_sql(f"PRAGMA {pragma}").scalar())

    async def close(self) -> None:
        """Let running transactions end and give back every connection; idempotent."""
        self._closed = True
        if self._loop is not asyncio.get_running_loop() or self._pid != os.getpid():
            return  # not ours to close; if its loop is gone, so are its connections
        while self._running:
            await asyncio.wait(self._running)
        engine, self._engine = self._engine, None
        if engine is not None:
            await self._to_its_end(engine.dispose())
        if self._closed:  # only now: until then a second close waits for this one
            self._loop = None

    async def write(self, body: Callable[[Connection], T]) -> T:
        """Run the body in one write transaction and commit it. Raises DatabaseUnavailable."""
        return await self._to_its_end(self._write(await self._ready(), body))

    async def read(self, body: Callable[[Connection], T]) -> T:
        """Run a body that only reads. Raises DatabaseUnavailable."""
        return await self._to_its_end(self._read(await self._ready(), body))

    async def _write(self, engine: AsyncEngine, body: Callable[[Connection], T]) -> T:
        async with self._turn, engine.execution_options(aiotaskq_begin=True).begin() as connection:
            return await connection.run_sync(body)

    async def _read(self, engine: AsyncEngine, body: Callable[[Connection], T]) -> T:
        async with engine.connect() as connection:
            return await connection.run_sync(body)

    async def _to_its_end(self, transaction: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(transaction)
        self._running.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except (AiotaskqError, exc.IntegrityError, exc.DataError):
            raise  # said already, or about a value, not about the database
        except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
            raise DatabaseUnavailable(f"{self.shown}: {getattr(error, 'orig', error)}") from error


# ---- the documented names ------------------------------------------------------------------------------------------

_lock = threading.Lock()
_default: dict[str, Any] = {}


def _make_default(name: str) -> Any:
    with _lock:
        if "engine" not in _default:
            from aiotaskq.settings import Settings

            url = parse_url(Settings().database_url, ASYNC_DRIVERS)
            made = _create(create_async_engine, url)
            if made.dialect.name == "sqlite":
                event.listen(made.sync_engine, "connect", _on_sqlite_connect)
            _default["engine"] = made
            _default["SessionLocal"] = async_sessionmaker(made, expire_on_commit=False, autoflush=False)
        return _default[name]


engine: AsyncEngine
SessionLocal: async_sessionmaker[AsyncSession]


def __getattr__(name: str) -> Any:
    # Made when first used, so that importing this module opens nothing and the variable can still be set.
    if name in ("engine", "SessionLocal"):
        return _make_default(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


async def get_db() -> AsyncIterator[AsyncSession]:
    """Yield an ``AsyncSession`` and close it afterwards: a dependency for FastAPI, as the old ``get_db`` was."""
    async with _make_default("SessionLocal")() as session:
        yield session


os.register_at_fork(after_in_child=_default.clear)  # connections must not be shared between processes
