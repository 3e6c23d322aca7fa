"""What is shown of schedules, and of what they fired; the examples of the documentation."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct

from aiotaskq.core.firing import PlannedRun, derived_id, zone_of
from aiotaskq.core.firing_record import OUTCOMES, REASONS, FiringRecord
from aiotaskq.core.instants import to_datetime, to_iso
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND
from aiotaskq.operations.fields import Time, view_of
from aiotaskq.operations.hidden import plain

Zoned = Annotated[str, Meta(description="RFC 3339")]


class ScheduleView(Struct):
    """A schedule. Params are there only if they were asked for and may be shown."""

    task_id: str
    name: str
    task_type: str
    schedule_type: str
    interval_seconds: int | None
    cron_expression: str | None
    execute_at: Time | None
    timezone: str | None
    enabled: bool
    next_run_at: Time | None
    last_run_at: Time | None
    run_count: int
    max_runs: int
    misfire: str
    overlap: str
    catch_up: int | None
    jitter: int
    calendar: str | None
    calendar_rule: str
    blackout: list[str]
    blackout_policy: str
    priority: int
    queue: str
    max_retries: int
    timeout: float | None
    description: str | None
    declared: bool
    created_at: Time | None
    updated_at: Time | None
    params: Any = UNSET


class SchedulePage(Struct):
    """One page of schedules, in the order in which they were made."""

    schedules: list[ScheduleView]
    next: str | None


class Deleted(Struct):
    """The id of the schedule that was deleted."""

    schedule_id: str


class Fired(Struct):
    """The task that a schedule has made."""

    task_id: str


class Backfilled(Struct):
    """The due times that a backfill has fired, or with ``dry_run`` would fire."""

    times: list[Zoned]
    pushed: Annotated[bool, Meta(description="False with dry_run, or if there was none")]


class PlannedView(Struct):
    """A due time of a schedule, and what becomes of it."""

    due: Zoned
    start: Annotated[str, Meta(description="RFC 3339: when its task may start, by jitter or the end of a blackout")]
    skipped: Annotated[str, Meta(description="holiday, weekend or blackout")] | None


class PlannedTimes(Struct):
    """The next due times of a schedule, in its time zone; ``times`` has the starts of those that are not skipped."""

    times: list[Zoned]
    planned: list[PlannedView]


class FiringView(Struct):
    """One record of the history of a schedule: of one due time, or of several in a row that were skipped."""

    at: Time | None
    outcome: Annotated[str, Meta(description=", ".join(OUTCOMES))]
    due: Time | None
    until: Annotated[Time | None, Meta(description="The last of several due times")]
    count: int
    reason: Annotated[
        str | None,
        Meta(description=", ".join(REASONS)),
    ]
    start: Annotated[Time | None, Meta(description="When its task may start, where that is later")]
    task_id: Annotated[str | None, Meta(description="Of one task that was fired")]


class FiringHistory(Struct):
    """What a schedule fired and skipped, the newest first."""

    history: list[FiringView]


def fields_seen(schedule: Schedule, show_args: bool) -> str:
    """Return a digest of what a form shows of a schedule: another one says that it was made of other values.

    The version of the schedule does not: it rises with each run, too.
    """
    shown = {name: getattr(schedule, name) for name in ScheduleView.__struct_fields__ if name not in RUNNING}
    if not show_args:
        del shown["params"]
    return hashlib.sha256(msgspec.json.encode(plain(shown), order="sorted")).hexdigest()[:32]


RUNNING = ("enabled", "next_run_at", "last_run_at", "run_count", "created_at", "updated_at")
"""Fields that no form shows."""


def schedule_view(schedule: Schedule, show: bool = False) -> ScheduleView:
    """Return the view of a schedule; with ``show`` its params, too."""
    seconds = {name: getattr(schedule, name) for name in ("execute_at", "last_run_at", "created_at", "updated_at")}
    times = {name: None if value is None else to_iso(value * SECOND) for name, value in seconds.items()}
    params = plain(schedule.params) if show else UNSET
    return view_of(ScheduleView, schedule, next_run_at=to_iso(schedule.due), params=params, **times)


def firing_view(schedule_id: str, record: FiringRecord) -> FiringView:
    """Return the view of a record of a schedule's history."""
    task_id = record.task_id
    if record.due is not None and record.outcome in ("fired", "backfilled") and record.count == 1:
        task_id = derived_id(schedule_id, record.due)
    return view_of(FiringView, record, task_id=task_id)


def planned_view(schedule: Schedule, run: PlannedRun) -> PlannedView:
    """Return the view of a due time, in the time zone of the schedule."""
    zone = zone_of(schedule)
    return PlannedView(to_datetime(run.due, zone).isoformat(), to_datetime(run.start, zone).isoformat(), run.skipped)
