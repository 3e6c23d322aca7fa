"""aiohttp: workers in the application's cleanup context, a typed key, and the operations as a sub-application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from importlib import metadata
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.extras import missing
from aiotaskq.errors import ValidationError
from aiotaskq.web.dispatch import dispatch
from aiotaskq.web.endpoints import selected
from aiotaskq.web.openapi import document
from aiotaskq.web.operation import ApiResponse, Operation, problem_response, respond
from aiotaskq.web.policy import MAX_BODY, Policy, check_taskq, make_policy
from aiotaskq.web.problem_details import unmatched

try:
    from aiohttp import web
except ModuleNotFoundError:
    raise missing("aiohttp", "aiohttp") from None

__all__ = ["TASKQ", "cleanup_ctx", "operations", "setup"]

TASKQ: web.AppKey[TaskQ] = web.AppKey("aiotaskq", TaskQ)
"""``request.app[TASKQ]``: the task queue of the application."""

_CHUNK = 64 * 1024


def cleanup_ctx(
    tq: TaskQ,
    *,
    concurrency: int = 10,
    queues: Sequence[str] | None = None,
    scheduler: bool = True,
    workers: bool | None = None,
    drain: float = 25.0,
    grace: float = 5.0,
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
) -> web.Application:
    """Return the operations as an application: ``app.add_subapp("/ops", operations(tq, middlewares=[admin]))``.

    Its ``/openapi.json`` describes them.

    Args:
        middlewares: the application's own, above all its access control: the operations have none.
        operations: names of the operations wanted (``["healthz", "readyz"]``); default all.
        read_only, show_args, origins, max_body, own_query: see ``aiotaskq.web.policy.make_policy``.

    Raises:
        ValidationError: for an unknown operation or a wrong value.
    """
    check_taskq("operations", tq)
    policy = make_policy(
        read_only=read_only, show_args=show_args, origins=origins, max_body=max_body, own_query=own_query
    )
    wanted = selected(operations)
    whole = document(wanted, metadata.version("aiotaskq"))

    async def openapi(_request: web.Request) -> web.Response:
        return _response_of(respond(whole))

    app = web.Application(middlewares=[*middlewares, _problems])
    for each in wanted:
        app.router.add_route(each.method, each.path.replace("}", ":.+}"), _handler(each, tq, policy))
    app.router.add_get("/openapi.json", openapi)
    return app


def _handler(operation: Operation, tq: TaskQ, policy: Policy) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return _response_of(await dispatch(operation, tq, policy, _Request(request)))

    return handle


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

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._request.content.iter_chunked(_CHUNK):
            yield chunk
