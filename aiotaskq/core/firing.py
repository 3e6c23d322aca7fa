"""What a due schedule fires: ``fire(schedule, now)`` turns it into tasks and its own next self.

The scheduler writes both in one transaction. The next due time is always computed from the one just fired, never from
now, so nothing drifts, and a timer that wakes early fires nothing. Everything here is pure.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.firing_record import SCHEDULED_FOR, FiringRecord, has_made, recorded, was_paused
from aiotaskq.core.ids import next_seq
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.schedule import Schedule, ScheduleStuck, cron_of, following, step_of
from aiotaskq.core.tags import with_tags
from aiotaskq.core.task import SECOND, Task

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

MAX_CATCH_UP: Final = 100
"""The most runs that one ``fire`` makes up for, whatever the policy and the clock say."""
NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "aiotaskq:schedule")
"""The namespace of the ids of fired tasks. Another one would fire a due time twice."""
_HASHED_NAMESPACE: Final = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)
CLOCKS_DIFFER: Final = 2 * SECOND
"""Microseconds by which a clock may be set back without consequence."""
HOSTS_DIFFER: Final = 60 * SECOND
"""Microseconds by which the clocks of two hosts may differ without a sign that one was set back."""
_POSTPONE: Final = 5 * SECOND  # a `once` that must not overlap is tried again after this time


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """The result of ``fire``."""

    schedule: Schedule
    """Its next self."""
    tasks: tuple[Task, ...] = ()
    fired: tuple[int, ...] = ()
    """The due times of ``tasks``."""
    skipped: tuple[tuple[int, str], ...] = ()
    """The latest skipped due times, at most 100, each with its reason: misfire, catch_up, overlap, max_runs, holiday,
    weekend, blackout or paused."""
    skipped_count: int = 0
    """How many were skipped in all; an estimate beyond some hundred due times of a cron expression."""


def fire(schedule: Schedule, now: int, active: int = 0) -> Firing:
    """Return what the schedule fires at ``now`` (microseconds), and its next self, which is due later than ``now``.

    There is one task per due time, with an id derived from schedule and due time, so that two schedulers make the same
    task. However many due times have passed, the work is bounded: at most MAX_CATCH_UP tasks are made. A schedule that
    is not due does not change.

    Args:
        active: how many earlier tasks of this schedule are unfinished; used unless ``overlap`` is ``allow``.

    Raises:
        ScheduleStuck: the schedule does not advance (an adopted row with an interval of 0, for instance).
        CronError: an adopted cron expression cannot be read.
    """
    due = schedule.due
    if not schedule.enabled or due is None or due > now:
        return Firing(schedule=schedule)
    total, dues, next_due = _passed(schedule, due, now)
    if next_due is not None and next_due <= dues[-1]:
        raise ScheduleStuck(f"schedule {schedule.task_id}: the next due {next_due} is not after {dues[-1]}")
    verdicts = _verdicts(schedule, dues, now, active)
    fired = tuple([each for each, _, reason in verdicts if reason is None])
    skipped = tuple([(each, reason) for each, _, reason in verdicts if reason is not None])
    records = _records(verdicts, due, total - len(dues), now)
    after = schedule.replace(
        updated_at=now // SECOND,
        history=recorded(schedule.history, records),
        run_count=schedule.run_count + len(fired),
        last_run_at=now // SECOND if fired else schedule.last_run_at,
    )
    if next_due is None and skipped and skipped[-1][1] == "overlap":
        next_due = now + _POSTPONE  # else its only run would never happen
    after = after.without_due() if next_due is None or after.finished else after.with_due(next_due)
    return Firing(
        schedule=after,
        tasks=tuple(
            [
                task_for(schedule, derived_id(schedule.task_id, each), now, start, each)
                for each, start, reason in verdicts
                if reason is None
            ]
        ),
        fired=fired,
        skipped=skipped,
        skipped_count=total - len(fired),
    )


def run_now(schedule: Schedule, now: int, task_id: str) -> tuple[Schedule, Task]:
    """Return an extra run under the given id, and the schedule after it: it counts, and the next due time stays."""
    after = schedule.replace(
        run_count=schedule.run_count + 1,
        last_run_at=now // SECOND,
        updated_at=now // SECOND,
        history=recorded(schedule.history, [FiringRecord(now, "run_now", task_id=task_id)]),
    )
    return (after.without_due() if after.finished else after), task_for(schedule, task_id, now, now)


def brought_near(schedule: Schedule, now: int, differ: int = CLOCKS_DIFFER) -> Schedule:
    """Return an interval schedule due within one interval from ``now`` (microseconds), if the clock was set back.

    The sign of that is a row that was written later than ``now``, and is due more than an interval later, by more than
    ``differ`` microseconds. Every other schedule is returned unchanged: cron expressions and ``once`` name times of the
    wall clock, and wait for them.
    """
    due, written = schedule.due, schedule.updated_at * SECOND
    if schedule.schedule_type != "interval" or due is None or not schedule.enabled:
        return schedule
    step = (schedule.interval_seconds or 0) * SECOND  # an adopted row may have none, which `fire` refuses
    if step <= 0 or not now + step + differ < due <= written + step + CLOCKS_DIFFER:
        return schedule
    # Task ids are derived from due times: those of the repeated hour must differ from those that were fired before.
    return schedule.replace(updated_at=now // SECOND).with_due(now + (due - now) % step + 1)


def derived_id(schedule_id: str, due: int) -> str:
    """Return the id of the task for a due time (microseconds): the same in every process."""
    # As uuid.uuid5() makes it, by which a firing would take over 5 % longer: the namespace is hashed only once.
    sha = _HASHED_NAMESPACE.copy()
    sha.update(f"{schedule_id}:{due}".encode())
    h = sha.hexdigest()
    return f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{'89ab'[int(h[16], 16) & 3]}{h[17:20]}-{h[20:32]}"


def _passed(schedule: Schedule, due: int, now: int) -> tuple[int, tuple[int, ...], int | None]:
    """Return how many due times are not after ``now``, the latest of them, and the one that follows."""
    if schedule.schedule_type == "once":
        return 1, (due,), None
    if schedule.schedule_type == "cron":
        latest = cron_of(schedule).latest(due, now, MAX_CATCH_UP)
        dues = (due, *latest.dues)[-MAX_CATCH_UP:]
        return latest.total + 1, dues, following(schedule, dues[-1])
    step = step_of(schedule)
    total = (now - due) // step + 1
    last = due + (total - 1) * step
    return total, tuple(last - step * back for back in reversed(range(min(total, MAX_CATCH_UP)))), last + step


def _verdicts(schedule: Schedule, dues: tuple[int, ...], now: int, active: int) -> list[tuple[int, int, str | None]]:
    """Return each due time with the start of its task, and the reason to skip it, or None.

    Where there is a limit, the latest ones are fired.
    """
    room = {"skip": 1 if active <= 0 else 0, "buffer_one": max(0, 2 - active)}.get(schedule.overlap, MAX_CATCH_UP)
    runs = schedule.max_runs - schedule.run_count if schedule.max_runs > 0 else MAX_CATCH_UP
    verdicts: list[tuple[int, int, str | None]] = []
    fired, latest = 0, True
    for due in reversed(dues):
        start, reason = planned(schedule, due, now)
        late = now - start
        if reason is not None:
            verdicts.append((due, start, reason))
            continue
        if schedule.catch_up is not None and late > schedule.catch_up * SECOND:
            reason = "catch_up"
        elif (schedule.misfire == "skip" and late > MISFIRE_GRACE * SECOND) or (
            schedule.misfire != "fire_all" and not latest
        ):
            reason = "paused" if was_paused(schedule.history, due) else "misfire"
        elif fired >= runs:
            reason = "max_runs"
        elif fired >= room:
            reason = "overlap"
        else:
            fired += 1
        latest = False
        verdicts.append((due, max(start, now), reason))
    return verdicts[::-1]


def _records(verdicts: list[tuple[int, int, str | None]], first: int, unlisted: int, now: int) -> list[FiringRecord]:
    """Return what the history keeps of a firing; ``unlisted`` due times from ``first`` on were passed over."""
    records = [FiringRecord(now, "skipped", first, "misfire", unlisted)] if unlisted else []
    for due, start, reason in verdicts:
        if reason is None:
            records.append(FiringRecord(now, "fired", due, start=start if start > now else None))
        else:
            records.append(FiringRecord(now, "skipped", due, reason))
    return records


def task_for(schedule: Schedule, task_id: str, now: int, start: int, due: int | None = None) -> Task:
    """Return a task of a schedule, made ``now``, that may start at ``start``, for a due time if it has one."""
    return Task(
        task_id=task_id,
        type=schedule.task_type,
        params=msgspec.json.decode(msgspec.json.encode(schedule.params)),  # a copy, which a handler may change
        priority=schedule.priority,
        max_retries=schedule.max_retries,
        created_at=now // SECOND,
        scheduler_task_id=schedule.task_id,
        queue=schedule.queue,
        run_at=start,
        seq=next_seq(now),
        timeout=schedule.timeout,
        extra=with_tags({} if due is None else {SCHEDULED_FOR: due}, schedule.tags),
    )


MISFIRE_GRACE: Final = 60
"""Seconds that a run may be late before the misfire policy ``skip`` skips it."""


def jitter_of(schedule: Schedule, due: int) -> int:
    """Return the microseconds by which the run of a due time is later: the same in every process."""
    if not schedule.jitter:
        return 0
    digest = hashlib.sha256(f"jitter:{schedule.task_id}:{due}".encode()).digest()
    return int.from_bytes(digest[:8]) % (schedule.jitter * SECOND + 1)


def planned(schedule: Schedule, due: int, now: int | None = None) -> tuple[int, str | None]:
    """Return when the task of a due time may start, and why the due time is skipped: holiday, weekend or blackout.

    With ``now`` it is fired then, and may be late. A run that is more than MISFIRE_GRACE late would start now: then a
    window that holds ``now`` applies, too.
    """
    if schedule.plain:
        return due, None
    start = due + jitter_of(schedule, due)
    if not schedule.calendar and not schedule.blackout:
        return start, None
    from aiotaskq.core.blackout import day_off, leave, read_windows

    zone = zone_of(schedule)
    if schedule.calendar:
        reason = day_off(schedule.calendar, schedule.calendar_rule, to_datetime(due, zone).date())
        if reason is not None:
            return start, reason
    windows, skips = read_windows(schedule.blackout), schedule.blackout_policy == "skip"
    if (end := leave(windows, zone, start)) != start:
        if skips:
            return start, "blackout"
        start = end
    if now is not None and now - start > MISFIRE_GRACE * SECOND and (end := leave(windows, zone, now)) != now:
        return (start, "blackout") if skips else (end, None)
    return start, None


# ---- the next due times, as a preview ------------------------------------------------------------------------------

_WALK: Final = 20_000  # due times that are looked at, of which a calendar or a window may skip any number


class PlannedRun(msgspec.Struct, frozen=True):
    """A due time of a schedule, and what becomes of it. Instants in microseconds UTC."""

    due: int
    start: int
    """When its task may start: later than ``due`` by jitter, or by a window whose policy is ``delay``."""
    skipped: str | None = None
    """Why it is skipped: holiday, weekend or blackout."""


def next_starts(schedule: Schedule, count: int, *, after: int | None = None) -> list[datetime]:
    """Return the next instants at which tasks of a schedule start, in its time zone; raises as ``upcoming``.

    ``after``: leave out what is due then or earlier; microseconds UTC.
    """
    found = upcoming(schedule, count, fired=True, after=after)
    zone = zone_of(schedule)
    try:
        return [to_datetime(run.start, zone) for run in found]
    except OverflowError:
        raise ValidationError(f"count: {count} instants reach beyond the year 9999") from None


def upcoming(
    schedule: Schedule, count: int, *, fired: bool = False, after: int | None = None, until: int | None = None
) -> list[PlannedRun]:
    """Return the next due times of a stored schedule, at most ``count``, and what becomes of each.

    A paused schedule is treated as if it were resumed; one that is finished has none.

    Args:
        fired: leave out what is skipped. Of the next 20,000 due times, if there are so few that are not.
        after: leave out what is due then or earlier; microseconds UTC.
        until: leave out what is due then or later; microseconds UTC.

    Raises:
        ScheduleStuck: an adopted schedule never becomes due again.
        CronError: the expression has no further times.
        ValidationError: the calendar or a window cannot be read.
        MissingExtra: the schedule has a calendar, and the extra ``calendars`` is not installed.
    """
    found: list[PlannedRun] = []
    left = schedule.max_runs - schedule.run_count if schedule.max_runs else count
    for due in itertools.islice(_of_schedule(schedule, after), _WALK):
        if left <= 0 or (until is not None and due >= until):
            break
        run = PlannedRun(due, *planned(schedule, due))
        left -= run.skipped is None
        if not fired or run.skipped is None:
            found.append(run)
        if len(found) >= count:
            break
    return found


def _of_schedule(schedule: Schedule, after: int | None) -> Iterator[int]:
    due = schedule.due
    if due is not None and after is not None and due <= after:  # it is paused or late
        due = _passed(schedule, due, after)[2]
    while due is not None:
        yield due
        due = None if schedule.schedule_type == "once" else following(schedule, due)


def zone_of(schedule: Schedule) -> ZoneInfo:
    """Return the time zone in which the times of a schedule are shown."""
    from aiotaskq.core.cron import check_timezone, local_timezone

    return check_timezone(schedule.timezone or local_timezone())


# ---- backfill: one task for each due time of a span in the past that has made none ----------------------------------

LIMIT: Final = 1_000
"""How many tasks one backfill makes, unless it is told otherwise."""
MAX_LIMIT: Final = 10_000
_MOST_DUES: Final = 200_000  # due times that are looked at


def missing_dues(schedule: Schedule, since: int, until: int, now: int) -> list[int]:
    """Return the due times from ``since`` to before ``until`` for which the history names no task; microseconds.

    Those that the calendar or a blackout window skips are left out.

    Raises:
        ValidationError: the span is empty, reaches behind ``now``, or has too many due times.
    """
    if since >= until:
        raise ValidationError("until: must be later than since")
    if until > now:
        raise ValidationError("until: is in the future; what is due then fires by itself")
    found = []
    for number, due in enumerate(_dues(schedule, since, until)):
        if number >= _MOST_DUES:
            raise ValidationError(f"since: the span has more than {_MOST_DUES:,} due times; narrow it")
        if planned(schedule, due)[1] is None and not has_made(schedule.history, due):
            found.append(due)
    return found


def backfilled(
    schedule: Schedule, dues: list[int], there: Collection[str], now: int, limit: int
) -> tuple[Schedule, list[tuple[int, Task]]]:
    """Return the schedule after a backfill, and the tasks to push with their due times.

    ``there`` has the ids of tasks that exist. The run count and the next due time stay.

    Raises:
        ValidationError: there are more tasks than ``limit``.
    """
    wanted = [(due, derived_id(schedule.task_id, due)) for due in dues]
    made = [(due, task_for(schedule, task_id, now, now, due)) for due, task_id in wanted if task_id not in there]
    if len(made) > limit:
        raise ValidationError(
            f"limit: {len(made):,} due times have not fired, and {limit:,} are allowed; narrow the span, or raise limit"
        )
    if not made:
        return schedule, []
    last = made[-1][0] if len(made) > 1 else None
    record = FiringRecord(now, "backfilled", made[0][0], count=len(made), until=last)
    return schedule.replace(updated_at=now // SECOND, history=recorded(schedule.history, [record])), made


def _dues(schedule: Schedule, since: int, until: int) -> Iterator[int]:
    if schedule.schedule_type == "cron":
        cron, due = cron_of(schedule), cron_of(schedule).next_after(since - 1)
        while due < until:
            yield due
            due = cron.next_after(due)
    elif schedule.schedule_type == "once":
        due = _once(schedule)
        if since <= due < until:
            yield due
    else:
        step, anchor = step_of(schedule), schedule.due
        if anchor is None:
            raise ValidationError("since: the schedule is finished, so the times of its interval are not known")
        yield from range(anchor - (anchor - since) // step * step, until, step)


def _once(schedule: Schedule) -> int:
    """Return the only due time, with the microseconds that the stored second lacks where they are known."""
    second = schedule.execute_at or 0
    known = [schedule.due, *(record.due for record in reversed(schedule.history) if record.outcome != "backfilled")]
    return next((due for due in known if due is not None and due // SECOND == second), second * SECOND)
