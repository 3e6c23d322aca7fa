"""Actions on tasks: cancel and retry."""

from __future__ import annotations

from urllib.parse import urlencode

from aiotaskq.core.task import Status
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, actions
from aiotaskq.web.dashboard.words import marked


def task_page(task_id: str) -> str:
    """Return the address of a task's page."""
    return "task?" + urlencode({"id": task_id})


@actions("cancel-task")
async def cancel(change: Change) -> Question | Done:
    """Cancel a task, or ask a running one to stop."""
    task_id = change.needed("id")
    if not change.sure:
        text = marked("Cancel task {id}? A cancelled task can be retried; what its run has done so far stays done.")
        return Question(text, {"id": task_id}, marked("Cancel the task"), task_page(task_id))
    if not await change.tq.cancel(task_id):
        ended = Message(marked("Task {id} has ended already."), {"id": task_id}, problem=True)
        return Done(ended, task_page(task_id), (task_id,))
    stopped = (await change.tq.get(task_id)).status is Status.CANCELLED
    text = marked("Task {id} is cancelled.") if stopped else marked("Task {id} was asked to stop.")
    return Done(Message(text, {"id": task_id}), task_page(task_id), (task_id,))


@actions("retry-task")
async def retry(change: Change) -> Done:
    """Put an ended task back."""
    task_id = change.needed("id")
    await change.tq.retry(task_id)
    return Done(Message(marked("Task {id} is pending again."), {"id": task_id}), task_page(task_id), (task_id,))
