"""One connection to a server: commands are sent at once, and the answers come in the order of the commands.

redis-py makes the connection (TLS, password, database) and hands it over to this protocol. Its own clients take a
connection out of a pool for each command and read the answer through a stream, which costs several times as much.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from hiredis import ProtocolError, Reader, pack_command
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ResponseError

pack: Callable[[Any], bytes] = pack_command
"""Encode a command, a tuple of words, for ``Wire.call``."""


class Wire(asyncio.Protocol):
    """A connection that is open until ``lost`` is done."""

    def __init__(self, writer: asyncio.StreamWriter, timeout: float, receive: Callable[[bytes], None] | None) -> None:
        """Take over the connection of this writer. ``timeout``: seconds without an answer after which it is given up.

        ``receive`` is called with each message of a subscription.
        """
        self._loop = asyncio.get_running_loop()
        self._writer = writer  # it closes its transport when it is collected
        self._transport = writer.transport
        self._timeout = timeout
        self._receive = receive
        self._reader = Reader(replyError=lambda text: ResponseError(text.removeprefix("ERR ")))
        self._since = 0.0  # when the last answer came, or the oldest command without one was sent
        self._timer: asyncio.TimerHandle | None = None
        self._finishing = False
        self.sent: deque[asyncio.Future[Any]] = deque()
        """The commands that are not answered yet, also those whose callers were cancelled."""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is closed."""
        self._transport.set_protocol(self)

    async def call(self, packed: bytes) -> Any:
        """Send a packed command and return its answer; if the caller is cancelled, the command runs nevertheless.

        Raises ResponseError, LostConnection, and TimeoutError.
        """
        if self._transport.is_closing():
            raise LostConnection("the connection was lost")
        answer = self._loop.create_future()
        if not self.sent:
            self._since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout, self._look)
        self.sent.append(answer)
        self._transport.write(packed)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer in self.sent:
                self.sent[self.sent.index(answer)] = ignored = self._loop.create_future()
                ignored.add_done_callback(asyncio.Future.exception)
            raise

    def finish(self) -> None:
        """Close the connection when every command is answered."""
        self._finishing = True
        if not self.sent:
            self.close()

    def close(self) -> None:
        """Close the connection now."""
        self._transport.abort()

    async def watch(self, seconds: float) -> None:
        """Ping the server at these intervals, until the connection is lost. Raises as ``call``."""
        while True:
            await asyncio.wait([self.lost], timeout=seconds)
            await self.call(b"*1\r\n$4\r\nPING\r\n")

    def _look(self) -> None:
        """Give the connection up if there is no answer for too long."""
        self._timer = None
        if not self.sent:
            return
        left = self._since + self._timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._fail(lambda: TimeoutError(f"no answer in {self._timeout:g} s"))
            self.close()

    def _fail(self, error: Callable[[], Exception]) -> None:
        while self.sent:
            answer = self.sent.popleft()
            if not answer.done():
                answer.set_exception(error())

    # ---- called by the loop ----

    def data_received(self, data: bytes) -> None:
        self._since = self._loop.time()
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:
                if self._receive is not None and type(answer) is list and answer[0] == b"message":
                    self._receive(answer[2])
                    continue
                waiting = self.sent.popleft()
                if waiting.done():
                    continue  # its caller was cancelled, and wakes later
                if isinstance(answer, ResponseError):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)
        except (ProtocolError, IndexError):  # not an answer, or an answer to nothing
            self.close()
        if self._finishing and not self.sent:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fail(lambda: LostConnection(f"the connection was lost ({error or 'closed by the server'})"))
        if not self.lost.done():
            self.lost.set_result(None)


async def connected(options: Mapping[str, Any], receive: Callable[[bytes], None] | None = None) -> Wire:
    """Connect as these options of redis-py say. Raises RedisError and OSError."""
    keywords = {"connection_class": Connection, **options}
    connection = keywords.pop("connection_class")(retry=Retry(NoBackoff(), 0), **keywords)
    await connection.connect()
    writer, connection._writer = connection._writer, None
    return Wire(writer, keywords["socket_timeout"], receive)
