"""Clients that hold connections of the standalone server: by sending slowly, or by not reading what they asked for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from aiotaskq import TaskQ
from aiotaskq.web import endpoint, http_protocol, server
from aiotaskq.web.http_protocol import Connections
from aiotaskq.web.server import serve_until
from tests.support.machine import watchdog
from tests.support.waiting import eventually

TOKEN = "0123456789abcdef"
NEVER = 3_600.0  # seconds
PAGE = b"GET /dashboard/static/dashboard.css HTTP/1.1\r\nhost: localhost\r\n\r\n"
UNREAD = PAGE * 1_000  # their responses fill the buffers of both sides
FORM = (
    b"POST /dashboard/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    b"content-length: 60000\r\n\r\ntoken="
)


@contextlib.asynccontextmanager
async def serving(tq: TaskQ, token: str | None = None) -> AsyncIterator[int]:
    """Serve in this loop; yields the port."""
    stop, urls = asyncio.Event(), asyncio.Queue[str]()
    async with asyncio.timeout(watchdog()), asyncio.TaskGroup() as group:
        group.create_task(serve_until(stop, tq, port=0, token=token, show_args=True, started=urls.put_nowait))
        try:
            yield int((await urls.get()).rpartition(":")[2])
        finally:
            stop.set()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Connections[Any]]:
    """The connections of each server that is started."""
    made: list[Connections[Any]] = []

    def make(total: int, per_address: int) -> Connections[Any]:
        made.append(Connections(total, per_address))
        return made[-1]

    monkeypatch.setattr(http_protocol, "Connections", make)
    return made


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    with contextlib.ExitStack() as clients:

        def connected(port: int, *parts: bytes, address: int = 1) -> socket.socket:
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            if sys.platform == "linux":  # elsewhere 127.0.0.1 is the only address
                client.bind((f"127.0.0.{address}", 0))
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            for part in parts:
                client.send(part)
            return client

        yield connected


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_a_client_that_does_not_read_is_disconnected(
    tq: TaskQ,
    token: str | None,
    opened: list[Connections[Any]],
    connect: Callable[..., socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "CLIENT_TIMEOUT", 0.2)
    async with serving(tq, token) as port:
        connect(port, UNREAD)
        await eventually(lambda: len(opened[0]) == 1)
        await eventually(lambda: len(opened[0]) == 0)


@pytest.mark.parametrize("parts", [[UNREAD], [FORM]], ids=["not reading", "slow forms"])
async def test_clients_without_the_token_keep_nobody_out(
    tq: TaskQ, parts: list[bytes], connect: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (12, 4) if sys.platform == "linux" else (12, 12)
    monkeypatch.setattr(server, "connection_limits", lambda: limits)
    monkeypatch.setattr(http_protocol, "CLIENT_TIMEOUT", NEVER)
    monkeypatch.setattr(endpoint, "BODY_TIMEOUT", NEVER)
    right = {"authorization": f"Bearer {TOKEN}"}
    handle = await tq.push("greet", {"name": "x"}, delay=NEVER)
    async with serving(tq, TOKEN) as port, httpx.AsyncClient(timeout=watchdog()) as user:
        url = f"http://127.0.0.1:{port}"
        async with user.stream("GET", f"{url}/tasks/{handle.task_id}/stream", headers=right) as stream:
            events = stream.aiter_lines()
            assert await anext(events) == "retry: 1000"
            for number in range(24):
                connect(port, *parts, address=2 + number % 4)
                async with httpx.AsyncClient(timeout=watchdog(), verify=False) as other:
                    assert (await other.get(f"{url}/healthz")).status_code == 200
                    assert (await other.get(f"{url}/tasks", headers=right)).status_code == 200
            await handle.cancel()
            assert "event: end" in [line async for line in events]  # nobody has closed it for a new connection


class FakeTransport:
    """A transport whose client reads as much as the test says."""

    unsent = 0
    aborted = False

    def get_extra_info(self, _name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class FakeLoop:
    """A loop in which the test calls what is due."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, _seconds: float, call: Callable[[], None]) -> FakeLoop:
        self.due.append(call)
        return self

    def cancel(self) -> None:
        self.due.clear()


def test_a_client_that_reads_slowly_is_served() -> None:
    loop, transport = FakeLoop(), FakeTransport()
    protocol = http_protocol.limited_protocol(4, 4, lambda _scope: True)(
        uvicorn.Config(FastAPI()), ServerState(), {}, cast(asyncio.AbstractEventLoop, loop)
    )
    transport.unsent = 100
    protocol.connection_made(cast(asyncio.Transport, transport))
    for left in (99, 98):  # something was read before each deadline
        transport.unsent = left
        loop.due.pop()()
        assert not transport.aborted and len(loop.due) == 1
    loop.due.pop()()
    assert transport.aborted
