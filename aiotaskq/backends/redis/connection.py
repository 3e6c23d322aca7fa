"""The connections to one Redis or Valkey server: scripts and commands run on them, each to its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

from aiotaskq.core.extras import missing
from aiotaskq.core.masking import mask
from aiotaskq.errors import AiotaskqError, ClosedError, DatabaseUnavailable, ValidationError, WrongLoop

try:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.connection import parse_url
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as LostConnection
    from redis.exceptions import (
        DataError,
        MovedError,
        NoPermissionError,
        NoScriptError,
        ReadOnlyError,
        RedisError,
        ResponseError,
    )
except ModuleNotFoundError:
    raise missing("redis", "redis") from None

T = TypeVar("T")

TIMEOUT = 10.0  # seconds for one answer, and for a free connection
CONNECT_TIMEOUT = 3.0  # seconds
CONNECTIONS = 10
LARGEST = 512 * 1024 * 1024  # bytes of one argument, as a server has it by default
MOST = 1024 * 1024 * 1024  # bytes of one command, as a server has it by default
PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
EVICTION = ("refuse", "any")

# Connections of a parent process: to close them would disturb the parent, which shares the sockets.
_inherited: list[object] = []


class Script:
    """A Lua script and the hash under which the server may know it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class Address:
    """What a URL says: the server, the prefix of all keys, and whether any eviction policy will do.

    ``redis://user:password@host:6379/0?prefix=aiotaskq&eviction=any``, and what redis-py takes beside it. Raises
    ValidationError.
    """

    def __init__(self, url: str) -> None:
        self.shown = mask(url)
        scheme, _, rest = url.partition("://")
        head, _, query = rest.partition("?")
        options = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        self.prefix = options.pop("prefix", "aiotaskq")
        if not PREFIX.fullmatch(self.prefix):
            raise ValidationError(
                f"url: prefix={self.prefix[:70]!r} must be 1 to 64 of letters, digits, '_', '.' and '-'"
            )
        eviction = options.pop("eviction", "refuse")
        if eviction not in EVICTION:
            raise ValidationError(f"url: eviction={eviction[:20]!r} is not one of {', '.join(EVICTION)}")
        self.any_eviction = eviction == "any"
        scheme = "rediss" if scheme.lower() == "rediss" else "redis"
        try:
            known: dict[str, Any] = dict(parse_url(f"{scheme}://{head}?{urlencode(options)}"))
            urlsplit(f"{scheme}://{head}").port  # noqa: B018 - raises for what is no port
        except ValueError:  # its text may quote a part of the password
            raise ValidationError(f"url: cannot be parsed (got {self.shown})") from None
        self.connections = int(known.pop("max_connections", CONNECTIONS))
        self.options = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "protocol": 2,  # the same shape of answers from every version
            **known,
        }

    @property
    def root(self) -> str:
        """What every key begins with: one hash tag, so that all keys are in one slot of a cluster."""
        return f"{{{self.prefix}}}:"


class RedisLink:
    """The connections of one backend; they belong to the loop that opens them.

    What was begun always runs to its end: a cancelled caller leaves no connection with half an answer in it. Nothing
    is sent twice unless its caller says that it may be: a script whose connection was cut may have run.
    """

    def __init__(self, url: str, prepare: Callable[[RedisLink], Awaitable[None]]) -> None:
        self.address = Address(url)
        self.root = self.address.root
        self.shown = self.address.shown
        self._prepare = prepare
        self._client: Redis | None = None
        self._moved: dict[str, Any] = {}  # where in a cluster our slot is, if not at the URL's own node
        self._prepared = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._opening = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._listening: set[Any] = set()  # the connections of subscriptions
        self.largest = LARGEST
        """Bytes of one argument that the server takes (``proto-max-bulk-len``)."""
        self.most = MOST
        """Bytes of one command that the server takes (``client-query-buffer-limit``)."""

    # ---- life ----

    @property
    def pending(self) -> frozenset[asyncio.Task[Any]]:
        """What was sent in this loop and has not been answered."""
        return frozenset(self._running)

    async def open(self) -> None:
        """Connect in the running loop; idempotent.

        Raises DatabaseUnavailable, and WrongLoop if another loop that still runs has it open.
        """
        self._closed = False
        await self.ready()

    async def ready(self) -> None:
        """Open if need be. Raises ClosedError after ``close``, else as ``open``."""
        here = asyncio.get_running_loop()
        if self._closed:
            raise ClosedError(f"the store {self.shown} was closed; open it again with 'async with'")
        if self._prepared and self._loop is here and self._pid == os.getpid():
            return
        if self._loop is not here or self._pid != os.getpid():
            if self._loop is not None and self._loop.is_running() and self._pid == os.getpid():
                raise WrongLoop(f"the store {self.shown} is open in another event loop; make one object per loop")
            # The loop (or, after a fork, the process) that had it open is gone, and its connections with it.
            if self._pid not in (0, os.getpid()):
                _inherited.append((self._client, self._listening))
            self._client, self._loop, self._pid = None, here, os.getpid()
            self._prepared = False
            self._opening, self._running, self._listening = asyncio.Lock(), set(), set()
        await self._to_its_end(self._open_once())

    async def _open_once(self) -> None:
        async with self._opening:
            if not self._prepared:
                try:
                    await self._prepare(self)
                except BaseException:
                    await self._disconnect()
                    raise
                self._prepared = True

    async def close(self) -> None:
        """Let what runs end and give back every connection; idempotent."""
        self._closed = True
        if self._loop is not asyncio.get_running_loop() or self._pid != os.getpid():
            return  # not ours to close; if its loop is gone, so are its connections
        while self._running:
            await asyncio.wait(self._running)
        self._prepared = False
        await self._to_its_end(self._disconnect())
        if self._closed:  # only now: until then a second close waits for this one
            self._loop = None

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _disconnect(client)

    # ---- what is sent ----

    async def run(self, script: Script, *args: bytes | str | int, repeatable: bool = False) -> Any:
        """Run a script and return its answer. Raises DatabaseUnavailable.

        With ``repeatable`` it is run once more, on another connection, if its connection is lost.
        """
        await self.ready()
        return await self._to_its_end(self._repeated(script, *args) if repeatable else self.evaluate(script, *args))

    async def _repeated(self, script: Script, *args: bytes | str | int) -> Any:
        try:
            return await self.evaluate(script, *args)
        except (LostConnection, OSError, EOFError) as error:
            # A silent server, or too few connections, was waited for long enough.
            if isinstance(error, AiotaskqError | TimeoutError) or isinstance(error.__cause__, TimeoutError):
                raise
            return await self.evaluate(script, *args)

    async def command(self, *words: bytes | str | int) -> Any:
        """Run one command and return its answer. Raises DatabaseUnavailable."""
        await self.ready()
        return await self._to_its_end(self.execute(*words))

    async def evaluate(self, script: Script, *args: bytes | str | int) -> Any:
        """``run`` for ``prepare``, before the link is ready. Raises ValidationError for what is too large."""
        self._check_sizes(args)
        try:
            return await self.execute("EVALSHA", script.sha, 1, self.root, *args)
        except NoScriptError:  # a new server, or somebody flushed its scripts; it has not begun
            return await self.execute("EVAL", script.source, 1, self.root, *args)

    def _check_sizes(self, args: Iterable[bytes | str | int]) -> None:
        """Refuse what the server would not read: it cuts the connection, which would look like an outage."""
        lengths = [len(word) for word in args if not isinstance(word, int)]
        for size, most, setting in (
            (max(lengths, default=0), self.largest, "proto-max-bulk-len"),
            (sum(lengths), self.most, "client-query-buffer-limit"),
        ):
            if size > most:
                raise ValidationError(
                    f"{size:,} bytes at once are more than the {most:,} that {self.shown} takes ({setting}); store a "
                    "reference instead, or write fewer at a time"
                )

    async def execute(self, *words: bytes | str | int) -> Any:
        """``command`` for ``prepare``."""
        for _ in range(3):
            client = self._connected()
            try:
                with _cut_or_not():
                    return await client.execute_command(*words)  # type: ignore[no-untyped-call]
            except ResponseError as error:
                if (place := _moved_to(error)) is not None:
                    # All our keys are in one slot, so a cluster is to us one node, which can change.
                    self._leave(client, {"host": place[0] or self._host(), "port": place[1]})
                    continue
                if isinstance(error, ReadOnlyError) or "READONLY" in str(error):  # connected to what is a replica now
                    self._leave(client)
                raise
            except (RedisError, OSError):
                if self._moved:
                    self._leave(client)  # the URL's own node will know where our slot is now
                raise
        raise DatabaseUnavailable(f"{self.shown}: the cluster sends us from node to node")

    def _connected(self) -> Redis:
        if self._client is None:
            pool = BlockingConnectionPool(
                max_connections=self.address.connections,
                timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 0),
                **{**self.address.options, **self._moved},
            )
            self._client = Redis(connection_pool=pool)
        return self._client

    def _host(self) -> str:
        return str(self._moved.get("host") or self.address.options.get("host", "localhost"))

    def _leave(self, client: Redis, moved: dict[str, Any] | None = None) -> None:
        """Use these connections no more, and give them back when what runs on them has ended."""
        if self._client is client:
            self._client, self._moved = None, moved or {}
            self._hold(asyncio.ensure_future(_disconnect(client, self._running - {asyncio.current_task()})))

    def _hold(self, task: asyncio.Task[Any]) -> None:
        self._running.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._running.discard)

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._hold(task)
        with self._explained():
            return await asyncio.shield(task)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise  # about a value, not about the server
        except (RedisError, OSError, EOFError) as error:
            if isinstance(error, AiotaskqError):
                raise  # said already
            raise DatabaseUnavailable(f"{self.shown}: {_said(error)}") from error

    # ---- what is heard ----

    @contextlib.asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator[Callable[[float], Awaitable[bytes | None]]]:
        """Subscribe on a connection of its own; gives what waits so many seconds for the next message.

        It answers None when there was none; raises DatabaseUnavailable as soon as the connection is known to be dead,
        which that of a server is that does not answer a ping.
        """
        await self.ready()
        pool = self._connected().connection_pool
        connection = pool.connection_class(**{**pool.connection_kwargs, "socket_timeout": CONNECT_TIMEOUT})
        self._listening.add(connection)
        begun: list[asyncio.Task[Any]] = []
        asked = False

        async def finished(work: Coroutine[Any, Any, T]) -> T:
            # redis-py waits with what swallows a cancellation on Python 3.11, so none may get there.
            begun[:] = [asyncio.ensure_future(work)]
            return await asyncio.shield(begun[0])

        async def message(seconds: float) -> bytes | None:
            nonlocal asked
            with _cut_or_not():
                answer = await connection.read_response(timeout=seconds)
            if answer is not None:
                asked = False
                return answer[2] if answer[0] == b"message" else None
            if asked:
                raise DatabaseUnavailable(f"{self.shown}: no answer to a ping in {seconds:g} s")
            asked = True
            with _cut_or_not():
                await finished(connection.send_command("PING", check_health=False))
            return None

        try:
            with self._explained():
                if await finished(_subscribe(connection, channel)) is None:
                    raise DatabaseUnavailable(f"{self.shown}: no answer in {CONNECT_TIMEOUT:g} s")
                yield message
        except GeneratorExit:  # thrown away with a loop that runs no more: nothing can be awaited
            begun.clear()
            raise
        finally:
            if begun:
                await asyncio.wait(begun)
                await connection.disconnect(nowait=True)
                self._listening.discard(connection)


async def _subscribe(connection: Any, channel: str) -> Any:
    with _cut_or_not():
        await connection.connect()
        await connection.send_command("SUBSCRIBE", channel, check_health=False)
        return await connection.read_response(timeout=CONNECT_TIMEOUT)


@contextlib.contextmanager
def _cut_or_not() -> Iterator[None]:
    # What a connection says that was cut a moment ago: since Python 3.12 asyncio's own a TypeError, uvloop's another.
    try:
        yield
    except (TypeError, AttributeError, RuntimeError) as error:
        raise LostConnection(f"the connection was lost ({error})") from error


async def _disconnect(client: Redis, after: Collection[asyncio.Task[Any]] = ()) -> None:
    if after:
        await asyncio.wait(after)
    with contextlib.suppress(RedisError, OSError):  # what cannot be closed in order is gone already
        await client.connection_pool.disconnect()


def _moved_to(error: ResponseError) -> tuple[str, int] | None:
    """Host and port of the node that has our slot, if that is what the error says. An empty host is the one asked."""
    if isinstance(error, MovedError):
        return error.host, error.port
    words = str(error).split()  # older versions of redis-py leave it as it was said
    if len(words) == 3 and words[0] == "MOVED":
        host, _, port = words[2].rpartition(":")
        return host, int(port)
    return None


def _said(error: BaseException) -> str:
    """What the server said, with what to do about it where that is not plain."""
    text = str(error) or type(error).__name__
    if "'maxmemory'" in text:
        return "the server's memory is full, nothing was written; purge ended tasks, or raise its maxmemory"
    if isinstance(error, NoPermissionError):
        return f"the user may not do this; it needs its commands, and all keys and channels under the prefix ({text})"
    return text


def is_refusal(error: BaseException) -> bool:
    """Whether the server has answered, and only said that it will not do this command."""
    return isinstance(error, ResponseError)
