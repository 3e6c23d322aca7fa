"""One task: its state and why it waits, attempts with their errors, and its params where they may be shown."""

from __future__ import annotations

import msgspec

from aiotaskq.core.outcome import RETRYABLE
from aiotaskq.core.task import FINAL, Status, Task
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas import TaskView
from aiotaskq.web.views import task_view


class TaskPage(msgspec.Struct, kw_only=True):
    """The data of the page."""

    task: TaskView
    group: str | None
    """The group whose member it is."""
    can_cancel: bool
    can_retry: bool


@pages("task", marked("Task"), "id", section="tasks")
async def task(view: View) -> TaskPage:
    """Read a task. Raises NotFound."""
    found: Task = await view.tq.get(view.needed("id"))
    return TaskPage(
        task=task_view(found, one=True, show=view.show_args),
        group=None if found.flow is None else found.flow.group,
        can_cancel=found.status not in FINAL,
        can_retry=found.status in RETRYABLE and found.status is not Status.COMPLETED,
    )
