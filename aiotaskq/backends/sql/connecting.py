"""Opening connections: the engine with its driver, and a bound on the time until a server answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from sqlalchemy import URL

from aiotaskq.core.errors import missing

__all__ = ["CONNECT_TIMEOUT", "DRIVER_TIMEOUT", "AnswerTimer", "create", "in_time", "keep_alive", "transport_of"]

T = TypeVar("T")

CONNECT_TIMEOUT = 3.0
"""Seconds until a server must have accepted a connection."""
DRIVER_TIMEOUT = 60.0
"""Seconds after which a driver gives up by itself: later than this package always does."""
STALLED = 0.5
"""Seconds by which a timer of a loop that is not held up is never late."""


def create(factory: Callable[..., T], url: URL, extras: Mapping[str, str], **options: Any) -> T:
    """Make an engine. ``extras`` names the extra that installs each driver. Raises MissingExtra."""
    try:
        return factory(url, **{"hide_parameters": True, **options})  # errors are logged, params never
    except ImportError as error:  # psycopg without its C library names no module
        name = url.get_driver_name() if error.name is None else error.name.partition(".")[0]
        if name not in extras:
            raise
        raise missing(name, extras[name]) from None


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
