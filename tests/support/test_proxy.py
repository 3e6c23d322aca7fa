"""The proxy of the tests: each of its faults, on open connections and on new ones."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from tests.support.machine import within
from tests.support.proxy import Proxy, ThreadedProxy


class Echo:
    """A server that sends back what it got, and remembers it."""

    def __init__(self) -> None:
        self.got = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(4096):
                self.got += chunk
                writer.write(chunk)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    async with server:
        yield echo


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say(self, data: bytes) -> bytes:
        """Send, and read as much back."""
        await self.send(data)
        async with asyncio.timeout(within(5)):
            return await self.reader.readexactly(len(data))

    async def is_silent(self) -> bool:
        """Whether the connection is open and silent."""
        try:
            async with asyncio.timeout(0.2):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    async def is_cut(self) -> bool:
        async with asyncio.timeout(within(5)):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[object]:
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection("127.0.0.1", proxy.port)))
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.close()
        with contextlib.suppress(OSError):
            await client.writer.wait_closed()


async def test_forwards_and_counts(proxy: Proxy, connect) -> None:
    first, second = await connect(), await connect()
    assert await first.say(b"one") == b"one"
    assert await second.say(b"two") == b"two"
    assert (proxy.accepted, proxy.open, proxy.refused) == (2, 2, 0)


async def test_reset_cuts_the_open_ones_and_serves_new_ones(proxy: Proxy, connect) -> None:
    client = await connect()
    await client.say(b"x")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await client.reader.read(1)
    assert await (await connect()).say(b"y") == b"y"


async def test_refuse_until_healed(proxy: Proxy, connect) -> None:
    client = await connect()
    await client.say(b"x")
    proxy.refuse()
    assert await client.is_cut()
    assert await (await connect()).is_cut()
    assert proxy.refused == 1
    proxy.heal()
    assert await (await connect()).say(b"y") == b"y"


async def test_black_hole_is_silent_and_open(proxy: Proxy, echo: Echo, connect) -> None:
    client = await connect()
    await client.say(b"before")
    proxy.black_hole()
    await client.send(b"lost")
    assert await client.is_silent()
    newcomer = await connect()
    await newcomer.send(b"lost too")
    assert await newcomer.is_silent()
    assert echo.got == b"before"
    proxy.heal()
    assert await client.is_cut()
    assert await (await connect()).say(b"after") == b"after"


async def test_replies_are_dropped_but_requests_arrive(proxy: Proxy, echo: Echo, connect) -> None:
    client = await connect()
    await client.say(b"a")
    proxy.drop_replies()
    await client.send(b"b")
    assert await client.is_silent()
    assert echo.got == b"ab"


@pytest.mark.parametrize("deliver", [True, False])
async def test_cut_on_the_nth_match(proxy: Proxy, echo: Echo, connect, deliver: bool) -> None:
    client = await connect()
    proxy.cut_on(b"COMMIT", 2, deliver=deliver)
    assert await client.say(b"BEGIN; COMMIT") == b"BEGIN; COMMIT"
    # The second match lies across two chunks.
    assert await client.say(b"BEGIN; COM") == b"BEGIN; COM"
    await client.send(b"MIT")
    assert await client.is_cut()
    assert proxy.cuts == 1
    async with asyncio.timeout(within(5)):
        while proxy.open:
            await asyncio.sleep(0.01)
    assert echo.got == b"BEGIN; COMMITBEGIN; COM" + (b"MIT" if deliver else b"")
    assert await (await connect()).say(b"COMMIT") == b"COMMIT", "a cut happens once"


async def test_delay(proxy: Proxy, connect) -> None:
    client = await connect()
    proxy.delay(0.15)
    start = asyncio.get_running_loop().time()
    await client.say(b"x")
    assert asyncio.get_running_loop().time() - start >= 0.3, "a request and its reply"
    proxy.heal()
    assert await client.say(b"y") == b"y"


async def test_a_server_that_is_unavailable_resets_the_connection(connect) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    async with Proxy("127.0.0.1", free) as proxy:
        client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
        assert await client.is_cut()
        client.writer.close()


async def test_in_a_thread(echo: Echo) -> None:
    with ThreadedProxy("127.0.0.1", echo.port) as proxy:
        client = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
        assert await client.say(b"x") == b"x"
        await asyncio.to_thread(proxy.reset)
        assert await client.is_cut()
        client.writer.close()
