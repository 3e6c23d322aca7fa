"""What a schedule is: a frozen record that, when it is due, becomes a task and its own next self (``core.firing``).

This module makes and changes schedules. A backend stores them, a scheduler looks for those that are due.

Documented fields keep epoch **seconds**; ``now`` and due times are integer **microseconds** UTC.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, get_args

import msgspec

from aiotaskq.core.errors import (
    INT32,
    MAX_ID,
    MAX_NAME,
    AiotaskqError,
    ValidationError,
    check_int,
    check_json,
    check_key,
    check_params,
    check_text,
    check_whole_seconds,
    guess,
    instant,
)
from aiotaskq.core.firing_record import FiringRecord, recorded, stopped_by
from aiotaskq.core.ids import new_id
from aiotaskq.core.instants import utc, utc_or_none
from aiotaskq.core.masking import Redacted
from aiotaskq.core.tags import check_tags
from aiotaskq.core.task import RUN_OPTIONS, SECOND, Task

if TYPE_CHECKING:
    from aiotaskq.core.cron import Cron

Misfire = Literal["fire_once", "skip", "fire_all"]
Overlap = Literal["allow", "skip", "buffer_one"]
CalendarRule = Literal["skip_holidays", "working_days"]
BlackoutPolicy = Literal["skip", "delay"]
ScheduleState = Literal["active", "paused", "disabled", "finished"]
_NEEDS: Final = {"interval": "interval_seconds", "cron": "cron_expression", "once": "execute_at"}
MAX_JITTER: Final = 7 * 86_400


class ScheduleOptions(TypedDict, total=False):
    """How a schedule fires, and how its tasks run; see ``Schedule``. Durations in seconds or as timedelta."""

    timezone: str | None
    misfire: Misfire
    overlap: Overlap
    catch_up: int | timedelta | None
    jitter: int | timedelta
    calendar: str | None
    calendar_rule: CalendarRule
    blackout: str | Sequence[str]
    blackout_policy: BlackoutPolicy
    priority: int
    queue: str
    max_retries: int
    timeout: float | timedelta | None
    tags: Mapping[str, str] | None


class ScheduleStuck(AiotaskqError, RuntimeError):
    """The next due time is not later than the last one; the schedule must be corrected or disabled."""


class Schedule(Redacted, frozen=True, kw_only=True):
    """A rule by which tasks are made, as it is stored."""

    task_id: str
    """The id of the schedule, as its documented column is called."""
    name: str
    task_type: str
    """The type of the tasks that it fires; so with params, priority, queue, max_retries and timeout."""
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    schedule_type: str
    """``interval``, ``cron`` or ``once``."""
    interval_seconds: int | None = None
    cron_expression: str | None = None
    execute_at: int | None = None
    """Epoch seconds, as every documented time."""
    last_run_at: int | None = None
    next_run_at: int | None = None
    """The due time in whole seconds; see ``due``. None when nothing more is planned."""
    run_count: int = 0
    max_runs: int = 0
    """0 is no limit."""
    enabled: bool = True
    created_at: int
    updated_at: int
    description: str | None = None
    next_run_us: int = 0
    """The microseconds, 0 to 999,999, that ``next_run_at`` leaves out."""
    timezone: str | None = None
    """An IANA name; a cron expression is evaluated in it."""
    misfire: str = "fire_once"
    """Which overdue runs are made up for: the latest (``fire_once``), only those at most a minute late (``skip``), all
    (``fire_all``)."""
    overlap: str = "allow"
    """Whether a run may start while earlier tasks are unfinished: ``allow``, ``skip`` (no), ``buffer_one`` (one)."""
    catch_up: int | None = None
    """Seconds; a run that is later is skipped. None is no limit."""
    jitter: int = 0
    """Seconds by which a task may start later than its due time; how much is derived from schedule and due time."""
    calendar: str | None = None
    """A country, ``DE``, or a part of one, ``DE-BY``, whose holidays ``calendar_rule`` is about."""
    calendar_rule: str = "skip_holidays"
    """Which due times are skipped: those on holidays (``skip_holidays``), or all on other days than working days
    (``working_days``)."""
    blackout: tuple[str, ...] = ()
    """Windows of the time zone in which no task may start: ``22:00-06:00``, ``2026-12-24``,
    ``2026-12-24/2027-01-02``."""
    blackout_policy: str = "skip"
    """What becomes of a due time in a window: ``skip``, or ``delay``: its task starts at the end of the window."""
    priority: int = 0
    queue: str = "default"
    max_retries: int = 3
    timeout: float | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    """Those of its tasks."""
    declared: bool = False
    """Whether a decorator in the application's code made it."""
    outbox: tuple[Task, ...] = ()
    """Tasks that were fired, and not yet pushed to a queue in another store. Only the scheduler changes it."""
    history: tuple[FiringRecord, ...] = ()
    """The last firings and skips, oldest first; bounded."""
    version: int = 0
    """Rises with every write. Only the store changes it."""

    @property
    def due(self) -> int | None:
        """When the schedule is due next, in microseconds UTC; None when nothing more is planned."""
        return None if self.next_run_at is None else self.next_run_at * SECOND + self.next_run_us

    next_run = utc_or_none("due")
    last_run = utc_or_none(seconds="last_run_at")
    created = utc(seconds="created_at")
    updated = utc(seconds="updated_at")

    @property
    def finished(self) -> bool:
        """Whether all runs that ``max_runs`` allows were made."""
        return 0 < self.max_runs <= self.run_count

    @property
    def state(self) -> ScheduleState:
        """``active``, ``paused``, ``disabled`` by the scheduler as it could not be fired, or ``finished``.

        A finished one has no next time.
        """
        if self.next_run_at is None:
            return "finished"
        return "active" if self.enabled else "disabled" if stopped_by(self.history) == "disabled" else "paused"

    @property
    def plain(self) -> bool:
        """Whether each task starts at its due time: no jitter, no calendar, no blackout."""
        return not self.jitter and self.calendar is None and not self.blackout

    def with_due(self, due: int) -> Schedule:
        """Return a copy that is due next at this instant."""
        return self.replace(next_run_at=due // SECOND, next_run_us=due % SECOND)

    def without_due(self) -> Schedule:
        """Return a copy that is disabled, with nothing more planned."""
        return self.replace(enabled=False, next_run_at=None, next_run_us=0)

    def replace(self, **changes: Any) -> Schedule:
        """Return a copy with these fields changed."""
        return msgspec.structs.replace(self, **changes)


class UndecodableSchedule(Schedule, frozen=True, kw_only=True):
    """A stored schedule whose params or outbox cannot be decoded: it is not enabled, and the texts stay in its row."""

    @property
    def state(self) -> ScheduleState:
        """It cannot be fired."""
        return "disabled"


def check_decoded(schedule: Schedule) -> None:
    """Raise ValidationError for a row that cannot be decoded: a task of it might run without its params."""
    if isinstance(schedule, UndecodableSchedule):
        raise ValidationError("schedule: its row cannot be decoded; update its params, or delete it")


# ---- making and changing ------------------------------------------------------------------------------------------


def timing_of(cron: object = None, interval: object = None, at: object = None) -> dict[str, Any]:
    """Return the type and the timing of a schedule by the fields of ``Schedule``.

    Raises ValidationError unless exactly one is given, and for a wrong one but for a cron expression.
    """
    if sum(each is not None for each in (cron, interval, at)) != 1:
        raise ValidationError("schedule: exactly one of cron, interval and at is needed")
    if cron is not None:
        return {"schedule_type": "cron", "cron_expression": cron}
    if interval is not None:
        return {"schedule_type": "interval", "interval_seconds": check_whole_seconds("interval", interval, 1)}
    instant("at", at)
    return {"schedule_type": "once", "execute_at": at}


def foreign_timing(schedule_type: object, given: Mapping[str, object]) -> list[str]:
    """Return the given timings that belong to other schedule types. Raises ValidationError for the type."""
    own = _NEEDS[_choice("schedule_type", schedule_type, _NEEDS)]
    return [field for field, value in given.items() if value is not None and field != own]


def _choose(field: str, choices: object) -> Callable[[object], str]:
    return lambda value: _choice(field, value, get_args(choices))


_OPTIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "misfire": _choose("misfire", Misfire),
    "overlap": _choose("overlap", Overlap),
    "catch_up": lambda value: None if value is None else check_whole_seconds("catch_up", value, 1, INT32),
    "jitter": lambda value: check_whole_seconds("jitter", value, 0, MAX_JITTER),
    **RUN_OPTIONS,
    "tags": check_tags,
}
"""The options that are checked each by itself."""


def new_schedule(
    name: object,
    task_type: object,
    schedule_type: object,
    params: object = None,
    interval_seconds: object = None,
    cron_expression: object = None,
    execute_at: object = None,
    max_runs: object = 0,
    description: object = None,
    *,
    timezone: object = None,
    calendar: object = None,
    calendar_rule: object = "skip_holidays",
    blackout: object = (),
    blackout_policy: object = "skip",
    task_id: object = None,
    start_at: object = None,
    declared: bool = False,
    now: int,
    **options: object,
) -> Schedule:
    """Return a schedule made from unchecked input.

    Args:
        execute_at: epoch seconds or an aware datetime; in the past means at once.
        timezone: an IANA name; without one, a schedule that needs a zone, for its cron expression, its calendar or its
            blackout windows, takes the system's local zone, by name.
        blackout: a window, or a sequence of them; see ``Schedule``.
        start_at: as ``execute_at``; the first run of an interval is then, that of a cron expression not before. In
            the past it changes nothing.
        now: microseconds UTC.
        options: the others of ``ScheduleOptions``.

    Raises:
        ValidationError: naming the field; CronError for the cron expression.
        MissingExtra: a calendar is given, and the library that knows it is not installed.
    """
    from aiotaskq.core.cron import check_timezone, local_timezone

    given = {"interval_seconds": interval_seconds, "cron_expression": cron_expression, "execute_at": execute_at}
    kind = _choice("schedule_type", schedule_type, _NEEDS)
    if foreign := foreign_timing(kind, given):
        owner = next(other for other, needed in _NEEDS.items() if needed == foreign[0])
        raise ValidationError(f"{foreign[0]}: belongs to schedule_type {owner!r}, not {kind!r}; pass one of the two")
    if given[_NEEDS[kind]] is None:
        raise ValidationError(f"{_NEEDS[kind]}: missing; schedule_type {kind!r} needs it")
    zone = None if timezone is None else check_timezone(timezone).key  # type: ignore[arg-type]
    begin = None if start_at is None else instant("start_at", start_at)
    if kind == "once" and begin is not None:
        raise ValidationError("start_at: schedule_type 'once' has execute_at instead")
    at = instant("execute_at", execute_at) if kind == "once" else None
    skips = check_skips(calendar, calendar_rule, blackout, blackout_policy)
    if zone is None and (kind == "cron" or skips["calendar"] is not None or skips["blackout"]):
        zone = local_timezone()
    schedule = Schedule(
        task_id=new_id() if task_id is None else check_key("task_id", task_id, MAX_ID),
        name=check_key("name", name, 255),
        task_type=check_key("task_type", task_type, MAX_NAME),
        params=msgspec.json.decode(check_json("params", check_params(params))),
        schedule_type=kind,
        interval_seconds=check_whole_seconds("interval_seconds", interval_seconds, 1) if kind == "interval" else None,
        cron_expression=cron_expression,  # type: ignore[arg-type]  # parsed for its due below
        execute_at=None if at is None else at // SECOND,
        max_runs=check_int("max_runs", max_runs, 0),
        created_at=now // SECOND,
        updated_at=now // SECOND,
        description=None if description in (None, "") else check_text("description", description, 10_000),
        timezone=zone,
        **skips,
        **{field: _OPTIONS[field](value) for field, value in options.items()},
        declared=declared,
    )
    if at is not None:
        due = at
    elif kind == "cron":
        due = following(schedule, now if begin is None else max(now, begin - 1))
    else:
        due = begin if begin is not None and begin > now else following(schedule, now)
    return schedule.with_due(due)


def check_skips(calendar: object, calendar_rule: object, blackout: object, blackout_policy: object) -> dict[str, Any]:
    """Return these fields of a schedule, checked. Raises ValidationError, MissingExtra for the library of calendars."""
    from aiotaskq.core.blackout import check_calendar, check_windows

    rule = _choice("calendar_rule", calendar_rule, get_args(CalendarRule))
    policy = _choice("blackout_policy", blackout_policy, get_args(BlackoutPolicy))
    windows = () if blackout is None else check_windows("blackout", blackout)
    if calendar is None and rule != "skip_holidays":
        raise ValidationError("calendar_rule: needs a calendar; give calendar, too, such as 'DE'")
    if not windows and policy != "skip":
        raise ValidationError("blackout_policy: needs windows; give blackout, too, such as '22:00-06:00'")
    known = None if calendar is None else check_calendar("calendar", calendar)
    return {"calendar": known, "calendar_rule": rule, "blackout": windows, "blackout_policy": policy}


_TIMING: Final = ("schedule_type", *_NEEDS.values(), "timezone")
_EDITABLE: Final = dict.fromkeys(
    ("name", "task_type", "params", "max_runs", "description", *_TIMING, *ScheduleOptions.__annotations__)
)


def changed(schedule: Schedule, now: int, **changes: Any) -> Schedule:
    """Return the schedule with these fields changed, validated as :func:`new_schedule` does.

    With another timing, the next due time is computed anew, and is later than ``now`` (microseconds); otherwise it
    stays. A paused schedule stays paused.

    Raises:
        ValidationError: for a wrong value, or a name that cannot be set.
    """
    for field in changes:
        if field in ("enabled", "next_run_at"):
            raise ValidationError(f"{field}: cannot be set; pause and resume do that")
        if field not in _EDITABLE:
            raise ValidationError(f"{field}: cannot be changed{guess(field, _EDITABLE)}")
    kept = {field: getattr(schedule, field) for field in _EDITABLE}
    if changes.get("schedule_type", schedule.schedule_type) != schedule.schedule_type:
        kept[_NEEDS.get(schedule.schedule_type, "execute_at")] = None
    if changes.get("calendar", True) is None:
        kept["calendar_rule"] = "skip_holidays"
    if not changes.get("blackout", True):
        kept["blackout_policy"] = "skip"
    made = new_schedule(**(kept | changes), now=now)
    after = schedule.replace(updated_at=now // SECOND, **{field: getattr(made, field) for field in _EDITABLE})
    if any(getattr(made, field) != getattr(schedule, field) for field in _TIMING):
        history = recorded(after.history, [FiringRecord(now, "changed")])
        after = after.replace(history=history).with_due(max(made.due or 0, now + 1))
    return after.without_due() if after.finished else after


def differences(stored: Schedule, wanted: Schedule) -> dict[str, Any]:
    """Return the changes, as :func:`changed` takes them, that make ``stored`` equal to ``wanted``."""
    return {field: getattr(wanted, field) for field in _EDITABLE if getattr(stored, field) != getattr(wanted, field)}


def paused(schedule: Schedule, now: int, outcome: Literal["paused", "disabled"] = "paused") -> Schedule:
    """Return the schedule stopped, with its next due time; ``outcome`` is what its history has of that."""
    history = recorded(schedule.history, [FiringRecord(now, outcome)]) if schedule.enabled else schedule.history
    return schedule.replace(enabled=False, updated_at=now // SECOND, history=history)


def resumed(schedule: Schedule, now: int) -> Schedule:
    """Return the schedule enabled. A run that is overdue follows the misfire policy.

    Raises:
        ValidationError: the schedule is finished, by ``max_runs`` or because its one time is past; or its row cannot be
            decoded, or has no next time, because another program has written it.
    """
    check_decoded(schedule)
    if schedule.finished:
        runs = f"{schedule.run_count} of {schedule.max_runs} runs are made"
        raise ValidationError(f"max_runs: the schedule is finished, {runs}; raise max_runs to resume it")
    if schedule.next_run_at is not None and schedule.enabled:
        return schedule
    history = recorded(schedule.history, [FiringRecord(now, "resumed")])
    after = schedule.replace(enabled=True, updated_at=now // SECOND, history=history)
    if schedule.schedule_type == "once":
        due = (schedule.execute_at or 0) * SECOND
        if due <= now and schedule.next_run_at is None:
            raise ValidationError(
                "execute_at: the schedule is finished, its one time is over; set a later one to resume it"
            )
    else:
        try:
            due = following(schedule, now)  # raises now what would disable it again at its next run
        except ScheduleStuck as error:
            raise ValidationError(f"schedule: {error}") from None
    return after.with_due(due) if schedule.next_run_at is None else after


# ---- the next due time --------------------------------------------------------------------------------------------


def following(schedule: Schedule, instant: int) -> int:
    """Return the due time after ``instant``, which is the last due time, or now if there was none.

    Raises ScheduleStuck for an interval of less than a second, CronError for a cron expression without a next time.
    """
    if schedule.schedule_type == "cron":
        return cron_of(schedule).next_after(instant)
    return instant + step_of(schedule)


def step_of(schedule: Schedule) -> int:
    """Return the microseconds between two due times of an interval. Raises ScheduleStuck for any other schedule."""
    seconds = schedule.interval_seconds
    if schedule.schedule_type != "interval" or seconds is None or seconds < 1:
        what = f"{schedule.schedule_type!r} with interval_seconds {seconds}"
        raise ScheduleStuck(f"schedule {schedule.task_id}: {what} never becomes due again; update or delete it")
    return seconds * SECOND


def cron_of(schedule: Schedule) -> Cron:
    """Return the parsed cron expression of a schedule. Raises CronError."""
    from aiotaskq.core.cron import local_timezone

    return _parsed(schedule.cron_expression or "", schedule.timezone or local_timezone())


@functools.lru_cache(maxsize=1024)  # bounded: the table may hold any number of expressions
def _parsed(expression: str, timezone: str) -> Cron:
    from aiotaskq.core.cron import Cron

    return Cron.parse(expression, timezone)


def _choice(field: str, value: object, choices: Iterable[str]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    meant = guess(value.lower(), choices) if isinstance(value, str) else ""
    raise ValidationError(f"{field}: must be one of {', '.join(choices)} (got {value!r:.60}){meant}")
