"""Cron: strict parsing, agreement with an independent library, and the DST rules against a minute-by-minute walk."""

from __future__ import annotations

import bisect
import random
import resource
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiotaskq.core import cron_parser as cron_fields
from aiotaskq.core.cron import Cron, check_timezone, local_timezone
from aiotaskq.errors import CronError, ValidationError
from tests.core.test_cron_agreement import ALIASES, for_cronsim

S = 1_000_000


def epoch(text: str, zone: str = "UTC") -> int:
    """Microseconds of a local time, as ``2024-03-31 02:30`` (fold 0)."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * S


def local(instant: int, zone: str) -> str:
    return datetime.fromtimestamp(instant / S, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S%z")


def nexts(cron: Cron, start: int, count: int) -> list[int]:
    dues = []
    for _ in range(count):
        start = cron.next_after(start)
        dues.append(start)
    return dues


def attempt(expression: str, zone: str) -> tuple[Cron | None, str]:
    """The parsed expression, or the words of its refusal."""
    try:
        return Cron.parse(expression, zone), ""
    except CronError as error:
        return None, str(error)


def work_of(call: Callable[[], object]) -> int:
    """How many functions a call calls, itself and all the way down: its cost on any machine, however busy."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


# ---- an independent reading of simple expressions, and of the DST rules ---------------------------------------------

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


class Matcher:
    def __init__(self, expression: str) -> None:
        fields = expression.split()
        fields = fields if len(fields) == 6 else ["0", *fields]
        self.sets = [expand(text, *bounds) for text, bounds in zip(fields, BOUNDS, strict=True)]
        self.both = fields[3] == "*" or fields[5] == "*"
        self.fixed = not set("*-/") & set(fields[1] + fields[2])

    def __call__(self, wall: datetime) -> bool:
        second, minute, hour, dom, month, dow = self.sets
        if wall.minute not in minute or wall.hour not in hour or wall.month not in month or wall.second not in second:
            return False
        by_date, by_week = wall.day in dom, wall.isoweekday() % 7 in dow
        return by_date and by_week if self.both else by_date or by_week


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

    def dues(self, expression: str) -> list[int]:
        match, tick_length = Matcher(expression), timedelta(seconds=self.step)
        if not match.fixed:
            return [tick * S for tick, wall in zip(self.ticks, self.walls, strict=True) if match(wall)]
        found, seen, previous = [], set(), self.walls[0] - tick_length
        for tick, wall in zip(self.ticks, self.walls, strict=True):
            due = match(wall) and wall not in seen
            swallowed = previous + tick_length
            while swallowed < wall:
                due = due or (match(swallowed) and swallowed not in seen)
                seen.add(swallowed)
                swallowed += tick_length
            seen.add(wall)
            previous = wall
            if due:
                found.append(tick * S)
        return found


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
@pytest.mark.parametrize("count", [40, pytest.param(700, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])])
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


# ---- agreement with cronsim across changes of the offset (test_cron_agreement has UTC, and croniter) ----------------


def field_texts(low: int, high: int, *, star: bool = True) -> st.SearchStrategy[str]:
    number = st.integers(low, high)

    @st.composite
    def part(draw: st.DrawFn) -> str:
        kind = draw(st.sampled_from(["number", "range", "stepped", "star step"]))
        first = draw(number)
        if kind == "star step":
            return f"*/{draw(st.integers(1, high - low))}"
        if kind == "number" or first == high:
            return str(first)
        last = draw(st.integers(first + 1, high))
        return f"{first}-{last}" + (f"/{draw(st.integers(1, last - first))}" if kind == "stepped" else "")

    lists = st.lists(part(), min_size=1, max_size=3).map(",".join)
    return (
        st.one_of(st.just("*"), lists)
        if star
        else st.lists(number, min_size=1, max_size=4).map(lambda n: ",".join(map(str, n)))
    )


DOM = st.one_of(field_texts(1, 31), st.sampled_from(["L", "15,L", "*/10,L", "31", "29,30", "1-31"]))
MONTH = st.one_of(st.just("*"), field_texts(1, 12), st.sampled_from(["FEB", "jan,Jul-sep", "2"]))
DOW = st.one_of(
    st.just("*"),
    field_texts(0, 6),
    st.sampled_from(["7", "5-7", "0-7", "MON-FRI", "sun", "MON#2", "5#5", "0#1,3#3", "L5", "7#1", "0#1,L3", "0-6"]),
)
MOMENT = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1))


def assert_agree(expression: str, zone: str, moment: datetime, count: int = 4) -> None:
    cron, refusal = attempt(expression, zone)
    if cron is None:
        assert "never occurs" in refusal or "is every day" in refusal
        return
    start = moment.replace(tzinfo=UTC)
    theirs = CronSim(for_cronsim(expression, Counter()), start.astimezone(UTC if zone == "UTC" else ZoneInfo(zone)))
    ours = (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    for _ in range(count):
        ours = cron.next_after(ours)
        assert ours == round(next(theirs).timestamp()) * S, local(ours, zone)


def test_the_walk_ends_with_the_calendar() -> None:
    for expression in ("0 0 1 1 *", "*/5 * * * *", "0 0 29 2 *", "0 0 L * L5"):
        with pytest.raises(CronError, match="no next date before the year 10000"):
            Cron.parse(expression, "UTC").next_after(epoch("9999-12-31 23:59"))


ZONES = [
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "Asia/Kathmandu",
    "Asia/Tokyo",
    "Africa/Casablanca",
    "America/Santiago",
]


@settings(deadline=None, max_examples=300)
@given(field_texts(0, 59, star=False), field_texts(0, 23, star=False), DOM, MONTH, DOW, MOMENT, st.sampled_from(ZONES))
def test_agrees_with_cronsim_on_fixed_times(
    minute: str, hour: str, dom: str, month: str, dow: str, at: datetime, zone: str
) -> None:
    assert_agree(f"{minute} {hour} {dom} {month} {dow}", zone, at)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(["*", "*/5", "*/15", "*/30"]),
    st.sampled_from(["*", "*/2", "*/3"]),
    MOMENT,
    st.sampled_from(ZONES[:5]),
)
def test_agrees_with_cronsim_on_elapsed_time(minute: str, hour: str, at: datetime, zone: str) -> None:
    assert_agree(f"{minute} {hour} * * *", zone, at, 30)


def test_aliases_are_all_known() -> None:
    assert set(cron_fields.ALIASES) == set(ALIASES)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases(alias: str) -> None:
    start = epoch("2024-05-15 13:13")
    assert Cron.parse(alias.upper(), "UTC").next_after(start) == Cron.parse(ALIASES[alias], "UTC").next_after(start)


def test_day_rule() -> None:
    start = epoch("2024-01-01")
    expected = {
        "0 0 13 * *": ["2024-01-13", "2024-02-13"],  # one field restricted: it decides
        "0 0 * * 5": ["2024-01-05", "2024-01-12"],
        "0 0 13 * 5": ["2024-01-05", "2024-01-12"],  # both: either is enough
        "0 0 */15 * 5": ["2024-01-05", "2024-01-12", "2024-01-16"],  # */15 is restricted: it is not *
        "0 0 13 * */5": ["2024-01-05", "2024-01-07", "2024-01-12", "2024-01-13"],
        "0 0 L * MON#1": ["2024-01-31", "2024-02-05"],
        "0 0 * * L5": ["2024-01-26", "2024-02-23"],  # the last Friday
        "0 0 * 10 L5": ["2024-10-25", "2025-10-31"],
        "0 0 L 2 *": ["2024-02-29", "2025-02-28"],
        "0 0 31 2 1": ["2024-02-05", "2024-02-12"],  # 31 February adds nothing to the Mondays of February
    }
    for text, dates in expected.items():
        found = [local(due, "UTC")[:10] for due in nexts(Cron.parse(text, "UTC"), start, len(dates))]
        assert found == dates, text


def test_seconds_come_first() -> None:
    assert Cron.parse("30 0 2 * * *", "UTC").next_after(epoch("2024-01-01")) == epoch("2024-01-01 02:00:30")


def test_strictly_later_and_whole_seconds() -> None:
    cron, due = Cron.parse("* * * * * *", "UTC"), epoch("2024-01-01 00:00:01")
    assert [cron.next_after(due + delta) - due for delta in (-S, -1, 0, 1, S - 1)] == [0, 0, S, S, S]


# ---- refusals -------------------------------------------------------------------------------------------------------

REFUSALS = {
    "0 61 * * *": "hour 61 is not in 0-23",
    "60 * * * *": "minute 60 is not in 0-59",
    "61 0 0 * * *": "second 61 is not in 0-59",
    "0 0 0 * *": "day of month 0 is not in 1-31",
    "0 0 * 13 *": "month 13 is not in 1-12",
    "0 0 * * 8": "day of week 8 is not in 0-7",
    "": "0 fields; write 5 (minute hour day month weekday) or 6 (seconds first)",
    "* * * *": "4 fields; write 5 (minute hour day month weekday) or 6 (seconds first)",
    "0 0 0 1 1 * 2030": "7 fields; there is no year field, write 5 or 6 (seconds first)",
    "\uff10 2 * * *": "'\uff10' is not an ASCII character; write 0-9",
    "0 2 * * *\u00a0": "'\\xa0' is not an ASCII character",
    "0\t2 * * *": "control character '\\t'; separate the fields by spaces",
    "0 2 * * *\x00": "control character '\\x00'; separate the fields by spaces",
    "1,,2 * * * *": "minute has an empty part in '1,,2'",
    "3-3 * * * *": "minute range 3-3 is one value; write 3",
    "0 22-6 * * *": "hour range 22-6 is reversed; write 22-23,0-6",
    "0 0 * * FRI-MON": "day of week range FRI-MON is reversed; write 5-6,0-1",
    "0 0 * * SAT-SUN": "day of week range SAT-SUN is reversed; write 6-7, where 7 is Sunday",
    "*/0 * * * *": "minute step 0 never advances; write 1 or more",
    "*/x * * * *": "minute step 'x' is not a number",
    "1-9/2/3 * * * *": "minute step '2/3' is not a number",
    "59/15 * * * *": "minute 59/15 gives just one value (step 15 leaves 59-59); write 59",
    "*/90 * * * *": "minute */90 gives just one value (step 90 leaves 0-59); write 0",
    "0 0 31 2 *": "day of month 31 never occurs in month 2",
    "0 0 30 2 *": "day of month 30 never occurs in month 2",
    "0 0 31 4,6 *": "day of month 31 never occurs in month 4,6",
    "0 0 1-31 * 5": "day of month 1-31 is every day; write * for it, or * for day of week 5",
    "0 0 13 * 0-6": "day of week 0-6 is every day; write * for it, or * for day of month 13",
    "0 0 */1 * */2": "day of month */1 is every day; write * for it, or * for day of week */2",
    "0 0 * * 1,5#2": "day of week '1,5#2' mixes 1 with a weekday's n-th; write two schedules",
    "0 0 ? * *": "day of month '?' is not supported; write * instead of ?",
    "0 0 15W * *": "day of month '15W' is not supported: there is no W (nearest weekday); list days, or use a weekday "
    "such as MON#1",
    "0 0 L-3 * *": "day of month 'L' is not supported; L (last day) stands alone, as day of month",
    "0 0 * * 5L": "day of week '5L' is not supported; the last Friday of the month is L5",
    "0 0 * * L": "day of week 'L' is not supported; the last Friday of the month is L5",
    "0 0 * * L8": "day of week 'L8' is not supported; the last Friday of the month is L5",
    "0 0 * * 1#6": "day of week '1#6' must end in #1 to #5",
    "H * * * *": "minute 'H' is not supported: nothing is chosen at random; write a number",
    "-1 * * * *": "minute '-1' is negative",
    "1- * * * *": "minute '1-' is not a number of 0-59, a range, a list or *",
    "*,5 * * * *": "minute * in a list covers the rest of it; write * alone",
    "0 0 1 JANU *": "month 'JANU' is neither 1-12 nor JAN-DEC",
    "0 0 * * MONDAY": "day of week 'MONDAY' is neither 0-7 nor SUN-SAT",
    "@dayly": "'@dayly' is unknown; did you mean @daily?",
    "@reboot": "'@reboot' is unknown; @yearly @annually @monthly @weekly @daily @midnight @hourly",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_name_the_field(text: str) -> None:  # C17, I6
    with pytest.raises(CronError) as caught:
        Cron.parse(text, "UTC")
    assert str(caught.value) == f"cron_expression: {REFUSALS[text]} (got {text!r})"


def test_refusals_are_clipped_and_take_only_text() -> None:  # I6
    with pytest.raises(CronError) as caught:
        Cron.parse("1," * 2000, "UTC")
    assert str(caught.value) == f"cron_expression: 4000 characters are more than 100 (got {'1,' * 20!r}…)"
    for wrong in (None, 5, b"* * * * *", ["*"] * 5):
        with pytest.raises(CronError, match="must be text"):
            Cron.parse(wrong, "UTC")  # type: ignore[arg-type]


cron_like = st.text(st.sampled_from(" *,-/#?LWHabcMON@0123456789\x00\t\uff10"), max_size=4096)


@settings(deadline=None, max_examples=500)
@given(st.one_of(st.text(max_size=4096), cron_like, cron_like.map(lambda text: text[:60])))
def test_any_text_parses_or_is_refused(text: str) -> None:  # C17, I6
    cron, refusal = attempt(text, "UTC")
    if cron is None:
        assert refusal.startswith("cron_expression: ") and len(refusal) < 700 and refusal.isprintable()
    else:
        assert cron.next_after(0) > 0


HARD = [
    "x" * 4096, "9" * 4096, "0 0 31 2 *", "0 0 31 2,4,6,9,11 *", "0 0 30 2 *", "1-2/" + "9" * 90 + " * * * *",
    ",".join(map(str, range(60)))[:91] + " * * * *",
    "0-59 0-59 0-23 1-31 1-12 0-6", "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20 */2 */3 */4 1#1,5#2",
    ",".join(["0-59"] * 18) + " * * * *", "*/1 " * 5 + ",".join(["0-7"] * 19),
]  # fmt: skip


@pytest.mark.parametrize("text", HARD, ids=lambda text: text[:20])
def test_to_parse_or_refuse_is_little_work(text: str) -> None:  # C17, I6
    assert work_of(lambda: attempt(text, "UTC")) < 30_000  # 2 ms


RARE = [
    "0 0 29 2 *",
    "* * 29 2 *",
    "0 0 * 2 1#5",
    "* * * 2 1#5",
    "* * */14 2 1#5",
    "0 0 29 2 */6",
    "59 59 23 31 12 *",
    "0 0 L 2 5#5",
]


@pytest.mark.parametrize("expression", RARE)
@pytest.mark.parametrize("zone", ["UTC", "Australia/Lord_Howe"])
def test_rare_dates_are_found_with_little_work(expression: str, zone: str) -> None:  # C17
    cron = Cron.parse(expression, zone)
    start = epoch("2072-03-01")  # the 29th of February of 2100 does not exist
    assert work_of(lambda: cron.next_after(start)) < 30_000  # 5 ms


def test_the_end_of_the_calendar_is_an_error() -> None:  # C17
    with pytest.raises(CronError, match="no next date before the year 10000"):
        Cron.parse("0 0 29 2 *", "UTC").next_after(epoch("9997-01-01"))
    with pytest.raises(CronError, match="no next date before the year 10000"):
        Cron.parse("* * * * *", "UTC").next_after(sys.maxsize)
    assert Cron.parse("0 0 1 1 *", "Asia/Tokyo").latest(epoch("9990-06-01"), epoch("9999-12-30")).total == 9


# ---- many dues at once ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(field_texts(0, 59), field_texts(0, 23), DOM, DOW, st.integers(0, 4 * 86_400), st.integers(1, 100))
def test_latest_agrees_with_a_walk(minute: str, hour: str, dom: str, dow: str, length: int, limit: int) -> None:  # C13
    cron, _ = attempt(f"{minute} {hour} {dom} * {dow}", "Europe/Berlin")
    assume(cron is not None)  # no day is one of */8 and the fifth Friday
    assert cron is not None
    after = epoch("2024-03-20 00:00:30")
    until, every = after + length * S, []
    due = cron.next_after(after)
    while due <= until:
        every.append(due)
        due = cron.next_after(due)
    latest = cron.latest(after, until, limit)
    assert list(latest.dues) == every[-limit:]
    assert latest.total == len(every) if latest.exact else latest.total >= min(len(every), limit)
    assert latest.exact or latest.total > 400


CENTURIES = ["* * * * * *", "* * * * *", "0 2 * * *", "* * * * 1 *", "* * 29 2 *", "* * * 2 1#5", "0-5 0 0 1 1 *",
             "*/7 */5 */3 */2 */2 *", "30 2 13 * 5", "0 0 L * *"]  # fmt: skip


@pytest.mark.parametrize("expression", CENTURIES)
@pytest.mark.parametrize("limit", [1, 100])
def test_174_years_of_dues_are_bounded_work(expression: str, limit: int) -> None:  # C13
    cron, after, until = Cron.parse(expression, "Europe/Berlin"), epoch("2026-01-01 00:00:07"), epoch("2200-07-01")
    latest = cron.latest(after, until, limit)
    assert len(latest.dues) == limit and latest.total >= limit
    assert nexts(cron, latest.dues[0] - 1, limit) == list(latest.dues)
    assert cron.next_after(latest.dues[-1]) > until
    assert work_of(lambda: cron.latest(after, until, limit)) < 200_000  # 40 ms; a walk over all of them takes hours


def test_memory_is_flat_over_distinct_expressions() -> None:  # H6
    def use(minutes: range) -> None:
        for minute in minutes:
            Cron.parse(f"{minute % 60} {minute // 60 % 24} {minute // 1440 + 1} * *", "UTC").next_after(0)

    use(range(300))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        use(range(300, 1800))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000  # 1,500 kept expressions would be megabytes


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_memory_is_flat_over_a_million_expressions() -> None:  # H6
    def use(numbers: range) -> int:
        for number in numbers:
            minute, second = divmod(number, 60)
            hour, minute = divmod(minute, 60)
            date, hour = divmod(hour, 24)
            Cron.parse(f"{second} {minute} {hour} {date + 1} * *", "UTC").next_after(0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KB

    before = use(range(50_000))
    assert use(range(50_000, 1_050_000)) - before < 5_000


def test_cron_is_a_value() -> None:
    cron = Cron.parse("0 2 * * *", "Europe/Berlin")
    assert cron == Cron.parse("0 2 * * *", "Europe/Berlin") and hash(cron) == hash(
        Cron.parse("0 2 * * *", "Europe/Berlin")
    )
    assert cron != Cron.parse("0 2 * * *", "UTC")
    with pytest.raises(AttributeError):
        cron.timezone = "UTC"  # type: ignore[misc]


# ---- zones ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Europe/Berln", "(got 'Europe/Berln'); did you mean 'Europe/Berlin'?"),
        ("berlin", "(got 'berlin'); did you mean 'Europe/Berlin'?"),
        ("new york", "(got 'new york'); did you mean 'America/New_York'?"),
        ("europe/paris", "(got 'europe/paris'); did you mean 'Europe/Paris'?"),
        ("../../etc/passwd", "(got '../../etc/passwd'); write one such as 'Europe/Berlin' or 'UTC'"),
        ("/etc/localtime", "(got '/etc/localtime'); write one such as 'Europe/Berlin' or 'UTC'"),
        ("right/Europe/Berlin", "(got 'right/Europe/Berlin'); did you mean 'Europe/Berlin'?"),
        ("", "(got ''); write one such as 'Europe/Berlin' or 'UTC'"),
        ("a\x00b", "(got 'a\\x00b'); write one such as 'Europe/Berlin' or 'UTC'"),
        ("z" * 5000, f"(got {'z' * 40!r}…); write one such as 'Europe/Berlin' or 'UTC'"),
    ],
)
def test_unknown_zones(name: str, message: str) -> None:  # I7
    with pytest.raises(ValidationError) as caught:
        check_timezone(name)
    assert str(caught.value) == f"timezone: the name is not an IANA time zone {message}"


@pytest.mark.parametrize("name", ["Europe", "localtime", "posixrules", "Factory", "tzdata.zi", "UTC+1", "EST5EDT4"])
def test_directories_and_private_entries_are_no_zones(name: str) -> None:
    with pytest.raises(ValidationError, match="not an IANA time zone"):
        check_timezone(name)


def test_the_default_zone_is_the_local_one_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import tzlocal

    monkeypatch.setattr(tzlocal, "get_localzone_name", lambda: "Asia/Tokyo")
    assert Cron.parse("0 2 * * *").timezone == local_timezone() == "Asia/Tokyo"

    def unknown() -> Any:
        raise LookupError("no such zone")

    for broken in (unknown, lambda: None, lambda: "Nowhere/City"):
        monkeypatch.setattr(tzlocal, "get_localzone_name", broken)
        with pytest.raises(ValidationError, match="the system's local time zone has no IANA name"):
            local_timezone()
