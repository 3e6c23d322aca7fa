"""Places of points, axes and labels in charts over time: bars that are stacked, and lines. Pure.

Each chart has one size, in pixels; its SVG is scaled. Labels are numbers and instants, which a template writes in the
language of its page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo

import msgspec

from aiotaskq.core.instants import to_datetime
from aiotaskq.core.task import SECOND

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


class Column(msgspec.Struct, frozen=True):
    """The part of the plot that is about one point."""

    x: float
    width: float
    point: int


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
    columns: list[Column]


def bars(points: Sequence[Mapping[str, int]], names: Sequence[str], *, begin: int, step: int, zone: tzinfo) -> Chart:
    """Return a chart of counts, one bar for each point, whose parts are stacked in the order of the names.

    Args:
        points: the counts of each period.
        names: which of them are drawn.
        begin: when the first period begins, in microseconds UTC.
        step: seconds of a period.
        zone: the time zone of the labels.
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
    width = PLOT_WIDTH / max(1, count)
    return Chart(
        values=[Label(round(_y(each * between, top), 1), each * between) for each in range(round(top / between) + 1)],
        times=[
            Label(round(LEFT + PLOT_WIDTH * (at - begin) / (end - begin), 1), at)
            for at in times
            if LEFT + PLOT_WIDTH * (at - begin) / (end - begin) <= WIDTH - 20
        ],
        days=days,
        paths={name: "".join(parts) for name, parts in paths.items()},
        columns=[Column(round(LEFT + place * width, 2), round(width, 2), place) for place in range(count)],
    )


def _y(value: float, top: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - min(1.0, value / top))


def _text(pixels: float) -> str:
    return f"{pixels:.2f}".rstrip("0").rstrip(".")
