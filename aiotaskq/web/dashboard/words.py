"""The language of a page: sentences of the catalogue, and numbers, times and durations as its readers write them."""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from aiotaskq.core.catalogue import parse, rendered
from aiotaskq.core.cron import local_timezone
from aiotaskq.core.instants import from_iso, to_datetime, to_iso
from aiotaskq.core.masking import without_passwords

LANGUAGES = {"en": "English", "zh": "中文"}
CATALOGUE = Path(__file__).parent / "locale" / "zh" / "LC_MESSAGES" / "dashboard.po"

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNITS = (("d", "天", 86_400), ("h", "小时", 3_600), ("min", "分", 60))
_AXIS = (*_UNITS, ("s", "秒", 1), ("ms", "毫秒", 1e-3), ("µs", "微秒", 1e-6))


_PLACES = string.Formatter()
_BIDI = str.maketrans(dict.fromkeys("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069", "\ufffd"))
"""Characters that turn the direction of the text behind them: a value must not turn the sentence around it."""


def marked(text: str) -> str:
    """Return the text as it is; marks one that must be in the catalogue, because a template translates it later."""
    return text


LABELS = {
    "at": marked("Due at this time, with an offset"),
    "blackout": marked("Blackout windows, divided by commas"),
    "blackout_policy": marked("In a blackout window"),
    "budget": marked("Budget, as JSON"),
    "burst": marked("Burst"),
    "calendar": marked("Calendar, as DE or DE-BY"),
    "calendar_rule": marked("On days of the calendar"),
    "cap": marked("Tasks at a time"),
    "concurrency": marked("Slots"),
    "cron": marked("Cron expression, seconds, or time with an offset"),
    "delay": marked("Due in so many seconds"),
    "description": marked("Description"),
    "error": marked("Error"),
    "idempotency_key": marked("Idempotency key"),
    "interval": marked("Cron expression, seconds, or time with an offset"),
    "jitter": marked("Jitter in seconds"),
    "key": marked("Key"),
    "max_retries": marked("Retries"),
    "max_runs": marked("Most runs, 0 for no bound"),
    "max_waiting": marked("Tasks that may wait"),
    "misfire": marked("Missed times"),
    "name": marked("Name"),
    "on_failure": marked("Task after its failure"),
    "on_success": marked("Task after its success"),
    "overlap": marked("Overlap"),
    "params": marked("Params as JSON"),
    "priority": marked("Priority, the smallest first"),
    "queue": marked("Queue"),
    "rate": marked("Tokens per second"),
    "same_error": marked("Error"),
    "schedule": marked("Schedule"),
    "schedule_type": marked("Runs"),
    "status": marked("State"),
    "tag": marked("Tags"),
    "tags": marked("Tags"),
    "timeout": marked("Timeout in seconds"),
    "timezone": marked("Time zone"),
    "timing": marked("Cron expression, seconds, or time with an offset"),
    "ttl": marked("Seconds to live, empty for ever"),
    "type": marked("Type"),
    "unique_key": marked("Unique key"),
    "value": marked("Value as JSON"),
    "window": marked("Fair share"),
}
"""What forms call their fields, and filters, by the names that these have in operations."""


@functools.cache
def _chinese() -> dict[str, str]:
    return {english: chinese for (_, english), chinese in parse(CATALOGUE.read_text(encoding="utf-8")).items()}


_RATES = (
    (1, marked("{rate} per second, burst {burst}")),
    (60, marked("{rate} per minute, burst {burst}")),
    (3_600, marked("{rate} per hour, burst {burst}")),
    (86_400, marked("{rate} per day, burst {burst}")),
)


def language_of(chosen: str, accepted: str) -> str:
    """Return the language of a page: the one that was chosen, else the first known one of ``Accept-Language``."""
    if chosen in LANGUAGES:
        return chosen
    weighed = []
    for place, part in enumerate(accepted[:200].split(",")):
        name, _, quality = part.partition(";q=")
        try:
            weight = float(quality or 1)
        except ValueError:
            continue
        weighed.append((-weight, place, name.strip().lower().partition("-")[0]))
    return next((name for weight, _, name in sorted(weighed) if name in LANGUAGES and weight), "en")


class Words:
    """Translates and formats for one page. Instants are microseconds UTC, shown in one time zone."""

    def __init__(self, language: str, zone: str | None = None) -> None:
        self.language = language
        self.zone_name = zone or local_timezone()
        self._zone: tzinfo = ZoneInfo(self.zone_name)

    def __call__(self, text: str, **values: object) -> str:
        """Return a sentence of the catalogue with its ``{names}`` filled in; a number is grouped."""
        if self.language == "zh":
            text = _chinese().get(text, text)
        if not values:
            return text
        return text.format(**{name: self._filled(each) for name, each in values.items()})

    def _filled(self, value: object) -> object:
        if _is_int(value):
            return self.number(value)
        return value.translate(_BIDI) if isinstance(value, str) else value

    def knows(self, text: str, values: Mapping[str, object]) -> bool:
        """Return whether this is a sentence of the catalogue, and these are the values of its places."""
        if text not in _chinese() or {"self", "text"} & set(values):
            return False
        return {name for _, name, _, _ in _PLACES.parse(text) if name} <= set(values)

    def count(self, one: str, many: str, number: int, **values: object) -> str:
        """Return the sentence for one thing or for many; ``{number}`` is the number."""
        return self(one if number == 1 else many, number=number, **values)

    def error(self, text: str | None) -> str:
        """Return an error text of the library in the page's language, without passwords."""
        shown = without_passwords(text or "")
        return (_chinese().get(shown) or rendered(shown)) if self.language == "zh" else shown

    def label(self, name: str) -> str:
        """Return what a form calls a field."""
        return self(LABELS.get(name, name))

    def problem(self, text: str) -> str:
        """Return the text of an error as ``error`` does; a field that it names is called as in its form."""
        name, said = text.partition(": ")[0], self.error(text)
        return self.label(name) + said.removeprefix(name) if said.startswith(name) else said

    def number(self, number: Any, places: int = 2) -> str:
        """Return a number with groups of three digits, and at most so many decimal places."""
        return f"{number:,}" if _is_int(number) else f"{number:,.{places}f}".rstrip("0").rstrip(".")

    def rate(self, tokens: float, burst: int) -> str:
        """Return a rate, given per second, and its burst, in the unit that suits it: 1 per hour, 100 per minute.

        A limit has whole microseconds for each token, so that 3 per second is given as 2.99999.
        """
        rates = [(tokens * seconds, text) for seconds, text in _RATES]
        whole = (
            (round(number), text)
            for number, text in rates
            if number < 10_000 and math.isclose(number, round(number), rel_tol=1e-5)
        )
        large = ((number, text) for number, text in rates if number >= 1)
        found, sentence = next(whole, None) or next(large, rates[-1])
        return self(sentence, rate=self.number(found, 4), burst=burst)

    def time(self, instant: int | None) -> str:
        """Return date and time of day in the page's time zone; "" for None, and for a year that no calendar has."""
        if instant is None:
            return ""
        try:
            at = to_datetime(instant, self._zone)
        except OverflowError:
            return ""
        clock = f"{at:%H:%M:%S}"
        if self.language == "zh":
            return f"{at.year}-{at:%m-%d} {clock}"
        return f"{at.day} {_MONTHS[at.month - 1]} {at.year} {clock}"

    def text_time(self, text: str | None) -> str:
        """Return date and time of day of an RFC 3339 text, as the JSON views have it; "" for None."""
        return "" if text is None else self.time(from_iso(text))

    def clock(self, instant: int) -> str:
        """Return the time of day, to the minute."""
        return f"{to_datetime(instant, self._zone):%H:%M}"

    def day(self, instant: int) -> str:
        """Return the day and the month."""
        at = to_datetime(instant, self._zone)
        return f"{at.month}-{at.day:02}" if self.language == "zh" else f"{at.day} {_MONTHS[at.month - 1]}"

    def axis(self, seconds: float) -> str:
        """Return a duration in one unit, as an axis has it."""
        for english, zh, size in _AXIS:
            if seconds >= size:
                return f"{seconds / size:g} {zh if self.language == 'zh' else english}"
        return "0"

    def iso(self, instant: int | None) -> str:
        """Return RFC 3339 in UTC, for programs; "" for None."""
        return to_iso(instant) or ""

    def minutes(self, seconds: float) -> str:
        """Return a duration in whole minutes: not another text for each second."""
        return f"< {self.duration(60)}" if seconds < 60 else self.duration(seconds - seconds % 60)

    def lasting(self, seconds: float) -> str:
        """Return for how long something has lasted, in whole minutes."""
        if seconds < 60:
            return self(marked("for less than a minute"))
        return self(marked("for {time}"), time=self.minutes(seconds))

    def duration(self, seconds: float | None) -> str:
        """Return a duration in its two largest units, below a minute in seconds or milliseconds; "" for None."""
        if seconds is None:
            return ""
        sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
        chinese = self.language == "zh"
        if seconds < 1:
            return f"{sign}{seconds * 1000:.0f} {'毫秒' if chinese else 'ms'}"
        if seconds < 60:
            text = f"{seconds:.1f}" if seconds < 10 and not _is_int(seconds) else f"{seconds:.0f}"
            return f"{sign}{text} {'秒' if chinese else 's'}"
        for place, (english, zh, size) in enumerate(_UNITS):
            if seconds < size:
                continue
            first, rest = divmod(int(seconds), size)
            lower = _UNITS[place + 1] if place + 1 < len(_UNITS) else ("s", "秒", 1)
            parts = [f"{first} {zh if chinese else english}"]
            if second := rest // lower[2]:
                parts.append(f"{second} {lower[1] if chinese else lower[0]}")
            return sign + " ".join(parts)
        raise AssertionError(seconds)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
