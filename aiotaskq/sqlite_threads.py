"""Runs whole transactions on a SQLite file in threads: one hop for each, however many statements it has."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, Pool, event, exc

from aiotaskq import engines
from aiotaskq.daemons import DaemonThreads
from aiotaskq.engines import lenient_text, on_sqlite_connect, sqlite_engine
from aiotaskq.forks import outside_of_forks

T = TypeVar("T")

READERS: Final = 4  # threads that read, beside the one that writes
# SQLite looks more and more rarely for the lock, so that who has waited long loses it to whoever has just come. To
# begin anew after this many seconds is fairer: of 8 busy processes the unluckiest waited for 0.9 s instead of 3.2 s.
BUSY_POLLING: Final = 0.1


class SqliteThreads:
    """A synchronous engine, one thread that writes (SQLite has one writer at a time) and a few that read.

    An asynchronous driver hops to its thread and back for each statement, for its cursor, and for the commit: a push
    of one task had five hops, of 60 µs each, where the disk takes 100. Nothing here is cut in the middle: a body that
    has begun ends with its commit or its rollback, whatever becomes of the loop that waits for it. Each thread keeps
    its connection: to take one out of a pool and put it back takes as long as the disk.
    """

    def __init__(
        self, url: URL, begin: Callable[[Connection], None], writing: Callable[[], None], written: Callable[[], None]
    ) -> None:
        """``begin`` begins a transaction that writes; ``writing`` is called when it has the lock, ``written`` after."""
        self.sync_engine = sqlite_engine(url, pool_size=1 + READERS, max_overflow=0)
        event.listen(self.sync_engine, "connect", _on_connect)
        event.listen(self.sync_engine, "begin", begin)
        self._for_writing = self.sync_engine.execution_options(aiotaskq_begin=True)
        self._writing, self._written = writing, written
        self._kept: dict[int, Connection] = {}  # by thread
        loop = asyncio.get_running_loop()
        self._writer = DaemonThreads(1, "aiotaskq-sqlite-writer", loop)
        self._readers = DaemonThreads(READERS, "aiotaskq-sqlite-reader", loop)

    @property
    def pool(self) -> Pool:
        """The connections."""
        return self.sync_engine.pool

    async def write(self, body: Callable[[Connection], T]) -> T:
        """Run the body in one transaction that writes, and commit it."""

        def once() -> T:
            try:
                with self._connection(self._for_writing) as connection, connection.begin():
                    self._writing()
                    return body(connection)
            finally:
                self._written()

        return await _in(self._writer, once)

    async def read(self, body: Callable[[Connection], T]) -> T:
        """Run a body that only reads; it waits for no writer."""

        def once() -> T:
            with self._connection(self.sync_engine) as connection:
                answer = body(connection)
                connection.rollback()
                return answer

        return await _in(self._readers, once)

    @contextlib.contextmanager
    def _connection(self, engine: Engine) -> Iterator[Connection]:
        """Give this thread's own; after an error, in which it may be left in any state, it gets another."""
        here = threading.get_ident()
        connection = self._kept.get(here)
        if connection is None:
            connection = self._kept[here] = engine.connect()
        try:
            yield connection
        except BaseException:
            del self._kept[here]
            connection.close()
            raise

    async def dispose(self) -> None:
        """Let what runs end; close every connection, and end the threads."""
        await asyncio.wrap_future(self._writer.submit(self._close))
        self._writer.shutdown()

    def abandon(self) -> None:
        """Do the same without waiting, for a loop that is gone."""
        self._writer.submit(self._close)
        self._writer.shutdown(wait=False)

    def _close(self) -> None:
        self._readers.shutdown()
        with outside_of_forks:
            while self._kept:
                self._kept.popitem()[1].close()
            self.sync_engine.dispose()


def _on_connect(connection: Any, record: object) -> None:
    # The driver's own idea of when a transaction begins would make it deferred; ours begin with the engine's event.
    connection.isolation_level = None
    connection.text_factory = lenient_text
    on_sqlite_connect(connection, record)
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_POLLING * 1000)}").close()


async def _in(threads: DaemonThreads, once: Callable[[], T]) -> T:
    """Run it in one of the threads. Only the end of the loop cancels this; then what has begun ends first."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    cancelled: list[None] = []

    def tell(_work: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits
            loop.call_soon_threadsafe(ended.set)

    work: Future[T] = threads.submit(_patiently, once, cancelled)
    work.add_done_callback(tell)
    try:
        await ended.wait()
    except asyncio.CancelledError:
        cancelled.append(None)
        if not work.cancel():
            await ended.wait()
        raise
    return work.result()


def _patiently(once: Callable[[], T], cancelled: Sequence[None]) -> T:
    """Repeat until another process lets go of the file; nothing was done before that."""
    end = time.monotonic() + engines.BUSY_TIMEOUT
    while True:
        try:
            with outside_of_forks:
                return once()
        except exc.OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() > end or cancelled:
                raise
            time.sleep(0.001)  # what does not wait for the lock by itself, such as a change of the journal
