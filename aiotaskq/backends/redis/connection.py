"""The connections of one backend to its Redis or Valkey server: scripts, commands and subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from aiotaskq.backends.redis.address import CONNECT_TIMEOUT, Address
from aiotaskq.backends.redis.scripts import FLOW_REQUIRED, script
from aiotaskq.backends.redis.wire import Wire, connected, pack
from aiotaskq.concurrency.loop_bound import LoopBound, keep_alive
from aiotaskq.core.errors import unknown_host
from aiotaskq.errors import AiotaskqError, ClosedError, DatabaseUnavailable, ValidationError, WrongLoop

# isort: split
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import NoPermissionError, RedisError, ResponseError

T = TypeVar("T")

MAX_ARGUMENT = 512 * 1024 * 1024  # bytes: a server's default
MAX_COMMAND = 1024 * 1024 * 1024  # bytes: a server's default


class FlowRequired(Exception):
    """A script has met a row whose change needs a transaction, and has written nothing."""


class RedisConnections:
    """The connections of one backend; they belong to the event loop that opens them.

    A command that was sent always runs to its end: a cancelled caller leaves no connection with half an answer in it.
    Nothing is sent twice unless the caller allows it: a script whose connection was cut may have run.
    """

    def __init__(self, url: str, prepare: Callable[[RedisConnections], Awaitable[None]]) -> None:
        """Connect nothing yet. ``prepare`` is awaited with these connections before the first command.

        Raises ValidationError for a URL that is not valid.
        """
        self.address = Address(url)
        self.root = self.address.root
        self.shown = self.address.shown
        self._prepare = prepare
        self._wire: Wire | None = None
        self._wires: set[Wire] = set()  # those that are open, also for subscriptions
        self._moved: dict[str, Any] = {}  # host and port of the cluster node of our slot, if it is not the URL's
        self._prepared = False
        self._closed = False
        self._bound = LoopBound()
        self._opening = asyncio.Lock()
        self._connecting = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self.max_argument = MAX_ARGUMENT
        """Bytes of one argument that the server accepts (``proto-max-bulk-len``)."""
        self.max_command = MAX_COMMAND
        """Bytes of one command that the server accepts (``client-query-buffer-limit``)."""

    # ---- open and close ----

    @property
    def pending(self) -> frozenset[asyncio.Future[Any]]:
        """The commands of this loop that were sent and are not answered yet."""
        return frozenset(self._running).union(*(wire.sent for wire in self._wires))

    async def open(self) -> None:
        """Connect in the running loop; idempotent.

        Raises DatabaseUnavailable, and WrongLoop while another running loop has the connections open.
        """
        self._closed = False
        await self.ready()

    async def ready(self) -> None:
        """Open the connections if they are not open. Raises ClosedError after ``close``, and the errors of ``open``."""
        if self._closed:
            raise ClosedError(f"the store {self.shown} was closed; open() opens it again")
        if self._prepared and self._bound.here:
            return
        if not self._bound.here:
            if self._bound.running:
                raise WrongLoop(f"the store {self.shown} is open in another event loop; make one object per loop")
            # The loop that had them open has ended, or this is a fork of its process: the connections are lost.
            if self._bound.inherited:
                keep_alive(self._wires)
            self._bound.bind()
            self._wire, self._wires, self._prepared = None, set(), False
            self._opening, self._connecting, self._running = asyncio.Lock(), asyncio.Lock(), set()
        with self._errors_translated():
            await asyncio.shield(self._started(self._open_once()))

    async def _open_once(self) -> None:
        async with self._opening:
            if not self._prepared:
                try:
                    await self._prepare(self)
                except BaseException:
                    self._disconnect()
                    raise
                self._prepared = True

    async def close(self) -> None:
        """Wait for the commands that run, and close every connection; idempotent."""
        self._closed = True
        if not self._bound.here:
            return  # they belong to another loop or process
        while pending := self.pending:
            await asyncio.wait(pending)
        self._prepared = False
        if lost := self._disconnect():
            await asyncio.wait(lost)
        if self._closed:  # only now, so that a second close() waits for this one
            self._bound.release()

    def _disconnect(self) -> list[asyncio.Future[None]]:
        """Close every connection, and return what is done when they are closed."""
        self._wire = None
        for wire in self._wires:
            wire.close()
        return [wire.lost for wire in self._wires]

    async def _connect(self, receive: Callable[[bytes], None] | None = None, **options: Any) -> Wire:
        sentinels = self.address.sentinels
        place = self._moved if sentinels is None else await sentinels.primary()
        wire = await connected({**self.address.options, **place, **options}, receive)
        self._wires.add(wire)
        wire.lost.add_done_callback(lambda _lost: self._wires.discard(wire))
        if sentinels is not None:
            await self._check_primary(wire)
        return wire

    async def _check_primary(self, wire: Wire) -> None:
        """Close the connection and raise if the server is a replica: a sentinel may hear of a fail-over late."""
        try:
            (role, *_) = await wire.call(pack(("ROLE",)))
        except ResponseError as error:
            if not is_denied(error):
                raise
            return  # its user may not ask; a write to a replica is refused, too
        if role != b"master":
            wire.close()
            raise LostConnection("the server that the sentinels name is no primary yet, or no more")

    async def _reconnected(self) -> Wire:
        async with self._connecting:
            if self._wire is None or self._wire.lost.done():
                self._wire = await self._connect()
            return self._wire

    # ---- commands ----

    async def run(self, name: str, *args: bytes | str | int, repeatable: bool = False) -> Any:
        """Run the script ``lua/NAME.lua`` and return its answer.

        With ``repeatable`` it is run once more, on another connection, if its connection is lost. Raises
        DatabaseUnavailable, and ValidationError for arguments that are too large for the server.
        """
        await self.ready()
        with self._errors_translated():
            try:
                return await self.evaluate(name, *args)
            except (LostConnection, OSError, EOFError) as error:
                # After a timeout the caller has waited long enough.
                known = isinstance(error, AiotaskqError | TimeoutError) or isinstance(error.__cause__, TimeoutError)
                if known or not repeatable:
                    raise
                return await self.evaluate(name, *args)

    async def command(self, *words: bytes | str | int) -> Any:
        """Run one command and return its answer. Raises DatabaseUnavailable."""
        await self.ready()
        with self._errors_translated():
            return await self.execute(*words)

    async def evaluate(self, name: str, *args: bytes | str | int) -> Any:
        """Run a script without opening the connections first: for ``prepare``. Raises as ``run``."""
        try:
            try:
                return await self.execute("EVALSHA", script(name).sha, 1, self.root, *args)
            except ResponseError as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
                # The server does not know the script yet, and has run nothing.
                return await self.execute("EVAL", script(name).source, 1, self.root, *args)
        except ResponseError as error:
            if FLOW_REQUIRED in str(error):
                raise FlowRequired from None
            raise

    def _check_sizes(self, words: tuple[bytes | str | int, ...], packed: bytes) -> None:
        """Raise ValidationError where the server would cut the connection, which would look like an outage."""
        if len(packed) <= min(self.max_argument, self.max_command):
            return
        lengths = [len(word) for word in words if not isinstance(word, int)]
        for size, most, setting in (
            (max(lengths), self.max_argument, "proto-max-bulk-len"),
            (sum(lengths), self.max_command, "client-query-buffer-limit"),
        ):
            if size > most:
                raise ValidationError(
                    f"{size:,} bytes at once are more than the {most:,} that {self.shown} takes ({setting}); store a "
                    "reference instead, or write fewer at a time"
                )

    async def execute(self, *words: bytes | str | int) -> Any:
        """Run one command without opening the connections first: for ``prepare``. Raises as ``command``."""
        packed = pack(words)
        self._check_sizes(words, packed)
        for _ in range(3):
            wire = self._wire
            if wire is None or wire.lost.done():
                wire = await asyncio.shield(self._started(self._reconnected()))
            try:
                return await wire.call(packed)
            except ResponseError as error:
                if (place := _moved_to(error)) is not None:
                    # All our keys are in one slot, so they are on one node of a cluster; which node can change.
                    host = self._moved.get("host") or self.address.options.get("host", "localhost")
                    self._leave(wire, {"host": place[0] or host, "port": place[1]})
                    continue
                if "READONLY" in str(error):  # the server has become a replica, and has written nothing
                    self._leave(wire)
                    if self.address.sentinels is not None:
                        continue
                raise
            except (RedisError, OSError):
                if self._moved:
                    self._leave(wire)  # the node in the URL knows which node has our slot now
                raise
        if self.address.sentinels is not None:
            raise DatabaseUnavailable(f"{self.shown}: the server that the sentinels name is a replica")
        raise DatabaseUnavailable(f"{self.shown}: the cluster sends us from node to node")

    def _leave(self, wire: Wire, moved: dict[str, Any] | None = None) -> None:
        """Stop using this connection, and close it when its commands are answered."""
        if self._wire is wire:
            self._wire, self._moved = None, moved or {}
            wire.finish()

    def _started(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._running.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._running.discard)
        return task

    @contextlib.contextmanager
    def _errors_translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, EOFError) as error:
            if isinstance(error, AiotaskqError):
                raise  # translated already
            raise DatabaseUnavailable(f"{self.shown}: {_message_of(error)}") from error

    # ---- subscriptions ----

    @contextlib.asynccontextmanager
    async def subscribed(self, channel: str, receive: Callable[[bytes], None]) -> AsyncIterator[Wire]:
        """Subscribe on a connection of its own; ``receive`` is called with each message. Raises as ``command``."""
        await self.ready()
        with self._errors_translated():
            # redis-py waits in a way that swallows a cancellation on Python 3.11, so it is shielded from it.
            opening = self._started(self._connect(receive, socket_timeout=CONNECT_TIMEOUT))
            try:
                wire = await asyncio.shield(opening)
                await wire.call(pack(("SUBSCRIBE", channel)))
                yield wire
            finally:
                opening.add_done_callback(_close)


def _close(opening: asyncio.Task[Wire]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _moved_to(error: ResponseError) -> tuple[str, int] | None:
    """Return host and port of the node that has our slot if the error names it; the host is empty for the same host."""
    words = str(error).split()
    if len(words) == 3 and words[0] == "MOVED":
        host, _, port = words[2].rpartition(":")
        return host, int(port)
    return None


def _message_of(error: BaseException) -> str:
    """Return the server's message, with a remedy where the message does not tell it."""
    text = str(error) or type(error).__name__
    if "'maxmemory'" in text:
        return "the server's memory is full, nothing was written; purge ended tasks, or raise its maxmemory"
    if is_denied(error):
        return f"the user may not do this; it needs its commands, and all keys and channels under the prefix ({text})"
    return text + unknown_host(error)


def is_denied(error: BaseException) -> bool:
    """Whether the server has answered that the user may not do this."""
    return isinstance(error, NoPermissionError) or str(error).startswith("NOPERM")
