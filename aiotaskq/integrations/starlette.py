"""Starlette: the lifespan of an application with workers in it, and the operations as routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.extras import missing
from aiotaskq.errors import ValidationError
from aiotaskq.web.policy import check_taskq

try:
    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
except ModuleNotFoundError:
    raise missing("starlette", "web") from None

from aiotaskq.web.asgi import application, routes  # below: it needs starlette as well

__all__ = ["application", "routes", "setup", "taskq_of"]


def setup(
    app: Starlette,
    tq: TaskQ,
    *,
    concurrency: int = 10,
    queues: Sequence[str] | None = None,
    scheduler: bool = True,
    workers: bool | None = None,
    drain: float = 25.0,
    grace: float = 5.0,
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
