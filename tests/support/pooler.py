"""A PostgreSQL connection pooler in transaction mode, as far as tests need one: each transaction on another connection.

It leaves every connection as the last transaction did, and accepts every client.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from types import TracebackType

SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Read one message with its type and length."""
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


async def _startup(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a message as clients begin with; return its code and all of it."""
    size = await reader.readexactly(4)
    rest = await reader.readexactly(struct.unpack("!i", size)[0] - 4)
    return struct.unpack("!i", rest[:4])[0], size + rest


class Pooler:
    """Listens on ``127.0.0.1:port`` and shares ``size`` connections to the server; an async context manager.

    ``transactions`` counts those that went through, ``moves`` how often a client's was on another connection than its
    last one.
    """

    def __init__(self, port: int, size: int = 4) -> None:
        self.port = 0
        self.transactions = 0
        self.moves = 0
        self._target = port
        self._size = size
        self._free: list[Streams] = []
        self._greeting = b""
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opened = False

    async def __aenter__(self) -> Pooler:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, writer in self._free:
            writer.close()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, startup: bytes) -> None:
        for _ in range(self._size):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
            writer.write(startup)
            greeting = b""
            while not (message := await _message(reader)).startswith(b"Z"):
                greeting += message
            self._greeting = greeting + message
            self._free.append((reader, writer))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while (first := await _startup(reader))[0] == SSL_REQUEST:
                writer.write(b"N")
            if first[0] != CANCEL_REQUEST:
                async with self._changed:
                    if not self._opened:
                        self._opened = True
                        await self._open(first[1])
                writer.write(self._greeting)
                last: Streams | None = None
                while True:
                    message = await _message(reader)
                    if message.startswith(b"X"):
                        break
                    server = await self._take()
                    self.transactions += 1
                    self.moves += last is not None and last is not server
                    last = server
                    await self._transaction(message, (reader, writer), server)
                    await self._give_back(server)
        writer.close()

    async def _transaction(self, message: bytes, client: Streams, server: Streams) -> None:
        """Pass on what both say until the server is outside a transaction again and owes no answer."""
        owed = 0

        async def answers() -> None:
            nonlocal owed
            while True:
                answer = await _message(server[0])
                client[1].write(answer)
                if answer.startswith(b"Z"):
                    owed -= 1
                    if owed == 0 and answer.endswith(b"I"):
                        return

        answering = asyncio.ensure_future(answers())
        try:
            while True:
                owed += message[:1] in (b"Q", b"S")
                server[1].write(message)
                asking = asyncio.ensure_future(_message(client[0]))
                await asyncio.wait((asking, answering), return_when=asyncio.FIRST_COMPLETED)
                if answering.done() and not asking.done():
                    # Nothing of a message has been read yet: clients that wait for answers send whole ones.
                    asking.cancel()
                    await asyncio.wait((asking,))
                    return
                message = await asking
        finally:
            answering.cancel()

    async def _take(self) -> Streams:
        async with self._changed:
            await self._changed.wait_for(lambda: self._free)
            return self._free.pop(random.randrange(len(self._free)))

    async def _give_back(self, server: Streams) -> None:
        async with self._changed:
            self._free.append(server)
            self._changed.notify()
