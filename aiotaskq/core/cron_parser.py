"""Checks what a cron expression may be, names the field that is wrong, and walks over the times; croniter parses it.

All sets of values are croniter's. The checks refuse, in words and by field, what croniter refuses (its own messages
name no field) and what croniter reads in a way that surprises: a range that wraps around or is one value, a step that
leaves one value, ``?``, a random ``R``. Source: Debian crontab(5) for the fields.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from bisect import bisect_right
from calendar import monthrange
from datetime import date, datetime
from typing import Any, Final, NamedTuple

MAX_LENGTH: Final = 100  # the column is VARCHAR(100)

ALIASES: Final = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


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
_NEAREST: Final = re.compile(r"(\d+)W|W(\d+)", re.ASCII | re.IGNORECASE)
LAST: Final = 0  # in the place of the n of a weekday's n-th: its last one in the month

_DAYS: Final = 400  # days that match, of which a mean is taken


class Refused(Exception):
    """What is wrong with an expression, in words; the caller adds its text."""


class Sets(NamedTuple):
    """An expression as croniter reads it: the values of each field."""

    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    dates: frozenset[int]
    last: bool  # whether the last day of the month is among the dates
    nearest: int  # the 15 of 15W: its nearest weekday in the month is the date; 0 for none
    months: frozenset[int]
    weekdays: frozenset[int]  # Sunday is 0
    nth: frozenset[tuple[int, int]]  # (weekday, n): the n-th such weekday of the month, or its LAST
    either: bool  # whether a day needs to match by date or by weekday; otherwise by both
    fixed: bool  # whether hour and minute are numbers and lists of numbers


class WallWalk:
    """The wall times at which an expression is due. Immutable."""

    __slots__ = ("_days", "_hours", "_minutes", "_seconds", "_sets")

    def __init__(self, sets: Sets) -> None:
        self._sets = sets
        self._seconds, self._minutes, self._hours = map(sorted, (sets.seconds, sets.minutes, sets.hours))
        dates = sets.dates.union(range(28, 32)) if sets.last else sets.dates
        self._days = list(range(1, 32)) if sets.either or sets.nearest else sorted(dates)
        """Dates that may match: under ``either`` and ``nearest`` any date may, by its weekday."""

    def after(self, wall: datetime) -> datetime:
        """Return the first wall time later than ``wall``, to the second. Raises ValueError after the year 9999."""
        year, month, day, hour, minute, second = wall.timetuple()[:6]
        if month in self._sets.months and self._matches(year, month, day, wall.isoweekday() % 7):
            if hour in self._sets.hours:
                if minute in self._sets.minutes and (later := _above(self._seconds, second)) is not None:
                    return datetime(year, month, day, hour, minute, later)
                if (later := _above(self._minutes, minute)) is not None:
                    return datetime(year, month, day, hour, later, self._seconds[0])
            if (later := _above(self._hours, hour)) is not None:
                return datetime(year, month, day, later, self._minutes[0], self._seconds[0])
        year, month, day = self._date_after(year, month, day)
        return datetime(year, month, day, self._hours[0], self._minutes[0], self._seconds[0])

    def per_day(self, year: int) -> float:
        """The mean number of wall times in a day: of the next days that match, or of eight years."""
        place, days = (year, 1, 0), 0
        with contextlib.suppress(ValueError):
            while days < _DAYS:
                place, days = self._date_after(*place, year + 8), days + 1
        span = (date(*place) - date(year, 1, 1)).days + 1 if days == _DAYS else 8 * 365.25
        return days / span * len(self._hours) * len(self._minutes) * len(self._seconds)

    def _date_after(self, year: int, month: int, day: int, end: int = 10_000) -> tuple[int, int, int]:
        while year < end:
            if month in self._sets.months:
                first, length = monthrange(year, month)  # the weekday of the 1st, Monday is 0
                for number in self._days[bisect_right(self._days, day) :]:
                    if number <= length and self._matches(year, month, number, (first + number) % 7):
                        return year, month, number
            day = 0
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        raise ValueError(f"no date before the year {end}")

    @property
    def never(self) -> bool:
        """Whether no day matches: each kind of month begins on each weekday once in 28 years."""
        try:
            self._date_after(2000, 1, 0, 2028)
        except ValueError:
            return True
        return False

    def _matches(self, year: int, month: int, day: int, weekday: int) -> bool:
        """Whether a day of a right month matches; ``weekday`` is 0 on Sunday."""
        sets = self._sets
        by_date = day in sets.dates or (sets.last and day == monthrange(year, month)[1])
        if sets.nearest:
            by_date = day == _nearest_weekday(sets.nearest, *monthrange(year, month))
        if by_date == sets.either:
            return by_date  # one side has decided
        if weekday in sets.weekdays:
            return True
        nth = sets.nth
        return bool(nth) and (
            (weekday, (day + 6) // 7) in nth or ((weekday, LAST) in nth and day + 7 > monthrange(year, month)[1])
        )


def _nearest_weekday(date: int, first: int, length: int) -> int:
    """The weekday nearest to a date, in a month of that length whose 1st is that weekday (Monday is 0)."""
    date = min(date, length)
    weekday = (first + date) % 7  # 0 is Sunday
    if weekday == 6:
        return date - 1 if date > 1 else date + 2
    if weekday == 0:
        return date + 1 if date < length else date - 2
    return date


def _above(numbers: list[int], number: int) -> int | None:
    index = bisect_right(numbers, number)
    return numbers[index] if index < len(numbers) else None


Columns = tuple[list[list[Any]], dict[int, set[Any]], int]
"""What croniter reads: minute, hour, date, month, weekday and second, each ``["*"]`` or values; nth; the 15 of 15W."""


def expand(text: str, *, seconds_first: bool = False) -> Columns:
    """Parse an expression by croniter. Raises Refused."""
    from croniter import CroniterError, croniter  # slow to import, so on use

    try:
        made = croniter(text, 0, second_at_beginning=seconds_first)
    except CroniterError:
        raise Refused("croniter cannot read it; write 5 fields, or 6 with the seconds first") from None
    return made.expanded, made.nth_weekday_of_month, next(iter(made.nearest_weekday), 0)


def read(expression: str) -> Sets:
    """Check an expression of five fields, or six with the seconds first, and parse it by croniter.

    Raises:
        Refused: naming the field and what to write.
    """
    fields = split_fields(expression)
    for spec, text in zip(FIELDS[-len(fields) :], fields, strict=True) if len(fields) > 1 else ():
        check_field(spec, text)
    columns, nth, nearest = expand(" ".join(fields), seconds_first=len(fields) == 6)
    if len(fields) == 1:  # an alias: the fields are those that croniter has for it
        fields = [",".join(map(str, column)) for column in columns]
    date, month, weekday = fields[-3:]
    if nearest and weekday != "*":
        raise Refused(f"day of week {weekday} has no effect beside day of month {date}; write two schedules")
    sets = sets_of(columns, nth, nearest, fixed=set("*/-").isdisjoint(fields[-5] + fields[-4]))
    full = len(sets.dates) == 31, len(sets.weekdays) == 7
    if date != "*" and weekday != "*" and full[0] != full[1]:
        # Beside it croniter drops the other field, or this one, depending on how the two are written.
        every, other = (("day of month", date), ("day of week", weekday))[:: 1 if full[0] else -1]
        raise Refused(f"{every[0]} {every[1]} is every day; write * for it, or * for {other[0]} {other[1]}")
    if WallWalk(sets).never:
        never = f"day of month {date} never occurs in month {month}"
        raise Refused(never if weekday == "*" else f"{never} together with day of week {weekday}")
    return sets


def sets_of(columns: list[list[Any]], nth: dict[int, set[Any]], nearest: int = 0, *, fixed: bool) -> Sets:
    """What croniter walks over, as sets."""
    minute, hour, date, month, weekday = columns[:5]
    second = columns[5] if len(columns) > 5 else [0]
    numbers = [
        frozenset(range(spec.low, spec.top + 1)) if "*" in column else frozenset(column).difference("l")
        for spec, column in zip(FIELDS, (second, minute, hour, date, month, weekday), strict=True)
    ]
    return Sets(
        seconds=numbers[0],
        minutes=numbers[1],
        hours=numbers[2],
        dates=frozenset() if nearest else numbers[3],  # croniter's column has its number
        last="l" in date,
        nearest=nearest,
        months=numbers[4],
        weekdays=frozenset() if nth else numbers[5],  # beside the nth, croniter's column has their days again
        nth=frozenset((day, LAST if n == "l" else n) for day, ns in nth.items() for n in ns),
        either="*" not in date and "*" not in weekday,
        fixed=fixed,
    )


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
        return "is not supported; W (nearest weekday) is beside one date, which stands alone, such as 15W"
    if "L" in text and (text == "L" or not text.isalpha()):
        if spec.name == "day of week":
            return "is not supported; the last Friday of the month is L5"
        return "is not supported; L (last day) stands alone, as day of month"
    if text[:1] in ("H", "R", "~") and not text[1:2].isalpha():
        return "is not supported: nothing is chosen at random; write a number"
    if spec.names:
        return f"is neither {spec.low}-{spec.high} nor {spec.names[0]}-{spec.names[-1]}"
    return f"is not a number of {spec.low}-{spec.high}, a range, a list or *"


def _check_range(spec: Field, base: str, stepped: bool) -> tuple[int, int]:
    """The ends of ``*``, ``a-b`` or ``a`` (which, before a step, goes on to the end of its field)."""
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


def check_part(spec: Field, part: str) -> None:
    """Refuse an element of a field's list that croniter reads differently from other cron implementations."""
    if spec.name == "day of month" and part.upper() == "L":
        return
    if spec.name == "day of month" and (nearest := _NEAREST.fullmatch(part)):
        _number(spec, nearest[1] or nearest[2])
        return
    if spec.name == "day of week" and "#" in part:
        day, _, nth = part.partition("#")
        if nth not in ("1", "2", "3", "4", "5"):
            raise Refused(f"{spec.name} {part!r} must end in #1 to #5")
        _number(spec, day)
        return
    if spec.name == "day of week" and len(part) == 2 and part[0] in "Ll" and part[1] in "01234567":
        return
    base, slash, step_text = part.partition("/")
    low, high = _check_range(spec, base, bool(slash))
    if slash:
        if not (step_text.isascii() and step_text.isdigit()):
            raise Refused(f"{spec.name} step {step_text!r} is not a number")
        step = int(step_text)
        if step == 0:
            raise Refused(f"{spec.name} step 0 never advances; write 1 or more")
        if step > high - low:
            leap = f"step {step} leaves {low}-{high}"
            raise Refused(f"{spec.name} {part} gives just one value ({leap}); write {low}")


def check_field(spec: Field, text: str) -> None:
    """Refuse what is doubtful in a field. Raises Refused."""
    parts = text.split(",")
    for part in parts:
        if not part:
            raise Refused(f"{spec.name} has an empty part in {text!r}")
        check_part(spec, part)
        if part != text and _NEAREST.fullmatch(part):
            raise Refused(f"{spec.name} {text!r} {_hint(spec, part.upper())}")
        if part == "*" and part != text:
            raise Refused(f"{spec.name} * in a list covers the rest of it; write * alone")
    if spec.name == "day of week" and len({is_nth(part) for part in parts}) > 1:
        plain = next(part for part in parts if not is_nth(part))
        raise Refused(f"{spec.name} {text!r} mixes {plain} with a weekday's n-th; write two schedules")


def is_nth(part: str) -> bool:
    """Whether an element of the weekdays names one of a month, as ``MON#2`` and ``L5`` do."""
    return "#" in part or part[0] in "Ll"


def clip_text(text: str) -> str:
    return repr(text) if len(text) <= MAX_LENGTH else repr(text[:40]) + "…"


def split_fields(expression: str) -> list[str]:
    """The five or six fields as text, or an alias alone. Raises Refused."""
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
        return [text]
    fields = text.split()
    if len(fields) == 7:
        raise Refused("7 fields; there is no year field, write 5 or 6 (seconds first)")
    if len(fields) not in (5, 6):
        raise Refused(f"{len(fields)} fields; write 5 (minute hour day month weekday) or 6 (seconds first)")
    return fields
