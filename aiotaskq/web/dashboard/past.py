"""What workers did, read from the history, added up to points and kept for some seconds; and its charts.

Each chart has one size, in pixels; its SVG is scaled. Labels are numbers and instants, which a template writes in the
language of its page.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

from aiotaskq.core.cron import local_timezone
from aiotaskq.core.history import (
    DAY,
    HOUR,
    KINDS,
    MINUTE,
    Period,
    added_histograms,
    begin_of,
    percentile,
)
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.task import SECOND
from aiotaskq.core.usage import Usage, summed
from aiotaskq.web.dashboard.counts import Kept

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

PERCENTS = (50, 95, 99)
Span = tuple[str, int, int, float]
"""Name in the address, seconds of a point, number of points, and seconds for which an answer is kept."""
SPANS: dict[str, Span] = {
    "1h": ("1h", MINUTE, 60, 5.0),
    "24h": ("24h", 15 * MINUTE, 96, 30.0),
    "7d": ("7d", 3 * HOUR, 56, 300.0),
    "90d": ("90d", DAY, 90, 300.0),
}


class Times(msgspec.Struct, frozen=True):
    """Percentiles of run times or waits in seconds; None where nothing was counted."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Point(msgspec.Struct, frozen=True):
    """What ended in one period."""

    at: int
    """When it begins, in microseconds UTC."""
    counts: dict[str, int]
    """By kind of outcome, as ``aiotaskq.core.history.KINDS``; a kind without runs is left out."""
    run: Times
    wait: Times


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """What workers did in a span of time."""

    span: str
    begin: int
    """Microseconds UTC."""
    step: int
    """Seconds of a point."""
    points: list[Point]
    total: Point
    zone: str
    usage: Usage
    """What tasks have used up, by name."""

    @property
    def empty(self) -> bool:
        """Whether nothing ended."""
        return not self.total.counts

    def chart(self, what: str) -> Chart:
        """Return the chart of what completed and failed, ``counts``, or of the percentiles of ``run`` or ``wait``."""
        axis: dict[str, Any] = {"begin": self.begin, "step": self.step, "zone": ZoneInfo(self.zone)}
        if what == "counts":
            return bars([point.counts for point in self.points], ("completed", "failed"), **axis)
        times = [msgspec.structs.asdict(getattr(point, what)) for point in self.points]
        return lines(times, Times.__struct_fields__, **axis)


class TypeSums(msgspec.Struct, frozen=True):
    """What ended of one task type in a span of time."""

    name: str
    total: Point
    per_minute: float

    @property
    def ended(self) -> int:
        """How many completed or failed."""
        return sum(self.total.counts.get(kind, 0) for kind in ("completed", "failed"))

    @property
    def share(self) -> float | None:
        """The share of these that failed, from 0 to 1; None where none ended."""
        return self.total.counts.get("failed", 0) / self.ended if self.ended else None


def span_of(name: str | None) -> Span:
    """Return the span of that name, else the last hour."""
    return SPANS.get(name or "", SPANS["1h"])


class Past:
    """Reads the history of one task queue; all pages share what has been read."""

    def __init__(self, tq: TaskQ) -> None:
        self._tq = tq
        self._zone = tq.timezone or local_timezone()
        self._kept = Kept(tq.queue.clock.now)

    async def activity(self, span: str | None, *, queue: str | None = None, type: str | None = None) -> Activity:
        """Return the points of a span of time, of one queue or type where that is given."""
        name, step, count, seconds = span_of(span)

        async def read() -> Activity:
            begin, periods = await self._read(name, queue=queue, type=type)
            return await asyncio.to_thread(_activity, name, begin, step, count, periods, self._zone)

        return await self._kept.get(("activity", name, queue, type), seconds, read)

    async def types(self, span: str | None, *, queue: str | None = None) -> list[TypeSums]:
        """Return the sums of each task type in a span of time, by name."""
        name, *_, seconds = span_of(span)

        async def read() -> list[TypeSums]:
            begin, periods = await self._read(name, queue=queue)
            minutes = max(1.0, (self._tq.queue.clock.now() - begin) / SECOND / MINUTE)
            return await asyncio.to_thread(_types, begin, minutes, periods)

        return await self._kept.get(("types", name, queue), seconds, read)

    async def _read(self, span: str, *, queue: str | None = None, type: str | None = None) -> tuple[int, list[Period]]:
        _, step, count, _ = SPANS[span]
        now = self._tq.queue.clock.now()
        begin = begin_of(now, step) - (count - 1) * step * SECOND
        return begin, await self._tq.history(since=begin / SECOND, queue=queue, type=type)


Sums = Sequence[dict[Any, int]]
"""How many ended by kind of outcome, and the histograms of run times and waits."""


def _sums(periods: Collection[Period]) -> Sums:
    counts: Counter[str] = Counter()
    for period in periods:
        counts[period.kind] += period.n
    runs, waits = [each.runs for each in periods], [each.waits for each in periods]
    return counts, added_histograms(runs), added_histograms(waits)


def _point(at: int, sums: Sums) -> Point:
    counts, *histograms = sums
    times = [
        Times(*(None if (found := percentile(each, percent)) is None else found / SECOND for percent in PERCENTS))
        for each in histograms
    ]
    return Point(at, {kind: counts[kind] for kind in KINDS if counts.get(kind)}, *times)


def _activity(span: str, begin: int, step: int, count: int, periods: Collection[Period], zone: str) -> Activity:
    parts: list[list[Period]] = [[] for _ in range(count)]
    usage: Usage = {}
    for period in periods:
        if period.usage:
            usage = summed(usage, period.usage)
        place = (period.at - begin) // (step * SECOND)
        if 0 <= place < count:
            parts[place].append(period)
    found = [_sums(part) for part in parts]
    whole: list[Counter[Any]] = [Counter(), Counter(), Counter()]
    for each in found:
        for into, part in zip(whole, each, strict=True):
            into.update(part)
    points = [_point(begin + place * step * SECOND, each) for place, each in enumerate(found)]
    total = _point(begin, whole)
    return Activity(span=span, begin=begin, step=step, points=points, total=total, zone=zone, usage=usage)


def _types(begin: int, minutes: float, periods: Iterable[Period]) -> list[TypeSums]:
    by_type: dict[str, list[Period]] = {}
    for period in periods:
        by_type.setdefault(period.type, []).append(period)
    rows = [TypeSums(name, _point(begin, _sums(found)), 0.0) for name, found in sorted(by_type.items())]
    return [msgspec.structs.replace(row, per_minute=row.ended / minutes) for row in rows]


# ---- charts over time: bars that are stacked, and lines ----

WIDTH, HEIGHT = 400, 168
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 8, 22
"""Pixels around the plot; labels of the values are at its left, those of the times below it."""
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
GAP = 0.25  # of the width of a point that is left empty between two bars
MOST_LABELS = 6  # of an axis of times

_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200)
"""Seconds between two labelled values of an axis of durations, from a second to half a day."""
_CLOCKS = (5, 15, 30, 60, 180, 360, 720)
"""Minutes between two labelled times of day."""


class Label(msgspec.Struct, frozen=True):
    """A labelled place of an axis: pixels from the left or the top, and the value or the instant there."""

    place: float
    value: float


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A drawing: SVG paths by the names of what they show, and the labels of both axes."""

    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM
    values: list[Label]
    times: list[Label]
    """Instants in microseconds UTC."""
    days: bool
    """Whether the instants are midnights."""
    paths: dict[str, str]
    column: float
    """Pixels of the plot that are about one point."""


def bars(points: Sequence[Mapping[str, int]], names: Sequence[str], *, begin: int, step: int, zone: tzinfo) -> Chart:
    """Return a chart of counts, one bar for each point, whose parts are stacked in the order of the names.

    The first period begins at ``begin`` in microseconds UTC, and each has ``step`` seconds; labels are in the zone.
    """
    top = count_top(max((sum(point.get(name, 0) for name in names) for point in points), default=0))
    width = PLOT_WIDTH / max(1, len(points))
    paths: dict[str, list[str]] = {name: [] for name in names}
    for place, point in enumerate(points):
        below = 0
        for name in names:
            count = point.get(name, 0)
            if count > 0:
                x, y = LEFT + (place + GAP / 2) * width, _y(below + count, top)
                paths[name].append(
                    f"M{_text(x)} {_text(y)}h{_text(width * (1 - GAP))}V{_text(_y(below, top))}H{_text(x)}z"
                )
                below += count
    return _chart(paths, top, top / 2 if top > 1 else top, len(points), begin, step, zone)


def lines(
    points: Sequence[Mapping[str, float | None]], names: Sequence[str], *, begin: int, step: int, zone: tzinfo
) -> Chart:
    """Return a chart of durations in seconds: one line for each name, which is broken where a point has no value.

    The other arguments are those of ``bars``.
    """
    known = [value for point in points for name in names if (value := point.get(name)) is not None]
    between, top = duration_top(max(known, default=0.0))
    width = PLOT_WIDTH / max(1, len(points))
    paths: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        joined = False
        for place, point in enumerate(points):
            value = point.get(name)
            if value is not None:
                x, y = _text(LEFT + (place + 0.5) * width), _text(_y(max(0.0, value), top))
                alone = not joined and (place + 1 == len(points) or points[place + 1].get(name) is None)
                paths[name].append(f"{'L' if joined else 'M'}{x} {y}{'h0.01' if alone else ''}")
            joined = value is not None
    return _chart(paths, top, between, len(points), begin, step, zone)


def count_top(most: int) -> int:
    """Return the upper end of an axis of counts: 1, 2, 4, 6, 8, 10, 20, 40 and so on, at least ``most``."""
    size = 1
    while True:
        for factor in (1, 2, 4, 6, 8):
            if factor * size >= most:
                return factor * size
        size *= 10


def duration_top(most: float) -> tuple[float, float]:
    """Return the distance of the labels of an axis of durations and its upper end, both in seconds."""
    if most < 1e-6:  # below the resolution of the history
        return 1.0, 1.0
    wanted = most / 3
    if wanted < 1:
        size = 10.0 ** math.floor(math.log10(wanted))
        between = next(factor * size for factor in (1, 2, 5, 10, 20) if factor * size >= wanted)
    elif wanted <= _TIMES[-1]:
        between = float(next(each for each in _TIMES if each >= wanted))
    else:
        between = 86_400.0 * math.ceil(wanted / 86_400)
    return between, between * math.ceil(round(most / between, 6))


def time_labels(begin: int, end: int, zone: tzinfo) -> tuple[list[int], bool]:
    """Return the round times of day between two instants, or its midnights, and whether they are midnights.

    All in microseconds UTC; at most ``MOST_LABELS``.
    """
    first, minutes = to_datetime(begin, zone), (end - begin) // (60 * SECOND)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    apart = next((each for each in _CLOCKS if minutes <= each * MOST_LABELS), None)
    days = apart is None
    if apart is None:
        apart = 1_440 * max(1, math.ceil(minutes / 1_440 / MOST_LABELS))
    found: list[int] = []
    wall = midnight
    while (at := _instant(wall, zone)) < end:
        if at >= begin and at not in found:
            found.append(at)
        wall += timedelta(minutes=apart)
    return found[:MOST_LABELS], days


def _instant(wall: datetime, zone: tzinfo) -> int:
    return round(wall.replace(tzinfo=zone).timestamp()) * SECOND


def _chart(
    paths: Mapping[str, Sequence[str]], top: float, between: float, count: int, begin: int, step: int, zone: tzinfo
) -> Chart:
    end = begin + count * step * SECOND
    # A label is centred: one at the right edge would be cut off.
    times, days = time_labels(begin, end, zone) if count else ([], False)
    return Chart(
        values=[Label(round(_y(each * between, top), 1), each * between) for each in range(round(top / between) + 1)],
        times=[
            Label(round(LEFT + PLOT_WIDTH * (at - begin) / (end - begin), 1), at)
            for at in times
            if LEFT + PLOT_WIDTH * (at - begin) / (end - begin) <= WIDTH - 20
        ],
        days=days,
        paths={name: "".join(parts) for name, parts in paths.items()},
        column=PLOT_WIDTH / max(1, count),
    )


def _y(value: float, top: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - min(1.0, value / top))


def _text(pixels: float) -> str:
    return f"{pixels:.2f}".rstrip("0").rstrip(".")
