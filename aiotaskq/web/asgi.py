"""The operations as routes and as an application of Starlette, and workers in an application of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.errors import ValidationError
from aiotaskq.web.endpoint import problem_response, respond, responder
from aiotaskq.web.endpoints import selected
from aiotaskq.web.openapi import document
from aiotaskq.web.policy import OperationsOptions, Policy, RunningOptions, running
from aiotaskq.web.problem_details import unmatched

if TYPE_CHECKING:
    from aiotaskq.web.dashboard.site import Dashboard  # it needs jinja2, which the operations API does not

# After aiotaskq.web.endpoint, which tells what is missing.
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

__all__ = ["Route", "application", "asgi_path", "routes", "setup", "taskq_of"]


def routes(tq: TaskQ, **options: Unpack[OperationsOptions]) -> list[Route]:
    """Return the operations as routes, for ``Mount("/ops", routes=routes(tq))``. They check no access: guard them.

    ``options`` are those of ``OperationsOptions``. Raises ValidationError for an unknown operation or a wrong value.
    """
    check_taskq("routes", tq)
    policy = Policy(**options)
    return [
        Route(asgi_path(each.path), responder(each, tq, policy), methods=[each.method], name=f"aiotaskq:{each.name}")
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
        return respond(whole)

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem_response(unmatched(error.status_code, error.detail), **(error.headers or {}))

    all_routes: list[BaseRoute] = [*routes(tq, **options), Route("/openapi.json", openapi, methods=["GET"])]
    if dashboard is not None:
        all_routes.append(Route("/", _to_dashboard, methods=["GET"]))
        all_routes.append(Route("/dashboard", _to_dashboard, methods=["GET"]))
        all_routes.append(Route("/dashboard/{name:path}", dashboard.respond, methods=["GET", "POST"]))
    return Starlette(routes=all_routes, exception_handlers={HTTPException: refused})


async def _to_dashboard(_request: Request) -> Response:
    return Response(status_code=303, headers={"Location": "dashboard/"})  # relative: a proxy may rewrite the path


def setup(app: Starlette, tq: TaskQ, **options: Unpack[RunningOptions]) -> None:
    """Run workers and the scheduler inside the application, within the lifespan that it has; options as ``running``.

    With ``workers=False`` the task queue is only opened: for a process that pushes what others run. Under
    ``override`` it is only opened, too, whatever ``workers`` is. The application's own lifespan begins before the first
    handler runs, and ends after the last one has ended. Raises ValidationError for a second setup of
    the same application, and for a task queue of ``aiotaskq.sync``.
    """
    check_taskq("setup", tq)
    if getattr(app.state, "aiotaskq", None) is not None:
        raise ValidationError("setup: this application has a task queue already; one setup() for each")
    app.state.aiotaskq = tq
    inner, run = app.router.lifespan_context, running(tq, options)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        async with inner(app) as state, run():
            yield state

    app.router.lifespan_context = lifespan  # type: ignore[assignment]


def taskq_of(connection: HTTPConnection) -> TaskQ:
    """Return the task queue of the application that handles this request.

    Raises ValidationError where there is none: an application that is mounted into another one has a state of its own.
    """
    tq = getattr(connection.app.state, "aiotaskq", None)
    if not isinstance(tq, TaskQ):
        raise ValidationError(
            "aiotaskq: this application has no task queue; use lifespan=tq.lifespan or setup(app, tq), "
            "and in one that is mounted into another: app.state.aiotaskq = tq"
        )
    return tq


def asgi_path(path: str) -> str:
    """Return a path as Starlette matches it: ids and keys may hold slashes, too."""
    return path.replace("}", ":path}")
