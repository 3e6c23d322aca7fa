"""Instants: integer microseconds UTC since 1970, as aware datetimes and as ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1) // _MICROSECOND
PAST: Final = ("since", "until")
"""Fields whose durations lead back from now; those of others lead on from now."""
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)\s*")
_SECONDS: Final = {"d": 86_400, "h": 3_600, "min": 60, "m": 60, "s": 1}


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


M = TypeVar("M", datetime, datetime | None)


class Moment(property, Generic[M]):
    """A property of a record: a field of it as an aware datetime in UTC."""

    if TYPE_CHECKING:

        def __get__(self, record: Any, kind: type | None = None, /) -> M: ...  # type: ignore[override]


def utc(field: str = "", *, seconds: str = "") -> Moment[datetime]:
    """Return the property of a field with microseconds, or with epoch ``seconds``."""
    return Moment(utc_or_none(field, seconds).fget)


def utc_or_none(field: str = "", seconds: str = "", doc: str = "") -> Moment[datetime | None]:
    """Return the property of a field with microseconds, and of one with epoch ``seconds`` where that has None.

    ``doc``: its docstring, where that says more than the name of the field.
    """

    def read(record: Any) -> datetime | None:
        instant = getattr(record, field) if field else None
        if instant is None and seconds and (whole := getattr(record, seconds)) is not None:
            instant = whole * _SECOND
        return None if instant is None else to_datetime(instant)

    read.__doc__ = doc or f"``{field or seconds}`` as an aware datetime in UTC."
    return Moment(read)


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


def offset_change(zone: tzinfo, before: int, after: int) -> int:
    """Return the first instant with the UTC offset of ``after``, which changes once between the two; epoch seconds."""
    offset = datetime.fromtimestamp(after, zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after
