"""Actions on schedules: create, edit, pause, resume, run now and delete."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from aiotaskq.errors import NotFound
from aiotaskq.web.changes import change_schedule, create_schedule, fields_seen
from aiotaskq.web.dashboard.actions.fields import body_of
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, done, link
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas.schedules import ScheduleBody, ScheduleChanges

S = TypeVar("S", bound=msgspec.Struct)
_TIMINGS = {"interval": "interval_seconds", "cron": "cron_expression", "once": "execute_at"}
_FIELDS = (
    *("name", "task_type", "schedule_type", "timezone", "misfire", "overlap", "catch_up", "priority", "queue"),
    *(
        "jitter",
        "calendar",
        "calendar_rule",
        "blackout_policy",
        "max_retries",
        "timeout",
        "max_runs",
        "description",
        "task_id",
    ),
)
_OPTIONAL = ("description", "timezone", "timeout", "calendar")
"""An edit takes these away where their fields are empty."""


def _given(change: Change, kind: type[S]) -> S:
    """Return the fields of the form that are filled in. Raises ValidationError naming the field."""
    timing = _TIMINGS.get(change.text("schedule_type") or "")
    more: dict[str, Any] = {} if timing is None else {timing: change.text("timing")}
    if "blackout" in change.form:  # an empty field takes the windows away
        more["blackout"] = [each.strip() for each in (change.text("blackout") or "").split(",") if each.strip()]
    return body_of(change, kind, _FIELDS, **more)


@actions("add-schedule", form="schedule-form")
async def add(change: Change) -> Done:
    """Create a schedule."""
    schedule_id = await create_schedule(change.tq, _given(change, ScheduleBody))
    return done(marked("The schedule {id} is created."), link("schedule", id=schedule_id), id=schedule_id)


@actions("edit-schedule", form="schedule-form")
async def edit(change: Change) -> Done:
    """Change a schedule that is as the form shows it.

    What is left empty stays, but for a description, a time zone, a timeout, a calendar and blackout windows.
    """
    schedule_id, seen = change.needed("id"), change.needed("seen")
    body = _given(change, ScheduleChanges)
    for name in _OPTIONAL:
        if name in change.form and change.text(name) is None:
            setattr(body, name, None)
    await change_schedule(change.tq, schedule_id, body, lambda each: fields_seen(each, change.show_args) == seen)
    return done(marked("The schedule {id} is changed."), link("schedule", id=schedule_id), id=schedule_id)


@actions("pause-schedule")
async def pause(change: Change) -> Done:
    """Disable a schedule."""
    schedule_id = change.needed("id")
    await change.tq.scheduler.pause_task(schedule_id)
    return done(marked("The schedule {id} is paused."), link("schedule", id=schedule_id), id=schedule_id)


@actions("resume-schedule")
async def resume(change: Change) -> Done:
    """Enable a schedule."""
    schedule_id = change.needed("id")
    await change.tq.scheduler.resume_task(schedule_id)
    return done(marked("The schedule {id} runs again."), link("schedule", id=schedule_id), id=schedule_id)


@actions("run-schedule")
async def run_now(change: Change) -> Done:
    """Fire a schedule once more."""
    schedule_id = change.needed("id")
    task_id = await change.tq.scheduler.run_now(schedule_id)
    text = marked("The schedule {id} was fired: task {task}.")
    return done(text, link("schedule", id=schedule_id), id=schedule_id, task=task_id)


@actions("delete-schedule")
async def delete(change: Change) -> Question | Done:
    """Delete a schedule; tasks that it fired stay."""
    schedule_id = change.needed("id")
    if not change.sure:
        text = marked("Delete the schedule {id}? This cannot be undone; tasks that it fired stay.")
        return Question(text, {"id": schedule_id}, marked("Delete the schedule"), link("schedule", id=schedule_id))
    if not await change.tq.scheduler.delete_task(schedule_id):
        raise NotFound(f"there is no schedule {schedule_id}")
    return done(marked("The schedule {id} is deleted."), "schedules", id=schedule_id)
