"""The operations as routes and as an application of Starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.extras import missing
from aiotaskq.web.endpoints import chosen
from aiotaskq.web.openapi import document
from aiotaskq.web.operation import (
    MAX_BODY,
    Answer,
    Operation,
    Policy,
    check_taskq,
    make_policy,
    perform,
    say,
    say_problem,
)
from aiotaskq.web.problem_details import Refused, problem

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route
except ModuleNotFoundError:
    raise missing("starlette", "web") from None

Endpoint = Callable[[Request], Awaitable[Response]]

__all__ = ["application", "asgi_path", "endpoint", "response_of", "routes"]


def routes(
    tq: TaskQ,
    *,
    operations: Collection[str] | None = None,
    read_only: bool = False,
    show_args: bool = False,
    origins: Collection[str] = (),
    max_body: int = MAX_BODY,
) -> list[Route]:
    """Return the operations as routes, for ``Mount("/ops", routes=routes(tq))``. They let everybody in: guard them.

    Args:
        operations: the names of those that are wanted (``["healthz", "readyz"]``); default all.
        read_only, show_args, origins, max_body: see ``aiotaskq.web.operation.make_policy``.

    Raises:
        ValidationError: for an unknown operation or a wrong value.
    """
    check_taskq("routes", tq)
    policy = make_policy(read_only=read_only, show_args=show_args, origins=origins, max_body=max_body)
    return [
        Route(asgi_path(each.path), endpoint(each, tq, policy), methods=[each.method], name=f"aiotaskq:{each.name}")
        for each in chosen(operations)
    ]


def application(
    tq: TaskQ,
    version: str,
    *,
    token: bool = False,
    **options: Any,
) -> Starlette:
    """Return the operations as an application of their own, with ``/openapi.json``; options as ``routes``."""
    whole = document(chosen(options.get("operations")), version, token=token)

    async def openapi(_request: Request) -> Response:
        return response_of(say(whole))

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: "there is nothing at this path", 405: "this path does not take that method"}
        found = problem(error.status_code, "HTTPException", words.get(error.status_code, error.detail))
        return response_of(say_problem(found, **(error.headers or {})))

    return Starlette(
        routes=[*routes(tq, **options), Route("/openapi.json", openapi, methods=["GET"])],
        exception_handlers={HTTPException: refused},
    )


def asgi_path(path: str) -> str:
    """Return a path as Starlette matches it: ids and keys may hold slashes, too."""
    return path.replace("}", ":path}")


def endpoint(operation: Operation, tq: TaskQ, policy: Policy) -> Endpoint:
    """Return the endpoint of an operation."""

    async def answer(request: Request) -> Response:
        return response_of(await perform(operation, tq, policy, _Request(request)))

    return answer


def response_of(answer: Answer) -> Response:
    """Return an answer as Starlette has it."""
    if answer.body is None:
        return Response(status_code=answer.status, headers=answer.headers)
    return Response(answer.body, answer.status, answer.headers, answer.media_type)


class _Request:
    def __init__(self, request: Request) -> None:
        self._request = request
        self.headers: Mapping[str, str] = request.headers
        self.path: Mapping[str, str] = request.path_params
        self.query = request.query_params.multi_items()

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._request.stream():
                yield chunk
        except ClientDisconnect:  # not a fault of the application's, so no traceback in its log
            raise Refused(400, "Disconnected", "body: the client closed the connection") from None
