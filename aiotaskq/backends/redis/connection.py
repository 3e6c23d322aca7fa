"""The connections of one backend to its Redis or Valkey server: scripts, commands and subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

from aiotaskq.backends.redis.scripts import Script
from aiotaskq.concurrency.loop_bound import LoopBound, keep_alive
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
MAX_ARGUMENT = 512 * 1024 * 1024  # bytes: a server's default
MAX_COMMAND = 1024 * 1024 * 1024  # bytes: a server's default
PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
EVICTION = ("refuse", "any")


class Address:
    """A parsed URL: the server, the prefix of all keys, and whether any eviction policy is accepted.

    ``redis://user:password@host:6379/0?prefix=aiotaskq&eviction=any``, with the options of redis-py in its query.
    """

    def __init__(self, url: str) -> None:
        """Raises ValidationError for a URL or an option that is not valid."""
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
            urlsplit(f"{scheme}://{head}").port  # noqa: B018 - raises for an invalid port
        except ValueError:  # its text may contain a part of the password
            raise ValidationError(f"url: cannot be parsed (got {self.shown})") from None
        self.connections = int(known.pop("max_connections", CONNECTIONS))
        self.options = {
            "socket_timeout": TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "protocol": 2,  # every server version answers in the same shape
            **known,
        }

    @property
    def root(self) -> str:
        """The beginning of every key: one hash tag, so that all keys are in one slot of a cluster."""
        return f"{{{self.prefix}}}:"


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
        self._client: Redis | None = None
        self._moved: dict[str, Any] = {}  # host and port of the cluster node of our slot, if it is not the URL's
        self._prepared = False
        self._closed = False
        self._bound = LoopBound()
        self._opening = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._subscriptions: set[Any] = set()  # their connections
        self.max_argument = MAX_ARGUMENT
        """Bytes of one argument that the server accepts (``proto-max-bulk-len``)."""
        self.max_command = MAX_COMMAND
        """Bytes of one command that the server accepts (``client-query-buffer-limit``)."""

    # ---- open and close ----

    @property
    def pending(self) -> frozenset[asyncio.Task[Any]]:
        """The commands of this loop that were sent and are not answered yet."""
        return frozenset(self._running)

    async def open(self) -> None:
        """Connect in the running loop; idempotent.

        Raises DatabaseUnavailable, and WrongLoop while another running loop has the connections open.
        """
        self._closed = False
        await self.ready()

    async def ready(self) -> None:
        """Open the connections if they are not open. Raises ClosedError after ``close``, and the errors of ``open``."""
        if self._closed:
            raise ClosedError(f"the store {self.shown} was closed; open it again with 'async with'")
        if self._prepared and self._bound.here:
            return
        if not self._bound.here:
            if self._bound.running:
                raise WrongLoop(f"the store {self.shown} is open in another event loop; make one object per loop")
            # The loop that had them open has ended, or this is a fork of its process: the connections are lost.
            if self._bound.inherited:
                keep_alive(self._client, self._subscriptions)
            self._bound.bind()
            self._client, self._prepared = None, False
            self._opening, self._running, self._subscriptions = asyncio.Lock(), set(), set()
        await self._shielded(self._open_once())

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
        """Wait for the commands that run, and close every connection; idempotent."""
        self._closed = True
        if not self._bound.here:
            return  # they belong to another loop or process
        while self._running:
            await asyncio.wait(self._running)
        self._prepared = False
        await self._shielded(self._disconnect())
        if self._closed:  # only now, so that a second close() waits for this one
            self._bound.release()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _disconnect(client)

    # ---- commands ----

    async def run(self, script: Script, *args: bytes | str | int, repeatable: bool = False) -> Any:
        """Run a script and return its answer.

        With ``repeatable`` it is run once more, on another connection, if its connection is lost. Raises
        DatabaseUnavailable, and ValidationError for arguments that are too large for the server.
        """
        await self.ready()
        return await self._shielded(self._repeated(script, *args) if repeatable else self.evaluate(script, *args))

    async def _repeated(self, script: Script, *args: bytes | str | int) -> Any:
        try:
            return await self.evaluate(script, *args)
        except (LostConnection, OSError, EOFError) as error:
            # After a timeout the caller has waited long enough.
            if isinstance(error, AiotaskqError | TimeoutError) or isinstance(error.__cause__, TimeoutError):
                raise
            return await self.evaluate(script, *args)

    async def command(self, *words: bytes | str | int) -> Any:
        """Run one command and return its answer. Raises DatabaseUnavailable."""
        await self.ready()
        return await self._shielded(self.execute(*words))

    async def evaluate(self, script: Script, *args: bytes | str | int) -> Any:
        """Run a script without opening the connections first: for ``prepare``. Raises as ``run``."""
        self._check_sizes(args)
        try:
            return await self.execute("EVALSHA", script.sha, 1, self.root, *args)
        except NoScriptError:  # the server does not know the script yet, and has run nothing
            return await self.execute("EVAL", script.source, 1, self.root, *args)

    def _check_sizes(self, args: Iterable[bytes | str | int]) -> None:
        """Raise ValidationError where the server would cut the connection, which would look like an outage."""
        lengths = [len(word) for word in args if not isinstance(word, int)]
        for size, most, setting in (
            (max(lengths, default=0), self.max_argument, "proto-max-bulk-len"),
            (sum(lengths), self.max_command, "client-query-buffer-limit"),
        ):
            if size > most:
                raise ValidationError(
                    f"{size:,} bytes at once are more than the {most:,} that {self.shown} takes ({setting}); store a "
                    "reference instead, or write fewer at a time"
                )

    async def execute(self, *words: bytes | str | int) -> Any:
        """Run one command without opening the connections first: for ``prepare``. Raises as ``command``."""
        for _ in range(3):
            client = self._connected()
            try:
                with _lost_connection_errors():
                    return await client.execute_command(*words)  # type: ignore[no-untyped-call]
            except ResponseError as error:
                if (place := _moved_to(error)) is not None:
                    # All our keys are in one slot, so they are on one node of a cluster; which node can change.
                    self._leave(client, {"host": place[0] or self._host(), "port": place[1]})
                    continue
                if isinstance(error, ReadOnlyError) or "READONLY" in str(error):  # the server has become a replica
                    self._leave(client)
                raise
            except (RedisError, OSError):
                if self._moved:
                    self._leave(client)  # the node in the URL knows which node has our slot now
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
        """Stop using this client, and close its connections when the commands that run on them have ended."""
        if self._client is client:
            self._client, self._moved = None, moved or {}
            self._track(asyncio.ensure_future(_disconnect(client, self._running - {asyncio.current_task()})))

    def _track(self, task: asyncio.Task[Any]) -> None:
        self._running.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._running.discard)

    async def _shielded(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._track(task)
        with self._errors_translated():
            return await asyncio.shield(task)

    @contextlib.contextmanager
    def _errors_translated(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise  # a value cannot be sent: not an error of the server
        except (RedisError, OSError, EOFError) as error:
            if isinstance(error, AiotaskqError):
                raise  # translated already
            raise DatabaseUnavailable(f"{self.shown}: {_message_of(error)}") from error

    # ---- subscriptions ----

    @contextlib.asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator[Callable[[float], Awaitable[bytes | None]]]:
        """Subscribe on a connection of its own, and yield a coroutine function that waits for the next message.

        It takes the longest wait in seconds, and returns None where no message has come. It raises DatabaseUnavailable
        when the connection is lost, or when the server does not answer a ping within a second such wait.
        """
        await self.ready()
        pool = self._connected().connection_pool
        connection = pool.connection_class(**{**pool.connection_kwargs, "socket_timeout": CONNECT_TIMEOUT})
        self._subscriptions.add(connection)
        begun: list[asyncio.Task[Any]] = []
        asked = False

        async def finished(work: Coroutine[Any, Any, T]) -> T:
            # redis-py waits in a way that swallows a cancellation on Python 3.11, so the work is shielded from it.
            begun[:] = [asyncio.ensure_future(work)]
            return await asyncio.shield(begun[0])

        async def message(seconds: float) -> bytes | None:
            nonlocal asked
            with _lost_connection_errors():
                answer = await connection.read_response(timeout=seconds)
            if answer is not None:
                asked = False
                return answer[2] if answer[0] == b"message" else None
            if asked:
                raise DatabaseUnavailable(f"{self.shown}: no answer to a ping in {seconds:g} s")
            asked = True
            with _lost_connection_errors():
                await finished(connection.send_command("PING", check_health=False))
            return None

        try:
            with self._errors_translated():
                if await finished(_subscribe(connection, channel)) is None:
                    raise DatabaseUnavailable(f"{self.shown}: no answer in {CONNECT_TIMEOUT:g} s")
                yield message
        except GeneratorExit:  # the loop has ended, so nothing can be awaited
            begun.clear()
            raise
        finally:
            if begun:
                await asyncio.wait(begun)
                await connection.disconnect(nowait=True)
                self._subscriptions.discard(connection)


async def _subscribe(connection: Any, channel: str) -> Any:
    with _lost_connection_errors():
        await connection.connect()
        await connection.send_command("SUBSCRIBE", channel, check_health=False)
        return await connection.read_response(timeout=CONNECT_TIMEOUT)


@contextlib.contextmanager
def _lost_connection_errors() -> Iterator[None]:
    # Writing to a connection that has just been cut raises other errors in asyncio (since Python 3.12) and in uvloop.
    try:
        yield
    except (TypeError, AttributeError, RuntimeError) as error:
        raise LostConnection(f"the connection was lost ({error})") from error


async def _disconnect(client: Redis, after: Collection[asyncio.Task[Any]] = ()) -> None:
    if after:
        await asyncio.wait(after)
    with contextlib.suppress(RedisError, OSError):  # the connection is lost already
        await client.connection_pool.disconnect()


def _moved_to(error: ResponseError) -> tuple[str, int] | None:
    """Return host and port of the node that has our slot if the error names it; the host is empty for the same host."""
    if isinstance(error, MovedError):
        return error.host, error.port
    words = str(error).split()  # older versions of redis-py do not parse it
    if len(words) == 3 and words[0] == "MOVED":
        host, _, port = words[2].rpartition(":")
        return host, int(port)
    return None


def _message_of(error: BaseException) -> str:
    """Return the server's message, with a remedy where the message does not tell it."""
    text = str(error) or type(error).__name__
    if "'maxmemory'" in text:
        return "the server's memory is full, nothing was written; purge ended tasks, or raise its maxmemory"
    if isinstance(error, NoPermissionError):
        return f"the user may not do this; it needs its commands, and all keys and channels under the prefix ({text})"
    return text


def is_refusal(error: BaseException) -> bool:
    """Whether the server has answered that it refuses the command."""
    return isinstance(error, ResponseError)
