"""Keeps a silent database server from holding up its callers: its connection is cut when an answer is late."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event, exc

from aiotaskq.backends.sql.connecting import CONNECT_TIMEOUT, AnswerTimer, transport_of
from aiotaskq.backends.sql.error_codes import ErrorCodes, is_gone

__all__ = ["PATIENCE", "STATEMENT_TIMEOUT", "Watch", "connected", "cut_all", "is_lost", "watch_over"]

STATEMENT_TIMEOUT = 10.0
"""Seconds that a server may take for one statement, or for the commit; then the connection is cut."""
PATIENCE = "aiotaskq_patience"
"""Execution option of a ``Connection``: other seconds for its statements, such as those of a migration."""


class Watch:
    """Cuts the connection of one transaction when the server is silent for too long.

    A coroutine that waits for a dead peer cannot be cancelled in an orderly way, since its clean-up would wait for the
    same peer. With its socket closed, whatever waits for it fails at once.
    """

    def __init__(self, idle: Iterable[Any], patience: float | None = None) -> None:
        """``idle`` are the connections that are not in use; they are cut as well.

        ``patience``: the most seconds for a statement, if less than STATEMENT_TIMEOUT.
        """
        self.patience = STATEMENT_TIMEOUT if patience is None else min(patience, STATEMENT_TIMEOUT)
        self.driver: Any = None
        """The driver's connection, once there is one."""
        self.committing = False
        self.silent: float | None = None
        """How long the server had been silent when the connection was cut, in seconds."""
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._timer: AnswerTimer | None = None

    def begin(self) -> None:
        """Watch the running asyncio task from now on, at first for a connection."""
        _current.set(self)
        self.expect(CONNECT_TIMEOUT + self.patience)

    def before_commit(self) -> None:
        """Note that the commit is sent now: if the connection is lost from here on, its outcome is unknown."""
        self.committing = True

    def expect(self, seconds: float) -> None:
        """Expect an answer within so many seconds."""
        self.rest()
        self._timer = AnswerTimer(seconds, partial(self._cut, seconds), self._loop)

    def rest(self) -> None:
        """Expect nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self, seconds: float) -> None:
        if self.driver is not None:
            self.silent = seconds
            # The idle ones lead to the same peer, and would wait for its answer when they are closed.
            cut_all([self.driver, *self._idle])


_current: ContextVar[Watch | None] = ContextVar("aiotaskq_watch", default=None)


def cut_all(drivers: Iterable[Any]) -> None:
    """Close the sockets of these connections without a word to their peer."""
    for driver in list(drivers):
        if (transport := transport_of(driver)) is not None:
            transport.abort()


def connected(driver: Any) -> None:
    """Take a new connection under the watch of the task that opens it."""
    if (watch := _current.get()) is not None:
        watch.driver = driver


def watch_over(engine: Engine, idle: Any, codes: ErrorCodes) -> None:
    """Watch every statement, commit and rollback on an engine, and keep ``idle`` the set of unused connections."""

    def expect(connection: Connection, *_statement: Any) -> None:
        if (watch := _current.get()) is not None:
            watch.expect(connection.get_execution_options().get(PATIENCE, watch.patience))

    @event.listens_for(engine, "checkout")
    def take(connection: Any, _record: Any, _proxy: Any) -> None:
        idle.discard(connection.driver_connection)
        connected(connection.driver_connection)

    @event.listens_for(engine, "checkin")
    def give_back(connection: Any, _record: Any) -> None:
        if connection is not None:
            idle.add(connection.driver_connection)

    @event.listens_for(engine, "handle_error")
    def judge(context: Any) -> None:
        # Then every connection of the pool is replaced when it is next asked for.
        context.is_disconnect = context.is_disconnect or is_gone(context.original_exception, codes)

    for name in ("before_cursor_execute", "commit", "rollback"):
        event.listen(engine, name, expect)


def is_lost(error: Exception, watch: Watch) -> bool:
    """Whether an open connection is gone, or leads to a server that must be left."""
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated
    return watch.driver is not None  # the socket's own error
