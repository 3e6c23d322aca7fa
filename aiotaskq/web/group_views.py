"""Views of groups: the endpoints, the pages and the command line show the same."""

from __future__ import annotations

from typing import Any

import msgspec

from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import Task
from aiotaskq.runtime.queue.groups import GroupVerbs, progress_of
from aiotaskq.web.hidden import error_type, visible_progress
from aiotaskq.web.schemas.groups import CallbackView, EdgeView, GroupDetail, GroupView, MemberView


def group_view(group: GroupState) -> GroupView:
    """Return the view of a group in a list."""
    return GroupView(**_known(group))


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
    return GroupDetail(**_known(group), callbacks=callbacks, members=members, next=more)


def member_view(member: Member, what: Task | GroupState | None) -> MemberView:
    """Return the view of a member; ``what`` is its task or its group, None if that is gone."""
    view = MemberView(
        task_id=member.member_id,
        position=member.position,
        is_group=member.is_group,
        name=member.name,
        type=None,
        status=None,
        error=None,
        waits=0,
        parents=[],
        children=[],
        started_at=None,
        ended_at=None,
        progress=None,
        usage={},
    )
    if isinstance(what, Task):
        view.type, view.status, view.waits = what.type, what.status, what.waits
        view.error = error_type(what.error_message or what.undecodable)
        if what.flow is not None:
            view.parents = [task_id for task_id, _ in what.flow.parents]
            view.children = [EdgeView(*each) for each in what.flow.children]  # type: ignore[arg-type]
        view.started_at, view.ended_at = to_iso(what.began_at), to_iso(what.ended_at)
        view.progress, view.usage = visible_progress(what.progress, False), what.usage or {}
    elif what is not None:
        view.name = member.name or what.name
        view.type, view.status = "group", what.status
        view.started_at, view.ended_at = to_iso(what.created_at), to_iso(what.ended_at)
        view.progress, view.usage = msgspec.to_builtins(progress_of(what)), what.usage
    return view


def _known(group: GroupState) -> dict[str, Any]:
    known = {name: getattr(group, name) for name in GroupView.__struct_fields__}
    known |= {name: to_iso(known[name]) for name in ("created_at", "ended_at")}
    return known | {"status": str(group.status)}
