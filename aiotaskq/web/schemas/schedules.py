"""The JSON schemas of schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.backfill import LIMIT as BACKFILL
from aiotaskq.core.backfill import MAX_LIMIT as MAX_BACKFILL
from aiotaskq.core.schedule import MAX_JITTER
from aiotaskq.operations.fields import Count, Cursor, Id, Instant, Limit, Name, Show, Time

Kind = Literal["interval", "cron", "once"]
Misfire = Literal["fire_once", "skip", "fire_all"]
Overlap = Literal["allow", "skip", "buffer_one"]
Jitter = Annotated[int, Meta(ge=0, le=MAX_JITTER, description="Seconds by which a task may start later")]
Calendar = Annotated[
    str, Meta(min_length=1, max_length=64, description="A country or a part of one, such as DE or DE-BY")
]
CalendarRule = Literal["skip_holidays", "working_days"]
Blackout = Annotated[list[str], Meta(description="Windows such as 22:00-06:00, 2026-12-24 or 2026-12-24/2027-01-02")]
BlackoutPolicy = Literal["skip", "delay"]


class ScheduleBody(Struct, forbid_unknown_fields=True):
    """A schedule to be made."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    task_type: Name
    schedule_type: Kind
    params: dict[str, Any] | None = None
    interval_seconds: Annotated[int, Meta(ge=1)] | None = None
    cron_expression: str | None = None
    execute_at: Instant | None = None
    max_runs: Count = 0
    description: str | None = None
    timezone: Annotated[str, Meta(description="IANA name")] | None = None
    misfire: Misfire = "fire_once"
    overlap: Overlap = "allow"
    catch_up: Annotated[int, Meta(ge=1, description="Seconds")] | None = None
    jitter: Jitter = 0
    calendar: Calendar | None = None
    calendar_rule: CalendarRule = "skip_holidays"
    blackout: Blackout = []
    blackout_policy: BlackoutPolicy = "skip"
    priority: int = 0
    queue: Name = "default"
    max_retries: Count = 3
    timeout: Annotated[float, Meta(gt=0, description="Seconds")] | None = None
    task_id: Id | None = None
    start_at: Instant | None = None


class BackfillBody(Struct, forbid_unknown_fields=True):
    """A past span whose due times are to be fired that have fired no task."""

    since: Instant
    until: Annotated[Instant | None, Meta(description="Before which a due time lies; default now")] = None
    limit: Annotated[int, Meta(ge=1, le=MAX_BACKFILL, description="If there are more, none is fired")] = BACKFILL
    dry_run: bool = False


class ScheduleChanges(Struct, forbid_unknown_fields=True):
    """Changes of a schedule; fields left out stay."""

    name: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET
    task_type: Name | UnsetType = UNSET
    schedule_type: Kind | UnsetType = UNSET
    params: dict[str, Any] | UnsetType = UNSET
    interval_seconds: Annotated[int, Meta(ge=1)] | UnsetType | None = UNSET
    cron_expression: str | UnsetType | None = UNSET
    execute_at: Instant | UnsetType | None = UNSET
    max_runs: Count | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    timezone: str | UnsetType | None = UNSET
    misfire: Misfire | UnsetType = UNSET
    overlap: Overlap | UnsetType = UNSET
    catch_up: Annotated[int, Meta(ge=1)] | UnsetType | None = UNSET
    jitter: Jitter | UnsetType = UNSET
    calendar: Calendar | UnsetType | None = UNSET
    calendar_rule: CalendarRule | UnsetType = UNSET
    blackout: Blackout | UnsetType = UNSET
    blackout_policy: BlackoutPolicy | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    queue: Name | UnsetType = UNSET
    max_retries: Count | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0)] | UnsetType | None = UNSET


class ScheduleQuery(Struct):
    """Which schedules are listed."""

    enabled: bool = False
    limit: Limit = 100
    cursor: Cursor | None = None
    show: Show = []


class NextQuery(Struct):
    """How many of the next times of a schedule are wanted."""

    count: Annotated[int, Meta(ge=1, le=100)] = 5


class PreviewQuery(Struct):
    """The timing of a schedule that need not exist: exactly one of cron, interval and at."""

    cron: Annotated[str, Meta(max_length=255)] | None = None
    interval: Annotated[int, Meta(ge=1, description="Seconds")] | None = None
    at: Instant | None = None
    timezone: Annotated[str, Meta(description="IANA name; default the server's")] | None = None
    after: Annotated[datetime, Meta(tz=True)] | None = None
    count: Annotated[int, Meta(ge=1, le=100)] = 5
    calendar: Calendar | None = None
    calendar_rule: CalendarRule = "skip_holidays"
    blackout: Blackout = []
    blackout_policy: BlackoutPolicy = "skip"


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


class Fired(Struct):
    """The task that a schedule has made."""

    task_id: str


class Backfilled(Struct):
    """The due times that a backfill has fired, or with ``dry_run`` would fire."""

    times: list[Annotated[str, Meta(description="RFC 3339")]]
    pushed: Annotated[bool, Meta(description="False with dry_run, or if there was none")]


class Times(Struct):
    """The next instants of a schedule, in its time zone."""

    times: list[Annotated[str, Meta(description="RFC 3339")]]


class PlannedView(Struct):
    """A due time of a schedule, and what becomes of it."""

    due: Annotated[str, Meta(description="RFC 3339")]
    start: Annotated[str, Meta(description="RFC 3339: when its task may start, by jitter or the end of a blackout")]
    skipped: Annotated[str, Meta(description="holiday, weekend or blackout")] | None


class PlannedTimes(Struct):
    """The next due times of a schedule, in its time zone; ``times`` has those that are not skipped."""

    times: list[Annotated[str, Meta(description="RFC 3339")]]
    planned: list[PlannedView]


class FiringView(Struct):
    """One record of the history of a schedule: of one due time, or of several in a row that were skipped."""

    at: Time | None
    outcome: Annotated[str, Meta(description="fired, skipped, run_now, backfilled, paused, resumed or changed")]
    due: Time | None
    until: Annotated[Time | None, Meta(description="The last of several due times")]
    count: int
    reason: Annotated[
        str | None,
        Meta(description="misfire, catch_up, overlap, max_runs, holiday, weekend, blackout or paused"),
    ]
    start: Annotated[Time | None, Meta(description="When its task may start, where that is later")]
    task_id: Annotated[str | None, Meta(description="Of one task that was fired")]


class FiringHistory(Struct):
    """What a schedule fired and skipped, the newest first."""

    history: list[FiringView]
