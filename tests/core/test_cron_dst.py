"""Cron and daylight saving time: the written rule against a walk of every minute."""

from __future__ import annotations

import bisect
import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from aiotaskq.core.cron import Cron
from tests.core.cron_expressions import S, epoch, local, nexts

BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def expand(text: str, low: int, high: int) -> set[int]:
    values: set[int] = set()
    for part in text.split(","):
        base, _, step = part.partition("/")
        first, _, last = base.partition("-")
        if base == "*":
            values |= set(range(low, high + 1, int(step or 1)))
        elif last:
            values |= set(range(int(first), int(last) + 1, int(step or 1)))
        else:
            values |= set(range(int(first), (high if step else int(first)) + 1, int(step or 1)))
    return values


Table = dict[tuple[int, int, int], list[tuple[int, datetime]]]


class Matcher:
    def __init__(self, expression: str) -> None:
        fields = expression.split()
        fields = fields if len(fields) == 6 else ["0", *fields]
        self.sets = [expand(text, *bounds) for text, bounds in zip(fields, BOUNDS, strict=True)]
        self.both = fields[3] == "*" or fields[5] == "*"
        self.fixed = not set("*-/") & set(fields[1] + fields[2])

    def times(self) -> Iterator[tuple[int, int, int]]:
        """Yield hour, minute and second of each time of day that matches."""
        second, minute, hour, *_ = self.sets
        return itertools.product(hour, minute, second)

    def matches_day(self, wall: datetime) -> bool:
        *_, dom, month, dow = self.sets
        by_date, by_week = wall.day in dom, wall.isoweekday() % 7 in dow
        return wall.month in month and (by_date and by_week if self.both else by_date or by_week)


class Night:
    """Every tick around a change of offset, with its wall time."""

    def __init__(self, zone: str, day: str, step: int = 60, hours: int = 60) -> None:
        middle = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
        self.zone, self.step = zone, step
        info = ZoneInfo(zone)
        self.ticks = range(middle - hours * 3600, middle + hours * 3600, step)
        self.walls = [datetime.fromtimestamp(tick, info).replace(tzinfo=None) for tick in self.ticks]
        jumps = [b - a for a, b in zip(self.walls, self.walls[1:], strict=False)]
        self.changes = sum(jump != timedelta(seconds=step) for jump in jumps)
        # By time of day, ticks and wall times: every one, and each wall time at its first tick or at the jump over it.
        self.every: Table = defaultdict(list)
        self.first: Table = defaultdict(list)
        seen, tick_length = set(), timedelta(seconds=step)
        previous = self.walls[0] - tick_length
        for tick, wall in zip(self.ticks, self.walls, strict=True):
            self.every[wall.hour, wall.minute, wall.second].append((tick, wall))
            passed, swallowed = [wall], previous + tick_length
            while swallowed < wall:
                passed.append(swallowed)
                swallowed += tick_length
            for each in passed:
                if each not in seen:
                    self.first[each.hour, each.minute, each.second].append((tick, each))
            seen.update(passed)
            previous = wall

    def dues(self, expression: str) -> list[int]:
        match = Matcher(expression)
        table = self.first if match.fixed else self.every
        found = {tick for time in match.times() for tick, wall in table.get(time, ()) if match.matches_day(wall)}
        return [tick * S for tick in sorted(found)]


NIGHTS = [
    ("Australia/Lord_Howe", "2024-04-06"), ("Australia/Lord_Howe", "2024-10-05"),  # half an hour
    ("America/Havana", "2024-03-10"), ("America/Havana", "2024-11-03"),  # midnight
    ("Asia/Beirut", "2024-03-31"), ("Asia/Beirut", "2024-10-26"),
    ("Africa/Cairo", "2024-04-26"), ("Africa/Cairo", "2024-10-31"),
    ("America/Santiago", "2024-09-08"), ("America/Santiago", "2024-04-07"),
    ("America/Asuncion", "2023-10-01"), ("America/Asuncion", "2024-03-24"),
    ("Pacific/Apia", "2011-12-30"), ("Pacific/Kwajalein", "1993-08-21"),  # a whole day that never was
    ("Antarctica/Troll", "2024-03-31"), ("Antarctica/Troll", "2024-10-27"),  # two hours
    ("Antarctica/Casey", "2020-10-03"), ("Antarctica/Casey", "2021-03-13"),  # three hours
    ("Asia/Kathmandu", "1985-12-31"),  # fifteen minutes
    ("Asia/Tehran", "2022-03-21"), ("Asia/Tehran", "2022-09-21"),
    ("America/Caracas", "2007-12-09"), ("Asia/Pyongyang", "2018-05-04"),
    ("America/New_York", "2024-03-10"), ("America/New_York", "2024-11-03"),
    ("Europe/Berlin", "2024-03-31"), ("Europe/Berlin", "2024-10-27"),
    ("Europe/London", "2024-03-31"), ("Europe/London", "2024-10-27"),
    ("Africa/Casablanca", "2024-03-10"), ("Africa/Casablanca", "2024-04-14"),
]  # fmt: skip


NAMED = [
    "0 0 * * *", "0 1 * * *", "30 1 * * *", "0 2 * * *", "30 2 * * *", "15,30,45 2 * * *", "0,30 0,1,2,3,23 * * *",
    "59 23 * * *", "0 3 * * *", "30 2 * * 0", "0 0 30 * *", "45 23 * * *", "0 0,12 * * *",  # fixed
    "* * * * *", "*/5 * * * *", "0 * * * *", "30 * * * *", "*/30 */2 * * *", "0-30 2 * * *", "*/7 1-3 * * *",
    "15 */3 * * *", "0 0-2 * * *", "*/20 0 * * *", "0/15 2 * * *",  # elapsed
]  # fmt: skip


def random_expression(rng: random.Random) -> str:
    def numbers(low: int, high: int) -> str:
        return ",".join(str(n) for n in sorted(rng.sample(range(low, high + 1), rng.choice((1, 1, 2, 4)))))

    minute = rng.choice([numbers(0, 59), numbers(0, 59), "*", "*/10", "0-20", "5/17"])
    hour = rng.choice([numbers(0, 4), numbers(0, 23), "*", "*/2", "0-3", "22-23,0,1"])
    return f"{minute} {hour} {rng.choice(['*', '*', '*/2', '1-15'])} * {rng.choice(['*', '*', '0,6', '1-5'])}"


@pytest.mark.no_cover  # 40,000 steps through the same lines
@pytest.mark.parametrize("count", [20, pytest.param(700, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])])
@pytest.mark.parametrize(("zone", "day"), NIGHTS)
def test_nights_agree_with_a_walk_of_every_minute(zone: str, day: str, count: int) -> None:  # C15, C16
    night = Night(zone, day)
    assert night.changes == 1
    rng = random.Random(f"{zone}{day}")
    begin, end = night.ticks[26 * 60] * S, night.ticks[-1] * S
    for expression in NAMED + [random_expression(rng) for _ in range(count)]:
        cron = Cron.parse(expression, zone)
        expected = [due for due in night.dues(expression) if begin < due <= end]
        assert list(cron.latest(begin, end, limit=10_000).dues) == expected, expression
        # From any instant within the night, not only from due to due.
        for _ in range(20):
            start = rng.randrange(begin, end)
            index = bisect.bisect_right(expected, start)
            if index < len(expected):
                assert cron.next_after(start) == expected[index], (expression, local(start, zone))


@pytest.mark.parametrize(
    ("zone", "day"),
    [("Europe/Berlin", "2024-03-31 01:00"), ("Europe/Berlin", "2024-10-27 01:00"),
     ("Australia/Lord_Howe", "2024-04-06 15:00"), ("America/Havana", "2024-03-10 05:00"),
     ("Antarctica/Casey", "2021-03-13 13:00"), ("Antarctica/Troll", "2024-10-27 01:00")],
)  # fmt: skip
def test_second_fields_follow_the_same_rule(zone: str, day: str) -> None:  # C15, C16
    night = Night(zone, day, step=1, hours=5)
    assert night.changes == 1
    begin, end = night.ticks[4 * 3600 - 600] * S, night.ticks[-1] * S
    for expression in (
        "*/20 30 0,1,2,23 * * *",
        "5,6 0 0,2,3 * * *",
        "*/15 * * * * *",
        "30 */10 0-3 * * *",
        "* 15 2 * * *",
    ):
        expected = [due for due in night.dues(expression) if begin < due <= end]
        assert list(Cron.parse(expression, zone).latest(begin, end, limit=20_000).dues) == expected, expression


def test_spring_gap_fires_a_fixed_time_once_right_after_it() -> None:  # C15
    cron = Cron.parse("15,30,45 2 * * *", "Europe/Berlin")
    found = [local(due, "Europe/Berlin") for due in nexts(cron, epoch("2024-03-30 02:45", "Europe/Berlin"), 2)]
    assert found == ["2024-03-31 03:00:00+0200", "2024-04-01 02:15:00+0200"]


def test_autumn_fires_a_fixed_time_once_and_a_wildcard_twice() -> None:  # C16
    start = epoch("2024-10-27 01:29", "Europe/Berlin")
    fixed = nexts(Cron.parse("30 2 * * *", "Europe/Berlin"), start, 2)
    assert [local(due, "Europe/Berlin") for due in fixed] == ["2024-10-27 02:30:00+0200", "2024-10-28 02:30:00+0100"]
    every = nexts(Cron.parse("30 * * * *", "Europe/Berlin"), start, 4)
    assert [local(due, "Europe/Berlin")[11:] for due in every] == [
        "01:30:00+0200", "02:30:00+0200", "02:30:00+0100", "03:30:00+0100",
    ]  # fmt: skip


def test_skipped_day_fires_once() -> None:  # C16
    cron = Cron.parse("0 9 * * *", "Pacific/Apia")
    found = [local(due, "Pacific/Apia") for due in nexts(cron, epoch("2011-12-29 08:00", "Pacific/Apia"), 3)]
    assert found == ["2011-12-29 09:00:00-1000", "2011-12-31 00:00:00+1400", "2011-12-31 09:00:00+1400"]
