"""A TCP proxy for tests that delays, resets, swallows or cuts what passes between a client and its server.

In a loop of the test's own::

    async with Proxy(host, port) as proxy:
        connect_to(proxy.port)
        proxy.black_hole()
        ...
        proxy.heal()

or, for callers without a loop (or whose loop must stay free), in a thread: ``with ThreadedProxy(host, port) as proxy``.
Every fault may be switched from any thread, and holds for the connections that are open and for those to come.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

from tests.support.machine import within

CHUNK = 65536


class _Pair:
    """One client connection and its connection to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        # What of a pattern may have come at the end of the chunk before: a match can lie across two of them.
        self.tail = b""

    def reset(self) -> None:
        """Close both ends with a RST: what the other side sees when a host dies or a firewall forgets."""
        for writer in (self.client, self.server):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Forward ``127.0.0.1:port`` (chosen by the system unless given) to a host and port; an async context manager.

    ``accepted`` counts the connections that ever came in, ``open`` those there are now, ``refused`` those that were
    reset at once, ``cuts`` how often a cut came about.
    """

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        self._target = (host, port)
        self.port = listen_port
        self.accepted = 0
        self.refused = 0
        self.cuts = 0
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._delay = 0.0
        self._refuse = False
        self._forward = True
        self._replies = True
        self._pattern: bytes | None = None
        self._matches_left = 0
        self._deliver_cut = True

    # ---- faults ----

    def delay(self, seconds: float) -> None:
        """Hold back each chunk, in both directions, for so many seconds; 0 ends it."""
        self._delay = seconds

    def reset(self) -> None:
        """Cut every open connection with a RST, now; new ones are served."""
        self._on_loop(self._reset_all)

    def refuse(self) -> None:
        """Cut every open connection, and each new one as soon as it is accepted, until ``heal``."""
        self._refuse = True
        self.reset()

    def black_hole(self) -> None:
        """Accept and read, but forward nothing and close nothing, until ``heal``: what a lost route looks like."""
        self._forward = False

    def drop_replies(self) -> None:
        """Let requests through and swallow the server's answers, until ``heal``."""
        self._replies = False

    def cut_on(self, pattern: bytes, n: int = 1, *, deliver: bool = True) -> None:
        """Cut the connection on which the ``n``-th chunk with ``pattern`` goes to the server, once.

        With ``deliver`` the chunk still reaches the server, whose answer is lost: the client cannot know what came of
        its COMMIT. Without, the server never sees it.
        """
        if not pattern or n < 1:
            raise ValueError("a pattern of at least one byte, and n of at least 1")
        self._matches_left, self._deliver_cut = n, deliver
        self._pattern = pattern

    def heal(self) -> None:
        """End every fault. Connections that lost bytes are reset: half a conversation cannot be resumed."""
        lost = not (self._forward and self._replies)
        self._delay, self._refuse, self._forward, self._replies, self._pattern = 0.0, False, True, True, None
        if lost:
            self.reset()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._pairs)

    # ---- life ----

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None, "the proxy was not started"
        self._server.close()
        while self._tasks:
            self._reset_all()
            await asyncio.wait(set(self._tasks), timeout=0.1)
        await self._server.wait_closed()

    async def __aenter__(self) -> Proxy:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ---- inside ----

    def _on_loop(self, call: Callable[[], None]) -> None:
        """Run where the transports live; at once if that is here, so that a test sees the effect on return."""
        loop = self._loop
        assert loop is not None, "the proxy was not started"
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            call()
            return
        done = threading.Event()

        def run() -> None:
            try:
                call()
            finally:
                done.set()

        loop.call_soon_threadsafe(run)
        done.wait(within(5))

    def _reset_all(self) -> None:
        for pair in list(self._pairs):
            pair.reset()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Converse in a task of our own: the streams' own one complains when it is cancelled."""
        task = asyncio.ensure_future(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refuse:
            self.refused += 1
            _Pair(writer, writer).reset()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            # The server is away: the client must see a dead connection, as it would without the proxy.
            self.refused += 1
            _Pair(writer, writer).reset()
            return
        pair = _Pair(writer, up_writer)
        self._pairs.add(pair)
        both = [
            asyncio.ensure_future(self._pump(pair, reader, up_writer, self._request)),
            asyncio.ensure_future(self._pump(pair, up_reader, writer, self._reply)),
        ]
        try:
            # Whichever side ends first ends the pair: databases do not talk over half-closed connections.
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.discard(pair)
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for each in (writer, up_writer):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _pump(
        self,
        pair: _Pair,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passes: Callable[[_Pair, bytes], bool],
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if self._delay:
                    await asyncio.sleep(self._delay)
                if not passes(pair, chunk):
                    continue
                writer.write(chunk)
                await writer.drain()

    def _request(self, pair: _Pair, chunk: bytes) -> bool:
        if not self._forward:
            return False
        if self._pattern is not None and self._matches(pair, chunk):
            self.cuts += 1
            self._pattern = None
            if self._deliver_cut:
                pair.server.write(chunk)
                # Sent before the close, not thrown away by a RST: the server gets to act on it.
                pair.server.close()
                pair.client.transport.abort()
            else:
                pair.reset()
            return False
        return True

    def _reply(self, _pair: _Pair, _chunk: bytes) -> bool:
        return self._forward and self._replies

    def _matches(self, pair: _Pair, chunk: bytes) -> bool:
        """Whether this chunk completes the pattern for the n-th time (over all connections)."""
        assert self._pattern is not None
        seen = pair.tail + chunk
        keep = len(self._pattern) - 1
        if self._pattern not in seen:
            pair.tail = seen[-keep:] if keep else b""
            return False
        pair.tail = b""
        self._matches_left -= 1
        return self._matches_left == 0


class ThreadedProxy(Proxy):
    """The same proxy with an event loop in a thread of its own; a context manager."""

    _thread: threading.Thread

    def __enter__(self) -> ThreadedProxy:
        ready = threading.Event()
        failed: list[BaseException] = []

        async def main() -> None:
            self._over = asyncio.Event()
            try:
                await self.start()
            except BaseException as error:
                failed.append(error)
                raise
            finally:
                ready.set()
            await self._over.wait()
            await self.stop()

        def run() -> None:
            with contextlib.suppress(OSError):
                asyncio.run(main())

        self._thread = threading.Thread(target=run, name="chaos-proxy", daemon=True)
        self._thread.start()
        ready.wait(within(10))
        if failed:
            raise failed[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(within(10))
