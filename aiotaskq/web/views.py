"""Views: tasks, schedules, limits and workers in the schemas of the API."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct

from aiotaskq.core.attempts import attempts_of, run_time
from aiotaskq.core.firing import derived_id
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.instants import to_iso
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.core.task import SECOND, Attempt, Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.web.hidden import error_type, visible_progress
from aiotaskq.web.schemas.events import StepView
from aiotaskq.web.schemas.schedules import FiringView, ScheduleView
from aiotaskq.web.schemas.tasks import AttemptView, TaskView
from aiotaskq.web.schemas.workers import WorkerView


def task_view(task: Task, *, one: bool, show: bool) -> TaskView:
    """Return the view of a task: ``one`` by itself, else as in a list; with ``show`` its params and result, too.

    The message of an error may hold what the params hold: it is shown where these are, and of one task.
    """
    whole = one and show
    error = _error(task.error_message, whole) or (task.undecodable if one else error_type(task.undecodable))
    view = TaskView(
        task_id=task.task_id,
        type=task.type,
        status=task.status,
        queue=task.queue,
        priority=task.priority,
        retry_count=task.retry_count,
        max_retries=task.max_retries,
        crashes=task.crashes,
        created_at=_seconds(task.created_at),
        run_at=to_iso(task.due),
        started_at=_seconds(task.started_at),
        completed_at=_seconds(task.completed_at),
        run_time=run_time(task),
        cancel_requested=task.cancel_requested,
        error=error,
        scheduler_task_id=task.scheduler_task_id,
        unique_key=task.unique_key,
        idempotency_key=task.idempotency_key,
        timeout=task.timeout,
        expires_at=to_iso(task.expires_at),
        lease_owner=task.lease_owner,
        lease_until=to_iso(task.lease_until),
        progress=visible_progress(task.progress, show),
        usage=task.usage,
    )
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


def schedule_view(schedule: Schedule, *, show: bool) -> ScheduleView:
    """Return the view of a schedule; with ``show`` its params, too."""
    known = {name: getattr(schedule, name) for name in ScheduleView.__struct_fields__ if name != "params"}
    known["next_run_at"] = to_iso(schedule.due)
    known["blackout"] = list(schedule.blackout)
    for name in ("execute_at", "last_run_at", "created_at", "updated_at"):
        known[name] = _seconds(known[name])
    view = ScheduleView(**known)
    if show:
        view.params = plain(schedule.params)
    return view


def firing_view(schedule_id: str, record: FiringRecord) -> FiringView:
    """Return the view of a record of a schedule's history."""
    task_id = record.task_id
    if record.due is not None and record.outcome in ("fired", "backfilled") and record.count == 1:
        task_id = derived_id(schedule_id, record.due)
    return FiringView(
        at=to_iso(record.at),
        outcome=record.outcome,
        due=to_iso(record.due),
        until=to_iso(record.until),
        count=record.count,
        reason=record.reason,
        start=to_iso(record.start),
        task_id=task_id,
    )


def worker_view(info: WorkerInfo) -> WorkerView:
    """Return the view of a worker."""
    names = ("host", "pid", "version", "concurrency", "busy", "quiet", "wanted_concurrency")
    known = {name: getattr(info, name) for name in names}
    known |= {name: to_iso(getattr(info, name)) for name in ("started_at", "seen_at", "lease_until")}
    lists = {name: getattr(info, name) for name in ("queues", "types", "limits")}
    known |= {name: None if found is None else list(found) for name, found in lists.items()}
    return WorkerView(id=info.owner, **known)


def plain(value: Any) -> Any:
    """Return a value as JSON; an object that JSON cannot express, as a queue in memory may hold, as its type's name."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"<{type(value).__name__}>"


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
