"""Charts: every place is inside the plot, the labels are few and round, and points are what the history has."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiotaskq import TaskQ
from aiotaskq.backends.side_rows import SideRow
from aiotaskq.core.history import DAY, HOUR, MINUTE, Period, Sums, added_histograms, begin_of, histogram, percentile
from aiotaskq.core.task import SECOND
from aiotaskq.runtime.queue.operations import Stats
from aiotaskq.web.dashboard.charts import (
    APART,
    EDGE,
    HEIGHT,
    MOST_LABELS,
    WIDTH,
    Chart,
    bars,
    count_top,
    duration_top,
    lines,
    placed,
    ticks,
    time_labels,
)
from aiotaskq.web.dashboard.counts import MOST_KEPT, Unended
from aiotaskq.web.dashboard.past import LEAST_POINTS, MOST_POINTS, OTHERS, PARTS, SPANS, STEPS, Past, Span, frame
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
    for path in (*chart.paths.values(), chart.before):
        for x, y in places_of(path):
            assert -0.02 <= x <= WIDTH + 0.02 and -0.02 <= y <= HEIGHT + 0.02
    assert 2 <= len(chart.values) <= 6 and len(chart.times) <= MOST_LABELS
    apart = HEIGHT / (len(chart.values) - 1)
    for place, each in enumerate(chart.values):  # as a column of text with equal distances has them
        assert math.isfinite(each.value) and each.place == pytest.approx(place * apart, abs=0.1)
    for each in chart.times:
        assert EDGE <= each.place <= WIDTH - EDGE
    assert 0 < chart.column <= WIDTH


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
    assert all(at % (60 * SECOND) == 0 for at in found)
    assert not days or all(words.clock(at) == "00:00" for at in found)


def test_stacked_bars_stand_on_each_other() -> None:
    chart = bars([{"completed": 3, "failed": 1}], ("completed", "failed"), **axis)
    lower, upper = places_of(chart.paths["completed"]), places_of(chart.paths["failed"])
    assert max(y for _, y in lower) == HEIGHT
    assert min(y for _, y in lower) == max(y for _, y in upper)
    assert min(y for _, y in upper) == 0  # 4 of 4


def test_the_span_before_is_a_line_on_the_same_axis() -> None:
    chart = bars([{"completed": 1}, {}], ("completed",), before=[8, 4], **axis)
    assert [y for _, y in places_of(chart.before)] == [0, HEIGHT / 2] and chart.values[0].value == 8
    assert bars([{"completed": 1}], ("completed",), before=[0], **axis).before == ""


def test_a_failure_is_seen_however_many_runs_there_are() -> None:
    assert places_of(ticks([0, 1])) == places_of(ticks([0, 1_000])) != []
    assert ticks([0, 0]) == ""


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(0, HEIGHT)))
def test_the_names_of_lines_are_apart_and_beside_the_plot(last: dict[str, float]) -> None:
    found = placed(last)
    assert found.keys() == last.keys()
    places = sorted(found.values())
    assert all(below - above >= APART - 0.11 for above, below in itertools.pairwise(places))
    assert all(APART / 2 - 0.1 <= each <= HEIGHT for each in places)
    assert all(found[one] < found[other] for one in last for other in last if last[one] < last[other])


@given(st.sampled_from([*SPANS.values()]), st.integers(0, 100 * 24 * 60), st.integers(1, 10**6))
def test_a_chart_begins_where_data_begins(span: Span, minutes: int, second: int) -> None:
    now = BEGIN + second * SECOND
    first = now - minutes * MINUTE * SECOND
    begin, step, count = frame(span, first, now)
    assert step in STEPS and step >= span.step and LEAST_POINTS <= count <= MOST_POINTS
    assert begin <= now < begin + count * step * SECOND, "it ends now"
    assert begin >= now - (span.seconds + step) * SECOND, "it is not longer than its span"
    if now - first < (span.seconds - step) * SECOND:
        assert begin <= first, "all data are in it"
    if count > LEAST_POINTS and begin < first:
        assert first - begin <= step * SECOND, "and nothing before them"


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
    assert [english.number(each * 100, 1) for each in (0.0, 0.125, 1.0)] == ["0", "12.5", "100"]


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
    return sums.period((begin_of(at, MINUTE), MINUTE, queue, type, kind, ""))


async def test_points_are_sums_of_the_history(tq: TaskQ) -> None:
    now = tq.queue.clock.now()
    minute = begin_of(now, MINUTE)
    await tq.queue.backend.history.add(
        [
            period(minute - 5 * MINUTE * SECOND, runs=3),
            period(minute - 5 * MINUTE * SECOND, "failed", type="other"),
        ]
    )
    hour = await Past(tq).activity("1h")
    assert (len(hour.points), hour.step, hour.total.counts) == (LEAST_POINTS, MINUTE, {"completed": 3, "failed": 1})
    drawn = [point for point in hour.points if point.counts]
    assert [(point.at, point.counts) for point in drawn] == [
        (minute - 5 * MINUTE * SECOND, {"completed": 3, "failed": 1})
    ]
    exact = percentile({}, 50)
    assert exact is None and drawn[0].run.p50 == pytest.approx(1.0, rel=1 / 16)
    assert drawn[0].wait.p99 == pytest.approx(0.02, rel=1 / 16)
    assert hour.before == [0] * LEAST_POINTS and hour.chart("counts").before == ""
    past = Past(tq)
    await tq.queue.backend.history.add([period(minute - 90 * MINUTE * SECOND, runs=7)])
    hour, day = await past.activity("1h"), await past.activity("24h")
    assert (len(hour.points), hour.step, sum(hour.before)) == (30, 2 * MINUTE, 7), "the hour before is drawn, too"
    assert hour.total.counts == {"completed": 3, "failed": 1} and hour.chart("counts").before != ""
    assert day.total.counts == {"completed": 10, "failed": 1} and day.before == [0] * len(day.points)
    one = await past.activity("1h", type="other")
    assert one.total.counts == {"failed": 1}
    none = await past.activity("1h", queue="elsewhere")
    assert none.empty and none.chart("counts").paths == {"completed": "", "failed": ""} and none.total.run.p50 is None
    assert [(row.name, row.ended) for row in (await past.activity("24h", queue="default")).types] == [
        ("greet", 10),
        ("other", 1),
    ]
    assert day.types == []
    rows = await past.types("24h")
    assert [(row.name, row.ended, row.share) for row in rows] == [("greet", 10, 0.0), ("other", 1, 1.0)]
    assert [(row.name, row.ended) for row in await past.types("1h")] == [("greet", 3), ("other", 1)]


async def test_a_quarter_of_a_year_is_read_as_days_where_hours_are_there_too(tq: TaskQ) -> None:
    at = begin_of(tq.queue.clock.now(), DAY) - 5 * DAY * SECOND
    hour, day = (replace(period(at, runs=runs), seconds=seconds) for runs, seconds in ((3, HOUR), (4, DAY)))
    await tq.queue.backend.history.add([hour, day, period(tq.queue.clock.now())])
    past = Past(tq)
    assert (await past.activity("7d")).total.counts == {"completed": 4}
    assert (await past.activity("90d")).total.counts == {"completed": 5}
    assert [row.ended for row in await past.types("90d")] == [5]


async def test_counts_are_split_by_queue_or_type_and_the_smallest_are_one_part(tq: TaskQ) -> None:
    at = begin_of(tq.queue.clock.now(), MINUTE) - 3 * MINUTE * SECOND
    many = [period(at, runs=n + 1, type=f"t{n}", queue=f"q{n % 2}") for n in range(PARTS + 2)]
    await tq.queue.backend.history.add([*many, period(at, "retried", type="t9"), period(at, "failed", type="t6")])
    past = Past(tq)
    types, queues = await past.activity("1h", by="type"), await past.activity("1h", by="queue")
    assert types.total.parts == {f"t{n}": n + 1 + (n == 6) for n in range(2, 7)} | {OTHERS: 3}
    assert queues.total.parts == {"q0": 16, "q1": 12, "default": 1} and queues.parts == ["default", "q0", "q1"]
    assert {*types.chart("counts").paths} == {*types.parts} and types.parts[-1] == OTHERS
    assert (await past.activity("1h", by="nonsense")).parts == ["completed", "failed"]


async def test_what_is_usual_for_a_type_needs_some_runs(tq: TaskQ) -> None:
    at = begin_of(tq.queue.clock.now(), MINUTE) - 3 * MINUTE * SECOND
    await tq.queue.backend.history.add([period(at, runs=20), period(at, runs=19, type="rare")])
    past = Past(tq)
    assert await past.usual(["greet", "rare"]) == {"greet": pytest.approx(1.0, rel=1 / 16), "rare": None}


async def test_queues_have_the_minutes_of_an_hour(tq: TaskQ) -> None:
    minute = begin_of(tq.queue.clock.now(), MINUTE)
    kinds = [("completed", 4), ("failed", 1), ("retried", 2)]
    periods = [period(minute - 2 * MINUTE * SECOND, kind, runs=runs) for kind, runs in kinds]
    await tq.queue.backend.history.add([*periods, period(minute - 90 * MINUTE * SECOND, runs=9)])
    hour = (await Past(tq).queues())["default"]
    assert (hour.out[57], sum(hour.out), hour.failed[57], sum(hour.failed)) == (5, 5, 1, 1), "a retried task goes on"
    assert (hour.ended(1), hour.ended(5)) == (0, 5), "the last minute is not complete"


def test_what_came_in_follows_from_what_is_there_and_what_has_ended() -> None:
    unended, minute = Unended(), MINUTE * SECOND

    def note(at: int, waiting: int) -> None:
        unended.note(Stats({}, 0, None, {"q": {"pending": waiting, "completed": 99}}, []), BEGIN + at * minute)

    note(0, 10)
    note(1, 15)
    note(4, 3)
    out = [0] * 55 + [2, 1, 1, 1, 7]
    found = unended.came("q", out, BEGIN + 4 * minute)
    assert found[:56] == [None] * 56, "before the first two looks nothing is known"
    assert found[56:] == [6, 0, 0, 0]
    assert unended.came("other", out, BEGIN + 4 * minute)[56:] == [1, 3, 3, 3]
    early = unended.came("q", [0] * 60, BEGIN + 3 * minute)
    assert early[56:] == [None, 5, None, None], "the counts were read after the minute of the page"
    note(80, 0)
    assert unended.came("q", [0] * 60, BEGIN + 80 * minute) == [None] * 60


async def test_what_was_read_is_shared_for_some_seconds_and_bounded(tq: TaskQ, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    history = tq.queue.backend.history
    read = history.rows

    async def counted(since: int, until: int, hours: int) -> list[SideRow]:
        nonlocal reads
        reads += 1
        return await read(since, until, hours)

    monkeypatch.setattr(history, "rows", counted)
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
