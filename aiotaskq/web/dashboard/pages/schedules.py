"""Schedules: the table with a day before and after now, one schedule with its runs, its form, and the actions."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from aiotaskq.core.firing import upcoming
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.tags import labels
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError
from aiotaskq.operations.schedules import Options, fields_seen, firing_view, schedule_view
from aiotaskq.operations.schedules import schedules as operations
from aiotaskq.operations.table import Operation
from aiotaskq.web.dashboard.charts import Label, time_labels
from aiotaskq.web.dashboard.matching import part_of
from aiotaskq.web.dashboard.pages.tasks import chips, row_of
from aiotaskq.web.dashboard.rows import json_text
from aiotaskq.web.dashboard.view import (
    Done,
    Preview,
    View,
    action,
    by_name,
    check_type,
    operated_on,
    page,
    page_of,
    register,
)
from aiotaskq.web.dashboard.words import marked

ROWS = 100
HOUR = 3600 * SECOND
DAY = 24 * HOUR
MARKS = 96
"""Due times drawn of one schedule: those of an interval of less than 15 minutes become a band."""
LEAST = 3
"""Thousandths of two days that a mark is wide at least."""
NEXT, PAST, PREVIEWED = 10, 20, 5


_TIMING = operator.attrgetter(
    *("task_id", "enabled", "due", "schedule_type", "cron_expression", "interval_seconds", "timezone"),
    *("max_runs", "run_count", "jitter", "calendar", "calendar_rule", "blackout", "blackout_policy"),
)


async def _dues(view: View, schedule: Schedule) -> list[int]:
    """Return when a schedule is due in the next 24 hours, in microseconds UTC; never where it is paused.

    That is computed anew only where the schedule has changed, or an hour has passed.
    """
    until = view.now + DAY

    async def computed() -> list[int]:
        # Not on the loop: an expression may take a while for each of its times.
        return await asyncio.to_thread(_computed, schedule, view.now, until + HOUR)

    found = await view.shared.dues.get(_TIMING(schedule), HOUR / SECOND, computed)
    return [due for due in found if due < until]


def _computed(schedule: Schedule, now: int, until: int) -> list[int]:
    if schedule.state != "active":
        return []
    try:
        return [run.start for run in upcoming(schedule, MARKS + 1, fired=True, after=now, until=until)]
    except AiotaskqError:  # its page says what is wrong
        return []


def _place(instant: int, now: int) -> int:
    """Return the place of an instant in thousandths of the day before and the day after now."""
    return 500 + (instant - now) * 500 // DAY


def _row(schedule: Schedule, dues: Sequence[int], now: int) -> dict[str, Any]:
    """Return a schedule, and as marks what it did and is about to do in the day before and after now.

    A mark is of a record of one or several due times that were ``fired`` or ``skipped``, or of a time that is ``due``.
    """
    marks: list[tuple[str, int, int]] = []
    for record in schedule.history:
        begin = record.at if record.due is None else record.due
        end = begin if record.until is None else record.until
        if record.outcome in ("fired", "skipped", "run_now", "backfilled") and now - DAY <= end <= now:
            first = max(0, _place(begin, now))
            kind = "skipped" if record.outcome == "skipped" else "fired"
            marks.append((kind, first, max(LEAST, _place(end, now) - first)))
    places = sorted({_place(max(now, due), now) for due in dues})
    band = len(dues) > MARKS
    marks += [("due", places[0], 1000 - places[0])] if band else [("due", place, LEAST) for place in places]
    shown = [{"kind": kind, "begin": begin, "width": width} for kind, begin, width in marks]
    return {"schedule": schedule_view(schedule), "marks": shown}


@page("schedules", marked("Schedules"), "start", "like")
async def schedules(view: View) -> dict[str, Any]:
    """Read one page of schedules. Raises NotSupported where the store can hold none."""
    like = view.text("like")
    found = [each for each in await view.tq.schedules.list() if part_of(like, each.name, each.task_type)]
    start = view.whole("start", 0, 1_000_000)
    shown = found[start : start + ROWS]
    begin, end = view.now - DAY, view.now + DAY
    hours = [
        hour for hour in time_labels(begin, end, ZoneInfo(view.words.zone_name))[0] if begin + HOUR < hour < end - HOUR
    ]
    return {
        "schedules": [_row(each, await _dues(view, each), view.now) for each in shown],
        "total": len(found),
        "start": start,
        "hours": [Label(_place(hour, view.now), hour) for hour in hours],
        "like": like or "",
    }


@page("schedule", marked("Schedule"), "id", section="schedules")
async def schedule(view: View) -> dict[str, Any]:
    """Read a schedule. Raises NotFound."""
    found = await view.tq.schedules.get(view.needed("id"))
    problem, times = None, []
    try:
        times = (await view.perform(operations["preview"], {"schedule": found.task_id, "count": NEXT})).planned
    except AiotaskqError as error:
        problem = str(error)
    runs = await view.tq.find(scheduler_task_id=found.task_id, limit=PAST, blobs=False)
    return {
        "schedule": schedule_view(found, view.show_args),
        "changes": await operated_on(view, found.task_id, ("schedules",)),
        "next": times,
        "problem": problem,
        "runs": [row_of(each, view) for each in runs],
        "history": [firing_view(found.task_id, each) for each in found.history[::-1]],
        "params": json_text(found.params) if view.show_args else None,
        "chips": chips(found.tags),
    }


@page("schedule-form", marked("New schedule"), "id", section="schedules")
async def schedule_form(view: View) -> dict[str, Any]:
    """Read what the form is filled with. Raises NotFound."""
    types = sorted(view.handlers)
    if view.text("id") is None:
        return {"schedule": None, "params": "", "types": types, "seen": ""}
    found = await view.tq.schedules.get(view.needed("id"))
    return {
        "schedule": schedule_view(found),
        "tags": " ".join(labels(found.tags)),
        "params": json_text(found.params) if view.show_args else "",
        "types": types,
        "seen": fields_seen(found, view.show_args),
    }


_TIMINGS = {"interval": "interval", "cron": "cron", "once": "at"}
_OPTIONAL = ("description", "timezone", "timeout", "calendar")
"""An edit takes these away where their fields are empty."""


def _given(operation: Operation, view: View) -> dict[str, Any]:
    """Return the fields of the form that are filled in, and those that an edit takes away. Raises ValidationError."""
    gone = {name: None for name in _OPTIONAL if operation.thing and name in view.form}
    given: dict[str, Any] = gone | by_name(operation, view)
    if "blackout" in view.form:  # an empty field takes the windows away
        given["blackout"] = [each.strip() for each in given.get("blackout", "").split(",") if each.strip()]
    if "tags" in view.form:
        given.setdefault("tags", {})
    if operation.thing:
        given["seen"] = view.needed("seen")
    kind, timing = view.text("schedule_type"), view.text("timing")
    return given if kind not in _TIMINGS or timing is None else given | {_TIMINGS[kind]: timing}


async def _save(operation: Operation, said: str, view: View) -> Done | Preview:
    given = _given(operation, view)
    if view.text("preview"):
        wanted = {name: given[name] for name in ("schedule", *Options.__struct_fields__) if name in given}
        return Preview((await view.perform(operations["preview"], wanted | {"count": PREVIEWED})).planned)
    if operation.verb == "add":
        await check_type(view)
    made = await view.perform(operation, given)
    return Done(said, {"schedule": made.task_id}, page=page_of("schedules", made.task_id))


for name, said in (
    ("add", marked("The schedule {schedule} is created.")),
    ("update", marked("The schedule {schedule} is changed.")),
):
    register(operations[name], functools.partial(_save, operations[name], said), "schedule-form")
action(operations["pause"], marked("The schedule {schedule} is paused."))
action(operations["resume"], marked("The schedule {schedule} runs again."))
action(operations["run_now"], marked("The schedule {schedule} was fired."))
action(operations["delete"], marked("The schedule {schedule} is deleted."), asks=True)
