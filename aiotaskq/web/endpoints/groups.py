"""Operations on groups, chains and workflows: list, show, cancel, retry, mend."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.validation import MAX_ID, check_key
from aiotaskq.errors import TaskConflict
from aiotaskq.log import printable
from aiotaskq.operations.fields import MAX_PAGE
from aiotaskq.web.endpoint import ApiResponse, Call, Endpoints, Success, respond
from aiotaskq.web.schemas.groups import (
    GroupDetail,
    GroupPage,
    GroupQuery,
    GroupView,
    MembersQuery,
    MembersRetried,
    Mended,
    NewBudget,
)
from aiotaskq.web.views import group_detail, group_view

groups = Endpoints("aiotaskq groups")

ID = "019ab0a4-6f00-7c3a-9d2e-3f6f3f8a2b11"
CHARGE = "019ab0a4-6f00-7c3a-9d2e-3f6f3f8a2b12"
SEND = "019ab0a4-6f00-7c3a-9d2e-3f6f3f8a2b13"
VIEW: dict[str, Any] = {
    "group_id": ID,
    "name": "order 1",
    "status": "failed",
    "total": 2,
    "completed": 0,
    "failed": 1,
    "cancelled": 1,
    "remaining": 0,
    "generation": 1,
    "parent_id": None,
    "cancel_requested": False,
    "usage": {"tokens": 1200, "cost": 0.018},
    "budget": {"tokens": 1000000},
    "used_up": False,
    "created_at": "2026-01-31T08:00:00Z",
    "ended_at": "2026-01-31T08:00:15Z",
}
MEMBERS: list[dict[str, Any]] = [
    {
        "task_id": CHARGE,
        "position": 0,
        "is_group": False,
        "name": "charge",
        "type": "charge",
        "status": "failed",
        "error": "ConnectionError",
        "waits": 0,
        "parents": [],
        "children": [{"task_id": SEND, "on_failure": "cancel"}],
        "started_at": "2026-01-31T08:00:14Z",
        "ended_at": "2026-01-31T08:00:15Z",
        "progress": None,
        "usage": {"tokens": 1200, "cost": 0.018},
    },
    {
        "task_id": SEND,
        "position": 1,
        "is_group": False,
        "name": "send",
        "type": "send",
        "status": "cancelled",
        "error": "not started",
        "waits": 1,
        "parents": [CHARGE],
        "children": [],
        "started_at": None,
        "ended_at": "2026-01-31T08:00:15Z",
        "progress": None,
        "usage": {},
    },
]
SHOWN = VIEW | {
    "callbacks": [{"kind": "then", "type": "mail_receipt", "task_id": None, "status": None}],
    "members": MEMBERS,
    "next": None,
}


def _id(call: Call) -> str:
    return check_key("group_id", call.path["group_id"], MAX_ID)


@groups(
    "GET",
    "/groups",
    Success(200, "One page, the newest first", GroupPage, {"groups": [VIEW], "next": ID}),
    query=GroupQuery,
    problems=(404,),
)
async def list_groups(call: Call) -> ApiResponse:
    """List groups, chains and workflows, the newest first.

    `cursor` takes the `next` of the page before; 404 if that group has been deleted since.
    """
    query: GroupQuery = call.query
    limit = min(query.limit, MAX_PAGE)
    after = None if query.cursor is None else check_key("cursor", query.cursor, MAX_ID)
    found = await call.tq.groups(status=query.status or None, limit=limit + 1, after=after)
    more = found[limit - 1].group_id if len(found) > limit else None
    return respond(GroupPage([group_view(each) for each in found[:limit]], more))


@groups(
    "POST",
    "/groups/mend",
    Success(200, "Counted anew", Mended, {"mended": 0}),
)
async def mend_groups(call: Call) -> ApiResponse:
    """Count anew what remains of each group, after rows were deleted by SQL.

    What ends by it ends as if the deleted tasks had been cancelled.
    """
    mended = await call.tq.queue.groups.mend()
    call.many(mended)
    return respond(Mended(mended))


@groups(
    "GET",
    "/groups/{group_id}",
    Success(200, "The group and a page of its members", GroupDetail, SHOWN),
    query=MembersQuery,
)
async def show_group(call: Call) -> ApiResponse:
    """Show a group, and its members with their states and the edges between them.

    `cursor` takes the `next` of the page before.
    """
    query: MembersQuery = call.query
    limit = min(query.limit, MAX_PAGE)
    return respond(await group_detail(call.tq.queue.groups, _id(call), limit, query.cursor))


@groups(
    "POST",
    "/groups/{group_id}/cancel",
    Success(
        200,
        "Cancelled; members that run are asked to stop",
        GroupView,
        VIEW | {"status": "running", "failed": 0, "remaining": 1, "cancel_requested": True, "ended_at": None},
    ),
    problems=(409,),
)
async def cancel_group(call: Call) -> ApiResponse:
    """Cancel the members that wait, and ask those that run to stop; 409 if the group has ended."""
    group_id = _id(call)
    cancelled = await call.tq.queue.groups.cancel(group_id)
    group = await call.tq.queue.groups.get(group_id)
    if not cancelled:
        raise TaskConflict(f"group {printable(group_id)} has ended already: {group.status}")
    return respond(group_view(group))


@groups(
    "POST",
    "/groups/{group_id}/budget",
    Success(200, "The group with its new budget", GroupView, VIEW | {"status": "running", "ended_at": None}),
    body=NewBudget,
    example={"budget": {"tokens": 2_000_000}},
    problems=(409,),
)
async def set_budget(call: Call) -> ApiResponse:
    """Give a group another budget; its members go on if that is not used up. 409 if it was pushed without one."""
    body: NewBudget = call.body
    return respond(group_view(await call.tq.queue.groups.set_budget(_id(call), body.budget)))


@groups(
    "POST",
    "/groups/{group_id}/retry",
    Success(200, "How many are pending again", MembersRetried, {"group_id": ID, "retried": 2}),
)
async def retry_group(call: Call) -> ApiResponse:
    """Put back the members that failed, were cancelled or have expired; they wait for each other as before.

    When all have ended, the group pushes its callback again.
    """
    group_id = _id(call)
    return respond(MembersRetried(group_id, await call.tq.queue.groups.retry_failed(group_id)))
