"""Cron: strict parsing, and agreement with cronsim in zones that change their offset."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core import cron_parser as cron_fields
from aiotaskq.core.cron import Cron
from aiotaskq.errors import CronError
from tests.core.cron_expressions import DOM, DOW, S, attempt, epoch, field_texts, local, nexts
from tests.support.cron import ALIASES, for_cronsim

# ---- agreement with cronsim across changes of the offset (test_cron_agreement has UTC, and croniter) ----------------


MONTH = st.one_of(st.just("*"), field_texts(1, 12), st.sampled_from(["FEB", "jan,Jul-sep", "2"]))


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


@given(st.integers(1, 31), st.sampled_from(["{}W", "{}w", "W{}", "w{}"]), MONTH, MOMENT, st.booleans())
def test_the_nearest_weekday_is_that_of_croniter(date: int, form: str, month: str, at: datetime, seconds: bool) -> None:
    expression = f"{'30 ' if seconds else ''}15 9 {form.format(date)} {month} *"
    cron, start = Cron.parse(expression, "UTC"), at.replace(tzinfo=UTC, microsecond=0)
    theirs = croniter(expression, start, second_at_beginning=True)
    ours = nexts(cron, int(start.timestamp()) * S, 8)
    assert ours == [int(theirs.get_next()) * S for _ in ours]


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
    "0 0 1W,15W * *": "day of month '1W,15W' is not supported; W (nearest weekday) is beside one date, which stands "
    "alone, such as 15W",
    "0 0 1-5W * *": "day of month '5W' is not supported; W (nearest weekday) is beside one date, which stands alone, "
    "such as 15W",
    "0 0 32W * *": "day of month 32 is not in 1-31",
    "0 0 15W * 1": "day of week 1 has no effect beside day of month 15W; write two schedules",
    "0 0 15W * MON#1": "day of week MON#1 has no effect beside day of month 15W; write two schedules",
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
