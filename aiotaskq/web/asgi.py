"""The operations as routes and as an application of Starlette."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.core.extras import missing
from aiotaskq.web.dashboard.reply import Reply, is_encrypted
from aiotaskq.web.dispatch import dispatch
from aiotaskq.web.endpoint import ApiResponse, Endpoint, problem_response, respond
from aiotaskq.web.endpoints import selected
from aiotaskq.web.openapi import document
from aiotaskq.web.policy import MAX_BODY, Actor, Policy, make_policy
from aiotaskq.web.problem_details import ProblemError, unmatched

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import BaseRoute, Route
except ModuleNotFoundError:
    raise missing("starlette", "web") from None

if TYPE_CHECKING:
    from aiotaskq.web.dashboard.site import Dashboard  # it needs jinja2, which the operations API does not

Handler = Callable[[Request], Awaitable[Response]]

__all__ = ["application", "asgi_path", "dashboard_handler", "handler", "response_of", "routes"]


def routes(
    tq: TaskQ,
    *,
    operations: Collection[str] | None = None,
    read_only: bool = False,
    show_args: bool = False,
    origins: Collection[str] = (),
    max_body: int = MAX_BODY,
    own_query: Collection[str] = (),
    actor: Actor | None = None,
) -> list[Route]:
    """Return the operations as routes, for ``Mount("/ops", routes=routes(tq))``. They check no access: guard them.

    Args:
        operations: names of the operations wanted (``["healthz", "readyz"]``); default all.
        read_only, show_args, origins, max_body, own_query, actor: see ``aiotaskq.web.policy.make_policy``.

    Raises:
        ValidationError: for an unknown operation or a wrong value.
    """
    check_taskq("routes", tq)
    policy = make_policy(
        read_only=read_only,
        show_args=show_args,
        origins=origins,
        max_body=max_body,
        own_query=own_query,
        actor=actor,
    )
    return [
        Route(asgi_path(each.path), handler(each, tq, policy), methods=[each.method], name=f"aiotaskq:{each.name}")
        for each in selected(operations)
    ]


def application(
    tq: TaskQ,
    version: str,
    *,
    token: bool = False,
    dashboard: Dashboard | None = None,
    **options: Any,
) -> Starlette:
    """Return the operations as an application of their own, with ``/openapi.json``; options as ``routes``.

    A dashboard is under ``/dashboard/``, to which ``/`` leads.
    """
    whole = document(selected(options.get("operations")), version, token=token)

    async def openapi(_request: Request) -> Response:
        return response_of(respond(whole))

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        problem = unmatched(error.status_code, error.detail)
        return response_of(problem_response(problem, **(error.headers or {})))

    all_routes: list[BaseRoute] = [*routes(tq, **options), Route("/openapi.json", openapi, methods=["GET"])]
    if dashboard is not None:
        all_routes.append(Route("/", _to_dashboard, methods=["GET"]))
        all_routes.append(Route("/dashboard", _to_dashboard, methods=["GET"]))
        all_routes.append(Route("/dashboard/{name:path}", dashboard_handler(dashboard), methods=["GET", "POST"]))
    return Starlette(
        routes=all_routes,
        exception_handlers={HTTPException: refused},
    )


async def _to_dashboard(_request: Request) -> Response:
    return Response(status_code=303, headers={"Location": "dashboard/"})  # relative: a proxy may rewrite the path


def asgi_path(path: str) -> str:
    """Return a path as Starlette matches it: ids and keys may hold slashes, too."""
    return path.replace("}", ":path}")


def handler(endpoint: Endpoint, tq: TaskQ, policy: Policy) -> Handler:
    """Return the handler of an endpoint."""

    async def respond_to(request: Request) -> Response:
        response = await dispatch(endpoint, tq, policy, _Request(request))
        if response.stream is None:
            return response_of(response)
        if request.method == "HEAD":  # Starlette routes it here, and would wait for the end of the stream
            await response.stream.aclose()
            return Response(None, response.status, response.headers, response.media_type)
        return StreamingResponse(response.stream, response.status, response.headers, response.media_type)

    return respond_to


def dashboard_handler(dashboard: Dashboard) -> Handler:
    """Return the handler of every page and action, for a route with ``{name:path}``."""

    async def respond_to(request: Request) -> Response:
        return _response_of_reply(await dashboard.respond(_PageRequest(request)))

    return respond_to


def _response_of_reply(reply: Reply) -> Response:
    response = Response(reply.body, reply.status, media_type=reply.media_type)
    for name, value in reply.headers:
        response.headers.append(name, value)
    return response


def response_of(response: ApiResponse) -> Response:
    """Return a response as Starlette's."""
    if response.body is None:
        return Response(status_code=response.status, headers=response.headers)
    return Response(response.body, response.status, response.headers, response.media_type)


class _Request:
    def __init__(self, request: Request) -> None:
        self._request = request
        self.headers: Mapping[str, str] = request.headers
        self.path: Mapping[str, str] = request.path_params
        self.query = request.query_params.multi_items()
        self.original: Any = request

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._request.stream():
                yield chunk
        except ClientDisconnect:  # the application is not at fault: no traceback in its log
            raise ProblemError(400, "Disconnected", "body: the client closed the connection") from None

    def is_stopping(self) -> bool:
        # uvicorn tells an application of its stop only when all responses have ended; its signal handler is a method.
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        return getattr(server, "should_exit", False) is True


class _PageRequest(_Request):
    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.method = request.method
        self.name: str = request.path_params.get("name", "")
        self.address = request.client.host if request.client is not None else ""
        self.secure = is_encrypted(request.url.scheme, request.headers)

    def logged_in(self, user: str) -> None:
        self.original.state.aiotaskq_user = user
