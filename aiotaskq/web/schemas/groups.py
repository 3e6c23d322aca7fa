"""The JSON schemas of groups, chains and workflows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from aiotaskq.core.groups import CallbackKind
from aiotaskq.core.task import Status
from aiotaskq.core.validation import INT32
from aiotaskq.operations.fields import MAX_PAGE, Cursor, Limit, Time

GroupStatus = Literal["running", "completed", "failed", "cancelled"]


class GroupQuery(Struct):
    """Which groups are listed."""

    status: list[GroupStatus] | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class MembersQuery(Struct):
    """Which members of a group are shown."""

    limit: Limit = MAX_PAGE
    cursor: Annotated[int, Meta(ge=0, le=INT32, description="`next` of the page before")] = 0


class GroupView(Struct):
    """A group, chain or workflow, and how many of its members have ended."""

    group_id: str
    name: str | None
    status: Annotated[GroupStatus, Meta(description="running until the last member has ended")]
    total: int
    completed: int
    failed: int
    cancelled: Annotated[int, Meta(description="Also those that have expired, or were deleted before their end")]
    remaining: int
    generation: Annotated[int, Meta(description="How often it has ended, from 1, the present time included")]
    parent_id: Annotated[str, Meta(description="The group whose member it is")] | None
    cancel_requested: bool
    usage: Annotated[dict[str, float], Meta(description="What its members have used up, by name")]
    budget: Annotated[dict[str, float], Meta(description="How much they may use up; empty without a budget")]
    used_up: Annotated[bool, Meta(description="Whether its budget is used up, so that no further member starts")]
    created_at: Time | None
    ended_at: Time | None


class GroupPage(Struct):
    """One page of groups, the newest first; ``next`` is the cursor of the page behind, null on the last one."""

    groups: list[GroupView]
    next: str | None


class EdgeView(Struct):
    """A task that waits for another one, and what becomes of it if that one does not complete."""

    task_id: str
    on_failure: Literal["cancel", "fail", "run"]


class MemberView(Struct):
    """A member of a group: a task, or a group with the type ``group``. Type and status are null once it was deleted."""

    task_id: Annotated[str, Meta(description="Of a group its group_id")]
    position: Annotated[int, Meta(description="From 0, in the order of the calls")]
    is_group: bool
    name: Annotated[str, Meta(description="Its name in a workflow, or that of the group")] | None
    type: str | None
    status: Status | None
    error: Annotated[str, Meta(description="The kind of error")] | None
    waits: Annotated[int, Meta(description="For how many of its parents it waits")]
    parents: Annotated[list[str], Meta(description="The tasks for whose end it waits, or has waited")]
    children: Annotated[list[EdgeView], Meta(description="The tasks that wait for its end")]
    started_at: Time | None
    ended_at: Time | None
    progress: Annotated[dict[str, Any], Meta(description="Of a group the numbers of its members")] | None
    usage: Annotated[dict[str, float], Meta(description="What it has used up, by name")]


class CallbackView(Struct):
    """A task that a group pushes at its end."""

    kind: Annotated[
        CallbackKind,
        Meta(description="Pushed when all members have completed; when all have ended, and not all have completed"),
    ]
    type: str
    task_id: Annotated[str, Meta(description="Null if it is not pushed")] | None
    status: Status | None


class GroupDetail(GroupView):
    """A group and one page of its members, in their order; ``next`` is the cursor of the page behind."""

    callbacks: list[CallbackView]
    members: list[MemberView]
    next: int | None


class NewBudget(Struct, forbid_unknown_fields=True):
    """Another budget of a group."""

    budget: Annotated[dict[str, int | float], Meta(description="By name; a name that is left out has no bound")]


class MembersRetried(Struct):
    """How many members of a group, and of the groups in it, are pending again."""

    group_id: str
    retried: int


class Mended(Struct):
    """How many counts were wrong."""

    mended: int
