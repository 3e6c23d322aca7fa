"""SQLite through aiosqlite: each transaction is one call on the thread of an aiosqlite connection."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import aiosqlite
from sqlalchemy import Connection, Engine, NullPool, event, exc
from sqlalchemy.dialects.sqlite.base import SQLiteExecutionContext

from aiotaskq.backends.read_limit import read_limit, too_long
from aiotaskq.backends.sql import sqlite_file, statements
from aiotaskq.backends.sql.connections import Connections, Transactions
from aiotaskq.backends.sql.error_codes import is_about_a_value
from aiotaskq.backends.sql.sqlite_file import SqliteFile
from aiotaskq.concurrency.forks import outside_of_forks
from aiotaskq.errors import ClosedError, DatabaseUnavailable

T = TypeVar("T")

READERS: Final = 4  # connections that read, beside the one that writes
# SQLite polls for the lock less and less often, so that the oldest waiter loses it to a new one. To give up after so
# many seconds and begin again is fairer between busy processes.
BUSY_POLLING: Final = 0.1
STOP_AGAIN: Final = 0.05  # seconds after which a statement of a cancelled call is interrupted again
_WRITER: Final = "aiotaskq_writer"  # an execution option


class StoreConnection(aiosqlite.Connection):
    """An aiosqlite connection with one more method: ``run`` calls a plain function on the connection's own thread.

    With aiosqlite's own methods a transaction takes a hop to the thread and back for its begin, each cursor, each
    statement, each fetch and its commit. With ``run`` it takes one, whatever the function does with ``connection``, a
    synchronous SQLAlchemy connection on the same SQLite connection.

    The names of aiosqlite that are not public are used in this class alone. They are why its versions are pinned in
    ``pyproject.toml``:

    - ``_tx``: the queue of the thread, which takes pairs of a future and a function. The future may be None; then the
      thread does not answer to a loop, which would end the thread if the loop was closed.
    - ``_thread``: started by the first call, which opens the connection there, for the same reason. It is made a
      daemon, so that a process that closes nothing can end, as SQLAlchemy's own dialect does.
    - ``_connection``: the SQLite connection, None while there is none.
    """

    def __init__(self, engine: Engine, writes: bool) -> None:
        """Make a connection that ``engine`` opens, on the thread, at its first use."""
        super().__init__(cast(Any, engine.raw_connection), iter_chunk_size=64)  # never called: see _call
        self._thread.daemon = True
        self._engine = engine
        self._writes = writes
        self._alchemy: Connection | None = None
        self._journals_in_memory = False
        self._is_closed = False

    def __await__(self) -> Generator[Any, None, StoreConnection]:
        return self.run(lambda: self).__await__()

    @property
    def connection(self) -> Connection:
        """The synchronous SQLAlchemy connection; for use on the thread only."""
        assert self._alchemy is not None
        return self._alchemy

    @property
    def raw(self) -> sqlite3.Connection:
        """The standard library's connection; for use on the thread only."""
        assert self._connection is not None
        return self._connection

    async def run(self, function: Callable[[], T], reads: bool = False) -> T:
        """Call the function on the thread and return its result, or raise its error.

        Functions are called one after the other, in the order of the calls of ``run``. While the file is locked by
        another connection the function is called again, for up to ``BUSY_TIMEOUT``; so it must leave no transaction.
        A call that is cancelled before its turn does not happen; one that has begun is waited for, and its statement
        is interrupted if it only ``reads``. After an error that
        may be the connection's fault, such as one of a file that was replaced, the next call opens another. Raises
        ClosedError.
        """
        if self._is_closed:
            raise ClosedError("the SQLite connection was closed")
        if self._thread.ident is None:
            self._thread.start()
        return await self._on_thread(partial(self._call, function), self._interrupt if reads else None)

    async def _on_thread(self, function: Callable[[], T], stop: Callable[[], None] | None = None) -> T:
        call = _Call(function, asyncio.get_running_loop(), stop)
        self._tx.put_nowait((None, call))
        return await call.result()

    def _interrupt(self) -> None:
        """Interrupt the statement that runs, from any thread."""
        if (connection := self._connection) is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed meanwhile
                connection.interrupt()

    def _call(self, function: Callable[[], T]) -> T:
        if self._connection is None:
            alchemy = self._engine.connect()
            self._connection = cast(sqlite3.Connection, alchemy.connection.driver_connection)
            self._alchemy = alchemy.execution_options(**{_WRITER: self._writes, statements.DRIVER: self._connection})
            self._journals_in_memory = False
        try:
            answer = function()
        except exc.DBAPIError as error:
            if not (is_about_a_value(error) or _says(error, "locked") or _says(error, "interrupted")):
                self.connection.invalidate()
                self._let_go()
            raise
        if self._writes and not self._journals_in_memory:
            # SQLite writes the journal of a statement that changes more than 16 pages to a temporary file. The first
            # transaction keeps the file: it may be a migration, whose journal may be too large for memory.
            self.raw.execute("PRAGMA temp_store = MEMORY").close()
            self._journals_in_memory = True
        return answer

    def _let_go(self) -> None:
        connection, self._alchemy, self._connection = self._alchemy, None, None
        if connection is not None:
            connection.close()

    async def close(self) -> None:
        """Close it after the calls before this one, and end the thread; idempotent. A cancel does not prevent it."""
        if self._thread.ident is not None and not self._is_closed:
            try:
                await self._on_thread(self._shut)
            finally:
                self.abandon()
        self._is_closed = True

    def abandon(self) -> None:
        """Do the same without waiting, from any thread, with or without a loop; idempotent."""
        if self._thread.ident is not None and not self._is_closed:
            self._tx.put_nowait((None, self._shut))
        self._is_closed = True

    def _shut(self) -> None:
        self._is_closed = True
        try:
            with outside_of_forks:
                if self._connection is not None and _was_closed(self._connection):
                    # With its loop the garbage collector has closed it; SQLAlchemy would log that it cannot be reset.
                    self._alchemy = self._connection = None
                self._let_go()
        finally:
            # It ends the thread. Called on the thread, it finds no loop and makes no future.
            self.stop()

    def __del__(self) -> None:
        self.abandon()


def _was_closed(connection: sqlite3.Connection) -> bool:
    try:
        _ = connection.total_changes
    except sqlite3.ProgrammingError:
        return True
    return False


class _Call(Generic[T]):
    """A function to call on the thread, and its result.

    The thread's frame refers to its last call, and so to the loop. A forked child has the frame but not the thread, so
    the loop is never collected there. That is intended: closing it would change the epoll that the parent shares.
    """

    __slots__ = ("_answer", "_cancelled", "_ended", "_error", "_function", "_loop", "_stop", "_waiting")

    def __init__(
        self, function: Callable[[], T], loop: asyncio.AbstractEventLoop, stop: Callable[[], None] | None = None
    ) -> None:
        """``stop`` interrupts the function, from the loop; without it a cancelled call goes on to its end."""
        self._stop = stop
        self._function = [function]  # taken out by the thread, which calls it, or by a cancel
        self._loop = loop
        self._waiting = loop.create_future()
        self._ended = False
        self._cancelled: list[None] = []
        self._answer: T | None = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        """Call the function, on the thread."""
        try:
            function = self._function.pop()
        except IndexError:
            return
        try:
            self._answer = _patiently(function, self._cancelled)
        except BaseException as error:
            self._error = error
        del function
        with contextlib.suppress(RuntimeError):  # the loop was closed, so no caller waits
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._ended = True
        if not self._waiting.done():
            self._waiting.set_result(None)

    async def result(self) -> T:
        """Wait for the end, on the loop."""
        try:
            await self._waiting
        except asyncio.CancelledError:
            self._cancelled.append(None)
            try:
                self._function.pop()
            except IndexError:
                if not self._ended:
                    self._waiting = self._loop.create_future()  # the other one was cancelled
                    await self._stopped()
                self._answer = self._error = self._stop = None
            raise
        # Taken out, since the thread's frame keeps this object until its next call.
        self._stop = None
        answer, self._answer = self._answer, None
        error, self._error = self._error, None
        if error is None:
            return cast(T, answer)
        try:
            raise error
        finally:
            del error

    async def _stopped(self) -> None:
        while self._stop is not None and not self._waiting.done():
            self._stop()  # again, since it does nothing between two statements
            await asyncio.wait([self._waiting], timeout=STOP_AGAIN)
        await self._waiting


def _patiently(function: Callable[[], T], cancelled: Sequence[None]) -> T:
    """Call the function again while another connection has the file locked: nothing was done then."""
    end = time.monotonic() + sqlite_file.BUSY_TIMEOUT
    while True:
        try:
            with outside_of_forks:
                return function()
        except exc.OperationalError as error:
            if not _says(error, "locked") or time.monotonic() > end or cancelled:
                raise
            time.sleep(0.001)  # for statements that do not wait for the lock, such as a change of the journal


def _says(error: BaseException, word: str) -> bool:
    """Whether SQLite has done nothing: the file is ``locked`` by another connection, or a cancel ``interrupted`` it."""
    return isinstance(error, exc.OperationalError) and word in str(error.orig)


class _Cursor(sqlite3.Cursor):
    """A cursor of SQLite's driver with the one method that ``AsyncSession.execute`` awaits.

    Its name is not public: it is one of the reasons for which the versions of SQLAlchemy are pinned.
    """

    __slots__ = ()

    async def _async_soft_close(self) -> None:
        """Leave the rows to be fetched, on the same thread."""


class _Execution(SQLiteExecutionContext):
    def create_default_cursor(self) -> Any:
        return self._dbapi_connection.cursor(_Cursor)


class SqliteConnections(Connections):
    """The connections to a SQLite file: one that writes (SQLite has one writer at a time) and a few that read.

    A transaction that has begun ends with its commit or its rollback, even if the loop that waits for it ends before.
    """

    needs_shield = False  # a cancelled caller waits for the call on a connection's thread

    def __init__(self, database: Transactions) -> None:
        """``database.writing`` and ``database.written`` are called on the thread of the connection that writes."""
        sqlite_file.quiet_aiosqlite()
        self._database, self._shown = database, database.shown
        self.sync_engine: Engine = sqlite_file.sqlite_engine(database.url, poolclass=NullPool, names=database.names)
        self.sync_engine.dialect.execution_ctx_cls = _Execution
        self.file = SqliteFile(str(database.url.database))
        event.listen(self.sync_engine, "do_connect", partial(_connect, self.file))
        event.listen(self.sync_engine, "connect", _on_connect)
        self.writer = StoreConnection(self.sync_engine, writes=True)
        # The unused ones, the last used at the end.
        self.readers = [StoreConnection(self.sync_engine, writes=False) for _ in range(READERS)]
        self._unused = asyncio.Semaphore(READERS)

    async def open(self) -> None:
        """Switch the file to a write-ahead log. Raises DatabaseUnavailable if it cannot have one."""
        if await self._pragma("journal_mode") != "wal" and await self._pragma("journal_mode = WAL") != "wal":
            raise DatabaseUnavailable(f"cannot switch {self._shown} to WAL (a network file system?); use a local disk")

    async def _pragma(self, pragma: str) -> object:
        return await self.read(lambda c: c.exec_driver_sql(f"PRAGMA {pragma}").scalar())

    def check(self) -> None:
        self.file.check()

    async def write(self, body: Callable[[Connection], T], autocommit: bool = False) -> T:
        return await self.writer.run(partial(self._transaction, self.writer, body))

    def _transaction(self, store: StoreConnection, body: Callable[[Connection], T]) -> T:
        # SQLAlchemy's own transaction takes longer to begin and commit than SQLite's. The body begins one unnoticed if
        # it executes a statement of SQLAlchemy's.
        try:
            begin_immediate(store.raw)
            self.file.check()  # now that it has waited for the lock
            self._database.writing()
            answer = body(store.connection)
            if store.raw.in_transaction:  # else a session has committed it
                statements.in_driver(store.raw, "COMMIT", ())
            return answer
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # it is broken, and will be replaced
                store.raw.rollback()
            raise
        finally:
            self._database.written()
            if store.connection.in_transaction():
                store.connection.rollback()

    async def read(self, body: Callable[[Connection], T]) -> T:
        async with self._unused:
            store = self.readers.pop()
            seconds = read_limit()
            limit = asyncio.timeout(seconds)
            try:
                async with limit:  # a cancelled statement is interrupted
                    return await store.run(partial(self._look, store, body), reads=True)
            except TimeoutError as error:
                if seconds is None or not limit.expired():
                    raise
                raise too_long(self._shown, seconds) from error
            finally:
                self.readers.append(store)

    def _look(self, store: StoreConnection, body: Callable[[Connection], T]) -> T:
        self.file.check()
        try:
            return body(store.connection)
        finally:
            store.connection.rollback()

    async def dispose(self) -> None:
        try:
            for store in (*self.readers, self.writer):
                await store.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        for store in (*self.readers, self.writer):
            store.abandon()


def is_store_writer(connection: Connection) -> bool:
    """Whether this is the connection that writes for a store, in a transaction that has the write lock."""
    return bool(connection.get_execution_options().get(_WRITER))


def begin_immediate(connection: sqlite3.Connection) -> None:
    """Begin a transaction that has the write lock. Raises OperationalError of SQLAlchemy's if it is taken.

    A transaction that reads and then writes would fail at once as busy, whatever the timeout. It is executed on the
    driver's connection, since SQLAlchemy needs longer for a statement than SQLite for this one.
    """
    statements.in_driver(connection, "BEGIN IMMEDIATE", ())


def _connect(file: SqliteFile, dialect: Any, _record: object, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    return file.connected(lambda: dialect.connect(*arguments, **options))


def _on_connect(connection: Any, record: object) -> None:
    # The driver would begin deferred transactions; here they are begun by ``begin_immediate``.
    connection.isolation_level = None
    connection.text_factory = sqlite_file.lenient_text
    sqlite_file.on_connect(connection, record)
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_POLLING * 1000)}").close()
