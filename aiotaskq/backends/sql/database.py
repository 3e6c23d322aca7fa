"""One database and its transactions: opened once for each event loop, and closed after what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Connection, exc

from aiotaskq.backends.sql.connections import Connections, SessionBody, Transactions, in_session
from aiotaskq.backends.sql.dialects import dialect_named
from aiotaskq.backends.sql.engines import engine_options, parse_url
from aiotaskq.backends.sql.error_codes import hint, is_about_a_value
from aiotaskq.concurrency.loop_bound import LoopBound, keep_alive
from aiotaskq.concurrency.uninterrupted import in_shielded_task
from aiotaskq.core.masking import mask
from aiotaskq.errors import AiotaskqError, ClosedError, DatabaseUnavailable, WrongLoop

T = TypeVar("T")


class Database(Transactions):
    """The connections to one database and its transactions; it belongs to the loop that opens it.

    A transaction body is a plain function over a ``Connection``: it can run in the caller's own transaction as well. It
    always runs to its end: a cancelled caller leaves the database before or after it, never between, and the connection
    goes back to the pool. On SQLite that end is waited for first; what has not begun does not happen.
    """

    def __init__(
        self,
        url: str,
        prepare: Callable[[Connection], None] | None = None,
        prepared: Callable[[Connection], bool] = lambda _connection: False,
        patience: float | None = None,
    ) -> None:
        """``prepare`` runs in a transaction of its own at each opening, unless ``prepared`` reads that it need not.

        ``patience``: the most seconds that a server may take for one statement, if less than the usual ones.
        """
        self.url, self._options = engine_options(parse_url(url))
        self.names = self._options.get("names")
        self.dialect = dialect_named(self.url.get_backend_name())
        self.shown = mask(url)
        self.patience = patience
        self._prepare, self._prepared = prepare, prepared
        self._connections: Connections | None = None
        self._closed = False
        self._bound = LoopBound()
        self._opening = asyncio.Lock()
        self._running: set[asyncio.Future[Any]] = set()
        self.writing = self.written = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether it was opened, here or in another thread, and not closed since."""
        return self._connections is not None

    def check_file(self) -> None:
        """Raise DatabaseUnavailable if this is SQLite and the open file was deleted, moved or replaced."""
        if self._connections is not None:
            self._connections.check()

    @property
    def pending(self) -> frozenset[asyncio.Future[Any]]:
        """The transactions that have begun in this loop and not ended."""
        return frozenset(self._running)

    async def open(self) -> None:
        """Connect in the running loop and prepare the schema; idempotent.

        Raises DatabaseUnavailable, and WrongLoop if another loop that still runs has it open.
        """
        self._closed = False
        await self.connections()

    async def connections(self) -> Connections:
        """Return the connections for the running loop; open them if need be. Raises as ``open``, and ClosedError."""
        if self._closed:
            raise ClosedError(f"the database {self.shown} was closed; open() opens it again")
        if self._connections is not None and self._bound.here:
            return self._connections
        if not self._bound.here:
            if self._bound.running:
                raise WrongLoop(f"the database {self.shown} is open in another event loop; make one object per loop")
            # The loop (or, after a fork, the process) that had it open is gone, and its connections with it.
            if self._bound.inherited:
                keep_alive(self._connections)  # SQLite forbids a forked child even to close them
            elif self._connections is not None:
                self._connections.abandon()
            self._connections = None
            self._bound.bind()
            self._opening, self._running = asyncio.Lock(), set()
        return await self._to_its_end(self._open_once(), shield=True)

    async def _open_once(self) -> Connections:
        async with self._opening:
            if self._connections is None:
                self._connections = await self._connect()
            return self._connections

    async def _connect(self) -> Connections:
        connections = self.dialect.connections(self, self._options)
        try:
            await connections.open()
            # Read first: on SQLite the write lock may be held by a transaction that waits for this, the caller's own.
            if self._prepare is not None and not await connections.read(self._prepared):
                await connections.write(self._prepare)
        except BaseException:
            await connections.dispose()
            raise
        return connections

    async def close(self) -> None:
        """Let running transactions end and give back every connection; idempotent."""
        self._closed = True
        if not self._bound.here:
            return  # not ours to close; if its loop is gone, so are its connections
        while self._running:
            await asyncio.wait(self._running)
        connections, self._connections = self._connections, None
        if connections is not None:
            await self._to_its_end(connections.dispose(), shield=True)
        if self._closed:  # only now: until then a second close waits for this one
            self._bound.release()

    async def write(self, body: Callable[[Connection], T], autocommit: bool = False) -> T:
        """Run the body in one write transaction and commit it. Raises DatabaseUnavailable.

        With ``autocommit`` all that it writes is one statement, which goes without BEGIN and COMMIT where that saves
        round trips. If its connection is lost, it is executed once more, though it may have been executed.
        """
        connections = await self.connections()
        return await self._to_its_end(connections.write(body, autocommit), connections.needs_shield)

    async def read(self, body: Callable[[Connection], T]) -> T:
        """Run a body that only reads, each statement what is there when it begins. Raises DatabaseUnavailable."""
        connections = await self.connections()
        return await self._to_its_end(connections.read(body), connections.needs_shield)

    async def write_session(self, body: SessionBody[T]) -> T:
        """Do as ``write`` does, with an ``AsyncSession`` whose methods the body awaits; the session commits."""
        return await self.write(in_session(body, commits=True))

    async def read_session(self, body: SessionBody[T]) -> T:
        """Do as ``read`` does, with an ``AsyncSession`` whose methods the body awaits."""
        return await self.read(in_session(body, commits=False))

    async def _to_its_end(self, transaction: Coroutine[Any, Any, T], shield: bool) -> T:
        """Await a transaction; with ``shield`` in a task of its own, which a cancelled caller does not interrupt."""
        try:
            if in_shielded_task() or not shield:
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
            remedy = hint(error, self.dialect.codes)
            raise DatabaseUnavailable(f"{self.shown}: {getattr(error, 'orig', error)}{remedy}") from error

    async def _noted(self, transaction: Coroutine[Any, Any, T]) -> T:
        ended = asyncio.get_running_loop().create_future()
        self._running.add(ended)
        try:
            return await transaction
        finally:
            self._running.discard(ended)
            if not ended.done():  # a caller of `pending` may have cancelled it
                ended.set_result(None)
