"""Cron expressions for the tests: hypothesis strategies, and the work that a call takes."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from aiotaskq.core.cron import Cron
from aiotaskq.errors import CronError

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


DOW = st.one_of(
    st.just("*"),
    field_texts(0, 6),
    st.sampled_from(["7", "5-7", "0-7", "MON-FRI", "sun", "MON#2", "5#5", "0#1,3#3", "L5", "7#1", "0#1,L3", "0-6"]),
)
