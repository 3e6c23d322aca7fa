"""The fields of a cron expression, read strictly: what is doubtful is refused in words, by field.

Source: Debian crontab(5) for the fields; seconds, ``L`` and ``dow#n`` as in cronsim and croniter.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MAX_LENGTH: Final = 100  # the column is VARCHAR(100)

ALIASES: Final[Mapping[str, str]] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Field(NamedTuple):
    name: str
    low: int
    top: int  # the end of * and of a/n
    high: int  # the largest number that may be written; 7 is a second name of Sunday
    names: tuple[str, ...] = ()


FIELDS: Final = (
    Field("second", 0, 59, 59),
    Field("minute", 0, 59, 59),
    Field("hour", 0, 23, 23),
    Field("day of month", 1, 31, 31),
    Field("month", 1, 12, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")),
    Field("day of week", 0, 6, 7, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")),
)
_MONTH_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LEAP: Final = 0.2425  # share of leap years in the Gregorian calendar


class Refused(Exception):
    """What is wrong with a field, in words; ``Cron.parse`` adds the expression."""


@dataclass(slots=True)
class Values:
    """The values that one field allows."""

    text: str
    numbers: set[int] = field(default_factory=set)
    last: bool = False  # L, the last day of the month
    nth: set[tuple[int, int]] = field(default_factory=set)  # (weekday, n): the n-th such weekday of the month


def _number(spec: Field, text: str) -> int:
    if text.isascii() and text.isdigit():
        value = int(text)
        if not spec.low <= value <= spec.high:
            raise Refused(f"{spec.name} {value} is not in {spec.low}-{spec.high}")
        return value
    if text.upper() in spec.names:
        return spec.names.index(text.upper()) + spec.low
    raise Refused(f"{spec.name} {text!r} {_hint(spec, text.upper())}")


def _hint(spec: Field, text: str) -> str:
    if "?" in text:
        return "is not supported; write * instead of ?"
    if text.startswith("-"):
        return "is negative"
    if spec.name == "day of month" and "W" in text:
        return "is not supported: there is no W (nearest weekday); list days, or use a weekday such as MON#1"
    if "L" in text and (text == "L" or not text.isalpha()):
        return "is not supported; L (last day) stands alone, as day of month"
    if text[:1] in ("H", "R", "~") and not text[1:2].isalpha():
        return "is not supported: nothing is chosen at random; write a number"
    if spec.names:
        return f"is neither {spec.low}-{spec.high} nor {spec.names[0]}-{spec.names[-1]}"
    return f"is not a number of {spec.low}-{spec.high}, a range, a list or *"


def _range(spec: Field, base: str, stepped: bool) -> tuple[int, int]:
    """The first and the last value of ``*``, ``a-b`` or ``a`` (which, before a step, goes on to the end)."""
    if base == "*":
        return spec.low, spec.top
    first, dash, second = base.partition("-")
    if not dash or not first or not second:
        low = _number(spec, base)
        return (low, max(low, spec.top)) if stepped else (low, low)
    low, high = _number(spec, first), _number(spec, second)
    if low == high:
        raise Refused(f"{spec.name} range {base} is one value; write {first}")
    if low > high and spec.name == "day of week" and high == 0:
        raise Refused(f"{spec.name} range {base} is reversed; write {low}-7, where 7 is Sunday")
    if low > high:
        parts = [str(low) if low == spec.top else f"{low}-{spec.top}"]
        parts.append(str(high) if high == spec.low else f"{spec.low}-{high}")
        raise Refused(f"{spec.name} range {base} is reversed; write {','.join(parts)}")
    return low, high


def parse_field(spec: Field, text: str) -> Values:
    values = Values(text)
    for part in text.split(","):
        if not part:
            raise Refused(f"{spec.name} has an empty part in {text!r}")
        if spec.name == "day of month" and part.upper() == "L":
            values.last = True
            continue
        if spec.name == "day of week" and "#" in part:
            day, _, nth = part.partition("#")
            if nth not in ("1", "2", "3", "4", "5"):
                raise Refused(f"{spec.name} {part!r} must end in #1 to #5")
            values.nth.add((_number(spec, day) % 7, int(nth)))
            continue
        base, slash, step_text = part.partition("/")
        low, high = _range(spec, base, bool(slash))
        step = 1
        if slash:
            if not (step_text.isascii() and step_text.isdigit()):
                raise Refused(f"{spec.name} step {step_text!r} is not a number")
            step = int(step_text)
            if step == 0:
                raise Refused(f"{spec.name} step 0 never advances; write 1 or more")
            if step > high - low:
                leap = f"step {step} leaves {low}-{high}"
                raise Refused(f"{spec.name} {part} gives just one value ({leap}); write {low}")
        elif base == "*" and part != text:
            raise Refused(f"{spec.name} * in a list covers the rest of it; write * alone")
        values.numbers.update(range(low, high + 1, step))
    if spec.name == "day of week":
        values.numbers = {number % 7 for number in values.numbers}
    return values


def days_per_year(dom: Values, months: Iterable[int], dow: Values, both: bool) -> float:
    """How many days of a mean year match; 0.0 means none ever (any date of a month meets every weekday some year)."""
    weekdays = [len(dow.numbers | {day for day, nth in dow.nth if nth == week}) / 7 for week in range(1, 6)]
    total = 0.0
    for month in months:
        length = _MONTH_DAYS[month - 1]
        for day in range(1, length + 1):
            by_date = float(day in dom.numbers or (dom.last and day == length))
            if dom.last and (month, day) == (2, 28):
                by_date = max(by_date, 1 - _LEAP)
            by_week = weekdays[(day - 1) // 7]
            share = by_date * by_week if both else by_date + by_week - by_date * by_week
            total += share * (_LEAP if (month, day) == (2, 29) else 1.0)
    return total


def clip_text(text: str) -> str:
    return repr(text) if len(text) <= MAX_LENGTH else repr(text[:40]) + "…"


def split_fields(expression: str) -> list[str]:
    """The five or six fields as text."""
    if len(expression) > MAX_LENGTH:
        raise Refused(f"{len(expression)} characters are more than {MAX_LENGTH}")
    for char in expression:
        if ord(char) < 32 or ord(char) == 127:
            raise Refused(f"control character {char!r}; separate the fields by spaces")
        if not char.isascii():
            raise Refused(f"{char!r} is not an ASCII character" + ("; write 0-9" if char.isnumeric() else ""))
    text = expression.strip()
    if text.startswith("@"):
        if text.lower() not in ALIASES:
            close = difflib.get_close_matches(text.lower(), ALIASES, 1)
            raise Refused(f"{text!r} is unknown; {f'did you mean {close[0]}?' if close else ' '.join(ALIASES)}")
        text = ALIASES[text.lower()]
    fields = text.split()
    if len(fields) == 7:
        raise Refused("7 fields; there is no year field, write 5 or 6 (seconds first)")
    if len(fields) not in (5, 6):
        raise Refused(f"{len(fields)} fields; write 5 (minute hour day month weekday) or 6 (seconds first)")
    return fields
