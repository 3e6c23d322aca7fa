"""What workers did, read from the history, added up to points and kept for some seconds."""

from __future__ import annotations

import asyncio
import functools
import math
import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from aiotaskq.backends.history import Part, parts
from aiotaskq.core.alerts import LEAST_RUNS
from aiotaskq.core.cron import local_timezone
from aiotaskq.core.history import DAY, HOUR, KINDS, MINUTE, QUARTER, added_histograms, begin_of, hours_from, percentile
from aiotaskq.core.task import SECOND
from aiotaskq.core.usage import Usage, summed
from aiotaskq.web.dashboard.charts import Chart, bars, lines
from aiotaskq.web.dashboard.counts import Kept

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

T = TypeVar("T")
PERCENTS = (50, 95, 99)


class Span(msgspec.Struct, frozen=True):
    """A span of time that ends now. In seconds."""

    name: str
    """As in the address."""
    seconds: int
    step: int
    """The shortest point."""
    kept: float
    """For how long an answer is kept."""
    before: bool = False
    """Whether the span before it is drawn, too: the history has it as finely."""


SPANS = {
    each.name: each
    for each in (
        Span("1h", HOUR, MINUTE, 5.0, True),
        Span("24h", DAY, QUARTER, 30.0, True),
        Span("7d", 7 * DAY, HOUR, 300.0),
        Span("90d", 90 * DAY, DAY, 300.0),
    )
}
STEPS = (60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, DAY, 2 * DAY, 3 * DAY)
"""Seconds that a point may have."""
MOST_POINTS, LEAST_POINTS = 32, 10
"""Points of a chart: a bar of more would be too narrow, and of fewer too wide."""
PARTS = 5
"""Queues or types into which a chart is split; the others are one part."""
SPLITS = ("queue", "type")
OTHERS = ""
"""The name of that part."""
ENDED = ("completed", "failed")
"""Kinds of runs that charts count."""
GO_ON = ("retried", "lost")
"""Kinds of runs whose tasks run again, or are counted as failed, too."""
USUAL_KEPT, USUAL_READ, MOST_USUAL = 300.0, 5, 1_000
"""Seconds for which the usual run time of a type is kept; types that are read by one call; types that are kept."""


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
    parts: dict[str, int] = {}
    """How many completed or failed, by queue or by type, where the chart is split."""


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """What workers did in a span of time."""

    span: str
    begin: int
    """Microseconds UTC: where the span begins, or what is known of it."""
    step: int
    """Seconds of a point."""
    points: list[Point]
    total: Point
    zone: str
    usage: Usage
    """What tasks have used up, by name."""
    before: list[int]
    """How many completed or failed at each point of the span before this one; empty where that is not drawn."""
    by: str = ""
    """Whether the counts are split by ``queue`` or by ``type``."""
    deploys: list[tuple[int, str]] = []
    """When which version of the application first started, in microseconds UTC."""
    types: list[TypeSums] = []
    """Of one queue: the sums of each type, by name."""

    @property
    def empty(self) -> bool:
        """Whether nothing ended."""
        return not self.total.counts

    @property
    def parts(self) -> list[str]:
        """What bars are stacked of: outcomes, or the names of queues or types."""
        return list(self.total.parts if self.by else ENDED)

    def chart(self, what: str) -> Chart:
        """Return the chart of what completed and failed, ``counts``, or of the percentiles of ``run`` or ``wait``."""
        axis: dict[str, Any] = {"begin": self.begin, "step": self.step, "zone": ZoneInfo(self.zone)}
        if what == "counts":
            points = [point.parts if self.by else point.counts for point in self.points]
            return bars(points, self.parts, before=self.before, **axis)
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
        return _ended(self.total.counts)

    @property
    def share(self) -> float | None:
        """The share of these that failed, from 0 to 1; None where none ended."""
        return self.total.counts.get("failed", 0) / self.ended if self.ended else None


class QueueHour(msgspec.Struct, frozen=True):
    """What became of the tasks of one queue in each of the last 60 minutes, the latest one last: not yet complete."""

    out: list[int]
    """How many tasks ended, whatever the outcome."""
    failed: list[int]

    def ended(self, minutes: int) -> int:
        """Return how many tasks ended in the last complete minutes."""
        return sum(self.out[-1 - minutes : -1])


async def deploys(tq: TaskQ, since: int) -> list[tuple[int, str]]:
    """Return the versions of the application that first started at ``since`` or later, and when, the earliest first.

    Instants are in microseconds UTC. Workers tell of their version where there is one; a store without a registry of
    workers knows none.
    """
    registry = tq.queue.backend.workers
    found = [] if registry is None else await registry.versions(tq.queue.clock.now())
    return [(at, version) for at, version in found if at >= since]


def span_of(name: str | None) -> Span:
    """Return the span of that name, else the last hour."""
    return SPANS.get(name or "", SPANS["1h"])


class Past:
    """Reads the history of one task queue; all pages share what has been read."""

    def __init__(self, tq: TaskQ) -> None:
        self._tq = tq
        self._zone = tq.timezone or local_timezone()
        self._kept, self._usual = Kept(tq.queue.clock.now), Kept(tq.queue.clock.now, MOST_USUAL)

    async def activity(
        self, span: str | None, *, queue: str | None = None, type: str | None = None, by: str | None = None
    ) -> Activity:
        """Return the points of a span of time, of one queue or type where that is given, split ``by`` one of SPLITS."""
        found, split = span_of(span), by if by and by in SPLITS else ""

        async def read() -> Activity:
            now, periods = await self._read(found, queue=queue, type=type)
            made = await asyncio.to_thread(_activity, found, now, periods, self._zone, split)
            types = await asyncio.to_thread(_types, found, now, periods) if queue else []
            return msgspec.structs.replace(made, types=types, deploys=await deploys(self._tq, made.begin))

        return await self._kept.get(("activity", found.name, queue, type, split), found.kept, read)

    async def types(self, span: str | None) -> list[TypeSums]:
        """Return the sums of each task type in a span of time, by name."""
        found = span_of(span)

        async def read() -> list[TypeSums]:
            return await asyncio.to_thread(_types, found, *await self._read(found))

        return await self._kept.get(("types", found.name), found.kept, read)

    async def queues(self) -> dict[str, QueueHour]:
        """Return what became of the tasks of each queue in the last hour, by name."""

        async def read() -> dict[str, QueueHour]:
            now, periods = await self._read(SPANS["1h"])
            return await asyncio.to_thread(_queues, _begin(SPANS["1h"], now), periods)

        return await self._kept.get("queues", SPANS["1h"].kept, read)

    async def usual(self, types: Iterable[str]) -> dict[str, float | None]:
        """Return the seconds that 99 of 100 completed runs of each type took in the last day; None for too few runs.

        At most ``USUAL_READ`` types that are not kept are read; further ones are left out, and read by later calls.
        """
        known: list[str] = []
        new: list[str] = []
        for type in types:
            (known if self._usual.has(type, USUAL_KEPT) else new).append(type)
        del new[USUAL_READ:]
        read = await self._parts(self._tq.queue.clock.now() - DAY * SECOND, types=new) if new else []

        async def usual(type: str) -> float | None:
            completed = [each for each in read if each.type == type and each.kind == "completed"]
            if sum(each.n for each in completed) < LEAST_RUNS:
                return None
            found = percentile(added_histograms([each.runs for each in completed]), 99)
            return None if found is None else found / SECOND

        wanted = (*known, *new)
        return {type: await self._usual.get(type, USUAL_KEPT, functools.partial(usual, type)) for type in wanted}

    async def _read(self, span: Span, *, queue: str | None = None, type: str | None = None) -> tuple[int, list[Part]]:
        """Return now and the periods of a span, and of the one before it where that is drawn."""

        async def read() -> tuple[int, list[Part]]:
            now = self._tq.queue.clock.now()
            since = _begin(span, now) - (span.seconds * SECOND if span.before else 0)
            return now, await self._parts(since, queue, None if type is None else (type,), days=span.step == DAY)

        if span.seconds > HOUR or queue or type:  # what is added up is kept
            return await read()
        return await self._kept.get("periods", span.kept, read)

    async def _parts(
        self, since: int, queue: str | None = None, types: Collection[str] | None = None, days: bool = False
    ) -> list[Part]:
        """Read the periods since then; with ``days``, days and no hours where there are both."""
        now = self._tq.queue.clock.now()
        until = now + MINUTE * SECOND
        rows = await self._tq.queue.backend.history.rows(since, until, until if days else hours_from(now))
        return await asyncio.to_thread(parts, rows, queue, types)


def _begin(span: Span, now: int) -> int:
    return begin_of(now, span.step) - (span.seconds - span.step) * SECOND


Sums = Sequence[dict[Any, int]]
"""How many ended by kind of outcome, and the histograms of run times and waits."""


def _sums(periods: Collection[Part]) -> Sums:
    counts: Counter[str] = Counter()
    for period in periods:
        counts[period.kind] += period.n
    runs, waits = [each.runs for each in periods], [each.waits for each in periods]
    return counts, added_histograms(runs), added_histograms(waits)


def _ended(counts: dict[str, int]) -> int:
    return sum(counts.get(kind, 0) for kind in ENDED)


def _point(at: int, sums: Sums, parts: dict[str, int] | None = None) -> Point:
    counts, *histograms = sums
    times = [
        Times(*(None if (found := percentile(each, percent)) is None else found / SECOND for percent in PERCENTS))
        for each in histograms
    ]
    known = {kind: counts[kind] for kind in KINDS if counts.get(kind)}
    return Point(at, known, times[0], times[1], parts or {})


def _activity(span: Span, now: int, periods: Collection[Part], zone: str, by: str) -> Activity:
    earliest = _begin(span, now)
    within = [period for period in periods if period.at >= earliest]
    first = min((period.at for period in periods if period.n), default=earliest)
    begin, step, count = frame(span, first, now)
    points: list[list[Part]] = [[] for _ in range(count)]
    usage: Usage = {}
    for period in within:
        if period.usage:
            usage = summed(usage, period.usage)
        if 0 <= (place := (period.at - begin) // (step * SECOND)) < count:
            points[place].append(period)
    found = [_sums(point) for point in points]
    whole = [sum(map(Counter, each), Counter[Any]()) for each in zip(*found, strict=True)]
    parts = [_count(point, operator.attrgetter(by)) if by else Counter[str]() for point in points]
    whole_parts = sum(parts, Counter[str]())
    names = sorted(name for name, _ in whole_parts.most_common(PARTS))
    before: list[int] = []
    if span.before:
        shifted = begin - span.seconds * SECOND
        counts = _count(periods, lambda period: (period.at - shifted) // (step * SECOND))
        before = [counts[place] for place in range(count)]
    return Activity(
        span=span.name,
        begin=begin,
        step=step,
        points=[
            _point(begin + place * step * SECOND, each, _parts(parts[place], names)) for place, each in enumerate(found)
        ],
        total=_point(begin, whole, _parts(whole_parts, names)),
        zone=zone,
        usage=usage,
        before=before,
        by=by,
    )


def frame(span: Span, first: int, now: int) -> tuple[int, int, int]:
    """Return where a chart begins, the seconds of a point, and how many there are, where ``first`` is the first datum.

    It begins there, or with the span if that is later. Instants in microseconds UTC.
    """
    wanted = max(first, _begin(span, now))
    step = next((each for each in STEPS if each >= span.step and _points(wanted, now, each) <= MOST_POINTS), STEPS[-1])
    count = min(max(LEAST_POINTS, _points(wanted, now, step)), span.seconds // step)
    return begin_of(now, step) - (count - 1) * step * SECOND, step, count


def _points(begin: int, now: int, step: int) -> int:
    return math.ceil((begin_of(now, step) + step * SECOND - begin) / (step * SECOND))


def _count(periods: Iterable[Part], key: Callable[[Part], T]) -> Counter[T]:
    """Return how many completed or failed, by what ``key`` returns."""
    found = Counter[T]()
    for period in periods:
        if period.kind in ENDED:
            found[key(period)] += period.n
    return found


def _parts(counts: Counter[str], names: Collection[str]) -> dict[str, int]:
    """Return the counts of these names, in their order; the others have the last one."""
    found = {name: counts.pop(name, 0) for name in names}
    return found | ({OTHERS: counts.total()} if counts else {})


def _types(span: Span, now: int, periods: Iterable[Part]) -> list[TypeSums]:
    begin = _begin(span, now)
    minutes = max(1.0, (now - begin) / SECOND / MINUTE)
    by_type: dict[str, list[Part]] = {}
    for period in periods:
        if period.at >= begin:
            by_type.setdefault(period.type, []).append(period)
    sums = {name: _point(begin, _sums(found)) for name, found in sorted(by_type.items())}
    return [TypeSums(name, total, _ended(total.counts) / minutes) for name, total in sums.items()]


def _queues(begin: int, periods: Iterable[Part]) -> dict[str, QueueHour]:
    found: dict[str, QueueHour] = {}
    for period in periods:
        ends = period.n and period.kind not in GO_ON
        if ends and 0 <= (place := (period.at - begin) // (MINUTE * SECOND)) < HOUR // MINUTE:
            hour = found.setdefault(period.queue, QueueHour([0] * 60, [0] * 60))
            hour.out[place] += period.n
            hour.failed[place] += period.n if period.kind == "failed" else 0
    return found
