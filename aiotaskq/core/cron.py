"""Cron expressions in a time zone: maps their wall-clock times to instants, by the rules for daylight saving time.

croniter parses every expression, and ``cron_parser`` checks it strictly, and finds the next *naive wall time* in
croniter's sets. Each wall time is mapped to an instant:

* A **fixed** schedule has only numbers and lists of numbers in its hour and minute fields. A time that a spring gap
  swallows fires once, at the first instant after the gap; a repeated autumn time fires once, at its first occurrence.
* Every other schedule follows **elapsed time**: skipped times are skipped, repeated ones fire twice.

Sources: Debian cron(8) for the DST rule; PEP 495 for repeated and missing local times.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import zoneinfo
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple, final

from aiotaskq.core.cron_parser import Refused, WallWalk, clip_text, read
from aiotaskq.core.errors import CronError, ValidationError
from aiotaskq.core.instants import offset_change

MICROS: Final = 1_000_000

_PRIVATE: Final = ("posix/", "right/", "posixrules", "localtime", "Factory")
# A TZ variable as POSIX has it, with whole hours west of Greenwich that a zone of the database has, too.
_POSIX: Final = re.compile(r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)(\+?(?:0?\d|1[0-2])|-(?:0?\d|1[0-4]))(?::00){0,2}")

_DAY: Final = 86_400
# No zone ever jumped by more than 24 hours; beyond this distance the order of wall times is that of instants.
_REACH: Final = 2 * _DAY
_PROBE: Final = _DAY  # the shortest stay of any zone on one offset, in the whole database, is 167 hours
_WALK: Final = 500  # fewer dues are counted one by one, more are estimated


def check_timezone(name: str) -> zoneinfo.ZoneInfo:
    """Return the zone of an IANA name, such as ``Europe/Berlin``.

    Raises:
        ValidationError: the name is not in the time-zone database; the message names the nearest one that is.
    """
    if not isinstance(name, str):
        raise ValidationError(f"timezone: must be an IANA name such as 'Europe/Berlin' (got {type(name).__name__})")
    if (found := _zone(name)) is not None:
        return found
    names = sorted(name for name in zoneinfo.available_timezones() if not name.startswith(_PRIVATE))
    known = {name.rpartition("/")[2].lower(): name for name in names} | {name.lower(): name for name in names}
    known |= {"beijing": "Asia/Shanghai", "asia/beijing": "Asia/Shanghai"}  # the database names its zone so
    # In these names the sign is that of POSIX: hours west of Greenwich.
    known |= {f"{utc}{hours:+}": f"Etc/GMT{-hours:+}" for utc in ("utc", "gmt") for hours in range(-12, 15) if hours}
    # An abbreviation is similar to others, which mean another time.
    close = difflib.get_close_matches(name[:64].strip().lower().replace(" ", "_"), known, 1, 0.76)
    guess = f"did you mean {known[close[0]]!r}?" if close else "write one such as 'Europe/Berlin' or 'UTC'"
    raise ValidationError(f"timezone: the name is not an IANA time zone (got {clip_text(name)}); {guess}")


def _zone(name: str) -> zoneinfo.ZoneInfo | None:
    # Paths are refused before the library sees them, and so are the leap-second ("right/") and private entries of a
    # system's zone directory, which other machines do not have.
    if len(name) <= 64 and re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", name) and not name.startswith(_PRIVATE):
        with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            return zoneinfo.ZoneInfo(name)
    return None


def local_timezone() -> str:
    """Return the IANA name of the system's local zone.

    Raises:
        ValidationError: the system's zone has no usable IANA name.
    """
    variable = os.environ.get("TZ", "").removeprefix(":")
    if variable and not os.path.isabs(variable) and _zone(variable) is None:
        # tzlocal would take the zone of the host instead.
        if hours := _POSIX.fullmatch(variable):
            return f"Etc/GMT{int(hours[1]):+d}" if int(hours[1]) else "Etc/GMT"
        raise ValidationError(
            f"timezone: the TZ variable names no IANA time zone (got {clip_text(variable)}); set it to one such as "
            "'Asia/Shanghai', or pass timezone="
        )
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
    """The due times in a span of time: how many (an estimate unless ``exact``), and the latest of them, ascending."""

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
    _seconds: bool = field(repr=False, compare=False)  # whether a minute may hold more than one due
    _wall: WallWalk = field(repr=False, compare=False)

    @classmethod
    def parse(cls, expression: str, timezone_name: str | None = None) -> Cron:
        """Read five fields (minute, hour, day of month, month, day of week), or six with the SECONDS FIRST.

        Seconds come first as in Quartz, Spring and cronsim; croniter on its own takes them last. Also accepted:
        ``@yearly @annually @monthly @weekly @daily @midnight @hourly``; lists, ranges and steps; ``JAN``-``DEC`` and
        ``SUN``-``SAT`` in any case; 0 and 7 for Sunday; ``L`` as the last day of the month; ``15W`` as the weekday
        nearest to its 15th; ``MON#2`` as its second Monday and ``L1`` as its last one. ``a/n`` goes from a to the end
        of its field (Saturday for days of the week).

        A day must match the day of month and the day of week. If both are restricted, one of the two is enough: ``0 0
        13 * 5`` is every 13th and every Friday. Restricted is a field that is anything but ``*``, ``*/2`` too.

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
            sets = read(expression)
        except Refused as refused:
            raise CronError(f"cron_expression: {refused} (got {clip_text(expression)})") from None
        return cls(expression, name, zone, sets.fixed, len(sets.seconds) > 1, WallWalk(sets))

    def next_after(self, instant_us: int) -> int:
        """Return the first due time later than ``instant_us``, both in microseconds UTC; it is a whole second.

        Raises:
            CronError: there is none before the year 10000.
        """
        return self._next(instant_us // MICROS) * MICROS

    def latest(self, after_us: int, until_us: int, limit: int = 100) -> Latest:
        """Return the latest due times, at most ``limit``, in ``(after_us, until_us]``; in bounded time for any span.

        The count is exact up to some hundred due times, and beyond that an estimate from the calendar.
        """
        after, until = after_us // MICROS, until_us // MICROS
        dues = self._walk(after, until, _WALK)
        total, exact = len(dues), len(dues) < _WALK
        if not exact:
            total = max(total, round((until - after) / _DAY * self._wall.per_day(self._local(after).year)))
            dues = self._look_back(after, until, limit)
        return Latest(total, exact, tuple(due * MICROS for due in dues[-limit:]))

    # Whole seconds from here on. An "instant" is an int of epoch seconds, a "wall" time is a naive datetime.

    def _next(self, instant: int) -> int:
        try:
            return self._next_fixed(instant) if self._fixed else self._next_elapsed(instant)
        except (OverflowError, ValueError, OSError):
            problem = f"no next date before the year 10000 (got {clip_text(self.expression)})"
            raise CronError(f"cron_expression: {problem}") from None

    def _next_fixed(self, instant: int) -> int:
        local = self._local(instant)
        wall = local.replace(tzinfo=None)
        if local.fold:
            # The second pass through a repeated hour: all of it has been served by the first pass.
            first_pass = int(local.replace(fold=0).timestamp())
            wall = self._local(offset_change(self._zone, first_pass, instant) - 1).replace(tzinfo=None)
        while True:
            wall = self._wall.after(wall)
            due = self._first_instant(wall)
            if due > instant:
                return due

    def _first_instant(self, wall: datetime) -> int:
        """When the local clock first reads ``wall``, or, if a gap swallows it, the first instant after the gap."""
        due = int(wall.replace(tzinfo=self._zone, fold=0).timestamp())
        if self._local(due).replace(tzinfo=None) == wall:
            return due
        # In a gap PEP 495 reads fold=0 with the offset before it (so after the change) and fold=1 the other way round.
        return offset_change(self._zone, int(wall.replace(tzinfo=self._zone, fold=1).timestamp()), due)

    def _next_elapsed(self, instant: int) -> int:
        at, back = instant, timedelta(0)
        while True:
            here = self._local(at).replace(tzinfo=None)
            wall = self._wall.after(here - back)
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
                return offset_change(self._zone, start, probe)
            start = probe
        return None

    def _local(self, instant: int) -> datetime:
        return datetime.fromtimestamp(instant, self._zone)

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
        span, cap = limit * (1 if self._seconds else 60), limit + 1  # the first one cannot hold more than `limit` dues
        while len(found) < limit and until > after:
            start = max(after, until - span)
            dues = self._walk(start, until, cap)
            if len(dues) < cap:
                found, until, span = dues + found, start, span * 2
            else:
                span = (until - start) // 2  # too dense for this window
        return found[-limit:]
