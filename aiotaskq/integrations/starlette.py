"""Starlette: the lifespan of an application with workers in it, and the operations as routes."""

from __future__ import annotations

from typing import Unpack

from aiotaskq.app.taskq import TaskQ
from aiotaskq.web.asgi import Route, application, routes, setup, taskq_of
from aiotaskq.web.policy import DashboardOptions

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
    return [Route("/{name:path}", pages.respond, methods=["GET", "POST"], name="aiotaskq:dashboard")]
