"""``aiotaskq groups``: lists, shows, cancels, retries and mends groups, chains and workflows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, group
from aiotaskq.cli.output import echo, echo_json, echo_table
from aiotaskq.cli.store_access import with_tq
from aiotaskq.core.groups import GroupState
from aiotaskq.log import printable
from aiotaskq.runtime.queue.groups import progress_of

app = group()
GROUP_ID, NAME, STATUS, TOTAL, COMPLETED = map(marked, ("GROUP_ID", "NAME", "STATUS", "TOTAL", "COMPLETED"))
FAILED, CANCELLED, TASK_ID, TYPE = map(marked, ("FAILED", "CANCELLED", "TASK_ID", "TYPE"))
GroupId = Annotated[str, typer.Argument(metavar="GROUP_ID", show_default=True)]


@app.command("list", cls=Command, help=tr("List the latest 100 groups, chains and workflows."))
def list_groups(db: Db = DEFAULT_DB, json: Json = False) -> None:
    found = with_tq(db, lambda tq: tq.groups())
    if json:
        echo_json([_as_dict(each) for each in found])
        return
    if not found:
        echo(tr("no groups"))
        return
    rows = [
        [each.group_id, each.name or "", str(each.status), each.total, each.completed, each.failed, each.cancelled]
        for each in found
    ]
    echo_table(columns_of([GROUP_ID, NAME, STATUS, TOTAL, COMPLETED, FAILED, CANCELLED], rows, name=10))


@app.command("show", cls=Command, help=tr("Show a group and its members."))
def show(group_id: GroupId, db: Db = DEFAULT_DB, json: Json = False) -> None:
    found, members = with_tq(db, lambda tq: _with_members(tq, group_id))
    if json:
        echo_json({**_as_dict(found), "members": members})
        return
    progress = progress_of(found)
    echo(
        tr(
            "group {group} is {status}: {completed} of {total} completed, {failed} failed, {cancelled} cancelled",
            group=printable(group_id),
            status=str(found.status),
            completed=progress.completed,
            total=progress.total,
            failed=progress.failed,
            cancelled=progress.cancelled,
        )
    )
    if members:
        rows = [[each["task_id"], each["name"] or "", each["type"], each["status"]] for each in members]
        echo_table(columns_of([TASK_ID, NAME, TYPE, STATUS], rows, name=10, type=12))


@app.command("cancel", cls=Command, help=tr("Cancel the tasks of a group that have not ended."))
def cancel(group_id: GroupId, db: Db = DEFAULT_DB, json: Json = False) -> None:
    done = with_tq(db, lambda tq: tq.group_handle(group_id).cancel())
    if json:
        echo_json({"group_id": group_id, "cancelled": done})
    elif done:
        echo(tr("group {group} is cancelled", group=printable(group_id)))
    else:
        echo(tr("group {group} has ended already", group=printable(group_id)))


@app.command("retry", cls=Command, help=tr("Put back the tasks of a group that did not complete."))
def retry(group_id: GroupId, db: Db = DEFAULT_DB, json: Json = False) -> None:
    count = with_tq(db, lambda tq: tq.group_handle(group_id).retry_failed())
    if json:
        echo_json({"group_id": group_id, "retried": count})
    else:
        echo(tr("tasks put back: {count}", count=count))


@app.command("mend", cls=Command, help=tr("Count anew what remains of each group, after rows were deleted by SQL."))
def mend(db: Db = DEFAULT_DB, json: Json = False) -> None:
    count = with_tq(db, _mend)
    if json:
        echo_json({"mended": count})
    else:
        echo(tr("counts mended: {count}", count=count))


async def _mend(tq: TaskQ) -> int:
    return await tq.queue.backend.groups.mend(tq.queue.clock.now())


async def _with_members(tq: TaskQ, group_id: str) -> tuple[GroupState, list[dict[str, Any]]]:
    found = await tq.queue.groups.get(group_id)
    members = await tq.queue.groups.outcomes(group_id)
    return found, [
        {"task_id": each.task_id, "name": each.name, "type": each.type, "status": str(each.status), "error": each.error}
        for each in members
    ]


def _as_dict(found: GroupState) -> dict[str, Any]:
    return {
        "group_id": found.group_id,
        "name": found.name,
        "status": str(found.status),
        "total": found.total,
        "completed": found.completed,
        "failed": found.failed,
        "cancelled": found.cancelled,
        "remaining": found.remaining,
        "parent_id": found.parent_id,
        "cancel_requested": found.cancel_requested,
        "created_at": found.created_at,
        "ended_at": found.ended_at,
    }
