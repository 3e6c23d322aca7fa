"""Views: tasks, groups and schedules in the schemas of the API."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct

from aiotaskq.core.attempts import attempts_of, run_time
from aiotaskq.core.instants import to_iso
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.core.task import SECOND, Attempt, Task
from aiotaskq.operations.hidden import error_type, plain, visible_progress
from aiotaskq.web.schemas.events import StepView
from aiotaskq.web.schemas.tasks import AttemptView, TaskView

_SHOWN = ("attempts", "params", "result", "extra")
_SAME = [name for name in TaskView.__struct_fields__ if name in Task.__struct_fields__ and name not in _SHOWN]


def task_view(task: Task, *, one: bool, show: bool) -> TaskView:
    """Return the view of a task: ``one`` by itself, else as in a list; with ``show`` its params and result, too.

    The message of an error may hold what the params hold: it is shown where these are, and of one task.
    """
    whole = one and show
    error = _error(task.error_message, whole) or (task.undecodable if one else error_type(task.undecodable))
    known = {name: getattr(task, name) for name in _SAME}
    known |= {name: _seconds(getattr(task, name)) for name in ("created_at", "started_at", "completed_at")}
    known |= {name: to_iso(getattr(task, name)) for name in ("expires_at", "lease_until")}
    known |= {"run_at": to_iso(task.due_us), "run_time": run_time(task), "error": error}
    view = TaskView(**known | {"progress": visible_progress(task.progress, show)})
    if one:
        view.attempts = [_attempt_view(attempt, whole) for attempt in attempts_of(task)]
    if show:
        view.params, view.result, view.extra = plain(task.params), plain(task.result), plain(task.extra)
    return view


def _error(error: str | None, whole: bool) -> str | None:
    return error if whole else error_type(error)


def _attempt_view(attempt: Attempt, whole: bool) -> AttemptView:
    return AttemptView(
        number=attempt.number,
        began_at=to_iso(attempt.began_at),
        ended_at=to_iso(attempt.ended_at),
        run_time=attempt.seconds,
        outcome=attempt.outcome,
        # Why a task was given back is a text of the library, which holds no params.
        error=_error(attempt.error, whole or attempt.outcome == "released"),
    )


def body_options(body: Struct) -> dict[str, Any]:
    """Return the fields that a request body sets."""
    values = {name: getattr(body, name) for name in body.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}


def _seconds(seconds: int | None) -> str | None:
    return None if seconds is None else to_iso(seconds * SECOND)


def step_view(step: Step, show: bool) -> StepView:
    """Return the view of a step; with ``show`` what it returned, too."""
    view = StepView(
        step.kind, step.name, step.number, to_iso(step.at) or "", timed_out=step.timed_out, version=step.version
    )
    if step.undecodable is not None:
        view.undecodable = step.undecodable
    elif step.kind in ("sleep", "wait"):
        view.until = None if step.until >= NEVER else to_iso(step.until)
    elif show and step.kind != "wake":
        view.value = plain(step.value)
    return view
