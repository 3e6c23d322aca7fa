"""The next instants of a schedule: of one that exists, or of one that is only considered. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from aiotaskq.core.cron import Cron, check_timezone, local_timezone
from aiotaskq.core.errors import ValidationError
from aiotaskq.core.instants import instant, to_datetime
from aiotaskq.core.schedule import Schedule, following
from aiotaskq.core.task import SECOND
from aiotaskq.core.validation import TEN_YEARS, check_int


def preview(
    *,
    cron: str | None = None,
    interval: int | timedelta | None = None,
    at: float | datetime | None = None,
    timezone: str | None = None,
    after: datetime | None = None,
    count: int = 5,
    now: int,
) -> list[datetime]:
    """The next ``count`` (1 to 1,000) instants of a schedule as aware datetimes in its time zone.

    Args:
        cron, interval, at: exactly one; ``interval`` in seconds, ``at`` in epoch seconds or as an aware datetime.
        timezone: an IANA name; default the system's local zone.
        after: an aware datetime, default now; only instants strictly later count.
        now: microseconds UTC.

    Raises:
        ValidationError: naming the argument.
    """
    if sum(each is not None for each in (cron, interval, at)) != 1:
        raise ValidationError("preview: exactly one of cron, interval and at is needed")
    check_int("count", count, 1, 1000)
    zone = check_timezone(local_timezone() if timezone is None else timezone)
    start = now
    if after is not None:
        if not isinstance(after, datetime):
            raise ValidationError(f"after: an aware datetime is needed (got {type(after).__name__})")
        start = instant("after", after)
    dues: Iterable[int]
    if cron is not None:
        parsed, dues = Cron.parse(cron, zone.key), []
        while len(dues) < count:
            dues.append(parsed.next_after(dues[-1] if dues else start))
    elif interval is not None:
        seconds: object = interval
        if isinstance(interval, timedelta):
            if interval % timedelta(seconds=1):
                raise ValidationError(f"interval: whole seconds are needed (got {interval})")
            seconds = interval // timedelta(seconds=1)
        step = check_int("interval", seconds, 1, TEN_YEARS) * SECOND
        dues = range(start + step, start + step * count + 1, step)
    else:
        once = instant("at", at)
        dues = [once] if once > start else []
    return _in_zone(dues, zone)


def upcoming(schedule: Schedule, count: int) -> list[datetime]:
    """Return the next instants, at most ``count``, at which a stored schedule is due, in its time zone.

    A paused schedule is treated as if it were resumed now; one that is finished has none. Raises ScheduleStuck for an
    adopted schedule that never becomes due again, CronError for an expression that has no further times.
    """
    if schedule.due is None:
        return []
    dues = [schedule.due]
    if schedule.max_runs:
        count = min(count, schedule.max_runs - schedule.run_count)
    while len(dues) < count and schedule.schedule_type != "once":
        dues.append(following(schedule, dues[-1]))
    return _in_zone(dues, check_timezone(schedule.timezone or local_timezone()))


def upcoming_until(schedule: Schedule, until: int, count: int) -> list[int]:
    """Return the same, at most ``count``, before an instant, all in microseconds UTC. Raises as ``upcoming``."""
    dues: list[int] = []
    due = schedule.due
    if schedule.max_runs:
        count = min(count, schedule.max_runs - schedule.run_count)
    while due is not None and due < until and len(dues) < count:
        dues.append(due)
        due = following(schedule, due) if schedule.schedule_type != "once" else None
    return dues


def _in_zone(dues: Iterable[int], zone: ZoneInfo) -> list[datetime]:
    dues = list(dues)
    try:
        return [to_datetime(due, zone) for due in dues]
    except OverflowError:
        raise ValidationError(f"count: {len(dues)} instants reach beyond the year 9999") from None
