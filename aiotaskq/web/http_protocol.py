"""uvicorn's HTTP protocol with limits on connections and a deadline for the head of each request."""

from __future__ import annotations

import asyncio
import resource

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.extras import missing
from aiotaskq.core.task import SECOND
from aiotaskq.log import log
from aiotaskq.web.connections import Connections

try:
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError:
    raise missing("uvicorn", "web") from None

HEAD_TIMEOUT = 10.0  # seconds in which the head of a request has to arrive
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


def limited_protocol(total: int, per_address: int) -> type[H11Protocol]:
    """Return uvicorn's protocol with limits on connections in all and of one address; see ``Connections``.

    uvicorn's own ``limit_concurrency`` answers each request above it with 503, the probe's too, and does not see a
    connection that never completes its first request; its ``timeout_keep_alive`` begins after the first response.
    """
    connections: Connections[Limited] = Connections(total, per_address)
    logged_at: list[int] = []  # ticks of the last line in the log

    class Limited(H11Protocol):
        """A connection that is closed when the head of its request is late, or for a new connection."""

        _deadline: asyncio.TimerHandle | None = None
        _unsent = 0  # bytes of the last response that the client had not read when the deadline was set

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            closed = connections.add(self, (self.client or ("",))[0])
            if closed is not None:
                closed.transport.abort()
                _log_closed(logged_at, total, per_address)
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

        def _update(self) -> None:
            """Set the deadline of the next head while no request is being answered, else clear it."""
            if self.cycle is not None and not self.cycle.response_complete:
                connections.busy(self)
                self._clear_deadline()
            elif self._deadline is None and not self.transport.is_closing():
                connections.idle(self)
                self._set_deadline()

        def _set_deadline(self) -> None:
            self._unsent = self.transport.get_write_buffer_size()
            self._deadline = self.loop.call_later(HEAD_TIMEOUT, self._head_late)

        def _clear_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _head_late(self) -> None:
            if 0 < self.transport.get_write_buffer_size() < self._unsent:
                self._set_deadline()  # the client still reads the last response, slowly
            else:
                self.transport.abort()

    return Limited


def _log_closed(logged_at: list[int], total: int, per_address: int) -> None:
    now = _CLOCK.ticks()
    if not logged_at or now - logged_at[0] >= LOG_INTERVAL * SECOND:
        logged_at[:] = [now]
        log.warning(
            "web: too many connections (at most {} of one address, {} in all); those idle longest are closed",
            per_address,
            total,
        )
