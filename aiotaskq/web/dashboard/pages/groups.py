"""Groups, chains and workflows: how far each has come, its members, its drawn graph, and the actions on them."""

from __future__ import annotations

import msgspec

from aiotaskq.errors import ValidationError
from aiotaskq.web.dashboard.graph import Drawing, Zoom, drawing, zoom_of
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, View, actions, link, operated_on, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas.groups import GroupDetail, GroupView, MemberView
from aiotaskq.web.views import group_detail, group_view

ROWS = 50
MEMBERS = 300
STATES = ("running", "completed", "failed", "cancelled")


class GroupRows(msgspec.Struct):
    """The data of the page."""

    groups: list[GroupView]
    status: str
    """The filter; empty where it is not set."""
    more: str | None
    """The id of the last group where there are more behind it."""


@pages("groups", marked("Groups"), "status", "after")
async def groups(view: View) -> GroupRows:
    """Read one page of groups, the newest first."""
    status = view.text("status")
    wanted = status if status in STATES else None
    found = await view.tq.groups(status=wanted, limit=ROWS + 1, after=view.text("after"))
    more = found[ROWS - 1].group_id if len(found) > ROWS else None
    return GroupRows([group_view(each) for each in found[:ROWS]], wanted or "", more)


class GroupPageData(msgspec.Struct, kw_only=True):
    """The data of one group's page."""

    group: GroupDetail
    drawing: Drawing | None
    """Of a graph; None where no member waits for another."""
    members: dict[str, MemberView]
    """By id, for the drawing."""
    can_cancel: bool
    can_retry: bool
    can_set_budget: bool
    sums: list[str]
    """The names of what is used up, or has a budget."""
    budget: str
    """The budget as JSON."""
    start: int
    """The place of the first member shown."""
    zoom: Zoom
    changes: list[Operated]
    """What operators did with it, the latest first."""


@pages("group", marked("Group"), "id", "start", "zoom", section="groups")
async def group(view: View) -> GroupPageData:
    """Read a group and its members. Raises NotFound."""
    start = view.whole("start", 0, 1_000_000)
    found = await group_detail(view.tq.queue.groups, view.needed("id"), MEMBERS, start)
    tasks = [each for each in found.members if not each.is_group]
    children = {each.task_id: [(edge.task_id, edge.on_failure) for edge in each.children] for each in tasks}
    whole = found.next is None and start == 0
    return GroupPageData(
        group=found,
        zoom=zoom_of(view.text("zoom")),
        changes=await operated_on(view, found.group_id, ("group",)),
        drawing=drawing([each.task_id for each in tasks], children) if whole else None,
        members={each.task_id: each for each in tasks},
        can_cancel=found.status == "running",
        can_retry=found.failed + found.cancelled > 0 and not found.cancel_requested,
        can_set_budget=bool(found.budget) and found.status == "running",
        sums=sorted({*found.usage, *found.budget}),
        budget=msgspec.json.encode(found.budget).decode(),
        start=start,
    )


@actions("cancel-group")
async def cancel(change: Change) -> Question | Done:
    """Cancel the members that have not ended."""
    group_id = change.needed("id")
    if not change.sure:
        left = (await change.tq.queue.groups.get(group_id)).remaining
        text = marked("Cancel the group {id}? {count} of its members have not ended; its callback is not pushed.")
        return Question(text, {"id": group_id, "count": left}, marked("Cancel the group"), link("group", id=group_id))
    if await change.tq.group_handle(group_id).cancel():
        said = Message(marked("The group {id} is cancelled."), {"id": group_id})
    else:
        said = Message(marked("The group {id} has ended already."), {"id": group_id}, problem=True)
    return Done(said, link("group", id=group_id), (group_id,))


@actions("set-budget")
async def set_budget(change: Change) -> Done:
    """Give a group another budget."""
    group_id = change.needed("id")
    try:
        budget = msgspec.json.decode(change.needed("budget"))
    except msgspec.DecodeError:
        raise ValidationError("budget: a JSON object of names and numbers is needed") from None
    group = await change.tq.queue.groups.set_budget(group_id, budget)
    text = marked("The budget of the group {id} is set, and is used up already.")
    if not group.used_up:
        text = marked("The budget of the group {id} is set; its members go on.")
    return Done(Message(text, {"id": group_id}), link("group", id=group_id), (group_id,))


@actions("retry-group")
async def retry(change: Change) -> Done:
    """Put back the members that did not complete."""
    group_id = change.needed("id")
    count = await change.tq.group_handle(group_id).retry_failed()
    said = Message(marked("{count} members of the group {id} are pending again."), {"id": group_id, "count": count})
    return Done(said, link("group", id=group_id), (group_id,))
