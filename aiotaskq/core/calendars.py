"""Calendars of countries: which days are holidays, and which are working days.

The library ``holidays`` knows them; the extra ``calendars`` installs it. It also knows the working days by which some
countries, such as China, make up for long holidays.
"""

from __future__ import annotations

import difflib
import functools
import threading
from datetime import date
from typing import Any, Final, Literal

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.extras import missing

_LOCK: Final = threading.Lock()  # a calendar adds the holidays of a year when it is first asked about it
CalendarRule = Literal["skip_holidays", "working_days"]


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
    close = difflib.get_close_matches(country.upper(), known, 1)
    return f"; did you mean {close[0]!r}?" if close else "; write an ISO 3166 code such as 'DE' or 'CN'"
