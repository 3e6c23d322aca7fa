"""Decides when a schedule is due, what it fires then, and what comes next: frozen records and pure functions.

``fire(schedule, now)`` turns a due schedule into tasks and its own next self; the scheduler writes both in one
transaction. The next due always comes from the due just consumed, never from now, so nothing drifts and a timer that
wakes early fires nothing. Documented columns are epoch **seconds**; ``now`` and dues are **microseconds** UTC.
"""

from __future__ import annotations

import copy
import difflib
import functools
import uuid
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from aiotaskq.core.cron import Cron, check_timezone, local_timezone
from aiotaskq.core.errors import AiotaskqError, ValidationError
from aiotaskq.core.instants import instant
from aiotaskq.core.task import (
    MAX_ID,
    MAX_NAME,
    SECOND,
    TEN_YEARS,
    Discreet,
    Task,
    check_int,
    check_json,
    check_key,
    check_params,
    check_seconds,
    check_text,
    new_id,
    next_seq,
)

MAX_CATCH_UP: Final = 100
"""How many overdue runs one ``fire`` starts at most, whatever the policy and the clock say."""
MISFIRE_GRACE: Final = 60
"""Seconds that a run may be late before the policy ``skip`` skips it."""
NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "aiotaskq:schedule")
"""Task ids are derived from (schedule id, due) in here; changing it would fire a due twice."""

CLOCKS_DIFFER: Final = 2 * SECOND
"""Microseconds by which a clock may be set back without any consequence."""
HOSTS_DIFFER: Final = 60 * SECOND
"""Microseconds by which two hosts' clocks may differ: what one writes is no sign that the other's was set back."""
_POSTPONE: Final = 5 * SECOND  # a `once` that meets a running task of its own looks again after this
_NEEDS: Final = {"interval": "interval_seconds", "cron": "cron_expression", "once": "execute_at"}
_MISFIRE: Final = ("fire_once", "skip", "fire_all")
_OVERLAP: Final = ("allow", "skip", "buffer_one")


class ScheduleStuck(AiotaskqError, RuntimeError):
    """The next due time is not later than the one just consumed; the schedule must be corrected or disabled."""


class Schedule(Discreet, frozen=True, kw_only=True):
    """A rule that makes tasks, as it is stored: the documented columns, then the added ones."""

    task_id: str
    name: str
    task_type: str
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    schedule_type: str
    """``interval``, ``cron`` or ``once``."""
    interval_seconds: int | None = None
    cron_expression: str | None = None
    execute_at: int | None = None
    last_run_at: int | None = None
    next_run_at: int | None = None
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
    misfire: str = "fire_once"
    """What becomes of overdue runs: ``fire_once`` (the latest), ``skip`` (if over a minute late), ``fire_all``."""
    overlap: str = "allow"
    """While earlier tasks are unfinished: ``allow``, ``skip``, ``buffer_one`` (one may wait beside one running)."""
    catch_up: int | None = None
    """Seconds; runs overdue by more are skipped. None is no limit."""
    priority: int = 0
    queue: str = "default"
    max_retries: int = 3
    timeout: float | None = None
    declared: bool = False
    """Made by a decorator in the code, not by a call."""
    outbox: tuple[Task, ...] = ()
    """Fired, and not yet handed to a queue that lives in another store; the rules here leave it alone."""
    version: int = 0
    """Counted up by the store with every write; the rules here leave it alone."""

    @property
    def due(self) -> int | None:
        """When the schedule is due next, in microseconds UTC; None when nothing more is planned."""
        return None if self.next_run_at is None else self.next_run_at * SECOND + self.next_run_us

    def replace(self, **changes: Any) -> Schedule:
        """Return a copy with these fields changed."""
        return msgspec.structs.replace(self, **changes)


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a schedule that was looked at: its next self, its tasks, and every due that was passed over."""

    schedule: Schedule
    tasks: tuple[Task, ...] = ()
    fired: tuple[int, ...] = ()
    """The dues of ``tasks``."""
    skipped: tuple[tuple[int, str], ...] = ()
    """The latest skipped dues, each with ``misfire``, ``catch_up``, ``overlap`` or ``max_runs``; at most 100."""
    skipped_count: int = 0
    """How many were skipped in all; beyond some hundred dues of a cron expression, an estimate."""


# ---- making and changing ------------------------------------------------------------------------------------------


def check_timing(
    schedule_type: object, interval_seconds: object = None, cron_expression: object = None, execute_at: object = None
) -> str:
    """Return the schedule type. Raises ValidationError unless its own timing is given, and no other one."""
    kind = _choice("schedule_type", schedule_type, _NEEDS)
    if foreign := foreign_timing(kind, interval_seconds, cron_expression, execute_at):
        owner = next(other for other, needed in _NEEDS.items() if needed == foreign[0])
        raise ValidationError(f"{foreign[0]}: belongs to schedule_type {owner!r}, not {kind!r}; pass one of the two")
    given = {"interval_seconds": interval_seconds, "cron_expression": cron_expression, "execute_at": execute_at}
    if given[_NEEDS[kind]] is None:
        raise ValidationError(f"{_NEEDS[kind]}: missing; schedule_type {kind!r} needs it")
    return kind


def foreign_timing(
    schedule_type: object, interval_seconds: object = None, cron_expression: object = None, execute_at: object = None
) -> list[str]:
    """Return the given timings that belong to other schedule types. Raises ValidationError for the type."""
    own = _NEEDS[_choice("schedule_type", schedule_type, _NEEDS)]
    given = {"interval_seconds": interval_seconds, "cron_expression": cron_expression, "execute_at": execute_at}
    return [field for field, value in given.items() if value is not None and field != own]


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
    misfire: object = "fire_once",
    overlap: object = "allow",
    catch_up: object = None,
    priority: object = 0,
    queue: object = "default",
    max_retries: object = 3,
    timeout: object = None,
    task_id: object = None,
    start_at: object = None,
    declared: bool = False,
    now: int,
) -> Schedule:
    """Make a schedule from unchecked input.

    Args:
        execute_at: epoch seconds or an aware datetime; in the past means at once.
        timezone: an IANA name; a cron schedule without one takes the system's local zone, by name.
        catch_up, timeout: seconds.
        start_at: as ``execute_at``; the first run of an interval is then, that of a cron expression not before. In
            the past it changes nothing.
        now: microseconds UTC.

    Raises:
        ValidationError: naming the field; CronError for the cron expression.
    """
    kind = check_timing(schedule_type, interval_seconds, cron_expression, execute_at)
    zone = None if timezone is None else check_timezone(timezone).key  # type: ignore[arg-type]
    begin = None if start_at is None else instant("start_at", start_at)
    if kind == "once" and begin is not None:
        raise ValidationError("start_at: schedule_type 'once' has execute_at instead")
    at = instant("execute_at", execute_at) if kind == "once" else None
    schedule = Schedule(
        task_id=new_id() if task_id is None else check_key("task_id", task_id, MAX_ID),
        name=check_key("name", name, 255),
        task_type=check_key("task_type", task_type, MAX_NAME),
        params=msgspec.json.decode(check_json("params", check_params(params))),
        schedule_type=kind,
        interval_seconds=check_int("interval_seconds", interval_seconds, 1, TEN_YEARS) if kind == "interval" else None,
        cron_expression=cron_expression,  # type: ignore[arg-type]  # parsed for its due below
        execute_at=None if at is None else at // SECOND,
        max_runs=check_int("max_runs", max_runs, 0),
        created_at=now // SECOND,
        updated_at=now // SECOND,
        description=None if description in (None, "") else check_text("description", description, 10_000),
        timezone=local_timezone() if kind == "cron" and zone is None else zone,
        misfire=_choice("misfire", misfire, _MISFIRE),
        overlap=_choice("overlap", overlap, _OVERLAP),
        catch_up=None if catch_up is None else check_int("catch_up", catch_up, 1),
        priority=check_int("priority", priority),
        queue=check_key("queue", queue, MAX_NAME),
        max_retries=check_int("max_retries", max_retries, 0),
        timeout=None if timeout is None else check_seconds("timeout", timeout, zero=False),
        declared=declared,
    )
    if at is not None:
        due = at
    elif kind == "cron":
        due = following(schedule, now if begin is None else max(now, begin - 1))
    else:
        due = begin if begin is not None and begin > now else following(schedule, now)
    return _due(schedule, due)


_EDITABLE: Final = (
    "name", "task_type", "schedule_type", "params", "interval_seconds", "cron_expression", "execute_at", "max_runs",
    "description", "timezone", "misfire", "overlap", "catch_up", "priority", "queue", "max_retries", "timeout",
)  # fmt: skip
_TIMING: Final = ("schedule_type", "interval_seconds", "cron_expression", "execute_at", "timezone")


def changed(schedule: Schedule, now: int, **changes: Any) -> Schedule:
    """Return the schedule with these fields changed, validated as :func:`new_schedule` does.

    If its timing became another one, the next due is computed afresh and is strictly later than ``now`` (microseconds);
    otherwise it stays. Whether the schedule is paused stays too.

    Raises:
        ValidationError: for a wrong value, or a name that cannot be set.
    """
    for field in changes:
        if field in ("enabled", "next_run_at"):
            raise ValidationError(f"{field}: cannot be set; pause_task and resume_task do that")
        if field not in _EDITABLE:
            raise ValidationError(f"{field}: cannot be changed{_guess(field, _EDITABLE)}")
    kept = {field: getattr(schedule, field) for field in _EDITABLE}
    if changes.get("schedule_type", schedule.schedule_type) != schedule.schedule_type:
        kept[_NEEDS.get(schedule.schedule_type, "execute_at")] = None
    made = new_schedule(**(kept | changes), now=now)
    after = schedule.replace(updated_at=now // SECOND, **{field: getattr(made, field) for field in _EDITABLE})
    if any(getattr(made, field) != getattr(schedule, field) for field in _TIMING):
        after = _due(after, max(made.due or 0, now + 1))
    return _ended(after) if _finished(after) else after


def differences(stored: Schedule, wanted: Schedule) -> dict[str, Any]:
    """Return what to pass to :func:`changed` so that ``stored`` says what ``wanted`` does."""
    return {field: getattr(wanted, field) for field in _EDITABLE if getattr(stored, field) != getattr(wanted, field)}


def paused(schedule: Schedule, now: int) -> Schedule:
    """Return the schedule disabled; its next due is kept."""
    return schedule.replace(enabled=False, updated_at=now // SECOND)


def resumed(schedule: Schedule, now: int) -> Schedule:
    """Return the schedule enabled. An overdue run is kept, and follows the misfire policy when it is looked at next.

    Raises:
        ValidationError: the schedule is finished, by ``max_runs`` or because its one time is over.
    """
    if _finished(schedule):
        runs = f"{schedule.run_count} of {schedule.max_runs} runs are made"
        raise ValidationError(f"max_runs: the schedule is finished, {runs}; raise max_runs to resume it")
    if schedule.next_run_at is not None:
        return schedule if schedule.enabled else schedule.replace(enabled=True, updated_at=now // SECOND)
    if schedule.schedule_type == "once":
        due = (schedule.execute_at or 0) * SECOND
        if due <= now:
            raise ValidationError(
                "execute_at: the schedule is finished, its one time is over; set a later one to resume it"
            )
    else:
        due = following(schedule, now)
    return _due(schedule.replace(enabled=True, updated_at=now // SECOND), due)


def run_now(schedule: Schedule, now: int, task_id: str) -> tuple[Schedule, Task]:
    """An extra run, under the caller's ``task_id``: it counts as a run, and the next due stays where it is."""
    after = schedule.replace(run_count=schedule.run_count + 1, last_run_at=now // SECOND, updated_at=now // SECOND)
    return (_ended(after) if _finished(after) else after), _task(schedule, task_id, now)


# ---- firing -------------------------------------------------------------------------------------------------------


def fire(schedule: Schedule, now: int, active: int = 0) -> Firing:
    """What the schedule does at ``now`` (microseconds): its tasks, and itself with the next due, later than ``now``.

    One task per due, with an id derived from both, so that two schedulers make the same task. However many dues have
    passed, the work is bounded and at most 100 tasks are made. Not due: nothing changes.

    Args:
        active: how many earlier tasks of this schedule are unfinished; asked for by ``overlap`` other than ``allow``.

    Raises:
        ScheduleStuck: the schedule does not advance (an adopted row with an interval of 0, for instance).
        CronError: an adopted cron expression cannot be read.
    """
    due = schedule.due
    if not schedule.enabled or due is None or due > now:
        return Firing(schedule=schedule)
    total, dues, following = _passed(schedule, due, now)
    if following is not None and following <= dues[-1]:
        raise ScheduleStuck(f"schedule {schedule.task_id}: the next due {following} is not after {dues[-1]}")
    verdicts = _verdicts(schedule, dues, now, active)
    fired = tuple(each for each, reason in verdicts if reason is None)
    skipped = tuple((each, reason) for each, reason in verdicts if reason is not None)
    after = schedule.replace(updated_at=now // SECOND)
    if fired:
        after = after.replace(run_count=schedule.run_count + len(fired), last_run_at=now // SECOND)
    if following is None and skipped and skipped[-1][1] == "overlap":
        following = now + _POSTPONE  # its only run would be lost for good
    after = _ended(after) if following is None or _finished(after) else _due(after, following)
    return Firing(
        schedule=after,
        tasks=tuple(_task(schedule, derived_id(schedule.task_id, each), now) for each in fired),
        fired=fired,
        skipped=skipped,
        skipped_count=total - len(fired),
    )


def brought_near(schedule: Schedule, now: int, differ: int = CLOCKS_DIFFER) -> Schedule:
    """Return an interval schedule due within one interval from ``now`` (microseconds), if the clock was set back.

    That is seen by a row that was written later than ``now`` and is due more than an interval later, by more than
    ``differ`` microseconds; every other schedule is returned as it is. Cron expressions and ``once`` name times of the
    wall clock, and wait for them.
    """
    due, written = schedule.due, schedule.updated_at * SECOND
    if schedule.schedule_type != "interval" or due is None or not schedule.enabled:
        return schedule
    step = (schedule.interval_seconds or 0) * SECOND  # an adopted row may have none: `fire` tells of that
    if step <= 0 or not now + step + differ < due <= written + step + CLOCKS_DIFFER:
        return schedule
    # A due time is an identity, see `derived_id`: those of the repeated hour must not be the ones that were fired.
    return _due(schedule.replace(updated_at=now // SECOND), now + (due - now) % step + 1)


def derived_id(schedule_id: str, due: int) -> str:
    """Return the id of the task that belongs to a due (microseconds): the same in every process."""
    return str(uuid.uuid5(NAMESPACE, f"{schedule_id}:{due}"))


def _passed(schedule: Schedule, due: int, now: int) -> tuple[int, tuple[int, ...], int | None]:
    """How many dues are not after ``now``, the latest hundred of them, and the one that follows."""
    if schedule.schedule_type == "once":
        return 1, (due,), None
    if schedule.schedule_type == "cron":
        latest = _cron(schedule).latest(due, now, MAX_CATCH_UP)
        dues = (due, *latest.dues)[-MAX_CATCH_UP:]
        return latest.total + 1, dues, following(schedule, dues[-1])
    step = _step(schedule)
    total = (now - due) // step + 1
    last = due + (total - 1) * step
    return total, tuple(last - step * back for back in reversed(range(min(total, MAX_CATCH_UP)))), last + step


def _verdicts(schedule: Schedule, dues: tuple[int, ...], now: int, active: int) -> list[tuple[int, str | None]]:
    """Each due with the reason to skip it, or None; the latest ones have the first claim."""
    room = {"skip": 1 if active <= 0 else 0, "buffer_one": max(0, 2 - active)}.get(schedule.overlap, MAX_CATCH_UP)
    runs = schedule.max_runs - schedule.run_count if schedule.max_runs > 0 else MAX_CATCH_UP
    verdicts: list[tuple[int, str | None]] = []
    fired = 0
    for due in reversed(dues):
        late = now - due
        reason = None
        if schedule.catch_up is not None and late > schedule.catch_up * SECOND:
            reason = "catch_up"
        elif (schedule.misfire == "skip" and late > MISFIRE_GRACE * SECOND) or (
            schedule.misfire != "fire_all" and due != dues[-1]
        ):
            reason = "misfire"
        elif fired >= runs:
            reason = "max_runs"
        elif fired >= room:
            reason = "overlap"
        else:
            fired += 1
        verdicts.append((due, reason))
    return verdicts[::-1]


def _task(schedule: Schedule, task_id: str, now: int) -> Task:
    return Task(
        task_id=task_id,
        type=schedule.task_type,
        params=copy.deepcopy(schedule.params),  # a handler may change them
        priority=schedule.priority,
        max_retries=schedule.max_retries,
        created_at=now // SECOND,
        scheduler_task_id=schedule.task_id,
        queue=schedule.queue,
        run_at=now,
        seq=next_seq(now),
        timeout=schedule.timeout,
    )


def following(schedule: Schedule, instant: int) -> int:
    """Return the due after ``instant``, which is the last due, or now when there was none. Raises ScheduleStuck."""
    if schedule.schedule_type == "cron":
        return _cron(schedule).next_after(instant)
    return instant + _step(schedule)


def _step(schedule: Schedule) -> int:
    seconds = schedule.interval_seconds
    if schedule.schedule_type != "interval" or seconds is None or seconds < 1:
        what = f"{schedule.schedule_type!r} with interval_seconds {seconds}"
        raise ScheduleStuck(f"schedule {schedule.task_id}: {what} never becomes due again; update or delete it")
    return seconds * SECOND


def _cron(schedule: Schedule) -> Cron:
    return _parsed(schedule.cron_expression or "", schedule.timezone or local_timezone())


@functools.lru_cache(maxsize=1024)  # bounded: the table may hold any number of expressions
def _parsed(expression: str, timezone: str) -> Cron:
    return Cron.parse(expression, timezone)


def _due(schedule: Schedule, due: int) -> Schedule:
    return schedule.replace(next_run_at=due // SECOND, next_run_us=due % SECOND)


def _ended(schedule: Schedule) -> Schedule:
    return schedule.replace(enabled=False, next_run_at=None, next_run_us=0)


def _finished(schedule: Schedule) -> bool:
    return 0 < schedule.max_runs <= schedule.run_count


# ---- input --------------------------------------------------------------------------------------------------------


def _choice(field: str, value: object, choices: Iterable[str]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    guess = _guess(value, choices) if isinstance(value, str) else ""
    raise ValidationError(f"{field}: must be one of {', '.join(choices)} (got {value!r:.60}){guess}")


def _guess(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:64].lower(), words, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
