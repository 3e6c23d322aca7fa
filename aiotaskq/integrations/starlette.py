"""Starlette: the lifespan of an application with workers in it, and the operations as routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from aiotaskq.app.taskq import TaskQ, check_taskq
from aiotaskq.core.extras import missing
from aiotaskq.errors import ValidationError
from aiotaskq.web.policy import Actor

try:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
except ModuleNotFoundError:
    raise missing("starlette", "web") from None

from starlette.routing import Route

from aiotaskq.web.asgi import application, dashboard_handler, routes  # below: it needs starlette as well
from aiotaskq.web.dashboard.guarded import guarded_dashboard
from aiotaskq.web.dashboard.reply import Allow, CheckUser

__all__ = ["application", "dashboard", "routes", "setup", "taskq_of"]


def dashboard(
    tq: TaskQ,
    *,
    allow: Allow | None = None,
    guarded: bool = False,
    read_only: bool = False,
    show_args: bool = False,
    origins: Collection[str] = (),
    actor: Actor | None = None,
    login: CheckUser | None = None,
    secret: str | None = None,
) -> list[Route]:
    """Return the dashboard as routes: ``Mount("/tasks", routes=dashboard(tq, allow=is_admin))``.

    Args:
        allow: called with the request and the name of an action, or ``"view"``; returns whether the visitor may.
        guarded: True says that middleware of the application lets in only those who may; then ``allow`` may be absent.
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
    pages = guarded_dashboard(
        tq, guarded or allow is not None, "allow=…, guarded=True where middleware checks who comes in", **options
    )
    return [Route("/{name:path}", dashboard_handler(pages), methods=["GET", "POST"], name="aiotaskq:dashboard")]


def setup(
    app: Starlette,
    tq: TaskQ,
    *,
    concurrency: int = 10,
    queues: Sequence[str] | None = None,
    scheduler: bool = True,
    workers: bool | None = None,
    drain: float | timedelta = 25.0,
    grace: float | timedelta = 5.0,
) -> None:
    """Run workers and the scheduler inside the application, within the lifespan that it has; arguments as ``running``.

    With ``workers=False`` the task queue is only opened: for a process that pushes what others run. Under
    ``override`` it is only opened, too, whatever ``workers`` is. The application's own lifespan begins before the first
    handler runs, and ends after the last one has ended. Raises ValidationError for a second setup of
    the same application, and for a task queue of ``aiotaskq.sync``.
    """
    check_taskq("setup", tq)
    if getattr(app.state, "aiotaskq", None) is not None:
        raise ValidationError("setup: this application has a task queue already; one setup() for each")
    app.state.aiotaskq = tq
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        async with inner(app) as state:
            limits: dict[str, Any] = {"queues": queues, "scheduler": scheduler, "drain": drain, "grace": grace}
            async with tq.running(concurrency, workers=workers and None, **limits):  # True is for the real run only
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
