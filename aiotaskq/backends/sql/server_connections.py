"""The pooled connections to a database server: transactions are watched, and repeated if the server gave one up."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, exc
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from aiotaskq.backends.read_limit import read_limit, too_long
from aiotaskq.backends.sql.connecting import CONNECT_TIMEOUT, Watch, cut_all, is_lost, watch_over
from aiotaskq.backends.sql.connections import Connections
from aiotaskq.backends.sql.error_codes import ErrorCodes, gave_way, is_one_of
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.errors import DatabaseUnavailable

T = TypeVar("T")

TRIES: Final = 20
"""Attempts at a transaction that ends in favour of another: by a deadlock, as a rule, or by a key just taken."""


class ServerConnections(Connections):
    """An async engine on a server, and the transactions on it."""

    needs_shield = True

    def __init__(
        self,
        engine: AsyncEngine,
        shown: str,
        codes: ErrorCodes,
        autocommit: bool,
        limited: Callable[[Connection, float], AbstractContextManager[None]],
        patience: float | None = None,
    ) -> None:
        """Take over an engine. ``shown`` is its URL for messages; ``autocommit`` whether one statement can go alone.

        ``limited`` lets the server cancel each statement of a transaction that takes longer than so many seconds.
        ``patience``: the most seconds for a statement, if less than STATEMENT_TIMEOUT.
        """
        self._engine, self.sync_engine = engine, engine.sync_engine
        self._shown = shown
        self._codes = codes
        self._idle: weakref.WeakSet[Any] = weakref.WeakSet()
        watch_over(engine.sync_engine, self._idle, codes)
        self._limited = limited
        self._patience = patience
        self._alone = engine.execution_options(isolation_level="AUTOCOMMIT") if autocommit else None
        self._reading = self._alone or engine

    async def write(self, body: Callable[[Connection], T], autocommit: bool = False) -> T:
        """Run and commit the body. With ``autocommit``, a statement whose connection is lost is executed once more."""
        if autocommit and (alone := self._alone) is not None:
            return await self._repeated(lambda: _transaction(alone, body))
        return await self._repeated(lambda: _transaction(self._engine, body, commit=True))

    async def read(self, body: Callable[[Connection], T]) -> T:
        seconds = read_limit()
        if seconds is None:
            return await self._repeated(lambda: _transaction(self._reading, body))

        def limited(connection: Connection) -> T:
            with self._limited(connection, seconds):
                return body(connection)

        try:
            return await self._repeated(lambda: _transaction(self._engine, limited))
        except exc.DBAPIError as error:
            if is_one_of(error.orig, self._codes.cancelled):
                raise too_long(self._shown, seconds) from error
            raise

    async def _repeated(self, transaction: Callable[[], Awaitable[T]]) -> T:
        """Run a transaction; again if it gave way to another, and once more if it was lost before its COMMIT."""
        lost = 0
        for attempt in itertools.count(1):
            watch = Watch(self._idle, self._patience)
            try:
                watch.begin()
                return await transaction()
            except (exc.DBAPIError, OSError) as error:
                if watch.silent is not None:
                    late = f"{self._shown}: no answer within {watch.silent:g} s, so the connection was cut"
                    raise DatabaseUnavailable(late) from error
                again = gave_way(error, self._codes) and attempt < TRIES
                # What was not committed was not done. After the COMMIT was sent the outcome is unknown, and only the
                # caller can tell whether to repeat it.
                if is_lost(error, watch) and not watch.committing:
                    lost += 1
                    again = again or lost == 1
                if not again:
                    raise
            finally:
                watch.rest()
            await asyncio.sleep(backoff(attempt, 0.01, 1.0))
        raise AssertionError("unreachable")

    async def dispose(self) -> None:
        """Close every connection; after ``CONNECT_TIMEOUT`` without waiting for the server."""
        timer = asyncio.get_running_loop().call_later(CONNECT_TIMEOUT, cut_all, self._idle)
        try:
            await self._engine.dispose()
        finally:
            timer.cancel()


async def _transaction(engine: AsyncEngine, body: Callable[[Connection], T], commit: bool = False) -> T:
    """Run the body in one transaction, and ``commit`` it unless it has committed itself."""

    def transaction() -> T:
        with engine.sync_engine.connect() as connection:
            answer = body(connection)
            if commit:
                connection.commit()
            return answer

    # All of it in one greenlet: AsyncConnection makes one for each of its steps.
    return await greenlet_spawn(transaction)
