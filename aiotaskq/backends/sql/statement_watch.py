"""Keeps a silent database server from holding up its callers, and tells its faults apart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event, exc

from aiotaskq.backends.sql.engines import CONNECT_TIMEOUT, SecondLook

__all__ = [
    "PATIENCE",
    "STATEMENT_TIMEOUT",
    "Watch",
    "connected",
    "cut_all",
    "gave_way",
    "hint",
    "is_about_a_value",
    "is_lost",
    "watch_over",
]

STATEMENT_TIMEOUT = 10.0
"""Seconds that a server may take for one statement, or for the commit; then the connection is cut."""
PATIENCE = "aiotaskq_patience"
"""Execution option of a ``Connection``: other seconds for its statements, such as those of a migration."""

# The server gave a transaction up in favour of another, or found its rows changed: the same again will do.
GAVE_WAY = frozenset({"40001", "40P01", 1020, 1205, 1213, 1412})
# The server is going away, or has become a replica that takes no writes: not a place to stay (F5, F6).
GONE = frozenset({"25006", "57P01", "57P02", "57P03", 1053, 1290, 1792, 1836, 1927, 4031})
# A prepared statement is not there, or there twice: somebody else's connection.
UNPREPARED = frozenset({"26000", "42P05"})
NO_TABLE = frozenset({"42P01", "42S02", 1146})


class Watch:
    """Cuts the connection of one transaction when the server is silent for too long (F8).

    A coroutine that waits for a dead peer cannot be cancelled in an orderly way, since its clean-up would wait for the
    same peer. With its socket gone, whatever waits for it fails at once.
    """

    def __init__(self, idle: Iterable[Any]) -> None:
        self.driver: Any = None
        """The driver's connection, once there is one."""
        self.committing = False
        self.silent: float | None = None
        """How long the server had been silent when the connection was cut."""
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._timer: SecondLook | None = None

    def begin(self) -> None:
        """Watch over what the running asyncio task does from now on, at first over getting a connection."""
        _current.set(self)
        self.expect(CONNECT_TIMEOUT + STATEMENT_TIMEOUT)

    def before_commit(self) -> None:
        """Note that the commit is sent now: if the connection is lost from here on, nobody knows what became of it."""
        self.committing = True

    def expect(self, seconds: float) -> None:
        """From now on there must be an answer within so many seconds."""
        self.rest()
        self._timer = SecondLook(seconds, partial(self._cut, seconds), self._loop)

    def rest(self) -> None:
        """Nothing is awaited any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _cut(self, seconds: float) -> None:
        if self.driver is not None:
            self.silent = seconds
            # Those that nobody uses just now lead to the same peer, and would be closed with a long farewell.
            cut_all([self.driver, *self._idle])


_current: ContextVar[Watch | None] = ContextVar("aiotaskq_watch", default=None)


def cut_all(drivers: Iterable[Any]) -> None:
    """Close the sockets of asyncpg or asyncmy connections without a word to their peer."""
    for driver in list(drivers):
        if driver._transport is not None:
            driver._transport.abort()


def connected(driver: Any) -> None:
    """Take a new connection under the watch of the task that opens it."""
    if (watch := _current.get()) is not None:
        watch.driver = driver


def watch_over(engine: Engine, idle: Any) -> None:
    """Watch every statement, commit and rollback on an engine, and keep ``idle`` the set of unused connections."""

    def expect(connection: Connection, *_statement: Any) -> None:
        if (watch := _current.get()) is not None:
            watch.expect(connection.get_execution_options().get(PATIENCE, STATEMENT_TIMEOUT))

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
        context.is_disconnect = context.is_disconnect or _code(context.original_exception) in GONE

    for name in ("before_cursor_execute", "commit", "rollback"):
        event.listen(engine, name, expect)


def _code(error: Any) -> Any:
    """The SQLSTATE that PostgreSQL, or the number that MySQL gives to an error."""
    return getattr(error, "sqlstate", None) or next(iter(error.args), None)


def gave_way(error: Exception) -> bool:
    """Whether the same transaction will do, once more: the server rolled it back for another's, or a schema's sake."""
    return isinstance(error, exc.DBAPIError) and (
        _code(error.orig) in GAVE_WAY or "cached statement plan is invalid" in str(error.orig)
    )


def hint(error: Exception) -> str:
    """Return what to do about an error that no other try can cure, else nothing."""
    cause = getattr(error, "orig", error)
    if _code(cause) in NO_TABLE or str(cause).startswith("no such table: "):  # SQLite has no code of its own for it
        return (
            "; it was dropped after aiotaskq had made it, perhaps by a migration of the application's (exclude our "
            "tables there by aiotaskq.integrations.alembic). Restore it from a backup, or make it anew, empty, by "
            "'aiotaskq db upgrade'"
        )
    if _code(cause) in UNPREPARED:
        return "; is there a transaction pooler in between? Then add ?pooler=transaction to the URL"
    return ""


def is_lost(error: Exception, watch: Watch) -> bool:
    """Whether a connection that there was is gone, or leads to a server that must be left."""
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated
    return watch.driver is not None  # the socket's own error


def is_about_a_value(error: Exception) -> bool:
    """Whether the fault is a row's, not the database's: no other try would end otherwise."""
    if isinstance(error, exc.IntegrityError | exc.DataError):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    # asyncpg has two more kinds: what the server calls a data exception, and what it cannot encode itself. (A refused
    # certificate is a ValueError, too.)
    code, cause = _code(error.orig), getattr(error.orig, "__cause__", None)
    unfit = isinstance(cause, ValueError) and not isinstance(cause, OSError)
    return unfit or (isinstance(code, str) and code[:2] in ("22", "23"))
