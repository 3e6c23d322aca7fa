"""Walks the wall clock over the sets that croniter makes of an expression, in fewer steps than croniter itself."""

from __future__ import annotations

from bisect import bisect_right
from calendar import monthrange
from datetime import datetime

from aiotaskq.core.cron_parser import LAST, Sets


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

    def _date_after(self, year: int, month: int, day: int) -> tuple[int, int, int]:
        while year < 10_000:
            if month in self._sets.months:
                first, length = monthrange(year, month)  # the weekday of the 1st, Monday is 0
                for number in self._days[bisect_right(self._days, day) :]:
                    if number <= length and self._matches(year, month, number, (first + number) % 7):
                        return year, month, number
            day = 0
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        raise ValueError("no date before the year 10000")

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
