"""The standalone server of the dashboard and the operations API: uvicorn, with a token."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from importlib import metadata
from typing import TYPE_CHECKING, Any, Unpack

from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.errors import check_int, missing
from aiotaskq.errors import ValidationError
from aiotaskq.log import printable
from aiotaskq.web.access import TokenCheck, bearer, check_access, names_loopback
from aiotaskq.web.asgi import application
from aiotaskq.web.dashboard import session
from aiotaskq.web.dashboard.session import TokenLogin
from aiotaskq.web.dashboard.site import Dashboard
from aiotaskq.web.endpoint import problem_response
from aiotaskq.web.endpoints import ENDPOINTS
from aiotaskq.web.http_protocol import connection_limits, limited_protocol
from aiotaskq.web.policy import DashboardOptions, OperationsOptions, Policy
from aiotaskq.web.problem_details import make_problem

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

try:
    import uvicorn
    from starlette.datastructures import Headers
    from starlette.responses import Response
except ModuleNotFoundError:
    raise missing("uvicorn", "web") from None

__all__ = ["asgi", "serve", "serve_until"]

HOST = "127.0.0.1"
PORT = 8765
SHUTDOWN_TIMEOUT = 5  # seconds that open requests get when the server stops
BACKLOG = 64  # connections that wait to be accepted; asyncio accepts all of them at once

_PUBLIC = frozenset(operation.path for operation in ENDPOINTS if operation.public)


def serve(
    tq: TaskQ,
    host: str = HOST,
    port: int = PORT,
    token: str | None = None,
    *,
    started: Callable[[str], object] = lambda _url: None,
    **options: Unpack[OperationsOptions],
) -> None:
    """Serve the dashboard and the operations API until SIGINT or SIGTERM; connects to the store, and runs no workers.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: the token in ``Authorization: Bearer …`` and of the dashboard's login, at least 16 characters;
            ``/healthz`` and ``/readyz`` need none. After ten wrong tokens in a minute an address gets 429 for further
            wrong ones.
        started: called with the URL as soon as requests are answered.
        options: those of ``OperationsOptions``.

    Raises:
        ValidationError: for a host that other machines can reach without a token, a weak token, a port that is taken.
        DatabaseUnavailable: the store cannot be opened.
    """
    check_access(host, token)  # before anything is opened
    Policy(**options)

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with tq:
            await serve_until(stop, tq, host, port, token, started=started, **options)

    asyncio.run(main())


async def serve_until(
    stop: asyncio.Event,
    tq: TaskQ,
    host: str = HOST,
    port: int = PORT,
    token: str | None = None,
    *,
    started: Callable[[str], object] = lambda _url: None,
    **options: Unpack[OperationsOptions],
) -> None:
    """Like ``serve``, in the running loop until the event is set, for a queue that is open (or running) already.

    No signal handler is installed. Open requests get 5 s to end. A connection whose request head has not arrived
    within 10 s is closed, and one whose client reads nothing of a response for 10 s. At most 512 connections are open,
    and no more than a quarter of the process's limit on open files; a quarter of them may be of one address. Beyond
    that the oldest connection without a token is closed for a new one. Raises ValidationError as ``serve``.
    """
    app = asgi(tq, host, token, **options)
    bare = host.strip("[]")
    check_int("port", port, 0, 65_535)
    try:  # here and not in uvicorn, which ends the process where it cannot listen
        family = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((bare, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ValidationError(f"host, port: cannot listen on {printable(host)}:{port}: {error.strerror}") from None
    config = uvicorn.Config(
        app,
        http=limited_protocol(*connection_limits(), app.is_authenticated),
        ws="none",
        backlog=BACKLOG,
        lifespan="off",
        log_config=None,  # logging is the application's
        log_level="error",  # a warning for each malformed request would let any client fill the log
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address that the client can choose is no address to count by
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
    )
    server = uvicorn.Server(config)
    # The caller handles signals.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    stopping = asyncio.create_task(stop.wait(), name="aiotaskq-web-stop")
    stopping.add_done_callback(lambda _stopping: setattr(server, "should_exit", True))
    try:
        started(f"http://{f'[{bare}]' if ':' in bare else bare}:{listener.getsockname()[1]}")
        await server.serve([listener])
    finally:
        stopping.cancel()
        listener.close()


def asgi(tq: TaskQ, host: str = HOST, token: str | None = None, **options: Unpack[OperationsOptions]) -> Any:
    """Return the ASGI application that ``serve`` serves, for another server, which listens on ``host``.

    Raises ValidationError as ``serve``.
    """
    check_access(host, token)
    version = metadata.version("aiotaskq")
    tokens = None if token is None else TokenCheck(token, SystemClock().ticks)
    login = None if token is None or tokens is None else TokenLogin(token, tokens)
    shared: dict[str, Any] = {name: each for name, each in options.items() if name in DashboardOptions.__annotations__}
    app = application(tq, version, token=token is not None, dashboard=Dashboard(tq, login=login, **shared), **options)
    return _AccessCheck(
        app, tokens, lambda key: token is not None and session.user_of(key, token, tq.queue.clock.now()) is not None
    )


class _AccessCheck:
    """ASGI middleware: requests need the token where there is one, else a host name of this machine."""

    def __init__(self, app: Any, tokens: TokenCheck | None, is_login: Callable[[str], bool]) -> None:
        """``is_login`` is called with a session of the dashboard."""
        self._app = app
        self._tokens = tokens
        self._is_login = is_login

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def is_authenticated(self, scope: Any) -> bool:
        """Return whether a request shows the token, or a login with it; without a token, whether it is let in."""
        headers = Headers(scope=scope)
        if self._tokens is None:
            return names_loopback(headers.get("host"))
        key = session.cookies_of(headers).get(session.SESSION, "")
        return self._tokens.matches(bearer(headers.get("authorization"))) or self._is_login(key)

    def _refusal(self, scope: Any) -> Response | None:
        headers = Headers(scope=scope)
        if self._tokens is None:
            if names_loopback(headers.get("host")):
                return None
            # For a browser, a page under a rebound name is of the same origin.
            return problem_response(make_problem(403, "WrongHost", "host: without a token only localhost is served"))
        if scope["path"] in _PUBLIC and scope["method"] in ("GET", "HEAD"):
            return None
        if scope["path"] == "/" or f"{scope['path']}/".startswith("/dashboard/"):
            return None  # it asks for a login itself
        address, given = (scope.get("client") or ("",))[0], bearer(headers.get("authorization"))
        wait = self._tokens.retry_after(address)
        if given and self._tokens.accepts(given, address):  # a request without a token is no guess
            return None
        if wait and given:
            too_many = make_problem(429, "TooManyGuesses", "too many wrong tokens; wait")
            return problem_response(too_many, Retry_After=str(wait))
        return problem_response(
            make_problem(401, "NoToken", "a token is needed: Authorization: Bearer …"),
            WWW_Authenticate='Bearer realm="aiotaskq"',
        )
