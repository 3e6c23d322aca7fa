"""uvicorn's HTTP protocol with limits on connections, and a deadline for what a client has to send and to read."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.errors import missing
from aiotaskq.core.task import SECOND
from aiotaskq.log import log

C = TypeVar("C")


class Connections(Generic[C]):
    """The open connections: at most ``total`` in all, and ``per_address`` of one address.

    Where a new connection would be one too many, the one that has been anonymous longest is closed. A connection is
    anonymous unless a request that has shown the token is being answered on it. What its client does makes no
    difference, so that clients without the token cannot keep others out. A quarter of each limit is never given to
    authenticated connections, so that a new connection always finds room.
    """

    def __init__(self, total: int, per_address: int) -> None:
        self.total = total
        self.per_address = per_address
        self._open: dict[C, str] = {}
        """Their addresses; of the anonymous ones the one that has been so longest first."""
        self._authenticated: set[C] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: C, address: str) -> C | None:
        """Add an anonymous connection; return the one that has to be closed for it, or None."""
        same = [each for each, other in self._open.items() if other == address]
        full: Iterable[C] = same if len(same) >= self.per_address else self._open if len(self) >= self.total else ()
        closed = next((each for each in full if each not in self._authenticated), None)
        if closed is not None:
            self.remove(closed)
        self._open[connection] = address
        return closed

    def remove(self, connection: C) -> None:
        """Remove a connection; does nothing for an unknown one."""
        self._open.pop(connection, None)
        self._authenticated.discard(connection)

    def anonymous(self, connection: C) -> None:
        """Note that no request that has shown the token is being answered on a connection, or no longer."""
        if connection in self._authenticated:
            self._authenticated.remove(connection)
            self._open[connection] = self._open.pop(connection)

    def authenticated(self, connection: C) -> None:
        """Note that a connection's request has shown the token: it is not closed for a new one, if there is room."""
        address, others = self._open.get(connection), [self._open[each] for each in self._authenticated]
        if address is None or len(others) >= _most_authenticated(self.total):
            return
        if others.count(address) < _most_authenticated(self.per_address):
            self._authenticated.add(connection)


def _most_authenticated(limit: int) -> int:
    return limit - max(1, limit // 4)


try:
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError:
    raise missing("uvicorn", "web") from None

CLIENT_TIMEOUT = 10.0  # seconds in which the head of a request has to arrive, and some of a response to be read
MAX_CONNECTIONS = 512  # in all, and never more than a quarter of the files that the process may have open
LOG_INTERVAL = 60.0  # seconds between two lines about connections that were closed for new ones

_CLOCK = SystemClock()


def connection_limits() -> tuple[int, int]:
    """Return how many connections may be open in all, and of one address.

    Connections must leave files for the store and the handlers: a process without any cannot even accept a connection,
    and asyncio logs each attempt.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    total = MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, files // 4))
    return total, total // 4


def limited_protocol(total: int, per_address: int, authenticated: Callable[[Any], bool]) -> type[H11Protocol]:
    """Return uvicorn's protocol with limits on connections in all and of one address; see ``Connections``.

    ``authenticated`` is called with the ASGI scope of each request.

    uvicorn's own ``limit_concurrency`` answers each request above it with 503, the probe's too, and does not see a
    connection that never completes its first request; its ``timeout_keep_alive`` begins after the first response, and
    nothing ends the wait for a client that does not read.
    """
    connections: Connections[Limited] = Connections(total, per_address)
    logged_at: int | None = None  # ticks

    def log_closed() -> None:
        nonlocal logged_at
        now = _CLOCK.ticks()
        if logged_at is None or now - logged_at >= LOG_INTERVAL * SECOND:
            logged_at = now
            log.warning(
                "web: too many connections (at most {} of one address, {} in all); the oldest without a token are "
                "closed",
                per_address,
                total,
            )

    class Limited(H11Protocol):
        """A connection that is closed when its client is late, or for a new connection."""

        _deadline: asyncio.TimerHandle | None = None
        _unsent = 0  # bytes that the client had not read when the deadline was set
        _known: object = None  # the last request that was asked whether it has shown the token

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            closed = connections.add(self, (self.client or ("",))[0])
            if closed is not None:
                closed.transport.abort()
                log_closed()
            self._update()

        def connection_lost(self, exc: Exception | None) -> None:
            connections.remove(self)
            self._clear_deadline()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._update()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._update()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._update()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._update()

        def _update(self) -> None:
            """Set the deadline while the client has to send a head or to read, and clear it while it has to wait."""
            answering = self.cycle is not None and not self.cycle.response_complete
            if not answering:
                connections.anonymous(self)
            elif self._known is not self.cycle:
                self._known = self.cycle
                (connections.authenticated if authenticated(self.scope) else connections.anonymous)(self)
            if answering and not self.flow.write_paused and not self.transport.is_closing():
                self._clear_deadline()
            elif self._deadline is None:
                self._set_deadline()

        def _set_deadline(self) -> None:
            self._unsent = self.transport.get_write_buffer_size()
            self._deadline = self.loop.call_later(CLIENT_TIMEOUT, self._late)

        def _clear_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            if 0 < self.transport.get_write_buffer_size() < self._unsent:
                self._set_deadline()  # the client still reads, slowly
            else:
                self.transport.abort()

    return Limited
