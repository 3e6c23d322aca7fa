"""Operations on groups, chains and workflows: list, get, cancel, set the budget, retry, mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Struct, structs, to_builtins

from aiotaskq.core.coded import problem_of
from aiotaskq.core.conversion import error_type
from aiotaskq.core.errors import INT32, MAX_ID, check_key
from aiotaskq.core.groups import CallbackKind, GroupState, Member
from aiotaskq.core.instants import to_iso
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.errors import NotFound, TaskConflict
from aiotaskq.log import printable
from aiotaskq.operations.fields import MAX_PAGE, Cursor, Id, Limit, Time, about, view_of
from aiotaskq.operations.hidden import visible_progress
from aiotaskq.operations.table import LISTED, Access, Operations, only
from aiotaskq.runtime.queue.groups import GroupVerbs, progress_of

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ


async def find(tq: TaskQ, text: str) -> str:
    """Return the id of the group that has this id, or of the only one whose id begins so."""
    known = tq.queue.backend.groups
    if (await known.get([text]))[0] is not None:
        return text
    return only(text, await known.ids_with_prefix(text, LISTED + 1))


groups = Operations("groups", find)
GroupStatus = Literal["running", "completed", "failed", "cancelled"]
GroupId = Annotated[Id, about("The id of a group")]


class Listed(Struct, forbid_unknown_fields=True):
    """Which groups are listed."""

    status: Annotated[list[GroupStatus], about("Only groups of these states")] = []
    limit: Limit = 100
    cursor: Cursor | None = None


class GroupView(Struct):
    """A group, chain or workflow, and how many of its members have ended."""

    group_id: str
    name: str | None
    status: Annotated[GroupStatus, about("running until the last member has ended")]
    total: int
    completed: int
    failed: int
    cancelled: Annotated[int, about("Also those that have expired, or were deleted before their end")]
    remaining: int
    generation: Annotated[int, about("How often it has ended, from 1, the present time included")]
    parent_id: Annotated[str, about("The group whose member it is")] | None
    cancel_requested: bool
    usage: Annotated[dict[str, float], about("What its members have used up, by name")]
    budget: Annotated[dict[str, float], about("How much they may use up; empty without a budget")]
    used_up: Annotated[bool, about("Whether its budget is used up, so that no further member starts")]
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

    task_id: Annotated[str, about("Of a group its group_id")]
    position: Annotated[int, about("From 0, in the order of the calls")]
    is_group: bool
    name: Annotated[str, about("Its name in a workflow, or that of the group")] | None
    type: str | None
    status: Status | None
    error: Annotated[str, about("The kind of error")] | None
    waits: Annotated[int, about("For how many of its parents it waits")]
    parents: Annotated[list[str], about("The tasks and groups for whose end it waits, or has waited")]
    children: Annotated[list[EdgeView], about("The tasks that wait for its end")]
    started_at: Time | None
    ended_at: Time | None
    progress: Annotated[dict[str, Any], about("Of a group the numbers of its members")] | None
    usage: Annotated[dict[str, float], about("What it has used up, by name")]


class CallbackView(Struct):
    """A task that a group pushes at its end."""

    kind: Annotated[
        CallbackKind,
        about("Pushed when all members have completed; when all have ended, and not all have completed"),
    ]
    type: str
    task_id: Annotated[str, about("Null if it is not pushed")] | None
    status: Status | None


class GroupDetail(GroupView):
    """A group and one page of its members, in their order; ``next`` is the cursor of the page behind."""

    callbacks: list[CallbackView]
    members: list[MemberView]
    next: int | None


class MembersRetried(Struct):
    """How many members of a group, and of the groups in it, are pending again."""

    group_id: str
    retried: int


class Mended(Struct):
    """How many counts were wrong."""

    mended: int


@groups(raises=(NotFound,))
async def list_(access: Access, given: Listed) -> GroupPage:
    """List groups, chains and workflows, the newest first."""
    limit = min(given.limit, MAX_PAGE)
    after = None if given.cursor is None else check_key("cursor", given.cursor, MAX_ID)
    found = await access.tq.groups(status=given.status or None, limit=limit + 1, after=after)
    more = found[limit - 1].group_id if len(found) > limit else None
    return GroupPage([group_view(each) for each in found[:limit]], more)


@groups(thing="group_id")
async def get(
    access: Access,
    group_id: GroupId,
    limit: Limit = MAX_PAGE,
    cursor: Annotated[int, about("`next` of the page before", ge=0, le=INT32)] = 0,
) -> GroupDetail:
    """Show a group, and its members with their states and the edges between them."""
    return await group_detail(access.tq.queue.groups, _id(group_id), min(limit, MAX_PAGE), cursor)


@groups(changes=True, thing="group_id", raises=(TaskConflict,))
async def cancel(access: Access, group_id: GroupId) -> GroupView:
    """Cancel the members of a group that wait, and ask those that run to stop; a conflict if it has ended."""
    if cancelled := await access.tq.queue.groups.cancel(_id(group_id)):
        access.changed.append(group_id)
    group = await access.tq.queue.groups.get(group_id)
    if not cancelled:
        raise TaskConflict(f"group {printable(group_id)} has ended already: {group.status}")
    return group_view(group)


@groups(changes=True, thing="group_id", raises=(TaskConflict,))
async def budget(
    access: Access,
    group_id: GroupId,
    budget: Annotated[dict[str, int | float], about("By name; a name that is left out has no bound")],
) -> GroupView:
    """Give a group another budget, as tokens=2000000; its tasks go on if that is not used up.

    A conflict if it was pushed without one.
    """
    return group_view(await access.tq.queue.groups.set_budget(_id(group_id), budget))


@groups(changes=True, thing="group_id", may_change_nothing=True)
async def retry(access: Access, group_id: GroupId) -> MembersRetried:
    """Put back the members of a group that did not complete; they wait for each other as before.

    When all have ended, the group pushes its callback again.
    """
    retried = await access.tq.queue.groups.retry_failed(_id(group_id))
    access.changed.extend([group_id] if retried else [])
    return MembersRetried(group_id, retried)


@groups(changes=True)
async def mend(access: Access) -> Mended:
    """Count anew what remains of each group, after rows were deleted by SQL.

    What ends by it ends as if the deleted tasks had been cancelled.
    """
    mended = await access.tq.queue.backend.groups.mend(access.tq.queue.clock.now())
    access.changed.append(f"count: {mended}")
    return Mended(mended)


def _id(group_id: str) -> str:
    return check_key("group_id", group_id, MAX_ID)


def group_view(group: GroupState) -> GroupView:
    return view_of(GroupView, group, status=str(group.status))


async def group_detail(verbs: GroupVerbs, group_id: str, limit: int, start: int = 0) -> GroupDetail:
    """Return a group and up to ``limit`` members from a place on, with the edges of its graph. Raises NotFound."""
    group = await verbs.get(group_id)
    found = await verbs.page(group_id, limit + 1, start)
    more = found[limit][0].position if len(found) > limit else None
    callbacks = [
        CallbackView(kind, task.type, *((None, None) if pushed is None else (pushed.task_id, pushed.status)))
        for kind, task, pushed in await verbs.callbacks(group)
    ]
    members = [member_view(*each) for each in found[:limit]]
    return GroupDetail(**structs.asdict(group_view(group)), callbacks=callbacks, members=members, next=more)


def member_view(member: Member, what: Task | GroupState | None) -> MemberView:
    """Return the view of a member; ``what`` is its task or its group, None if that is gone."""
    unknown = dict.fromkeys(("type", "status", "error", "started_at", "ended_at", "progress"))
    beside: dict[str, Any] = {"waits": 0, "parents": [], "children": [], "usage": {}}
    view = view_of(MemberView, member, task_id=member.member_id, **unknown, **beside)
    if isinstance(what, Task):
        view.type, view.status, view.waits = what.type, what.status, what.waits
        view.error = error_type(problem_of(what))
        if what.flow is not None:
            view.parents = [task_id for task_id, _ in what.flow.parents]
            view.children = [EdgeView(*each) for each in what.flow.children]  # type: ignore[arg-type]
        view.started_at, view.ended_at = to_iso(what.began_at), to_iso(what.ended_at)
        view.progress, view.usage = visible_progress(what.progress, False), what.usage or {}
    elif what is not None:
        view.name = member.name or what.name
        view.type, view.status = "group", what.status
        view.started_at, view.ended_at = to_iso(what.created_at), to_iso(what.ended_at)
        view.progress, view.usage = to_builtins(progress_of(what)), what.usage
        view.children = [EdgeView(*each) for each in what.children]  # type: ignore[arg-type]
    return view
