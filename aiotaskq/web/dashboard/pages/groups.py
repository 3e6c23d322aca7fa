"""Groups, chains and workflows: how far each has come, its members, its drawn graph, and the actions on them."""

from __future__ import annotations

from typing import Any

import msgspec

from aiotaskq.operations.groups import group_detail, group_view
from aiotaskq.operations.groups import groups as operations
from aiotaskq.runtime.queue.groups import STATUSES
from aiotaskq.web.dashboard.door import action
from aiotaskq.web.dashboard.fields import json_of
from aiotaskq.web.dashboard.graph import drawing, zoom_of
from aiotaskq.web.dashboard.view import Change, View, link, operated_on, pages
from aiotaskq.web.dashboard.words import marked

ROWS = 50
MEMBERS = 300


@pages("groups", marked("Groups"), "status", "after")
async def groups(view: View) -> dict[str, Any]:
    """Read one page of groups, the newest first."""
    status = view.text("status")
    wanted = next((each for each in STATUSES if each == status), None)
    found = await view.tq.groups(status=wanted, limit=ROWS + 1, after=view.text("after"))
    more = found[ROWS - 1].group_id if len(found) > ROWS else None
    return {"groups": [group_view(each) for each in found[:ROWS]], "status": wanted or "", "more": more}


@pages("group", marked("Group"), "id", "start", "zoom", section="groups")
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


def _page(_: Change, group_id: str) -> str:
    return link("group", id=group_id)


def _budget(change: Change) -> dict[str, object]:
    return {"group_id": change.needed("group_id"), "budget": json_of("budget", change.needed("budget"))}


action(
    operations["cancel"],
    _page,
    marked("The group {group_id} is cancelled."),
    question=marked(
        "Cancel the group {group_id}? Its members that have not ended are cancelled, and it pushes no callback."
    ),
    button=marked("Cancel the group"),
)
action(operations["budget"], _page, marked("The budget of the group {group_id} is set."), values=_budget)
action(
    operations["retry"], _page, marked("The members of the group {group_id} that did not complete are pending again.")
)
