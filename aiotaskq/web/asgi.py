"""The operations as routes and as an application of Starlette."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from msgspec.structs import replace

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.core.errors import missing
from aiotaskq.web import endpoint as web
from aiotaskq.web.access import is_encrypted
from aiotaskq.web.endpoint import Endpoint, dispatch, problem_response, respond
from aiotaskq.web.endpoints import selected
from aiotaskq.web.openapi import document
from aiotaskq.web.policy import OperationsOptions, Policy
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


def routes(tq: TaskQ, **options: Unpack[OperationsOptions]) -> list[Route]:
    """Return the operations as routes, for ``Mount("/ops", routes=routes(tq))``. They check no access: guard them.

    ``options`` are those of ``OperationsOptions``. Raises ValidationError for an unknown operation or a wrong value.
    """
    check_taskq("routes", tq)
    policy = Policy(**options)
    return [
        Route(asgi_path(each.path), handler(each, tq, policy), methods=[each.method], name=f"aiotaskq:{each.name}")
        for each in selected(policy.operations)
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
        if response.stream is not None and request.method == "HEAD":
            await response.stream.aclose()  # Starlette routes it here, and would wait for the end of the stream
            response = replace(response, stream=None)
        return response_of(response)

    return respond_to


def dashboard_handler(dashboard: Dashboard) -> Handler:
    """Return the handler of every page and action, for a route with ``{name:path}``."""

    async def respond_to(request: Request) -> Response:
        return response_of(await dashboard.respond(_Request(request)))

    return respond_to


def response_of(response: web.Response) -> Response:
    """Return a response as Starlette's."""
    kind = None if response.body is None and response.status == 204 else response.media_type
    made: Response
    if response.stream is None:
        made = Response(response.body, response.status, media_type=kind)
    else:
        made = StreamingResponse(response.stream, response.status, media_type=kind)
    for name, value in response.headers:
        made.headers.append(name, value)
    return made


class _Request:
    def __init__(self, request: Request) -> None:
        self.method = request.method
        self.headers: Mapping[str, str] = request.headers
        self.path: Mapping[str, str] = request.path_params
        self.query = request.query_params.multi_items()
        self.original: Any = request

    @property
    def address(self) -> str:
        client = self.original.client
        return "" if client is None else str(client.host)

    @property
    def secure(self) -> bool:
        return is_encrypted(self.original.url.scheme, self.headers)

    def logged_in(self, user: str) -> None:
        self.original.state.aiotaskq_user = user

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self.original.stream():
                yield chunk
        except ClientDisconnect:  # the application is not at fault: no traceback in its log
            raise ProblemError(400, "Disconnected", "body: the client closed the connection") from None

    def is_stopping(self) -> bool:
        # uvicorn tells an application of its stop only when all responses have ended; its signal handler is a method.
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        return getattr(server, "should_exit", False) is True
