"""Cron: many due times at once, and rare ones, take bounded work and memory."""

from __future__ import annotations

import resource
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiotaskq.core.cron import Cron
from aiotaskq.errors import CronError
from tests.core.cron_expressions import DOM, DOW, S, attempt, epoch, field_texts, nexts


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


# ---- refusals -------------------------------------------------------------------------------------------------------


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
