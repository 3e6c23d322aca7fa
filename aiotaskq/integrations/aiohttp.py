"""aiohttp: workers in the application's cleanup context, a typed key, and the operations as a sub-application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from importlib import metadata
from typing import Any

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.core.extras import missing
from aiotaskq.errors import ValidationError
from aiotaskq.web.dashboard.guarded import guarded_dashboard
from aiotaskq.web.dashboard.reply import Allow, CheckUser, is_encrypted
from aiotaskq.web.dispatch import dispatch
from aiotaskq.web.endpoint import ApiResponse, Endpoint, problem_response, respond
from aiotaskq.web.endpoints import selected
from aiotaskq.web.openapi import document
from aiotaskq.web.policy import MAX_BODY, Actor, Policy, make_policy
from aiotaskq.web.problem_details import unmatched

try:
    from aiohttp import web
    from multidict import CIMultiDict
except ModuleNotFoundError:
    raise missing("aiohttp", "aiohttp") from None

__all__ = ["TASKQ", "USER", "cleanup_ctx", "dashboard", "operations", "setup"]

TASKQ: web.AppKey[TaskQ] = web.AppKey("aiotaskq", TaskQ)
"""``request.app[TASKQ]``: the task queue of the application."""

USER: Any = getattr(web, "RequestKey", lambda name, _type: name)("aiotaskq_user", str)
"""``request[USER]``: the name with which a visitor has logged in to the dashboard by ``login=``."""

_CHUNK = 64 * 1024
_STOPPING: web.AppKey[asyncio.Event] = web.AppKey("aiotaskq stopping", asyncio.Event)


def cleanup_ctx(
    tq: TaskQ,
    *,
    concurrency: int = 10,
    queues: Sequence[str] | None = None,
    scheduler: bool = True,
    workers: bool | None = None,
    drain: float | timedelta = 25.0,
    grace: float | timedelta = 5.0,
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what runs workers and the scheduler inside the application: ``app.cleanup_ctx.append(cleanup_ctx(tq))``.

    Arguments as ``TaskQ.running``; under ``override`` no workers run, whatever ``workers`` is. Contexts appended before
    this one are entered before the first handler runs, and left after the last one has ended.
    """

    check_taskq("cleanup_ctx", tq)

    async def context(_app: web.Application) -> AsyncIterator[None]:
        limits: dict[str, Any] = {"queues": queues, "scheduler": scheduler, "drain": drain, "grace": grace}
        async with tq.running(concurrency, workers=workers and None, **limits):  # True is for the real run only
            yield

    return context


def setup(app: web.Application, tq: TaskQ, **limits: Any) -> None:
    """Put the queue under ``app[TASKQ]`` and run its workers in the application; ``limits`` as ``cleanup_ctx``.

    Raises ValidationError for a second setup of the same application.
    """
    if TASKQ in app:
        raise ValidationError("setup: this application has a task queue already; one setup() for each")
    app[TASKQ] = tq
    app.cleanup_ctx.append(cleanup_ctx(tq, **limits))


def operations(
    tq: TaskQ,
    *,
    middlewares: Sequence[Any] = (),
    operations: Collection[str] | None = None,
    read_only: bool = False,
    show_args: bool = False,
    origins: Collection[str] = (),
    max_body: int = MAX_BODY,
    own_query: Collection[str] = (),
    actor: Actor | None = None,
) -> web.Application:
    """Return the operations as an application: ``app.add_subapp("/ops", operations(tq, middlewares=[admin]))``.

    Its ``/openapi.json`` describes them.

    Args:
        middlewares: the application's own, above all its access control: the operations have none.
        operations: names of the operations wanted (``["healthz", "readyz"]``); default all.
        read_only, show_args, origins, max_body, own_query, actor: see ``aiotaskq.web.policy.make_policy``.

    Raises:
        ValidationError: for an unknown operation or a wrong value.
    """
    check_taskq("operations", tq)
    policy = make_policy(
        read_only=read_only,
        show_args=show_args,
        origins=origins,
        max_body=max_body,
        own_query=own_query,
        actor=actor,
    )
    wanted = selected(operations)
    whole = document(wanted, metadata.version("aiotaskq"))

    async def openapi(_request: web.Request) -> web.Response:
        return _response_of(respond(whole))

    app = web.Application(middlewares=[*middlewares, _problems])
    app[_STOPPING] = asyncio.Event()
    app.on_shutdown.append(_stop)
    for each in wanted:
        app.router.add_route(each.method, each.path.replace("}", ":.+}"), _handler(each, tq, policy))
    app.router.add_get("/openapi.json", openapi)
    return app


def dashboard(
    tq: TaskQ,
    *,
    middlewares: Sequence[Any] = (),
    allow: Allow | None = None,
    read_only: bool = False,
    show_args: bool = False,
    origins: Collection[str] = (),
    actor: Actor | None = None,
    login: CheckUser | None = None,
    secret: str | None = None,
) -> web.Application:
    """Return the dashboard as an application: ``app.add_subapp("/tasks", dashboard(tq, middlewares=[admin]))``.

    Args:
        middlewares: the application's own, above all its access control. Needed without ``allow`` and ``login``.
        allow: called with the request and the name of an action, or ``"view"``; returns whether the visitor may.
        login: called with a user name and a password; returns something true for a user who may log in, else None. It
            may be a coroutine function. Then the pages have a form of their own, and a session of 12 hours.
        secret: signs the sessions of ``login``: at least 16 ASCII characters, the same text in every process.
        read_only, show_args, origins, actor: see ``aiotaskq.web.dashboard.site.Dashboard``.

    Raises:
        ValidationError: where nothing checks the visitors, for a weak ``secret``, and for a task queue of
            ``aiotaskq.sync``.
    """
    options: dict[str, Any] = {"read_only": read_only, "show_args": show_args, "origins": origins}
    options |= {"allow": allow, "actor": actor, "login": login, "secret": secret}
    pages = guarded_dashboard(tq, bool(middlewares) or allow is not None, "middlewares=[…], allow=…", **options)

    async def handle(request: web.Request) -> web.StreamResponse:
        reply = await pages.respond(_PageRequest(request))
        headers = CIMultiDict([*reply.headers, ("Content-Type", reply.media_type)])
        return web.Response(body=reply.body, status=reply.status, headers=headers)

    async def slash(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"{request.rel_url.raw_parts[-1]}/")  # links are relative to the folder

    app = web.Application(middlewares=middlewares)
    app.router.add_get("", slash)
    for method in ("GET", "HEAD", "POST"):
        app.router.add_route(method, "/{name:.*}", handle)
    return app


async def _send_stream(
    request: web.Request, status: int, headers: CIMultiDict[str], stream: AsyncGenerator[bytes]
) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    async with contextlib.aclosing(stream) as parts:
        await response.prepare(request)
        async for part in parts:
            await response.write(part)
    return response


def _handler(operation: Endpoint, tq: TaskQ, policy: Policy) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = await dispatch(operation, tq, policy, _Request(request))
        if response.stream is None:
            return _response_of(response)
        headers = CIMultiDict({**response.headers, "Content-Type": response.media_type})
        return await _send_stream(request, response.status, headers, response.stream)

    return handle


async def _stop(app: web.Application) -> None:
    app[_STOPPING].set()


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _response_of(problem_response(unmatched(error.status), **allow))


def _response_of(response: ApiResponse) -> web.Response:
    kind = None if response.body is None else response.media_type
    return web.Response(body=response.body, status=response.status, headers=response.headers, content_type=kind)


class _Request:
    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.headers: Mapping[str, str] = request.headers
        self.path: Mapping[str, str] = request.match_info
        self.query = list(request.query.items())
        self.original: Any = request

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._request.content.iter_chunked(_CHUNK):
            yield chunk

    def is_stopping(self) -> bool:
        return self._request.app[_STOPPING].is_set()


class _PageRequest(_Request):
    def __init__(self, request: web.Request) -> None:
        super().__init__(request)
        self.method = request.method
        self.name: str = request.match_info.get("name", "")
        self.address = request.remote or ""
        self.secure = is_encrypted(request.scheme, request.headers)

    def logged_in(self, user: str) -> None:
        self.original[USER] = user
