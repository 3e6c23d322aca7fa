"""Schedules: the table with the next 24 hours, one schedule with its next and past runs, and the form of a new one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aiotaskq.core.preview import upcoming
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError
from aiotaskq.web.dashboard.pages.task import json_text
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schedule_changes import fields_seen
from aiotaskq.web.schemas.schedules import ScheduleView
from aiotaskq.web.schemas.tasks import TaskView
from aiotaskq.web.views import schedule_view, task_view

ROWS = 100
DAY = 24 * 3600 * SECOND
MARKS = 96
"""Due times drawn of one schedule: those of an interval of less than 15 minutes become a band."""
NEXT, PAST = 10, 20


class ScheduleRow(msgspec.Struct, kw_only=True):
    """One schedule and the next 24 hours."""

    schedule: ScheduleView
    marks: list[int]
    """Thousandths of the next 24 hours at which it is due."""
    band: bool
    """Whether it is due more often than is drawn."""


class ScheduleRows(msgspec.Struct):
    """The data of the page."""

    schedules: list[ScheduleRow]
    total: int
    start: int
    hours: list[int]
    """Microseconds UTC of the hours that are written below the next 24 hours."""
    now: int


def _dues(schedule: Schedule, count: int) -> list[int]:
    """Return the next due times in microseconds UTC; none of a paused schedule or one that has none."""
    if not schedule.enabled:
        return []
    try:
        return [round(each.timestamp() * SECOND) for each in upcoming(schedule, count)]
    except AiotaskqError:  # its page says what is wrong
        return []


def _row(schedule: Schedule, now: int) -> ScheduleRow:
    dues = [each for each in _dues(schedule, MARKS + 1) if each < now + DAY]
    return ScheduleRow(
        schedule=schedule_view(schedule, show=False),
        marks=sorted({max(0, each - now) * 1000 // DAY for each in dues[:MARKS]}),
        band=len(dues) > MARKS,
    )


@pages("schedules", marked("Schedules"), "start")
async def schedules(view: View) -> ScheduleRows:
    """Read one page of schedules. Raises NotSupported where the store can hold none."""
    found: Sequence[Schedule] = await view.tq.scheduler.list()
    start = view.whole("start", 0, 1_000_000)
    first = view.now - view.now % (3600 * SECOND) + 3600 * SECOND
    return ScheduleRows(
        schedules=[_row(each, view.now) for each in found[start : start + ROWS]],
        total=len(found),
        start=start,
        hours=[first + hour * 3600 * SECOND for hour in range(3, 24, 4)],
        now=view.now,
    )


class SchedulePageData(msgspec.Struct, kw_only=True):
    """The data of one schedule's page."""

    schedule: ScheduleView
    next: list[int]
    """Microseconds UTC; of a paused schedule as if it were resumed now."""
    problem: str | None
    """Why there are no next times, where that is an error."""
    runs: list[TaskView]
    """The latest tasks that it fired."""
    params: str | None


@pages("schedule", marked("Schedule"), "id", section="schedules")
async def schedule(view: View) -> SchedulePageData:
    """Read a schedule. Raises NotFound."""
    found = await view.tq.scheduler.get(view.needed("id"))
    problem, times = None, []
    try:
        times = [round(each.timestamp() * SECOND) for each in upcoming(found, NEXT)]
    except AiotaskqError as error:
        problem = str(error)
    runs = await view.tq.find(scheduler_task_id=found.task_id, limit=PAST)
    return SchedulePageData(
        schedule=schedule_view(found, show=view.show_args),
        next=times,
        problem=problem,
        runs=[task_view(each, one=False, show=False) for each in runs],
        params=json_text(found.params) if view.show_args else None,
    )


class ScheduleForm(msgspec.Struct):
    """The data of the form: the schedule that is edited; None for a new one."""

    schedule: ScheduleView | None
    params: str
    types: list[str]
    """The registered task types, for suggestions."""
    seen: str
    """Tells whether the schedule still has the values that the form shows."""


@pages("schedule-form", marked("New schedule"), "id", section="schedules")
async def schedule_form(view: View) -> ScheduleForm:
    """Read what the form is filled with. Raises NotFound."""
    types = sorted(view.tq.registered.handlers)
    if view.text("id") is None:
        return ScheduleForm(None, "", types, "")
    found = await view.tq.scheduler.get(view.needed("id"))
    params = json_text(found.params) if view.show_args else ""
    return ScheduleForm(schedule_view(found, show=False), params, types, fields_seen(found, view.show_args))
