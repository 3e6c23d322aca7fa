"""Places of the tasks of a workflow in its drawing: columns by the longest way from a task without parents. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 168, 36, 56, 14, 8
"""Pixels of a box, and between boxes."""
MOST = 300
"""Tasks of a drawing; larger workflows are shown as a table only."""


ZOOMS = (25, 50, 75, 100, 150, 200)
"""Percent of the size of a drawing."""
FIT = "fit"
"""The zoom that makes a drawing as small as its page, where it is larger."""


class Zoom(msgspec.Struct, frozen=True):
    """The size in which a drawing is shown, and those of its buttons."""

    percent: int | None
    """None where it fits its page."""
    smaller: int | None
    """The next smaller size in percent; None where there is none."""
    larger: int | None


class Box(msgspec.Struct, frozen=True):
    """One task; ``x`` and ``y`` of its upper left corner, in pixels."""

    id: str
    x: int
    y: int


class Edge(msgspec.Struct, frozen=True):
    """A line from a parent to a child, as the path of an SVG."""

    path: str
    rule: str


class Drawing(msgspec.Struct, frozen=True):
    """Boxes and lines, and the size of the whole in pixels."""

    width: int
    height: int
    boxes: list[Box]
    edges: list[Edge]


def drawing(ids: Sequence[str], children: Mapping[str, Sequence[tuple[str, str]]]) -> Drawing | None:
    """Return the drawing of a workflow; None where no task waits for another, and for one of more than ``MOST`` tasks.

    Args:
        ids: its tasks, in the order in which they were added.
        children: by task, the tasks that wait for it, each with the rule for a failure.
    """
    known = set(ids)
    lines = [(parent, child, rule) for parent in ids for child, rule in children.get(parent, ()) if child in known]
    if not lines or len(ids) > MOST:
        return None
    column = _columns(ids, lines)
    rows: dict[int, int] = {}
    at: dict[str, tuple[int, int]] = {}
    for each in ids:
        place = column[each]
        row = rows.get(place, 0)
        rows[place] = row + 1
        at[each] = MARGIN + place * (WIDTH + GAP_X), MARGIN + row * (HEIGHT + GAP_Y)
    return Drawing(
        width=2 * MARGIN + (max(column.values()) + 1) * (WIDTH + GAP_X) - GAP_X,
        height=2 * MARGIN + max(rows.values()) * (HEIGHT + GAP_Y) - GAP_Y,
        boxes=[Box(each, *at[each]) for each in ids],
        edges=[Edge(_path(at[parent], at[child]), rule) for parent, child, rule in lines],
    )


def zoom_of(text: str | None) -> Zoom:
    """Return the zoom that an address asks for; a wrong or absent one is the natural size."""
    if text == FIT:
        return Zoom(None, 50, 100)
    known = {str(each): place for place, each in enumerate(ZOOMS)}
    place = known.get(text or "", ZOOMS.index(100))
    smaller = ZOOMS[place - 1] if place else None
    return Zoom(ZOOMS[place], smaller, ZOOMS[place + 1] if place + 1 < len(ZOOMS) else None)


def _columns(ids: Sequence[str], lines: Sequence[tuple[str, str, str]]) -> dict[str, int]:
    """Return the column of each task: 0 without parents, else one more than the last of its parents."""
    below: dict[str, list[str]] = {}
    waits = dict.fromkeys(ids, 0)
    for parent, child, _ in lines:
        below.setdefault(parent, []).append(child)
        waits[child] += 1
    column = dict.fromkeys(ids, 0)
    free = [each for each in ids if not waits[each]]
    for each in free:  # it grows: stored rows may form a circle, whose tasks stay in column 0
        for child in below.get(each, ()):
            column[child] = max(column[child], column[each] + 1)
            waits[child] -= 1
            if not waits[child]:
                free.append(child)
    return column


def _path(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + WIDTH, start[1] + HEIGHT // 2
    x2, y2 = end[0], end[1] + HEIGHT // 2
    bend = max(GAP_X // 2, (x2 - x1) // 2)
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
