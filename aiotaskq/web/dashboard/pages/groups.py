"""Groups, chains and workflows: how far each has come, its members, its drawn graph, and the actions on them."""

from __future__ import annotations

import contextlib
from collections import Counter
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
"""Of one page; a workflow of more is not drawn."""


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
    drawn = [each for each in found.members if not each.is_group or each.children]
    children = {each.task_id: [(edge.task_id, edge.on_failure) for edge in each.children] for each in drawn}
    whole = found.next is None and start == 0
    return {
        "group": found,
        "zoom": view.text("zoom") or "",
        "changes": await operated_on(view, found.group_id, ("groups",)),
        "drawing": drawing([each.task_id for each in drawn], children) if whole else None,
        "members": {each.task_id: each for each in found.members},
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


def drawing(ids: Sequence[str], children: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, Any] | None:
    """Return the column and row of each task of a workflow, and the lines from parents to children.

    None where no task waits for another.

    Args:
        ids: its tasks, in the order in which they were added.
        children: by task, the tasks that wait for it, each with the rule for a failure.
    """
    known = set(ids)
    lines = [(parent, child, rule) for parent in ids for child, rule in children.get(parent, ()) if child in known]
    if not lines:
        return None
    column = _columns(ids, lines)
    rows = Counter[int]()
    boxes: dict[str, tuple[int, int]] = {}
    for each in ids:
        boxes[each] = column[each], rows[column[each]]
        rows[column[each]] += 1
    return {"columns": max(rows) + 1, "rows": max(rows.values()), "boxes": boxes, "lines": lines}


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
