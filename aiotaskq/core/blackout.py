"""What a schedule leaves out: blackout windows, in which it fires nothing, and the holidays of a calendar.

A window is a text: ``22:00-06:00``, wall-clock times of each day, or a date, ``2026-12-24``, or two dates with the days
between them, ``2026-12-24/2027-01-02``. They are read in the time zone of the schedule.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from aiotaskq.core.errors import ValidationError, guess, missing
from aiotaskq.core.instants import offset_change, to_datetime
from aiotaskq.core.task import SECOND

MAX_WINDOWS: Final = 100

_DAY: Final = 24 * 60  # minutes
_TIMES: Final = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")
_DATES: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:/(\d{4}-\d\d-\d\d))?")


class Windows(msgspec.Struct, frozen=True):
    """Parsed windows."""

    times: tuple[tuple[int, int], ...]
    """Minutes of the day: the first one inside, and the first one after; the second is smaller over midnight."""
    dates: tuple[tuple[date, date], ...]
    """The first and the last day."""


def check_windows(field: str, value: object) -> tuple[str, ...]:
    """Return windows as they are stored, from a text or a sequence of texts. Raises ValidationError."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ValidationError(f"{field}: a window such as '22:00-06:00', or a list of them, is needed")
    if len(texts) > MAX_WINDOWS:
        raise ValidationError(f"{field}: has {len(texts)} windows; at most {MAX_WINDOWS} are possible")
    windows = tuple(text.strip() for text in texts)
    try:
        read_windows(windows)
    except ValueError as error:
        raise ValidationError(f"{field}: {error}") from None
    return windows


@functools.lru_cache(maxsize=1024)
def read_windows(texts: tuple[str, ...]) -> Windows:
    """Parse windows. Raises ValueError, saying which is wrong."""
    times, dates = [], []
    for text in texts:
        if found := _TIMES.fullmatch(text):
            hour, minute, to_hour, to_minute = map(int, found.groups())
            begin, end = hour * 60 + minute, to_hour * 60 + to_minute
            if minute > 59 or to_minute > 59 or begin >= _DAY or end > _DAY or begin == end:
                raise ValueError(f"{text!r} names no span of a day, such as '22:00-06:00'")
            times.append((begin, end))
        elif found := _DATES.fullmatch(text):
            try:
                first = date.fromisoformat(found[1])
                last = first if found[2] is None else date.fromisoformat(found[2])
            except ValueError:
                raise ValueError(f"{text!r} names a day that does not exist") from None
            if last < first:
                raise ValueError(f"{text!r} ends before it begins")
            if last == date.max:
                raise ValueError(f"{text!r} never ends, as no day comes after it; pause the schedule instead")
            dates.append((first, last))
        else:
            raise ValueError(
                f"{text!r:.60} is not a window; write '22:00-06:00', '2026-12-24' or '2026-12-24/2027-01-02'"
            )
    covered = {at % _DAY for begin, end in times for at in range(begin, end if begin < end else end + _DAY)}
    if len(covered) == _DAY:
        raise ValueError("the windows leave no time of the day")
    return Windows(tuple(times), tuple(dates))


def leave(windows: Windows, zone: ZoneInfo, instant: int) -> int:
    """Return the first instant outside the windows, not before ``instant``; both in microseconds UTC."""
    while (end := _end(windows, zone, instant)) is not None:
        instant = end
    return instant


def _end(windows: Windows, zone: ZoneInfo, instant: int) -> int | None:
    """Return the end of a window that holds the instant, or None."""
    wall = to_datetime(instant, zone)
    minute, day = wall.hour * 60 + wall.minute, wall.date()
    for first, last in windows.dates:
        if first <= day <= last:
            return _instant(last + timedelta(days=1), 0, zone, instant)
    for begin, end in windows.times:
        if begin <= minute < end or (end < begin and (minute >= begin or minute < end)):
            over = end == _DAY or minute >= end  # it ends on the next day
            return _instant(day + timedelta(days=1) if over else day, end % _DAY, zone, instant)
    return None


def _instant(day: date, minute: int, zone: ZoneInfo, after: int) -> int:
    """Return the first instant later than ``after`` at which the clock shows this time, or a later one of that day."""
    wall = datetime.combine(day, time(*divmod(minute, 60)), zone)
    early, late = wall.timestamp(), wall.replace(fold=1).timestamp()
    if early < late:  # it happens twice
        return int((early if early * SECOND > after else late) * SECOND)
    if early > late:  # it is left out: the first instant after the gap
        return offset_change(zone, int(late), int(early)) * SECOND
    return int(early) * SECOND


# ---- calendars ------------------------------------------------------------------------------------------------------

# The library ``holidays`` knows which days are holidays, and the working days by which some countries, such as China,
# make up for long holidays; the extra ``calendars`` installs it.

_LOCK: Final = threading.Lock()  # a calendar adds the holidays of a year when it is first asked about it


def check_calendar(field: str, value: object) -> str:
    """Return the name of a calendar: a country, ``DE``, or a part of one, ``DE-BY``.

    Raises:
        ValidationError: there is none of that name.
        MissingExtra: the library is not installed.
    """
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise ValidationError(f"{field}: must be a country such as 'DE', or a part of one such as 'DE-BY'")
    _known(field, value)
    return value


@functools.lru_cache(maxsize=4096)
def day_off(calendar: str, rule: str, day: date) -> str | None:
    """Return why a day is left out, ``holiday`` or ``weekend``, or None.

    Raises as ``check_calendar``, also for the calendar of a stored schedule that another version of the library knew.
    """
    known = _known("calendar", calendar)
    with _LOCK:
        holiday = day in known
        if rule == "working_days":
            return None if known.is_working_day(day) else "holiday" if holiday else "weekend"
        return "holiday" if holiday else None


def _known(field: str, name: str) -> Any:
    try:
        return _calendar(name)
    except NotImplementedError:
        raise ValidationError(f"{field}: no calendar is known for {name!r}{_guess(name)}") from None


@functools.lru_cache(maxsize=64)
def _calendar(name: str) -> Any:
    try:
        import holidays
    except ImportError:
        raise missing("holidays", "calendars") from None
    country, _, part = name.partition("-")
    return holidays.country_holidays(country, subdiv=part or None)


def _guess(value: str) -> str:
    import holidays

    country, _, part = value.partition("-")
    known: Any = holidays.list_supported_countries(include_aliases=False)
    if country in known and part:
        parts = ", ".join(known[country])
        return f"; the parts of {country} are {parts:.300}" if parts else f"; {country} has no parts"
    return guess(country.upper(), known) or "; write an ISO 3166 code such as 'DE' or 'CN'"
