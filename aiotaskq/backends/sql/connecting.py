"""Opening connections to a database, and cutting those of a server that is silent, so that it holds up no caller."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, event, exc
from sqlalchemy.ext.asyncio import AsyncEngine

from aiotaskq.backends.sql.error_codes import ErrorCodes, is_one_of
from aiotaskq.backends.sql.names import NAMES, Names, rename
from aiotaskq.core.errors import missing

T = TypeVar("T")
E = TypeVar("E", Engine, AsyncEngine)

CONNECT_TIMEOUT = 3.0
"""Seconds until a server must have accepted a connection."""
DRIVER_TIMEOUT = 60.0
"""Seconds after which a driver gives up by itself: later than this package always does."""
STALLED = 0.5
"""Seconds by which a timer of a loop that is not held up is never late."""
STATEMENT_TIMEOUT = 10.0
"""Seconds that a server may take for one statement, or for the commit; then the connection is cut."""
PATIENCE = "aiotaskq_patience"
"""Execution option of a ``Connection``: other seconds for its statements, such as those of a migration."""


def create(
    factory: Callable[..., E], url: URL, extras: Mapping[str, str], names: Names | None = None, **options: Any
) -> E:
    """Make an engine for tables with these ``names``. ``extras`` names the extra that installs each driver.

    Raises MissingExtra.
    """
    if names is not None:
        options["execution_options"] = {**options.get("execution_options", {}), NAMES: names}
    try:
        made = factory(url, **{"hide_parameters": True, **options})  # errors are logged, params never
    except ImportError as error:  # psycopg without its C library names no module
        name = url.get_driver_name() if error.name is None else error.name.partition(".")[0]
        if name not in extras:
            raise
        raise missing(name, extras[name]) from None
    if names is not None:
        rename(made)
    return made


class AnswerTimer:
    """Calls ``late`` when an answer is late, but not because the loop itself was held up.

    After ``seconds`` it waits ``STALLED`` more, again and again while the loop is late by more than that: a loop that
    stood still has yet to read what arrived meanwhile.
    """

    __slots__ = ("_late", "_loop", "_timer")

    def __init__(self, seconds: float, late: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self._late = late
        self._loop = loop
        self._set(seconds, again=True)

    def _set(self, seconds: float, again: bool) -> None:
        self._timer = self._loop.call_later(seconds, self._look, self._loop.time() + seconds, again)

    def _look(self, due: float, again: bool) -> None:
        if again or self._loop.time() > due + STALLED:
            self._set(STALLED, again=False)
        else:
            self._late()

    def cancel(self) -> None:
        """Stop the timer; idempotent."""
        self._timer.cancel()


async def in_time(connecting: Awaitable[T]) -> T:
    """Await a connection for about ``CONNECT_TIMEOUT``. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    timer = AnswerTimer(CONNECT_TIMEOUT, lambda: limit.reschedule(loop.time()), loop)
    try:
        async with asyncio.timeout(None) as limit:
            return await connecting
    except TimeoutError:
        raise TimeoutError(f"no connection within {CONNECT_TIMEOUT:.0f} s") from None
    finally:
        timer.cancel()


def transport_of(driver: Any) -> asyncio.Transport | None:
    """Return the transport of an asyncpg or asyncmy connection; neither driver has a public name for it."""
    return driver._transport  # type: ignore[no-any-return]


def keep_alive(driver: Any) -> None:
    """Let the operating system probe the idle connection of a driver, so that firewalls and NAT keep it open."""
    transport = transport_of(driver)
    assert transport is not None
    wire = transport.get_extra_info("socket")
    if wire.family in (socket.AF_INET, socket.AF_INET6):
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):  # not on every system
                wire.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
        """Whether the commit was sent: if the connection is lost from here on, its outcome is unknown."""
        self.silent: float | None = None
        """How long the server had been silent when the connection was cut, in seconds."""
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._timer: AnswerTimer | None = None

    def begin(self) -> None:
        """Watch the running asyncio task from now on, at first for a connection."""
        _current.set(self)
        self.expect(CONNECT_TIMEOUT + self.patience)

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

    @event.listens_for(engine, "commit")
    def commit(connection: Connection) -> None:
        if (watch := _current.get()) is not None:
            watch.committing = True

    @event.listens_for(engine, "handle_error")
    def judge(context: Any) -> None:
        # Then every connection of the pool is replaced when it is next asked for.
        context.is_disconnect = context.is_disconnect or is_one_of(context.original_exception, codes.gone)

    for name in ("before_cursor_execute", "commit", "rollback"):
        event.listen(engine, name, expect)


def is_lost(error: Exception, watch: Watch) -> bool:
    """Whether an open connection is gone, or leads to a server that must be left."""
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated
    return watch.driver is not None  # the socket's own error
