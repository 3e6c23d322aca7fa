"""aiohttp: workers in the application's cleanup context, a typed key, and the operations as a sub-application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from importlib import metadata
from typing import Any, Unpack, cast
from urllib.parse import urlencode

from aiotaskq.core.errors import missing

try:
    from aiohttp import web
    from multidict import CIMultiDict
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
except ModuleNotFoundError as error:
    raise missing(str(error.name).partition(".")[0], "aiohttp") from None

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.errors import ValidationError
from aiotaskq.web.endpoint import problem_response, respond, responder
from aiotaskq.web.endpoints import selected
from aiotaskq.web.openapi import document
from aiotaskq.web.policy import DashboardOptions, OperationsOptions, Policy, RunningOptions, running
from aiotaskq.web.problem_details import unmatched

__all__ = ["TASKQ", "USER", "cleanup_ctx", "dashboard", "operations", "setup"]

TASKQ: web.AppKey[TaskQ] = web.AppKey("aiotaskq", TaskQ)
"""``request.app[TASKQ]``: the task queue of the application."""

USER: Any = getattr(web, "RequestKey", lambda name, _type: name)("aiotaskq_user", str)
"""``request[USER]``: the name with which a visitor has logged in to the dashboard by ``login=``."""

_STOPPING: web.AppKey[asyncio.Event] = web.AppKey("aiotaskq stopping", asyncio.Event)


def cleanup_ctx(tq: TaskQ, **options: Unpack[RunningOptions]) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what runs workers and the scheduler inside the application: ``app.cleanup_ctx.append(cleanup_ctx(tq))``.

    Arguments as ``TaskQ.running``; under ``override`` no workers run, whatever ``workers`` is. Contexts appended before
    this one are entered before the first handler runs, and left after the last one has ended.
    """

    check_taskq("cleanup_ctx", tq)
    run = running(tq, options)

    async def context(_app: web.Application) -> AsyncIterator[None]:
        async with run():
            yield

    return context


def setup(app: web.Application, tq: TaskQ, **options: Unpack[RunningOptions]) -> None:
    """Put the queue under ``app[TASKQ]`` and run its workers in the application; options as ``cleanup_ctx``.

    Raises ValidationError for a second setup of the same application.
    """
    if TASKQ in app:
        raise ValidationError("setup: this application has a task queue already; one setup() for each")
    app[TASKQ] = tq
    app.cleanup_ctx.append(cleanup_ctx(tq, **options))


def operations(tq: TaskQ, *, middlewares: Sequence[Any] = (), **options: Unpack[OperationsOptions]) -> web.Application:
    """Return the operations as an application: ``app.add_subapp("/ops", operations(tq, middlewares=[admin]))``.

    Its ``/openapi.json`` describes them.

    Args:
        middlewares: the application's own, above all its access control: the operations have none.
        options: those of ``OperationsOptions``.

    Raises:
        ValidationError: for an unknown operation or a wrong value.
    """
    check_taskq("operations", tq)
    policy = Policy(**options)
    wanted = selected(policy.operations)
    whole = document(wanted, metadata.version("aiotaskq"))

    async def openapi(_request: web.Request) -> web.Response:
        return _response_of(respond(whole))

    async def stop(app: web.Application) -> None:
        app[_STOPPING].set()

    app = web.Application(middlewares=[*middlewares, _problems])
    app[_STOPPING] = asyncio.Event()
    app.on_shutdown.append(stop)
    for each in wanted:
        app.router.add_route(each.method, each.path.replace("}", ":.+}"), _handler(responder(each, tq, policy)))
    app.router.add_get("/openapi.json", openapi)
    return app


def dashboard(tq: TaskQ, *, middlewares: Sequence[Any] = (), **options: Unpack[DashboardOptions]) -> web.Application:
    """Return the dashboard as an application: ``app.add_subapp("/tasks", dashboard(tq, middlewares=[admin]))``.

    Args:
        middlewares: the application's own, above all its access control. Needed without ``allow`` and ``login``.
        options: those of ``DashboardOptions``.

    Raises:
        ValidationError: where nothing checks the visitors, for a weak ``secret``, and for a task queue of
            ``aiotaskq.sync``.
    """
    from aiotaskq.web.dashboard.site import guarded_dashboard  # it needs jinja2, which the rest does not

    pages = guarded_dashboard(tq, bool(middlewares), "middlewares=[…], allow=…", **options)

    async def slash(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"{request.rel_url.raw_parts[-1]}/")  # links are relative to the folder

    app = web.Application(middlewares=middlewares)
    app.router.add_get("", slash)
    for method in ("GET", "HEAD", "POST"):
        app.router.add_route(method, "/{name:.*}", _handler(pages.respond))
    return app


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _handler(respond_to: Callable[[Request], Awaitable[Response]]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = await respond_to(_request(request))
        if not isinstance(response, StreamingResponse):
            return _response_of(response)
        sent = web.StreamResponse(status=response.status_code, headers=CIMultiDict(response.headers.items()))
        async with contextlib.aclosing(cast(AsyncGenerator[bytes], response.body_iterator)) as parts:
            await sent.prepare(request)
            async for part in parts:
                await sent.write(part)
        return sent

    return handle


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _response_of(problem_response(unmatched(error.status), **allow))


def _response_of(response: Response) -> web.Response:
    headers = CIMultiDict(response.headers.items())
    return web.Response(body=response.body, status=response.status_code, headers=headers)


class _State(dict[str, Any]):
    """The state of Starlette's request: the login, all that is set in it, goes to ``request[USER]``."""

    def __init__(self, request: web.Request) -> None:
        self._request = request

    def __setitem__(self, _name: str, user: str) -> None:
        self._request[USER] = user


def _request(request: web.Request) -> Request:
    """Return a request as Starlette's, which endpoints and pages read."""

    async def receive() -> dict[str, Any]:
        body = await request.content.readany()
        return {"type": "http.request", "body": body, "more_body": not request.content.at_eof()}

    scope = {
        "type": "http",
        "method": request.method,
        "scheme": request.scheme,
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "path_params": dict(request.match_info),
        # Some parsers of aiohttp let raw bytes through, which Starlette would take for Latin-1.
        "query_string": urlencode([*request.query.items()], errors="surrogateescape").encode(),
        "client": None if request.remote is None else (request.remote, 0),
        "state": _State(request),
        "aiotaskq.original": request,
        "aiotaskq.stopping": lambda: request.app[_STOPPING].is_set(),
    }
    return Request(scope, receive)
