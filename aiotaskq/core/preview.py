"""The next instants of a schedule: of one that exists, or of one that is only considered. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from aiotaskq.core.cron import check_timezone, local_timezone
from aiotaskq.core.errors import ValidationError
from aiotaskq.core.firing import planned
from aiotaskq.core.instants import instant, to_datetime
from aiotaskq.core.schedule import Schedule, following, new_schedule, timing_of
from aiotaskq.core.validation import check_int

_WALK: Final = 20_000  # due times that are looked at, of which a calendar or a window may skip any number


class PlannedRun(msgspec.Struct, frozen=True):
    """A due time of a schedule, and what becomes of it. Instants in microseconds UTC."""

    due: int
    start: int
    """When its task may start: later than ``due`` by jitter, or by a window whose policy is ``delay``."""
    skipped: str | None = None
    """Why it is skipped: holiday, weekend or blackout."""


def preview(
    *,
    cron: str | None = None,
    interval: int | timedelta | None = None,
    at: float | datetime | None = None,
    timezone: str | None = None,
    after: datetime | None = None,
    count: int = 5,
    now: int,
    **skips: Any,
) -> list[datetime]:
    """Return the next ``count`` (1 to 1,000) instants at which tasks start, as aware datetimes in the time zone.

    Args:
        cron, interval, at: exactly one; ``interval`` in seconds, ``at`` in epoch seconds or as an aware datetime.
        timezone: an IANA name; default the system's local zone.
        after: an aware datetime, default now; only instants strictly later count.
        skips: calendar, calendar_rule, blackout and blackout_policy, as of ``new_schedule``.
        now: microseconds UTC.

    Raises:
        ValidationError: naming the argument.
        MissingExtra: a calendar is given, and the extra ``calendars`` is not installed.
    """
    timing = timing_of(cron, interval, at)
    check_int("count", count, 1, 1000)
    if after is not None:
        if not isinstance(after, datetime):
            raise ValidationError(f"after: an aware datetime is needed (got {type(after).__name__})")
        now = instant("after", after)
    zone = local_timezone() if timezone is None else timezone
    schedule = new_schedule("preview", "preview", **timing, **skips, timezone=zone, now=now)
    return starts(schedule, count, after=now)


def starts(schedule: Schedule, count: int, *, after: int | None = None) -> list[datetime]:
    """Return the next instants at which tasks of a schedule start, in its time zone; raises as ``upcoming``.

    ``after``: leave out what is due then or earlier; microseconds UTC.
    """
    found = upcoming(schedule, count, fired=True)
    zone = zone_of(schedule)
    try:
        return [to_datetime(run.start, zone) for run in found if after is None or run.due > after]
    except OverflowError:
        raise ValidationError(f"count: {count} instants reach beyond the year 9999") from None


def upcoming(schedule: Schedule, count: int, *, fired: bool = False, until: int | None = None) -> list[PlannedRun]:
    """Return the next due times of a stored schedule, at most ``count``, and what becomes of each.

    A paused schedule is treated as if it were resumed now; one that is finished has none.

    Args:
        fired: leave out what is skipped. Of the next 20,000 due times, if there are so few that are not.
        until: leave out what is due then or later; microseconds UTC.

    Raises:
        ScheduleStuck: an adopted schedule never becomes due again.
        CronError: the expression has no further times.
        ValidationError: the calendar or a window cannot be read.
        MissingExtra: the schedule has a calendar, and the extra ``calendars`` is not installed.
    """
    found: list[PlannedRun] = []
    left = schedule.max_runs - schedule.run_count if schedule.max_runs else count
    for due in itertools.islice(_of_schedule(schedule), _WALK):
        if left <= 0 or (until is not None and due >= until):
            break
        run = PlannedRun(due, *planned(schedule, due))
        left -= run.skipped is None
        if not fired or run.skipped is None:
            found.append(run)
        if len(found) >= count:
            break
    return found


def _of_schedule(schedule: Schedule) -> Iterator[int]:
    due = schedule.due
    while due is not None:
        yield due
        due = None if schedule.schedule_type == "once" else following(schedule, due)


def zone_of(schedule: Schedule) -> ZoneInfo:
    """Return the time zone in which the times of a schedule are shown."""
    return check_timezone(schedule.timezone or local_timezone())
