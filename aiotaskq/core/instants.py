"""Instants: integer microseconds UTC since 1970, made from what a user gives and shown as ISO 8601."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from aiotaskq.core.errors import ValidationError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1) // _MICROSECOND
PAST: Final = ("since", "until")
"""Fields whose durations lead back from now; those of others lead on from now."""
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)\s*")
_SECONDS: Final = {"d": 86_400, "h": 3_600, "min": 60, "m": 60, "s": 1}
_LAST: Final = 100_000_000_000  # epoch seconds in the year 5138; as milliseconds it was 1973


def instant(field: str, value: object) -> int:
    """Return the microseconds of epoch seconds or of an aware datetime (its fold is honoured, PEP 495).

    Raises ValidationError naming the field.
    """
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValidationError(f"{field}: a naive datetime names no instant; give it a tzinfo (got {value})")
        found = (value - _EPOCH) // _MICROSECOND
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError(f"{field}: epoch seconds or an aware datetime are needed (got {type(value).__name__})")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValidationError(f"{field}: {value} is not a time")
    elif abs(value) > _LAST:  # before any arithmetic or repr(), which a huge int may refuse
        shown = f"{value:.6g}" if abs(value) < 10**20 else "a huge number"
        raise ValidationError(f"{field}: epoch seconds are needed; {shown} looks like milliseconds, divide by 1000")
    else:
        found = value * _SECOND if isinstance(value, int) else round(value * _SECOND)
    if not 0 <= found <= _LAST * _SECOND:
        raise ValidationError(f"{field}: is not in the years 1970 to 5000 (got {value!r:.60})")
    return found


def seconds_of(text: str) -> float | None:
    """Return the seconds of a duration, as 2h, 30m or 1d12h; None for another text."""
    seconds, at = 0.0, 0
    while match := _PART.match(text, at):
        seconds += float(match[1]) * _SECONDS[match[2]]
        at = match.end()
    return seconds if at and at == len(text) else None


def from_now(field: str, seconds: float, now: int) -> datetime:
    """Return the instant so far before now, or after it, as the field wants it. Raises OverflowError."""
    return to_datetime(now) + timedelta(seconds=-seconds if field in PAST else seconds)


def to_datetime(instant: int, zone: tzinfo = UTC) -> datetime:
    """Return an aware datetime. Raises OverflowError for a year that no datetime has."""
    return (_EPOCH + timedelta(microseconds=instant)).astimezone(zone)


def moment(instant: int | None, seconds: int | None = None) -> datetime | None:
    """Return an aware datetime in UTC, of the epoch seconds where the instant is None; None if both are."""
    if instant is None:
        return None if seconds is None else to_datetime(seconds * _SECOND)
    return to_datetime(instant)


def to_iso(instant: int | None) -> str | None:
    """Return ISO 8601 in UTC, to the second if that is exact; None for None, and for a year that no datetime has."""
    if instant is None:
        return None
    try:
        text = to_datetime(instant).isoformat()
    except OverflowError:  # a stored number may be anything
        return None
    return text.replace("+00:00", "Z")


def from_iso(text: str) -> int:
    """Return the instant of a text of ``to_iso``."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
