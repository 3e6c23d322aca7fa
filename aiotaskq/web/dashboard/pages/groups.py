"""Groups, chains and workflows: how far each has come, its members, its drawn graph, and the actions on them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from aiotaskq.operations.groups import group_detail, group_view
from aiotaskq.operations.groups import groups as operations
from aiotaskq.runtime.queue.groups import STATUSES
from aiotaskq.web.dashboard.view import View, action, operated_on, page
from aiotaskq.web.dashboard.words import marked

ROWS = 50
MEMBERS = 300


@page("groups", marked("Groups"), "status", "after")
async def groups(view: View) -> dict[str, Any]:
    """Read one page of groups, the newest first."""
    status = view.text("status")
    wanted = next((each for each in STATUSES if each == status), None)
    found = await view.tq.groups(status=wanted, limit=ROWS + 1, after=view.text("after"))
    more = found[ROWS - 1].group_id if len(found) > ROWS else None
    return {"groups": [group_view(each) for each in found[:ROWS]], "status": wanted or "", "more": more}


@page("group", marked("Group"), "id", "start", "zoom", section="groups")
async def group(view: View) -> dict[str, Any]:
    """Read a group and its members. Raises NotFound."""
    start = view.whole("start", 0, 1_000_000)
    found = await group_detail(view.tq.queue.groups, view.needed("id"), MEMBERS, start)
    tasks = [each for each in found.members if not each.is_group]
    children = {each.task_id: [(edge.task_id, edge.on_failure) for edge in each.children] for each in tasks}
    whole = found.next is None and start == 0
    return {
        "group": found,
        "zoom": zoom_of(view.text("zoom")),
        "changes": await operated_on(view, found.group_id, ("groups",)),
        "drawing": drawing([each.task_id for each in tasks], children) if whole else None,
        "members": {each.task_id: each for each in tasks},
        "can_cancel": found.status == "running",
        "can_retry": found.failed + found.cancelled > 0 and not found.cancel_requested,
        "can_set_budget": bool(found.budget) and found.status == "running",
        "sums": sorted({*found.usage, *found.budget}),
        "budget": msgspec.json.encode(found.budget).decode(),
        "start": start,
    }


action(operations["cancel"], marked("The group {group_id} is cancelled."), asks=True)
action(operations["budget"], marked("The budget of the group {group_id} is set."))
action(operations["retry"], marked("The members of the group {group_id} that did not complete are pending again."))


# ---- the graph of a workflow: columns by the longest way from a task without parents ----

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 168, 36, 56, 14, 8
"""Pixels of a box, and between boxes."""
MOST = 300
"""Tasks of a drawing; larger workflows are shown as a table only."""


ZOOMS = (25, 50, 75, 100, 150, 200)
"""Percent of the size of a drawing."""
FIT = "fit"
"""The zoom that makes a drawing as small as its page, where it is larger."""


def drawing(ids: Sequence[str], children: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, Any] | None:
    """Return a box for each task of a workflow and the lines from parents to children, with their places in pixels.

    None where no task waits for another, and for a workflow of more than ``MOST`` tasks.

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
    return {
        "width": 2 * MARGIN + (max(column.values()) + 1) * (WIDTH + GAP_X) - GAP_X,
        "height": 2 * MARGIN + max(rows.values()) * (HEIGHT + GAP_Y) - GAP_Y,
        "boxes": [{"id": each, "x": at[each][0], "y": at[each][1]} for each in ids],
        "edges": [{"path": _path(at[parent], at[child]), "rule": rule} for parent, child, rule in lines],
    }


def zoom_of(text: str | None) -> tuple[int | None, int | None, int | None]:
    """Return the zoom that an address asks for, and the next smaller and larger ones, in percent.

    The first is None for a drawing that fits its page; a wrong or absent text is the natural size.
    """
    if text == FIT:
        return None, 50, 100
    percent = next((each for each in ZOOMS if str(each) == text), 100)
    smaller = max((each for each in ZOOMS if each < percent), default=None)
    return percent, smaller, min((each for each in ZOOMS if each > percent), default=None)


def _columns(ids: Sequence[str], lines: Sequence[tuple[str, str, str]]) -> dict[str, int]:
    """Return the column of each task: 0 without parents, else one more than the last of its parents."""
    parents: dict[str, list[str]] = {each: [] for each in ids}
    for parent, child, _ in lines:
        parents[child].append(parent)
    column = dict.fromkeys(ids, 0)
    with contextlib.suppress(CycleError):  # stored rows may form a circle; then all are in one column
        for each in TopologicalSorter(parents).static_order():
            column[each] = max((column[parent] + 1 for parent in parents[each]), default=0)
    return column


def _path(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = start[0] + WIDTH, start[1] + HEIGHT // 2
    x2, y2 = end[0], end[1] + HEIGHT // 2
    bend = max(GAP_X // 2, (x2 - x1) // 2)
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
