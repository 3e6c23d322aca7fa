"""Starlette: the lifespan of an application with workers in it, and the operations as routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Unpack

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.core.errors import missing
from aiotaskq.errors import ValidationError
from aiotaskq.web.policy import DashboardOptions, RunningOptions, running

try:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
except ModuleNotFoundError:
    raise missing("starlette", "web") from None

from starlette.routing import Route

from aiotaskq.web.asgi import application, dashboard_handler, routes  # below: it needs starlette as well

__all__ = ["application", "dashboard", "routes", "setup", "taskq_of"]


def dashboard(tq: TaskQ, *, guarded: bool = False, **options: Unpack[DashboardOptions]) -> list[Route]:
    """Return the dashboard as routes: ``Mount("/tasks", routes=dashboard(tq, allow=is_admin))``.

    Args:
        guarded: True says that middleware of the application lets in only those who may; then ``allow`` may be absent.
        options: those of ``DashboardOptions``.

    Raises:
        ValidationError: where nothing checks the visitors, for a weak ``secret``, and for a task queue of
            ``aiotaskq.sync``.
    """
    from aiotaskq.web.dashboard.site import guarded_dashboard  # it needs jinja2, which the rest does not

    pages = guarded_dashboard(tq, guarded, "allow=…, guarded=True where middleware checks who comes in", **options)
    return [Route("/{name:path}", dashboard_handler(pages), methods=["GET", "POST"], name="aiotaskq:dashboard")]


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
