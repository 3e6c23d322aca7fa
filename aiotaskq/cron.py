"""Parses cron expressions strictly and maps their wall-clock times to instants: the one home of the DST rules.

Two layers. ``Cron.parse`` reads the text with a parser of its own and refuses, by field, whatever is doubtful. The
library croniter then walks the *naive wall clock* over a normalised expression (explicit lists, no shorthand), and
this module maps each wall time to an instant:

* A **fixed** schedule has only numbers and lists of numbers in its hour and minute fields. A time that a spring gap
  swallows fires once, at the first instant after the gap; a repeated autumn time fires once, at its first occurrence.
* Every other schedule follows **elapsed time**: skipped times are skipped, repeated ones fire twice.

Sources: Debian cron(8) for the DST rule and crontab(5) for the fields and the day rule (when day of month or day of
week starts with ``*`` both must match, otherwise either is enough); PEP 495 for repeated and missing local times.
"""

from __future__ import annotations

import copy
import difflib
import re
import zoneinfo
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, final

from aiotaskq.errors import CronError, ValidationError

MAX_LENGTH: Final = 100  # the column is VARCHAR(100)
HORIZON_YEARS: Final = 50  # 29 February on a given weekday can be 40 years away (across a year like 2100)
MICROS: Final = 1_000_000

_DAY: Final = 86_400
# No zone ever jumped by more than 24 hours; beyond this distance the order of wall times is that of instants.
_REACH: Final = 2 * _DAY
_PROBE: Final = _DAY  # the shortest stay of any zone on one offset, in the whole database, is 167 hours
_YEAR: Final = 31_556_952  # seconds in a mean Gregorian year
_WALK: Final = 400  # up to about this many dues are counted one by one, more are estimated

ALIASES: Final[Mapping[str, str]] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class _Field(NamedTuple):
    name: str
    low: int
    top: int  # the end of * and of a/n
    high: int  # the largest number that may be written; 7 is a second name of Sunday
    names: tuple[str, ...] = ()


_FIELDS: Final = (
    _Field("second", 0, 59, 59),
    _Field("minute", 0, 59, 59),
    _Field("hour", 0, 23, 23),
    _Field("day of month", 1, 31, 31),
    _Field("month", 1, 12, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")),
    _Field("day of week", 0, 6, 7, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")),
)
_MONTH_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LEAP: Final = 0.2425  # share of leap years in the Gregorian calendar


class _Refused(Exception):
    """What is wrong with a field, in words; ``Cron.parse`` adds the expression."""


@dataclass(slots=True)
class _Values:
    """The values that one field allows."""

    text: str
    numbers: set[int] = field(default_factory=set)
    last: bool = False  # L, the last day of the month
    nth: set[tuple[int, int]] = field(default_factory=set)  # (weekday, n): the n-th such weekday of the month


def _number(spec: _Field, text: str) -> int:
    if text.isascii() and text.isdigit():
        value = int(text)
        if not spec.low <= value <= spec.high:
            raise _Refused(f"{spec.name} {value} is not in {spec.low}-{spec.high}")
        return value
    if text.upper() in spec.names:
        return spec.names.index(text.upper()) + spec.low
    raise _Refused(f"{spec.name} {text!r} {_hint(spec, text.upper())}")


def _hint(spec: _Field, text: str) -> str:
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


def _range(spec: _Field, base: str, stepped: bool) -> tuple[int, int]:
    """The first and the last value of ``*``, ``a-b`` or ``a`` (which, before a step, goes on to the end)."""
    if base == "*":
        return spec.low, spec.top
    first, dash, second = base.partition("-")
    if not dash or not first or not second:
        low = _number(spec, base)
        return (low, max(low, spec.top)) if stepped else (low, low)
    low, high = _number(spec, first), _number(spec, second)
    if low == high:
        raise _Refused(f"{spec.name} range {base} is one value; write {first}")
    if low > high and spec.name == "day of week" and high == 0:
        raise _Refused(f"{spec.name} range {base} is reversed; write {low}-7, where 7 is Sunday")
    if low > high:
        parts = [str(low) if low == spec.top else f"{low}-{spec.top}"]
        parts.append(str(high) if high == spec.low else f"{spec.low}-{high}")
        raise _Refused(f"{spec.name} range {base} is reversed; write {','.join(parts)}")
    return low, high


def _parse_field(spec: _Field, text: str) -> _Values:
    values = _Values(text)
    for part in text.split(","):
        if not part:
            raise _Refused(f"{spec.name} has an empty part in {text!r}")
        if spec.name == "day of month" and part.upper() == "L":
            values.last = True
            continue
        if spec.name == "day of week" and "#" in part:
            day, _, nth = part.partition("#")
            if nth not in ("1", "2", "3", "4", "5"):
                raise _Refused(f"{spec.name} {part!r} must end in #1 to #5")
            values.nth.add((_number(spec, day) % 7, int(nth)))
            continue
        base, slash, step_text = part.partition("/")
        low, high = _range(spec, base, bool(slash))
        step = 1
        if slash:
            if not (step_text.isascii() and step_text.isdigit()):
                raise _Refused(f"{spec.name} step {step_text!r} is not a number")
            step = int(step_text)
            if step == 0:
                raise _Refused(f"{spec.name} step 0 never advances; write 1 or more")
            if step > high - low:
                leap = f"step {step} leaves {low}-{high}"
                raise _Refused(f"{spec.name} {part} gives just one value ({leap}); write {low}")
        elif base == "*" and part != text:
            raise _Refused(f"{spec.name} * in a list covers the rest of it; write * alone")
        values.numbers.update(range(low, high + 1, step))
    if spec.name == "day of week":
        values.numbers = {number % 7 for number in values.numbers}
    return values


def _days_per_year(dom: _Values, months: Iterable[int], dow: _Values, both: bool) -> float:
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


def _clip(text: str) -> str:
    return repr(text) if len(text) <= MAX_LENGTH else repr(text[:40]) + "…"


def check_timezone(name: str) -> zoneinfo.ZoneInfo:
    """The zone of an IANA name, as ``Europe/Berlin``.

    Raises:
        ValidationError: the name is not in the time-zone database; the message names the nearest one that is.
    """
    if not isinstance(name, str):
        raise ValidationError(f"timezone: must be an IANA name such as 'Europe/Berlin' (got {type(name).__name__})")
    # Paths are refused before the library sees them, and so are the leap-second ("right/") and private entries of a
    # system's zone directory, which other machines do not have.
    private = ("posix/", "right/", "posixrules", "localtime", "Factory")
    if len(name) <= 64 and re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", name) and not name.startswith(private):
        try:
            return zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            pass
    names = sorted(name for name in zoneinfo.available_timezones() if not name.startswith(private))
    known = {name.rpartition("/")[2].lower(): name for name in names} | {name.lower(): name for name in names}
    close = difflib.get_close_matches(name[:64].strip().lower().replace(" ", "_"), known, 1)
    guess = f"did you mean {known[close[0]]!r}?" if close else "write one such as 'Europe/Berlin' or 'UTC'"
    raise ValidationError(f"timezone: the name is not an IANA time zone (got {_clip(name)}); {guess}")


def local_timezone() -> str:
    """The IANA name of the system's local zone.

    Raises:
        ValidationError: the system's zone has no usable IANA name.
    """
    import tzlocal  # only schedules without a zone of their own need it

    try:
        name = tzlocal.get_localzone_name()
        check_timezone(name)
    except (LookupError, ValueError, OSError) as error:
        raise ValidationError(
            "timezone: the system's local time zone has no IANA name; pass timezone=, or set the TZ variable"
        ) from error
    return name


class Latest(NamedTuple):
    """The dues of an interval seen from its end: how many (an estimate unless ``exact``), and the latest, ascending."""

    total: int
    exact: bool
    dues: tuple[int, ...]  # microseconds UTC


@final
@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone. Made by :meth:`parse`; immutable, comparable, safe to share between threads."""

    expression: str
    timezone: str
    _zone: zoneinfo.ZoneInfo = field(repr=False, compare=False)
    _fixed: bool = field(repr=False, compare=False)
    _seconds: bool = field(repr=False, compare=False)
    _rate: float = field(repr=False, compare=False)  # mean dues per second
    _walkers: tuple[Any, ...] = field(repr=False, compare=False)  # croniter objects; their dues are united
    # Per walker, between which two wall times it found nothing: a rare side is not searched again for each step of a
    # frequent one. Each pair is replaced as a whole, so that threads see an older or a newer one, both of them true.
    _quiet: list[tuple[datetime, datetime]] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, expression: str, timezone_name: str | None = None) -> Cron:
        """Read five fields (minute, hour, day of month, month, day of week), or six with the SECONDS FIRST.

        Seconds come first as in Quartz, Spring and cronsim; croniter on its own takes them last. Also accepted:
        ``@yearly @annually @monthly @weekly @daily @midnight @hourly``; lists, ranges and steps; ``JAN``-``DEC`` and
        ``SUN``-``SAT`` in any case; 0 and 7 for Sunday; ``L`` as the last day of the month; ``MON#2`` as its second
        Monday. ``a/n`` goes from a to the end of its field (Saturday for days of the week).

        Args:
            expression: at most 100 ASCII characters.
            timezone_name: an IANA name; None takes the system's local zone.

        Raises:
            CronError: the text is refused; the message names the field and says what to write.
            ValidationError: the time zone is unknown.
        """
        if not isinstance(expression, str):
            raise CronError(f"cron_expression: must be text (got {type(expression).__name__})")
        name = local_timezone() if timezone_name is None else timezone_name
        zone = check_timezone(name)
        try:
            fields = _split(expression)
            six = len(fields) == 6
            values = [_parse_field(*pair) for pair in zip(_FIELDS, fields if six else ["0", *fields], strict=True)]
            second, minute, hour, dom, month, dow = values
            both = dom.text.startswith("*") or dow.text.startswith("*")
            per_year = _days_per_year(dom, month.numbers, dow, both)
            if per_year == 0:
                days, months = dom.text, month.text
                never = f"day of month {days} never occurs in month {months}"
                raise _Refused(never if dow.text == "*" else f"{never} together with day of week {dow.text}")
        except _Refused as refused:
            raise CronError(f"cron_expression: {refused} (got {_clip(expression)})") from None
        rate = per_year * len(hour.numbers) * len(minute.numbers) * len(second.numbers) / _YEAR
        fixed = set("*/-").isdisjoint(hour.text + minute.text)
        walkers = _walkers(values, both, six)
        return cls(expression, name, zone, fixed, six, rate, walkers, [(datetime.max, datetime.min)] * len(walkers))

    def next_after(self, instant_us: int) -> int:
        """The first due time strictly later than ``instant_us``; both are microseconds UTC, dues are whole seconds.

        Raises:
            CronError: there is none within 50 years, or none before the year 10000.
        """
        return self._next(instant_us // MICROS) * MICROS

    def latest(self, after_us: int, until_us: int, limit: int = 100) -> Latest:
        """The latest ``limit`` (at most) dues in ``(after_us, until_us]``, in bounded time however long that is.

        Up to some hundred dues the count is exact; beyond, it is an estimate from the calendar.
        """
        after, until = after_us // MICROS, until_us // MICROS
        expected = max(0, until - after) * self._rate
        dues = self._walk(after, until, 2 * _WALK) if expected <= _WALK else []
        exact, known = expected <= _WALK and len(dues) < 2 * _WALK, len(dues)
        if not exact:
            dues = self._look_back(after, until, limit)
        total = known if exact else max(known, len(dues), round(expected))
        return Latest(total, exact, tuple(due * MICROS for due in dues[-limit:]))

    # Whole seconds from here on. An "instant" is an int of epoch seconds, a "wall" time is a naive datetime.

    def _next(self, instant: int) -> int:
        try:
            return self._next_fixed(instant) if self._fixed else self._next_elapsed(instant)
        except (OverflowError, ValueError, OSError) as error:
            if isinstance(error, CronError):
                raise
            problem = f"no next date before the year 10000 (got {_clip(self.expression)})"
            raise CronError(f"cron_expression: {problem}") from None

    def _next_fixed(self, instant: int) -> int:
        local = self._local(instant)
        wall = local.replace(tzinfo=None)
        if local.fold:
            # The second pass through a repeated hour: all of it has been served by the first pass.
            first_pass = int(local.replace(fold=0).timestamp())
            wall = self._local(self._change(first_pass, instant) - 1).replace(tzinfo=None)
        while True:
            wall = self._next_wall(wall)
            due = self._first_instant(wall)
            if due > instant:
                return due

    def _first_instant(self, wall: datetime) -> int:
        """When the local clock first reads ``wall``, or, if a gap swallows it, the first instant after the gap."""
        due = int(wall.replace(tzinfo=self._zone, fold=0).timestamp())
        if self._local(due).replace(tzinfo=None) == wall:
            return due
        # In a gap PEP 495 reads fold=0 with the offset before it (so after the change) and fold=1 the other way round.
        return self._change(int(wall.replace(tzinfo=self._zone, fold=1).timestamp()), due)

    def _next_elapsed(self, instant: int) -> int:
        at, back = instant, timedelta(0)
        while True:
            here = self._local(at).replace(tzinfo=None)
            wall = self._next_wall(here - back)
            due = at + int((wall - here).total_seconds())
            end = min(due, at + _REACH)
            change = self._first_change(at, end)
            if change is not None:
                at, back = change, timedelta(seconds=1)  # the new offset begins here, this second included
            elif end == due:
                return due
            else:
                # Nothing is due up to `end`; later, offsets cannot bring `wall` nearer than _REACH before `due`.
                at, back = max(end, due - _REACH), timedelta(0)

    def _first_change(self, start: int, end: int) -> int | None:
        """The first instant in ``(start, end]`` with another UTC offset than ``start`` has."""
        offset = self._local(start).utcoffset()
        while start < end:
            probe = min(start + _PROBE, end)
            if self._local(probe).utcoffset() != offset:
                return self._change(start, probe)
            start = probe
        return None

    def _change(self, before: int, after: int) -> int:
        """The first instant with the offset of ``after``; the offset changes once between the two."""
        offset = self._local(before).utcoffset()
        while after - before > 1:
            middle = (before + after) // 2
            if self._local(middle).utcoffset() == offset:
                before = middle
            else:
                after = middle
        return after

    def _local(self, instant: int) -> datetime:
        return datetime.fromtimestamp(instant, self._zone)

    def _next_wall(self, wall: datetime) -> datetime:
        found: list[datetime] = []
        for index, walker in enumerate(self._walkers):
            since, until = self._quiet[index]
            if not since <= wall < until:
                try:
                    # A croniter object moves as it walks; a shallow copy keeps this one where it is.
                    until = copy.copy(walker).get_next(datetime, start_time=wall)
                except (ValueError, OverflowError):  # croniter's own errors are ValueErrors
                    continue
                self._quiet[index] = (wall, until)
            found.append(until)
        if not found:
            raise CronError(
                f"cron_expression: no next date within {HORIZON_YEARS} years of {wall} (got {_clip(self.expression)})"
            )
        return min(found)

    def _walk(self, after: int, until: int, cap: int) -> list[int]:
        """The first ``cap`` (at most) dues in ``(after, until]``."""
        dues: list[int] = []
        while len(dues) < cap:
            try:
                after = self._next(after)
            except CronError:  # the end of the calendar
                break
            if after > until:
                break
            dues.append(after)
        return dues

    def _look_back(self, after: int, until: int, limit: int) -> list[int]:
        """The latest ``limit`` dues, found by windows that grow backwards from ``until``."""
        found: list[int] = []
        shortest = limit * (1 if self._seconds else 60)  # cannot hold more than `limit` dues
        span, cap = shortest, 2 * limit + 1
        while len(found) < limit and until > after:
            start = max(after, until - span)
            dues = self._walk(start, until, cap)
            if len(dues) < cap:
                found, until, span = dues + found, start, span * 2
            else:
                # Too dense for this window: find the last due by bisection and begin again from there.
                last = self._last(dues[-1], until)
                found, until, span = [last, *found], last - 1, shortest
        return found[-limit:]

    def _last(self, due: int, until: int) -> int:
        """The last due not after ``until``, given any earlier one."""
        right = until
        while due < right:
            middle = (due + right) // 2
            later = self._next(middle)
            if later <= until:
                due = later
            else:
                right = middle
        return due


def _split(expression: str) -> list[str]:
    """The five or six fields as text."""
    if len(expression) > MAX_LENGTH:
        raise _Refused(f"{len(expression)} characters are more than {MAX_LENGTH}")
    for char in expression:
        if ord(char) < 32 or ord(char) == 127:
            raise _Refused(f"control character {char!r}; separate the fields by spaces")
        if not char.isascii():
            raise _Refused(f"{char!r} is not an ASCII character" + ("; write 0-9" if char.isnumeric() else ""))
    text = expression.strip()
    if text.startswith("@"):
        if text.lower() not in ALIASES:
            close = difflib.get_close_matches(text.lower(), ALIASES, 1)
            raise _Refused(f"{text!r} is unknown; {f'did you mean {close[0]}?' if close else ' '.join(ALIASES)}")
        text = ALIASES[text.lower()]
    fields = text.split()
    if len(fields) == 7:
        raise _Refused("7 fields; there is no year field, write 5 or 6 (seconds first)")
    if len(fields) not in (5, 6):
        raise _Refused(f"{len(fields)} fields; write 5 (minute hour day month weekday) or 6 (seconds first)")
    return fields


def _walkers(values: list[_Values], both: bool, six: bool) -> tuple[Any, ...]:
    """The croniter objects whose dues, united, are those of the expression, each on naive wall-clock time.

    croniter reads "day of month OR ``MON#2``" as AND, refuses ``5,MON#2`` and, under OR, searches 50 years for the
    side that never comes. So OR becomes two walkers, an impossible side is left out, and weekdays are spelt out.
    """
    from croniter import croniter  # 50 ms to import, on use

    second, minute, hour, dom, month, dow = values
    every = _Values("*", set(range(1, 32))), _Values("*", set(range(7)))
    days = [(dom, dow)] if both else [(dom, every[1]), (every[0], dow)]
    walkers = []
    for on_date, on_weekday in days:
        if _days_per_year(on_date, month.numbers, on_weekday, both=True) == 0:
            continue
        date = _list(on_date.numbers, 31) + (["l"] if on_date.last and len(on_date.numbers) < 31 else [])
        if on_weekday.nth:
            nths = on_weekday.nth | {(day, nth) for day in on_weekday.numbers for nth in range(1, 6)}
            weekday = [f"{day}#{nth}" for day, nth in sorted(nths)]
        else:
            weekday = _list(on_weekday.numbers, 7)
        columns = [_list(minute.numbers, 60), _list(hour.numbers, 24), date, _list(month.numbers, 12), weekday]
        if six:
            columns.append(_list(second.numbers, 60))
        text = " ".join(",".join(column) for column in columns)
        walkers.append(croniter(text, datetime(1970, 1, 1), day_or=False, max_years_between_matches=HORIZON_YEARS))
    return tuple(walkers)


def _list(numbers: set[int], size: int) -> list[str]:
    return ["*"] if len(numbers) == size else [str(number) for number in sorted(numbers)]
