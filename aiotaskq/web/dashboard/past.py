"""What workers did, for the charts of a page: read from the history, added up to points, and kept for some seconds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec

from aiotaskq.core.cron import local_timezone
from aiotaskq.core.history import (
    DAY,
    HOUR,
    KINDS,
    MINUTE,
    Histogram,
    Period,
    added_histograms,
    begin_of,
    percentile,
)
from aiotaskq.core.task import SECOND
from aiotaskq.core.usage import Usage, summed
from aiotaskq.web.dashboard.charts import Chart, bars, lines
from aiotaskq.web.dashboard.counts import Kept
from aiotaskq.web.dashboard.words import marked

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

PERCENTS = (50, 95, 99)
NOT_A_STATE = marked("retried")
"""The one kind of outcome that no task has as its state."""
Span = tuple[str, str, int, int, float]
"""Name in the address, title, seconds of a point, number of points, and seconds for which an answer is kept."""
SPANS: dict[str, Span] = {
    "1h": ("1h", marked("Last hour"), MINUTE, 60, 5.0),
    "24h": ("24h", marked("24 hours"), 15 * MINUTE, 96, 30.0),
    "7d": ("7d", marked("7 days"), 3 * HOUR, 56, 300.0),
    "90d": ("90d", marked("90 days"), DAY, 90, 300.0),
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

    @property
    def throughput(self) -> Chart:
        """The chart of what completed and failed."""
        return bars([point.counts for point in self.points], ("completed", "failed"), **self._axis)

    @property
    def run_times(self) -> Chart:
        """The chart of the percentiles of run times."""
        return lines([msgspec.structs.asdict(point.run) for point in self.points], ("p50", "p95", "p99"), **self._axis)

    @property
    def waits(self) -> Chart:
        """The chart of the percentiles of waits."""
        return lines([msgspec.structs.asdict(point.wait) for point in self.points], ("p50", "p95", "p99"), **self._axis)

    @property
    def _axis(self) -> dict[str, Any]:
        return {"begin": self.begin, "step": self.step, "zone": ZoneInfo(self.zone)}


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
        name, _, step, count, seconds = span_of(span)

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
        _, _, step, count, _ = SPANS[span]
        now = self._tq.queue.clock.now()
        begin = begin_of(now, step) - (count - 1) * step * SECOND
        return begin, await self._tq.history(since=begin / SECOND, queue=queue, type=type)


class _Added:
    """The sums of some periods, by kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._texts: tuple[list[str], list[str]] = ([], [])

    def add(self, period: Period) -> None:
        self.counts[period.kind] = self.counts.get(period.kind, 0) + period.n
        self._texts[0].append(period.runs)
        self._texts[1].append(period.waits)

    def sums(self, at: int) -> tuple[Point, list[Histogram]]:
        """Return the point, and the histograms of run times and waits, which another one may need."""
        histograms = [added_histograms(texts) for texts in self._texts]
        return _point(at, self.counts, histograms), histograms


def _point(at: int, counts: dict[str, int], histograms: Iterable[Histogram]) -> Point:
    times = [Times(*(_seconds(percentile(each, percent)) for percent in PERCENTS)) for each in histograms]
    return Point(at, {kind: counts[kind] for kind in KINDS if counts.get(kind)}, *times)


def _seconds(duration: float | None) -> float | None:
    return None if duration is None else duration / SECOND


def _activity(span: str, begin: int, step: int, count: int, periods: Iterable[Period], zone: str) -> Activity:
    parts = [_Added() for _ in range(count)]
    usage: Usage = {}
    for period in periods:
        if period.usage:
            usage = summed(usage, period.usage)
        place = (period.at - begin) // (step * SECOND)
        if 0 <= place < count:
            parts[place].add(period)
    sums_of_parts = [each.sums(begin + place * step * SECOND) for place, each in enumerate(parts)]
    counts: Counter[str] = Counter()
    histograms: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for each, (_, found) in zip(parts, sums_of_parts, strict=True):
        counts.update(each.counts)
        for whole, part in zip(histograms, found, strict=True):
            whole.update(part)
    return Activity(
        span=span,
        begin=begin,
        step=step,
        points=[point for point, _ in sums_of_parts],
        total=_point(begin, counts, histograms),
        zone=zone,
        usage=usage,
    )


def _types(begin: int, minutes: float, periods: Iterable[Period]) -> list[TypeSums]:
    sums: dict[str, _Added] = {}
    for period in periods:
        if (found := sums.get(period.type)) is None:
            found = sums[period.type] = _Added()
        found.add(period)
    rows = [TypeSums(name, sums[name].sums(begin)[0], 0.0) for name in sorted(sums)]
    return [msgspec.structs.replace(row, per_minute=row.ended / minutes) for row in rows]
