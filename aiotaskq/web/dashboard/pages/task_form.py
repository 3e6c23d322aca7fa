"""The form of a task: a new one, a copy of another, or a pending one that is edited."""

from __future__ import annotations

import msgspec

from aiotaskq.web.dashboard.rows import json_text
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas.tasks import TaskView
from aiotaskq.web.views import task_view


class TaskForm(msgspec.Struct, kw_only=True):
    """The data of the form."""

    task: TaskView | None
    """The task that is edited or copied; None for a new one."""
    edited: bool
    fence: int
    """That of the task: an edit holds only while it is the same."""
    params: str | None
    """As JSON text; None where there are some that are not shown."""
    on_success: str
    on_failure: str
    types: list[str]
    """The registered types, for suggestions."""


@pages("task-form", marked("New task"), "id", "from", section="tasks")
async def task_form(view: View) -> TaskForm:
    """Read what the form is filled with. Raises NotFound."""
    types = sorted(view.tq.registered.handlers)
    wanted = view.text("id") or view.text("from")
    if wanted is None:
        return TaskForm(task=None, edited=False, fence=0, params="", on_success="", on_failure="", types=types)
    found = await view.tq.get(wanted)
    return TaskForm(
        task=task_view(found, one=False, show=False),
        edited=view.text("id") is not None,
        fence=found.fence,
        params=json_text(found.params) if view.show_args else None,
        on_success=found.on_success if isinstance(found.on_success, str) else "",
        on_failure=found.on_failure if isinstance(found.on_failure, str) else "",
        types=types,
    )
