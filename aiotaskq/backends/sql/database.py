"""One async engine and its transactions, for the store and the schedules of a SQL database."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Connection, exc
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from aiotaskq.backends.sql.engines import (
    ASYNC_DRIVERS,
    CONNECT_TIMEOUT,
    async_engine,
    parse_url,
    pool_options,
)
from aiotaskq.backends.sql.sqlite_connections import SqliteConnections
from aiotaskq.backends.sql.statement_watch import (
    STATEMENT_TIMEOUT,
    Watch,
    connected,
    cut_all,
    gave_way,
    hint,
    is_about_a_value,
    is_lost,
    watch_over,
)
from aiotaskq.concurrency.backoff import backoff
from aiotaskq.concurrency.loop_bound import LoopBound, keep_alive
from aiotaskq.concurrency.sheltered import is_sheltered
from aiotaskq.core.masking import mask
from aiotaskq.errors import AiotaskqError, ClosedError, DatabaseUnavailable, WrongLoop

# DATABASE_URL is no part of `import *`: it is a text, and asking for it fixes the settings of the process.
T = TypeVar("T")
Engines = AsyncEngine | SqliteConnections

# Of a transaction that the server gives up in favour of another: a deadlock, as a rule.
TRIES = 20


class Database:
    """One async engine and its transactions; it belongs to the loop that opens it.

    A transaction body is a plain function over a ``Connection``: it can run in the caller's own transaction as well. It
    always runs to its end: a cancelled caller leaves the database before or after it, never between, and the connection
    goes back to the pool. On SQLite that end is waited for first; what has not begun does not happen.
    """

    def __init__(
        self,
        url: str,
        prepare: Callable[[Connection], None] | None = None,
        prepared: Callable[[Connection], bool] = lambda _connection: False,
    ) -> None:
        """``prepare`` runs in a transaction of its own at each opening, unless ``prepared`` reads that it need not."""
        self.url, self._pool = pool_options(parse_url(url, ASYNC_DRIVERS))
        self.shown = mask(url)
        self._prepare, self._prepared = prepare, prepared
        self._engine: Engines | None = None
        self._alone: AsyncEngine | None = None  # the same, on PostgreSQL, for statements outside a transaction
        self._closed = False
        self._bound = LoopBound()
        self._idle: weakref.WeakSet[Any] = weakref.WeakSet()
        self._opening = asyncio.Lock()
        self._running: set[asyncio.Future[Any]] = set()
        self.writing: Callable[[], None] = lambda: None
        """Called on SQLite when a transaction of ours has the lock, and ``written`` when it has ended; in a thread."""
        self.written: Callable[[], None] = lambda: None

    @property
    def sqlite(self) -> bool:
        """Whether this is SQLite, which has one writer at a time."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def is_open(self) -> bool:
        """Whether it was opened, here or in another thread, and not closed since."""
        return self._engine is not None

    def check_file(self) -> None:
        """Raise DatabaseUnavailable if this is SQLite and the open file was deleted, moved or replaced."""
        if isinstance(self._engine, SqliteConnections):
            self._engine.file.check()

    @property
    def pending(self) -> frozenset[asyncio.Future[Any]]:
        """The transactions that have begun in this loop and not ended."""
        return frozenset(self._running)

    async def open(self) -> None:
        """Open the engine in the running loop and prepare the schema; idempotent.

        Raises DatabaseUnavailable, and WrongLoop if another loop that still runs has it open.
        """
        self._closed = False
        await self._ready()

    async def _ready(self) -> Engines:
        if self._closed:
            raise ClosedError(f"the database {self.shown} was closed; open it again with 'async with'")
        if self._engine is not None and self._bound.here:
            return self._engine
        if not self._bound.here:
            if self._bound.running:
                raise WrongLoop(f"the database {self.shown} is open in another event loop; make one object per loop")
            # The loop (or, after a fork, the process) that had it open is gone, and its connections with it.
            if self._bound.inherited:
                keep_alive(self._engine)
            elif isinstance(self._engine, SqliteConnections):
                self._engine.abandon()
            self._engine = None
            self._bound.bind()
            self._opening, self._running = asyncio.Lock(), set()
            self._idle = weakref.WeakSet()
        return await self._to_its_end(self._open_once(), shield=True)

    async def _open_once(self) -> Engines:
        async with self._opening:
            if self._engine is None:
                self._engine = await self._open_engine()
            return self._engine

    async def _open_engine(self) -> Engines:
        engine: Engines
        if self.sqlite:
            engine = SqliteConnections(self.url, lambda: self.writing(), lambda: self.written())
        else:
            wait = STATEMENT_TIMEOUT
            pool = {"pool_size": 5, "max_overflow": 5, **self._pool}
            engine = async_engine(self.url, connected, pool_timeout=wait, **pool)
            watch_over(engine.sync_engine, self._idle)
            # MySQL has to be told, which is another round trip.
            alone = self.url.get_backend_name() == "postgresql"
            self._alone = engine.execution_options(isolation_level="AUTOCOMMIT") if alone else None
        try:
            if isinstance(engine, SqliteConnections):
                await self._enable_wal(engine)
            # Read first: on SQLite the write lock may be held by a transaction that waits for this, the caller's own.
            if self._prepare is not None and not await self._read(engine, self._prepared):
                await self._write(engine, self._prepare)
        except BaseException:
            await self._dispose(engine)
            raise
        return engine

    async def _enable_wal(self, engine: SqliteConnections) -> None:
        for attempt in range(1, 101):
            try:
                mode = await self._pragma(engine, "journal_mode")
                if mode == "wal" or await self._pragma(engine, "journal_mode = WAL") == "wal":
                    return
            except exc.OperationalError as error:
                # Switching the journal does not honour the busy timeout while other processes do the same.
                if "locked" not in str(error) or attempt == 100:
                    raise
            await asyncio.sleep(backoff(attempt, 0.01, 0.1))
        raise DatabaseUnavailable(f"cannot switch {self.shown} to WAL (a network file system?); use a local disk")

    async def _pragma(self, engine: SqliteConnections, pragma: str) -> object:
        return await engine.read(lambda c: c.exec_driver_sql(f"PRAGMA {pragma}").scalar())

    async def close(self) -> None:
        """Let running transactions end and give back every connection; idempotent."""
        self._closed = True
        if not self._bound.here:
            return  # not ours to close; if its loop is gone, so are its connections
        while self._running:
            await asyncio.wait(self._running)
        engine, self._engine = self._engine, None
        if engine is not None:
            await self._to_its_end(self._dispose(engine), shield=True)
        if self._closed:  # only now: until then a second close waits for this one
            self._bound.release()

    async def write(self, body: Callable[[Connection], T], alone: bool = False) -> T:
        """Run the body in one write transaction and commit it. Raises DatabaseUnavailable.

        With ``alone`` all that it writes is one statement: on PostgreSQL that goes without BEGIN and COMMIT, which are
        two round trips more. If its connection is lost, it is done once more, though it may have been done.
        """
        return await self._to_its_end(self._write(await self._ready(), body, alone))

    async def read(self, body: Callable[[Connection], T]) -> T:
        """Run a body that only reads, each statement what is there when it begins. Raises DatabaseUnavailable."""
        return await self._to_its_end(self._read(await self._ready(), body))

    async def write_session(self, body: Callable[[Connection], T]) -> T:
        """Do as ``write`` does, in an ``AsyncSession``: the body is given its connection, and the session commits."""
        return await self._to_its_end(self._write_session(await self._ready(), body))

    async def read_session(self, body: Callable[[Connection], T]) -> T:
        """Do as ``read`` does, in an ``AsyncSession``: the body is given its connection."""
        return await self._to_its_end(self._read_session(await self._ready(), body))

    async def trim(self) -> None:
        """Give back disk space that is not needed any more, on SQLite that of a large write-ahead log.

        Raises DatabaseUnavailable.
        """
        if isinstance(engine := await self._ready(), SqliteConnections):
            await self._to_its_end(engine.trim())

    async def _write(self, engine: Engines, body: Callable[[Connection], T], alone: bool = False) -> T:
        if isinstance(engine, SqliteConnections):
            return await engine.write(body)
        if alone and (autocommit := self._alone) is not None:
            return await self._on_server(lambda watch: _once(autocommit, body, None))
        return await self._on_server(lambda watch: _once(engine, body, watch))

    async def _read(self, engine: Engines, body: Callable[[Connection], T]) -> T:
        if isinstance(engine, SqliteConnections):
            return await engine.read(body)
        reading = self._alone or engine
        return await self._on_server(lambda watch: _once(reading, body, None))

    async def _write_session(self, engine: Engines, body: Callable[[Connection], T]) -> T:
        if isinstance(engine, SqliteConnections):
            return await engine.write_session(body)
        return await self._on_server(lambda watch: _once_in_session(engine, body, watch))

    async def _read_session(self, engine: Engines, body: Callable[[Connection], T]) -> T:
        if isinstance(engine, SqliteConnections):
            return await engine.read_session(body)
        reading = self._alone or engine
        return await self._on_server(lambda watch: _once_in_session(reading, body, None))

    async def _on_server(self, once: Callable[[Watch], Awaitable[T]]) -> T:
        lost = 0
        for attempt in itertools.count(1):
            watch = Watch(self._idle)
            try:
                watch.begin()
                return await once(watch)
            except (exc.DBAPIError, OSError) as error:
                if watch.silent is not None:
                    late = f"{self.shown}: no answer within {watch.silent:g} s, so the connection was cut"
                    raise DatabaseUnavailable(late) from error
                again = gave_way(error) and attempt < TRIES
                # What was not committed was not done: another connection may do it all, once. After the COMMIT was
                # sent the outcome is unknown, and only the caller can tell whether to repeat it.
                if is_lost(error, watch) and not watch.committing:
                    lost += 1
                    again = again or lost == 1
                if not again:
                    raise
            finally:
                watch.rest()
            await asyncio.sleep(backoff(attempt, 0.01, 1.0))
        raise AssertionError("unreachable")

    async def _dispose(self, engine: Engines) -> None:
        """Close every connection, politely if their peer plays along."""
        timer = asyncio.get_running_loop().call_later(CONNECT_TIMEOUT, cut_all, self._idle)
        try:
            await engine.dispose()
        finally:
            timer.cancel()

    async def _to_its_end(self, transaction: Coroutine[Any, Any, T], *, shield: bool = False) -> T:
        try:
            # A cancelled caller waits for the call on a SQLite connection's thread: it needs no asyncio task.
            if is_sheltered() or (self.sqlite and not shield):
                return await self._noted(transaction)
            task = asyncio.ensure_future(transaction)
            self._running.add(task)  # the loop itself keeps only weak references
            task.add_done_callback(self._running.discard)
            return await asyncio.shield(task)
        except AiotaskqError:
            raise
        except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
            if is_about_a_value(error):
                raise
            raise DatabaseUnavailable(f"{self.shown}: {getattr(error, 'orig', error)}{hint(error)}") from error

    async def _noted(self, transaction: Coroutine[Any, Any, T]) -> T:
        ended = asyncio.get_running_loop().create_future()
        self._running.add(ended)
        try:
            return await transaction
        finally:
            self._running.discard(ended)
            if not ended.done():  # a caller of `pending` may have cancelled it
                ended.set_result(None)


async def _once(engine: AsyncEngine, body: Callable[[Connection], T], watch: Watch | None) -> T:
    """Run the body in one transaction on a server; with ``watch``, which is told before that, commit it."""

    def transaction() -> T:
        with engine.sync_engine.connect() as connection:
            answer = body(connection)
            if watch is not None:
                watch.before_commit()
                connection.commit()
            return answer

    # All of it in one greenlet: AsyncConnection makes one for each of its steps.
    return await greenlet_spawn(transaction)


async def _once_in_session(engine: AsyncEngine, body: Callable[[Connection], T], watch: Watch | None) -> T:
    """Do the same in an ``AsyncSession``, on its connection."""

    def transaction(session: Session) -> T:
        try:
            answer = body(session.connection())
            if watch is not None:
                watch.before_commit()
                session.commit()
            return answer
        finally:
            session.close()

    return await AsyncSession(engine, expire_on_commit=False, autoflush=False).run_sync(transaction)
