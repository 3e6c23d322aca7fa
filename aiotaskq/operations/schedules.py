"""Operations on schedules: list, preview, get, add, update, pause, resume, delete, run now, history, backfill."""

from __future__ import annotations

import functools
import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec import UNSET, Meta, Struct

from aiotaskq.app.internal import internal
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.cron import check_timezone, local_timezone
from aiotaskq.core.errors import check_json, check_key, instant
from aiotaskq.core.firing import LIMIT, MAX_LIMIT, derived_id, upcoming, zone_of
from aiotaskq.core.firing_record import OUTCOMES, REASONS, FiringRecord
from aiotaskq.core.instants import from_now, seconds_of, to_datetime, to_iso
from aiotaskq.core.schedule import (
    MAX_JITTER,
    BlackoutPolicy,
    CalendarRule,
    Misfire,
    Overlap,
    Schedule,
    ScheduleState,
    changed,
    new_schedule,
    timing_of,
)
from aiotaskq.core.task import SECOND
from aiotaskq.errors import NotFound, NotSupported, TaskConflict, UnknownHandler, ValidationError
from aiotaskq.log import printable
from aiotaskq.operations.fields import MAX_PAGE, Count, Cursor, Id, Limit, Maybe, Name, Nullable, Time, about, view_of
from aiotaskq.operations.hidden import plain
from aiotaskq.operations.table import Access, Operations, only

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

Zoned = Annotated[str, about("RFC 3339")]


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
    state: Annotated[
        ScheduleState, about("`disabled`: the scheduler could not fire it; `finished`: it will not run again")
    ]
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
    tags: Annotated[dict[str, str], about("Those of its tasks")]
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
    pushed: Annotated[bool, about("False with dry_run, or if there was none")]


class PlannedView(Struct):
    """A due time of a schedule, and what becomes of it."""

    due: Zoned
    start: Annotated[str, about("RFC 3339: when its task may start, by jitter or the end of a blackout")]
    skipped: Annotated[str, about("holiday, weekend or blackout")] | None


class PlannedTimes(Struct):
    """The next due times of a schedule, in its time zone; ``times`` has the starts of those that are not skipped."""

    times: list[Zoned]
    planned: list[PlannedView]


class FiringView(Struct):
    """One record of the history of a schedule: of one due time, or of several in a row that were skipped."""

    at: Time | None
    outcome: Annotated[str, about(", ".join(OUTCOMES))]
    due: Time | None
    until: Annotated[Time | None, about("The last of several due times")]
    count: int
    reason: Annotated[str | None, about(", ".join(REASONS))]
    start: Annotated[Time | None, about("When its task may start, where that is later")]
    task_id: Annotated[str | None, about("Of one task that was fired")]


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


RUNNING = ("enabled", "state", "next_run_at", "last_run_at", "run_count", "created_at", "updated_at")
"""Fields that no form shows."""


def schedule_view(schedule: Schedule, show: bool = False) -> ScheduleView:
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


async def find(tq: TaskQ, text: str) -> str:
    """Return the id or name that a text is, or the only id that begins so."""
    known = await tq.schedules.list()
    if any(text in (each.task_id, each.name) for each in known):
        return text
    return only(text, [each.task_id for each in known if each.task_id.startswith(text)])


schedules = Operations("schedules", find, raises=(NotSupported,), raises_for_name=(TaskConflict,))
"""A store may hold no schedules; several may have the name that is given."""

Text = Annotated[str, Meta(min_length=1, max_length=255)]
ScheduleName = Annotated[Text, about("The id or the name of a schedule")]
Label = Annotated[Text, about("What it is called")]
Type = Annotated[Name, about("The type of its tasks")]
Params = Annotated[dict[str, Any], about("The params of its tasks")]
Shown = Annotated[bool, about("Show params, which may contain secrets")]
Moment = (
    Annotated[
        str,
        about("RFC 3339, without an offset in its time zone; or 2h: from now on, since and until before now"),
    ]
    | Annotated[float, about("Epoch seconds")]
)


class Options(Struct, kw_only=True):
    """When a schedule fires; what is left out has its default."""

    cron: Maybe[Annotated[str, about("Cron: 5 fields, or 6 with the seconds first")]] = UNSET
    interval: Maybe[Annotated[int, about("Seconds from one time to the next", ge=1)]] = UNSET
    at: Maybe[Moment] = UNSET
    timezone: Nullable[Annotated[str, about("An IANA name; default that of the application")]] = UNSET
    calendar: Nullable[
        Annotated[
            str,
            about("A calendar of holidays: a country or a part of one, as DE-BY", min_length=1, max_length=64),
        ]
    ] = UNSET
    calendar_rule: Maybe[Annotated[CalendarRule, about("What the calendar leaves out; default skip_holidays")]] = UNSET
    blackout: Maybe[
        Annotated[list[str], about("Windows without starts, as 22:00-06:00, 2026-12-24 or 2026-12-24/2027-01-02")]
    ] = UNSET
    blackout_policy: Maybe[Annotated[BlackoutPolicy, about("What becomes of a time in a window; default skip")]] = UNSET
    max_runs: Maybe[Annotated[Count, about("The most runs; 0 is no limit")]] = UNSET


class TaskOptions(Options, kw_only=True):
    """How a schedule fires, and how its tasks run."""

    params: Maybe[Params] = UNSET
    description: Nullable[Annotated[str, about("What it is for")]] = UNSET
    misfire: Maybe[Annotated[Misfire, about("Which times that have passed are made up for; default fire_once")]] = UNSET
    overlap: Maybe[Annotated[Overlap, about("What becomes of a time while earlier tasks run; default allow")]] = UNSET
    catch_up: Nullable[Annotated[int, about("Seconds; what is later is skipped", ge=1)]] = UNSET
    jitter: Maybe[Annotated[int, about("Seconds by which a task may start later", ge=0, le=MAX_JITTER)]] = UNSET
    queue: Maybe[Annotated[Name, about("The queue of its tasks")]] = UNSET
    priority: Maybe[Annotated[int, about("The priority of its tasks; smaller numbers run first")]] = UNSET
    max_retries: Maybe[Annotated[Count, about("How often a task is run again after a failure")]] = UNSET
    timeout: Nullable[Annotated[float, about("Seconds of one run of a task", gt=0)]] = UNSET
    tags: Maybe[Annotated[dict[str, str], about("Names and values by which its tasks are found")]] = UNSET


class Added(TaskOptions, forbid_unknown_fields=True, kw_only=True):
    """A schedule to be made: exactly one of cron, interval and at."""

    name: Label
    type: Type
    start_at: Maybe[Moment] = UNSET
    schedule_id: Maybe[Annotated[Id, about("An id of your own")]] = UNSET


class Changed(TaskOptions, forbid_unknown_fields=True, kw_only=True):
    """Changes of a schedule; what is left out stays."""

    schedule: ScheduleName
    name: Maybe[Label] = UNSET
    type: Maybe[Type] = UNSET
    seen: Maybe[Annotated[str, about("What a form showed of it: refused if it has changed since")]] = UNSET


class Previewed(Options, forbid_unknown_fields=True, kw_only=True):
    """A schedule that is there, as it is or as if it were changed so; else exactly one of cron, interval and at."""

    schedule: Maybe[ScheduleName] = UNSET
    count: Annotated[int, about("How many times", ge=1, le=1_000)] = 5
    after: Maybe[Moment] = UNSET


@schedules(raises=(NotFound,))
async def list_(
    access: Access,
    enabled: Annotated[bool, about("Only those that are neither paused nor finished")] = False,
    limit: Limit = 100,
    cursor: Cursor | None = None,
    params: Shown = False,
) -> SchedulePage:
    """List schedules, in the order in which they were added.

    Not found if the one that `cursor` names has been deleted since.
    """
    show = access.may_show(params)
    found = await access.tq.schedules.list(enabled)
    start = 0
    if cursor is not None:
        start = 1 + next((n for n, each in enumerate(found) if each.task_id == cursor), -2)
        if start < 0:
            raise NotFound("cursor: there is no such schedule (any more); begin again without it")
    page = found[start : start + min(limit, MAX_PAGE)]
    more = page[-1].task_id if len(found) > start + len(page) else None
    return SchedulePage([schedule_view(each, show) for each in page], more)


@schedules(raises=(NotFound, TaskConflict))
async def preview(access: Access, given: Previewed) -> PlannedTimes:
    """Show the next times of a schedule, or of one that need not be there: what is skipped, and when tasks start.

    Those of a paused schedule are as if it were resumed; there are none of one that is finished.
    """
    found = await access.tq.schedules.get(given.schedule) if isinstance(given.schedule, str) else None
    stored = None if found is None else found.timezone
    zone = given.timezone or stored or access.tq.timezone or local_timezone()
    options = _options(given, zone)
    begin, _, _ = options.pop("after", None), options.pop("count"), options.pop("schedule", None)
    timing = {name: options.pop(name) for name in ("cron", "interval", "at") if name in options}
    if found is None or timing:
        options |= timing_of(**timing)
    if found is None:
        after = SystemClock().now() if begin is None else instant("after", begin)
        schedule = new_schedule("preview", "preview", **options | {"timezone": zone}, now=after)
    elif begin is not None:
        raise ValidationError("after: it is about a schedule that need not be there; leave out schedule")
    else:
        after = access.tq.queue.clock.now()
        schedule = changed(found, after, **options) if options else found
    local = functools.partial(to_datetime, zone=zone_of(schedule))
    runs = upcoming(schedule, given.count, after=after)
    planned = [PlannedView(local(run.due).isoformat(), local(run.start).isoformat(), run.skipped) for run in runs]
    return PlannedTimes([each.start for each in planned if each.skipped is None], planned)


@schedules(thing="schedule")
async def get(access: Access, schedule: ScheduleName, params: Shown = False) -> ScheduleView:
    """Show a schedule; with its params where that is allowed."""
    return schedule_view(await access.tq.schedules.get(schedule), access.may_show(params))


@schedules(changes=True, raises=(TaskConflict, UnknownHandler))
async def add(access: Access, given: Added) -> ScheduleView:
    """Add a schedule: exactly one of cron, interval and at. A conflict if there is one with this id."""
    options = _options(given, given.timezone or access.tq.timezone)
    wanted = options.get("schedule_id")
    stored = internal(access.tq).scheduler().schedules
    if wanted is not None and await stored.get([check_key("schedule_id", wanted)]) != [None]:
        raise TaskConflict(
            f"schedule_id: there is a schedule {printable(wanted)} already; change that one, or use another id"
        )
    made = await access.tq.schedules.add(options.pop("name"), options.pop("type"), **options)
    access.changed.append(made.task_id)
    return schedule_view(made)


@schedules(changes=True, thing="schedule", raises=(UnknownHandler,))
async def update(access: Access, given: Changed) -> ScheduleView:
    """Change a schedule; with another timing its next run is later than now."""
    found = await access.tq.schedules.get(given.schedule)
    changes = _options(given, given.timezone or found.timezone)
    del changes["schedule"]
    if not changes:
        known = [name for name in given.__struct_fields__ if name not in ("schedule", "seen")]
        raise ValidationError(f"update: give one of {', '.join(known)}")
    seen = changes.pop("seen", None)
    if changes.pop("type", found.task_type) != found.task_type:  # that of other processes may stay
        changes["task"] = given.type

    def check(schedule: Schedule) -> None:
        if seen is not None and seen != fields_seen(schedule, access.show_args):
            name = printable(schedule.task_id)
            raise TaskConflict(f"schedule {name} changed meanwhile; read it again, and repeat the edit")

    return _changed(access, await access.tq.schedules.update(found.task_id, check=check, **changes))


@schedules(changes=True, thing="schedule")
async def pause(access: Access, schedule: ScheduleName) -> ScheduleView:
    """Pause a schedule in all processes: it does not fire until it is resumed."""
    return _changed(access, await access.tq.schedules.pause(schedule))


@schedules(changes=True, thing="schedule")
async def resume(access: Access, schedule: ScheduleName) -> ScheduleView:
    """Let a paused schedule fire again. Due times that have passed follow its misfire policy."""
    return _changed(access, await access.tq.schedules.resume(schedule))


@schedules(changes=True, thing="schedule")
async def delete(access: Access, schedule: ScheduleName) -> Deleted:
    """Delete a schedule. The tasks that it fired are kept."""
    found = await access.tq.schedules.get(schedule)
    await access.tq.schedules.delete(found.task_id)
    access.changed.append(found.task_id)
    return Deleted(found.task_id)


@schedules(changes=True, thing="schedule")
async def run_now(access: Access, schedule: ScheduleName) -> Fired:
    """Fire a schedule once more, now. Its next due time stays."""
    found = await access.tq.schedules.get(schedule)
    handle = await access.tq.schedules.run_now(found.task_id)
    access.changed.extend((found.task_id, handle.task_id))
    return Fired(handle.task_id)


@schedules(thing="schedule")
async def history(access: Access, schedule: ScheduleName) -> FiringHistory:
    """Show what a schedule fired and skipped, with the reasons, and when it was paused; at most 50 records."""
    found = await access.tq.schedules.get(schedule)
    return FiringHistory([firing_view(found.task_id, each) for each in found.history[::-1]])


@schedules(changes=True, thing="schedule", may_change_nothing=True)
async def backfill(
    access: Access,
    schedule: ScheduleName,
    since: Moment,
    until: Moment | None = None,
    limit: Annotated[int, about("If there are more, none is fired", ge=1, le=MAX_LIMIT)] = LIMIT,
    dry_run: Annotated[bool, about("Only return the due times")] = False,
) -> Backfilled:
    """Push a task for each due time of a past span that has fired none. A second call pushes nothing twice."""
    found = await access.tq.schedules.get(schedule)
    begin = moment("since", since, found.timezone)
    end = None if until is None else moment("until", until, found.timezone)
    times = await access.tq.schedules.backfill(found.task_id, begin, end, limit=limit, dry_run=dry_run)
    pushed = bool(times) and not dry_run
    if pushed:
        access.changed.extend((found.task_id, f"count: {len(times)}"))
    return Backfilled([each.isoformat() for each in times], pushed)


def moment(field: str, value: str | float, timezone: str | None) -> float | datetime:
    """Return an instant; a text without an offset is in that zone, default the system's. Raises ValidationError."""
    if not isinstance(value, str):
        return value
    try:
        if (seconds := seconds_of(value)) is not None:
            return from_now(field, seconds, SystemClock().now())
        if value.isdecimal():
            return float(value)
        time = datetime.fromisoformat(value)
        return time if time.tzinfo else time.replace(tzinfo=ZoneInfo(check_timezone(timezone or local_timezone()).key))
    except (ValueError, OverflowError):
        raise ValidationError(
            f"{field}: {value!r:.60} is not a time; write it as 2026-03-28T12:00 or 2026-03-28T12:00+01:00"
        ) from None


def _options(given: Options, timezone: str | None) -> dict[str, Any]:
    """Return what is given, as ``tq.schedules`` takes it; instants without an offset are in that zone."""
    found = {name: getattr(given, name) for name in given.__struct_fields__}
    found = {name: value for name, value in found.items() if value is not UNSET}
    for name in ("at", "start_at", "after"):
        if name in found:
            found[name] = moment(name, found[name], timezone)
    if "params" in found:
        check_json("params", found["params"])
    return found


def _changed(access: Access, schedule: Schedule) -> ScheduleView:
    access.changed.append(schedule.task_id)
    return schedule_view(schedule)
