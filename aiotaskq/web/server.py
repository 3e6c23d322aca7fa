"""The operations API as a server of its own, behind a token, by uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.extras import missing
from aiotaskq.core.task import SECOND, check_int
from aiotaskq.errors import ValidationError
from aiotaskq.log import log, printable
from aiotaskq.web.access import Connections, Doorkeeper, check_access, names_loopback
from aiotaskq.web.asgi import application, response_of
from aiotaskq.web.endpoints import OPERATIONS
from aiotaskq.web.operation import MAX_BODY, say_problem
from aiotaskq.web.problem_details import problem

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError:
    raise missing("uvicorn", "web") from None

__all__ = ["asgi", "serve", "serve_until"]

HOST = "127.0.0.1"
PORT = 8765
LAST_REQUESTS = 5  # seconds that open requests get when the server stops
HEAD = 10.0  # seconds in which the head of a request has to arrive
MAX_CONNECTIONS = 512  # in all, and never more than a quarter of the files that the process may have open
BACKLOG = 64  # connections that wait to be accepted, which is done for all of them at once
TELL = 60.0  # seconds between two lines about connections that were closed to make room

_OPEN = frozenset(operation.path for operation in OPERATIONS if operation.open)
_CLOCK = SystemClock()


def serve(
    tq: TaskQ,
    host: str = HOST,
    port: int = PORT,
    token: str | None = None,
    read_only: bool = False,
    *,
    show_args: bool = False,
    origins: Collection[str] = (),
    max_body: int = MAX_BODY,
    started: Callable[[str], object] = lambda _url: None,
) -> None:
    """Serve the operations API until SIGINT or SIGTERM; connects to the store, and runs no workers.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: what ``Authorization: Bearer …`` must hold, at least 16 characters; ``/healthz`` and ``/readyz`` need
            none. After ten wrong ones in a minute an address gets 429 for further ones; the right one is let in.
        read_only, show_args, origins, max_body: see ``aiotaskq.web.operation.make_policy``.
        started: is called with the URL as soon as requests are answered.

    Raises:
        ValidationError: for a host that other machines can reach without a token, a weak token, a port that is taken.
        DatabaseUnavailable: the store cannot be opened.
    """
    check_access(host, token)  # before anything is opened

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        options: dict[str, Any] = {"show_args": show_args, "origins": origins, "max_body": max_body}
        async with tq:
            await serve_until(stop, tq, host, port, token, read_only, **options, started=started)

    asyncio.run(main())


async def serve_until(
    stop: asyncio.Event,
    tq: TaskQ,
    host: str = HOST,
    port: int = PORT,
    token: str | None = None,
    read_only: bool = False,
    *,
    show_args: bool = False,
    origins: Collection[str] = (),
    max_body: int = MAX_BODY,
    started: Callable[[str], object] = lambda _url: None,
) -> None:
    """Like ``serve``, in the running loop until the event is set, for a queue that is open (or running) already.

    No signal handler is installed. Open requests get 5 s to end. A connection whose request head has not arrived
    within 10 s is closed. At most 512 connections are open, and no more than a quarter of the process's limit on open
    files; a quarter of them may be of one address. Raises ValidationError as ``serve``.
    """
    app = asgi(tq, host, token, read_only, show_args=show_args, origins=origins, max_body=max_body)
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http=bounded(*_limits()),
        ws="none",
        backlog=BACKLOG,
        lifespan="off",
        log_config=None,  # logging is the application's
        log_level="error",  # a warning for each malformed request would let anybody fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address that the client can choose is no address to count by
        timeout_graceful_shutdown=LAST_REQUESTS,
    )
    server = _Server(config, lambda: started(_url(host, listener)))
    stopping = asyncio.create_task(_stop_when(stop, server), name="aiotaskq-web-stop")
    try:
        await server.serve([listener])
    finally:
        stopping.cancel()
        listener.close()


async def _stop_when(stop: asyncio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    """Listen, before uvicorn does: it would end the whole process where it cannot."""
    bare = host.strip("[]")
    check_int("port", port, 0, 65_535)
    try:
        family = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((bare, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ValidationError(f"host, port: cannot listen on {printable(host)}:{port}: {error.strerror}") from None


def _url(host: str, listener: socket.socket) -> str:
    bare = host.strip("[]")
    return f"http://{f'[{bare}]' if ':' in bare else bare}:{listener.getsockname()[1]}"


def asgi(
    tq: TaskQ,
    host: str = HOST,
    token: str | None = None,
    read_only: bool = False,
    **options: Any,
) -> Any:
    """Return what ``serve`` serves as an ASGI application, for a server of one's own that listens on ``host``.

    Raises ValidationError as ``serve``.
    """
    check_access(host, token)
    version = metadata.version("aiotaskq")
    app = application(tq, version, token=token is not None, read_only=read_only, **options)
    return _Gate(app, token)


class _Gate:
    """Stands before the application: a token where there is one, else only this machine's own names."""

    def __init__(self, app: Any, token: str | None) -> None:
        self._app = app
        self._doorkeeper = None if token is None else Doorkeeper(token)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else response_of(refusal))(scope, receive, send)

    def _refusal(self, scope: Any) -> Any:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._doorkeeper is None:
            if names_loopback(headers.get(b"host")):
                return None
            # A page whose name was made to lead here is same-origin to the browser, but not to us.
            return say_problem(problem(403, "WrongHost", "host: without a token only localhost is served"))
        if scope["path"] in _OPEN and scope["method"] in ("GET", "HEAD"):
            return None
        address, ticks = (scope.get("client") or ("",))[0], _CLOCK.ticks()
        given, wait = headers.get(b"authorization"), self._doorkeeper.wait(address, ticks)
        if self._doorkeeper.admits(given, address, ticks):
            return None
        if wait and given:
            return say_problem(problem(429, "TooManyGuesses", "too many wrong tokens; wait"), Retry_After=str(wait))
        return say_problem(
            problem(401, "NoToken", "a token is needed: Authorization: Bearer …"),
            WWW_Authenticate='Bearer realm="aiotaskq"',
        )


class _Server(uvicorn.Server):
    """A server in somebody else's loop, who handles the signals."""

    def __init__(self, config: uvicorn.Config, told: Callable[[], object]) -> None:
        super().__init__(config)
        self._told = told

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        self._told()


def _limits() -> tuple[int, int]:
    """Return how many connections may be open in all, and of one address.

    The accepted ones must leave files for the store and the handlers: a process without any cannot even accept, and
    asyncio logs each attempt.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    total = MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(8, min(MAX_CONNECTIONS, files // 4))
    return total, total // 4


def bounded(total: int, each: int) -> type[H11Protocol]:
    """Return uvicorn's protocol for at most so many connections in all and of one address; see ``Connections``.

    uvicorn's own ``limit_concurrency`` answers each request above it with 503, the probe's too, and does not see a
    connection that never completes its first request; its ``timeout_keep_alive`` begins after the first answer.
    """
    connections: Connections[Bounded] = Connections(total, each)
    told: list[int] = []  # ticks of the last line in the log

    class Bounded(H11Protocol):
        """A connection that is closed when the head of its request does not arrive in time, or its place is needed."""

        _deadline: asyncio.TimerHandle | None = None
        _unsent = 0  # bytes of the last answer that the client has not read yet

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            closed = connections.enter(self, (self.client or ("",))[0])
            if closed is not None:
                closed.transport.abort()
                _tell(told, total, each)
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            connections.leave(self)
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def _look(self) -> None:
            """Wait for a head while no request is being answered."""
            if self.cycle is not None and not self.cycle.response_complete:
                connections.busy(self)
                self._stop_waiting()
            elif self._deadline is None and not self.transport.is_closing():
                connections.idle(self)
                self._wait()

        def _wait(self) -> None:
            self._unsent = self.transport.get_write_buffer_size()
            self._deadline = self.loop.call_later(HEAD, self._too_late)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_late(self) -> None:
            if 0 < self.transport.get_write_buffer_size() < self._unsent:
                self._wait()  # it still reads the last answer, slowly
            else:
                self.transport.abort()

    return Bounded


def _tell(told: list[int], total: int, each: int) -> None:
    now = _CLOCK.ticks()
    if not told or now - told[0] >= TELL * SECOND:
        told[:] = [now]
        log.warning(
            "web: too many connections (at most {} of one address, {} in all); the longest waiting ones are closed",
            each,
            total,
        )
