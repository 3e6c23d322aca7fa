"""Charts: every place is inside the plot, the labels are few and round, and points are what the history has."""

from __future__ import annotations

import math
import re
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq import TaskQ
from aiotaskq.core.history import HOUR, MINUTE, Period, Sums, added_histograms, begin_of, histogram, percentile
from aiotaskq.core.task import SECOND
from aiotaskq.web.dashboard.counts import MOST_KEPT
from aiotaskq.web.dashboard.past import (
    MOST_LABELS,
    SPANS,
    Chart,
    Past,
    bars,
    count_top,
    duration_top,
    lines,
    time_labels,
)
from aiotaskq.web.dashboard.words import Words

UTC = ZoneInfo("UTC")
SHANGHAI, NEW_YORK = ZoneInfo("Asia/Shanghai"), ZoneInfo("America/New_York")
NAMES = ("p50", "p95", "p99")
BEGIN = 1_700_000_000 // 60 * 60 * SECOND

counts = st.lists(st.dictionaries(st.sampled_from(["completed", "failed"]), st.integers(0, 10**12)), max_size=100)
times = st.lists(
    st.fixed_dictionaries({name: st.none() | st.floats(0, 1e8, allow_subnormal=False) for name in NAMES}), max_size=100
)
axis: dict[str, Any] = {"begin": BEGIN, "step": 60, "zone": UTC}


def places_of(path: str) -> list[tuple[float, float]]:
    """Return the corners of a path, absolute; fails where it has anything but numbers and the known commands."""
    x = y = 0.0
    found = []
    parts = re.findall(r"([MLhHVz])(-?\d+(?:\.\d+)?)?(?: (-?\d+(?:\.\d+)?))?", path)
    assert "".join(c + a + (f" {b}" if b else "") for c, a, b in parts) == path
    for command, first, second in parts:
        if command in "ML":
            x, y = float(first), float(second)
        elif command == "h":
            x += float(first)
        elif command == "H":
            x = float(first)
        elif command == "V":
            y = float(first)
        found.append((x, y))
    return found


def check(chart: Chart) -> None:
    inside = [place for path in chart.paths.values() for place in places_of(path)]
    for x, y in inside:
        assert chart.left - 0.02 <= x <= chart.right + 0.02 and chart.top - 0.02 <= y <= chart.bottom + 0.02
    assert 2 <= len(chart.values) <= 6 and len(chart.times) <= MOST_LABELS
    for each in chart.values:
        assert math.isfinite(each.value) and chart.top <= each.place <= chart.bottom
    for each in chart.times:
        assert chart.left <= each.place <= chart.width - 20
    assert 0 < chart.column <= chart.right - chart.left


@given(counts)
def test_bars_are_inside_the_plot(points: list[dict[str, int]]) -> None:
    chart = bars(points, ("completed", "failed"), **axis)
    check(chart)
    drawn = sum(path.count("M") for path in chart.paths.values())
    assert drawn == sum(count > 0 for point in points for count in point.values())


@given(times)
def test_lines_are_inside_the_plot_and_broken_where_nothing_is_known(points: list[dict[str, float | None]]) -> None:
    chart = lines(points, NAMES, **axis)
    check(chart)
    for name in NAMES:
        known = [point[name] is not None for point in points]
        starts = sum(each and not (place and known[place - 1]) for place, each in enumerate(known))
        assert chart.paths[name].count("M") == starts


@given(st.integers(0, 10**15))
def test_the_axis_of_counts_ends_above_the_largest(most: int) -> None:
    top = count_top(most)
    assert max(1, most) <= top <= max(1, most * 2)


@given(st.floats(0, 1e9, allow_subnormal=False))
def test_the_axis_of_durations_ends_above_the_largest(most: float) -> None:
    between, top = duration_top(most)
    assert between > 0 and top >= most * (1 - 1e-6) and round(top / between) <= 4


@given(st.integers(0, 2_000_000_000), st.integers(1, 100 * 24 * 60), st.sampled_from([UTC, SHANGHAI, NEW_YORK]))
def test_labels_of_times_are_round_in_the_zone_of_the_page(begin: int, minutes: int, zone: ZoneInfo) -> None:
    start = begin // 60 * 60 * SECOND
    end = start + minutes * 60 * SECOND
    found, days = time_labels(start, end, zone)
    assert len(found) <= MOST_LABELS and found == sorted(set(found))
    assert all(start <= at < end for at in found)
    words = Words("en", zone.key)
    assert all(at % (5 * 60 * SECOND) == 0 for at in found)
    assert not days or all(words.clock(at) == "00:00" for at in found)


def test_stacked_bars_stand_on_each_other() -> None:
    chart = bars([{"completed": 3, "failed": 1}], ("completed", "failed"), **axis)
    lower, upper = places_of(chart.paths["completed"]), places_of(chart.paths["failed"])
    assert max(y for _, y in lower) == chart.bottom
    assert min(y for _, y in lower) == max(y for _, y in upper)
    assert min(y for _, y in upper) == chart.top  # 4 of 4


def test_a_single_point_is_a_dot() -> None:
    chart = lines([{"p50": None}, {"p50": 1.0}, {"p50": None}], ("p50",), **axis)
    assert chart.paths["p50"].endswith("h0.01")


@pytest.mark.parametrize(
    ("seconds", "english", "text"),
    [
        (0, "0", "0"),
        (0.005, "5 ms", "5 毫秒"),
        (15, "15 s", "15 秒"),
        (120, "2 min", "2 分"),
        (5_400, "1.5 h", "1.5 小时"),
    ],
)
def test_an_axis_has_durations_in_one_unit(seconds: float, english: str, text: str) -> None:
    assert (Words("en", "UTC").axis(seconds), Words("zh", "UTC").axis(seconds)) == (english, text)


def test_days_and_shares_are_short() -> None:
    english, chinese = Words("en", "Asia/Shanghai"), Words("zh", "Asia/Shanghai")
    assert (english.day(BEGIN), chinese.day(BEGIN)) == ("15 Nov", "11-15")
    assert [english.percent(each) for each in (None, 0.0, 0.125, 1.0)] == ["", "0 %", "12.5 %", "100 %"]


# ---- what is drawn ----


@given(st.lists(st.dictionaries(st.integers(0, 300), st.integers(1, 9), max_size=20), max_size=20))
def test_histograms_are_added_as_one_by_one(many: list[dict[int, int]]) -> None:
    texts = [" ".join(f"{number}:{count}" for number, count in each.items()) for each in many]
    wanted: dict[int, int] = {}
    for text in texts:
        for number, count in histogram(text).items():
            wanted[number] = wanted.get(number, 0) + count
    assert added_histograms(texts) == wanted


def period(at: int, kind: str = "completed", *, runs: int = 1, type: str = "greet", queue: str = "default") -> Period:
    sums = Sums()
    sums.add_runs([1_000_000] * runs, [20_000] * runs)
    return sums.period((begin_of(at, MINUTE), MINUTE, queue, type, kind))


async def test_points_are_sums_of_the_history(tq: TaskQ) -> None:
    now = tq.queue.clock.now()
    minute = begin_of(now, MINUTE)
    await tq.queue.backend.history.add(
        [
            period(minute - 5 * MINUTE * SECOND, runs=3),
            period(minute - 5 * MINUTE * SECOND, "failed", type="other"),
            period(minute - 2 * HOUR * SECOND, runs=7),
        ]
    )
    past = Past(tq)
    hour, day = await past.activity("1h"), await past.activity("24h")
    assert len(hour.points) == 60 and hour.total.counts == {"completed": 3, "failed": 1}
    drawn = [point for point in hour.points if point.counts]
    assert [(point.at, point.counts) for point in drawn] == [
        (minute - 5 * MINUTE * SECOND, {"completed": 3, "failed": 1})
    ]
    exact = percentile({}, 50)
    assert exact is None and drawn[0].run.p50 == pytest.approx(1.0, rel=1 / 16)
    assert drawn[0].wait.p99 == pytest.approx(0.02, rel=1 / 16)
    assert day.total.counts == {"completed": 10, "failed": 1} and len(day.points) == SPANS["24h"][2]
    one = await past.activity("1h", type="other")
    assert one.total.counts == {"failed": 1}
    none = await past.activity("1h", queue="elsewhere")
    assert none.empty and none.chart("counts").paths == {"completed": "", "failed": ""} and none.total.run.p50 is None
    rows = await past.types("24h")
    assert [(row.name, row.ended, row.share) for row in rows] == [("greet", 10, 0.0), ("other", 1, 1.0)]


async def test_what_was_read_is_shared_for_some_seconds_and_bounded(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    read = tq.history

    async def counted(**where: Any) -> list[Period]:
        nonlocal reads
        reads += 1
        return await read(**where)

    monkeypatch.setattr(tq, "history", counted)
    now = tq.queue.clock.now()
    monkeypatch.setattr(tq.queue.clock, "now", lambda: now)
    past = Past(tq)
    assert await past.activity("1h") is await past.activity(None)
    assert reads == 1
    now += 6 * SECOND
    await past.activity("1h")
    assert reads == 2
    for number in range(MOST_KEPT + 1):
        await past.activity("1h", type=f"type {number}")
    await past.activity("1h", type=f"type {MOST_KEPT}")
    assert reads == 2 + MOST_KEPT + 1
    await past.activity("1h", type="type 0")  # the first of them has gone
    assert reads == 2 + MOST_KEPT + 2
