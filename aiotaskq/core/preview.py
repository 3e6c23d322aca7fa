"""The next instants of a schedule that need not exist: to be looked at before it is trusted. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from aiotaskq.core.cron import Cron, check_timezone, local_timezone
from aiotaskq.core.errors import ValidationError
from aiotaskq.core.schedule import EPOCH, instant
from aiotaskq.core.task import SECOND, TEN_YEARS, check_int


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
    try:
        return [(EPOCH + timedelta(microseconds=due)).astimezone(zone) for due in dues]
    except OverflowError:
        raise ValidationError(f"count: {count} instants reach beyond the year 9999") from None
