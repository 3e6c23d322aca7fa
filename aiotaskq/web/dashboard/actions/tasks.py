"""Actions on one task: push, edit, run now, run again, retry, cancel and delete."""

from __future__ import annotations

from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.parking import budgets_of
from aiotaskq.core.task import Status, Task
from aiotaskq.core.validation import check_json
from aiotaskq.errors import TaskConflict
from aiotaskq.runtime.run_now import run_now
from aiotaskq.web.changes import EditBody, change_task
from aiotaskq.web.dashboard.actions.fields import body_of, whole
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, done, link
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas.tasks import PushBody
from aiotaskq.web.views import body_options

_FIELDS = (
    *("type", "queue", "priority", "delay", "at", "max_retries", "timeout", "unique_key", "idempotency_key"),
    *("on_success", "on_failure"),
)
_KEPT = ("queue", "priority", "max_retries", "timeout", "on_success", "on_failure")
"""What the next run of an ended task has, too."""
_ONE_CALL: dict[str, Any] = dict.fromkeys(("debounce", "max_wait", "merge", "throttle", "key"))
"""Options of a type that are about its calls, and not about a task that is run again."""


def _check_readable(tq: TaskQ, task: Task) -> None:
    """Raise TaskConflict for a task that cannot be pushed again as it is."""
    if task.undecodable is not None:
        raise TaskConflict(f"task {task.task_id!r} cannot be read ({task.undecodable}); cancel it")
    gated = task.flow is not None and len(task.flow.gates) > len(budgets_of(task.flow))  # the copy is in no group
    if gated and task.type not in tq.registered.handlers:
        raise TaskConflict(
            f"task {task.task_id!r} has limits, and its type {task.type!r} is not registered here, so they would be "
            "lost; run the dashboard in the application"
        )


@actions("add-task", form="task-form")
async def add(change: Change) -> Done:
    """Push a task; without params of its own it has those of the task that it is a copy of."""
    body = body_of(change, PushBody, _FIELDS)
    source = None
    if (copied := change.text("from")) is not None:
        source = await change.tq.get(copied)
        _check_readable(change.tq, source)
    options = {name: value for name, value in body_options(body).items() if value is not None}
    kind, params = options.pop("type"), options.pop("params")
    if source is not None and change.text("params") is None:
        params = source.params
    else:
        check_json("params", params)
    handle = await change.tq.push(kind, params, **options)
    if handle.created:
        return done(marked("Task {id} is pushed."), link("task", id=handle.task_id), id=handle.task_id)
    said = Message(
        marked("A key names task {id}, which exists already; none was pushed."), {"id": handle.task_id}, True
    )
    return Done(said, link("task", id=handle.task_id), (handle.task_id,))


@actions("edit-task", form="task-form")
async def edit(change: Change) -> Done:
    """Change a pending task that has not changed since the form was opened; params that are left empty stay."""
    task_id, fence = change.needed("id"), whole("fence", change.needed("fence"))
    body = body_of(change, EditBody, _FIELDS)
    if change.text("timeout") is None:
        body.timeout = None
    await change_task(change.tq, task_id, body, fence)
    return done(marked("Task {id} is changed."), link("task", id=task_id), id=task_id)


@actions("run-task")
async def run_at_once(change: Change) -> Done:
    """Make a task due that is delayed, waits for its next attempt, or sleeps."""
    task_id = change.needed("id")
    await run_now(change.tq.queue, await change.tq.get(task_id))
    return done(marked("Task {id} is due now."), link("task", id=task_id), id=task_id)


@actions("rerun-task")
async def rerun(change: Change) -> Question | Done:
    """Run an ended task again, under its id."""
    task_id = change.needed("id")
    task = await change.tq.get(task_id)
    if not task.final:
        raise TaskConflict(f"task {task_id} is {task.status}; only ended tasks are run again")
    _check_readable(change.tq, task)
    if not change.sure:
        text = marked("Run task {id} again? Its result and its attempts are replaced by those of the new run.")
        return Question(text, {"id": task_id}, marked("Run again"), link("task", id=task_id))
    kept: dict[str, Any] = {name: getattr(task, name) for name in _KEPT if getattr(task, name) is not None}
    await change.tq.push(task.type, task.params, task_id=task_id, rerun=True, **kept, **_ONE_CALL)
    return done(marked("Task {id} runs again."), link("task", id=task_id), id=task_id)


@actions("cancel-task")
async def cancel(change: Change) -> Question | Done:
    """Cancel a task, or ask a running one to stop."""
    task_id = change.needed("id")
    if not change.sure:
        text = marked("Cancel task {id}? A cancelled task can be retried; what its run has done so far stays done.")
        return Question(text, {"id": task_id}, marked("Cancel the task"), link("task", id=task_id))
    if not await change.tq.cancel(task_id):
        ended = Message(marked("Task {id} has ended already."), {"id": task_id}, problem=True)
        return Done(ended, link("task", id=task_id), (task_id,))
    stopped = (await change.tq.get(task_id)).status is Status.CANCELLED
    return done(
        marked("Task {id} is cancelled.") if stopped else marked("Task {id} was asked to stop."),
        link("task", id=task_id),
        id=task_id,
    )


@actions("retry-task")
async def retry(change: Change) -> Done:
    """Put a failed, cancelled or expired task back."""
    task_id = change.needed("id")
    await change.tq.retry(task_id)
    return done(marked("Task {id} is pending again."), link("task", id=task_id), id=task_id)


@actions("delete-task")
async def delete(change: Change) -> Question | Done:
    """Delete an ended task."""
    task_id = change.needed("id")
    if not change.sure:
        text = marked("Delete task {id}, with its result and its attempts? This cannot be undone.")
        return Question(text, {"id": task_id}, marked("Delete the task"), link("task", id=task_id))
    await change.tq.delete(task_id)
    return done(marked("Task {id} is deleted."), "tasks", id=task_id)
