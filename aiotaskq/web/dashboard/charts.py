"""Charts over time: bars that are stacked, and lines.

The plot of a chart is an SVG of fixed height that takes the width that there is: its horizontal places are thousandths.
Labels are outside of it, as text is not to be drawn wider or smaller. They are numbers and instants, which a template
writes in the language of its page.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo

import msgspec

from aiotaskq.core.instants import to_datetime
from aiotaskq.core.task import SECOND

WIDTH, HEIGHT = 1000, 140
"""Thousandths of the width of the plot, and pixels of its height."""
GAP = 0.2  # of the width of a point that is left empty between two bars
MOST_LABELS = 5  # of an axis of times
EDGE = 40  # thousandths at both ends without a label of a time, which is centred: it would be cut off
TICK = 20  # pixels of a mark at the lower edge
APART = 13  # pixels between two labels of lines

_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200)
"""Seconds between two labelled values of an axis of durations, from a second to half a day."""
_CLOCKS = (1, 2, 5, 15, 30, 60, 180, 360, 720)
"""Minutes between two labelled times of day."""


class Label(msgspec.Struct, frozen=True):
    """A labelled place of an axis: pixels from the top or thousandths from the left, and the value or instant there."""

    place: float
    value: float


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A drawing: SVG paths by the names of what they show, and the labels of both axes."""

    width: int = WIDTH
    height: int = HEIGHT
    values: list[Label]
    """The largest first: they are as far from each other as the rows of a column of text."""
    times: list[Label]
    """Instants in microseconds UTC."""
    days: bool
    """Whether the instants are midnights."""
    paths: dict[str, str]
    before: str = ""
    """The path of other counts at the same points: those of an earlier span of time, or what came in."""
    ends: dict[str, float] = {}
    """The pixels from the top at which each line is named, behind its end."""
    column: float
    """Thousandths of the plot that are about one point."""


def bars(
    points: Sequence[Mapping[str, int]],
    names: Sequence[str],
    *,
    before: Sequence[float | None] = (),
    begin: int,
    step: int,
    zone: tzinfo,
) -> Chart:
    """Return a chart of counts, one bar for each point, whose parts are stacked in the order of the names.

    ``before`` has other counts at the same points, drawn as a line. The first period begins at ``begin`` in
    microseconds UTC, and each has ``step`` seconds; labels are in the zone.
    """
    sums = [sum(point.get(name, 0) for name in names) for point in points]
    known = [math.ceil(each) for each in before if each is not None]
    top = count_top(max([*sums, *known], default=0))
    width = WIDTH / max(1, len(points))
    paths: dict[str, list[str]] = {name: [] for name in names}
    for place, point in enumerate(points):
        below = 0
        for name in names:
            count = point.get(name, 0)
            if count > 0:
                x, y = (place + GAP / 2) * width, _y(below + count, top)
                paths[name].append(
                    f"M{_text(x)} {_text(y)}h{_text(width * (1 - GAP))}V{_text(_y(below, top))}H{_text(x)}z"
                )
                below += count
    joined = {name: "".join(parts) for name, parts in paths.items()}
    chart = _chart(joined, top, top / 2 if top > 1 else top, len(points), begin, step, zone)
    return msgspec.structs.replace(chart, before=line(before, top) if any(known) else "")


def ticks(counts: Sequence[int]) -> str:
    """Return the path of a mark at the lower edge for each point that counts anything, however little that is."""
    width = WIDTH / max(1, len(counts))
    places = [(place + GAP / 2) * width for place, count in enumerate(counts) if count]
    return "".join(f"M{_text(x)} {HEIGHT - TICK}h{_text(width * (1 - GAP))}V{HEIGHT}H{_text(x)}z" for x in places)


def lines(
    points: Sequence[Mapping[str, float | None]], names: Sequence[str], *, begin: int, step: int, zone: tzinfo
) -> Chart:
    """Return a chart of durations in seconds: one line for each name, which is broken where a point has no value.

    The other arguments are those of ``bars``.
    """
    known = [value for point in points for name in names if (value := point.get(name)) is not None]
    between, top = duration_top(max(known, default=0.0))
    paths, last = dict[str, str](), dict[str, float]()
    for name in names:
        values = [point.get(name) for point in points]
        paths[name] = line(values, top)
        if (end := next((each for each in reversed(values) if each is not None), None)) is not None:
            last[name] = _y(end, top)
    return msgspec.structs.replace(_chart(paths, top, between, len(points), begin, step, zone), ends=placed(last))


def placed(last: Mapping[str, float]) -> dict[str, float]:
    """Return where the ends of lines are named, in pixels from the top: near to them, and apart from each other."""
    found, y = dict[str, float](), HEIGHT + APART / 2
    for name, place in sorted(last.items(), key=lambda item: -item[1]):  # those at the bottom first
        y = found[name] = min(y - APART, place)
    y = -APART / 2
    for name in reversed(list(found)):
        y = found[name] = max(y + APART, found[name])
    return {name: round(place, 1) for name, place in found.items()}


def line(values: Sequence[float | None], top: float) -> str:
    """Return the path of a line through these values: broken where one is not known, a dot where one is alone."""
    width, found, joined = WIDTH / max(1, len(values)), list[str](), False
    for place, value in enumerate(values):
        if value is not None:
            x, y = _text((place + 0.5) * width), _text(_y(max(0.0, value), top))
            alone = not joined and (place + 1 == len(values) or values[place + 1] is None)
            found.append(f"{'L' if joined else 'M'}{x} {y}{'h0.01' if alone else ''}")
        joined = value is not None
    return "".join(found)


def count_top(most: int) -> int:
    """Return the upper end of an axis of counts: 1, 2, 4, 6, 8, 10, 20, 40 and so on, at least ``most``."""
    tops: Iterator[int] = (factor * 10**power for power in itertools.count() for factor in (1, 2, 4, 6, 8))
    return next(top for top in tops if top >= most)


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
    paths: Mapping[str, str],
    top: float,
    between: float,
    count: int,
    begin: int,
    step: int,
    zone: tzinfo,
) -> Chart:
    end = begin + count * step * SECOND
    times, days = time_labels(begin, end, zone) if count else ([], False)
    places = {at: round(WIDTH * (at - begin) / (end - begin), 1) for at in times}
    return Chart(
        values=[
            Label(round(_y(each * between, top), 1), each * between) for each in range(round(top / between), -1, -1)
        ],
        times=[Label(place, at) for at, place in places.items() if EDGE <= place <= WIDTH - EDGE],
        days=days,
        paths=dict(paths),
        column=WIDTH / max(1, count),
    )


def _y(value: float, top: float) -> float:
    return HEIGHT * (1 - min(1.0, value / top))


def _text(pixels: float) -> str:
    return f"{pixels:.2f}".rstrip("0").rstrip(".")
