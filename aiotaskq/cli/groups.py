"""``aiotaskq groups``: lists, shows, cancels, retries and mends groups, chains and workflows."""

from __future__ import annotations

import contextlib
from typing import Annotated

import msgspec
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import names
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.ids import group_id_of
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, group, option
from aiotaskq.cli.output import echo, echo_json, echo_table, json_text
from aiotaskq.cli.store_access import noted, with_tq
from aiotaskq.core.groups import GroupState
from aiotaskq.log import printable
from aiotaskq.runtime.queue.groups import PAGE, STATUSES
from aiotaskq.web.schemas.groups import GroupDetail, MemberView
from aiotaskq.web.views import group_detail, group_view

app = group()
GROUP_ID, NAME, STATUS, TOTAL, COMPLETED = map(marked, ("GROUP_ID", "NAME", "STATUS", "TOTAL", "COMPLETED"))
FAILED, CANCELLED, TASK_ID, TYPE = map(marked, ("FAILED", "CANCELLED", "TASK_ID", "TYPE"))
GroupId = Annotated[
    str, typer.Argument(metavar="GROUP_ID", help=tr("A group id, or the beginning of one."), show_default=False)
]


@app.command("list", cls=Command, help=tr("List groups, chains and workflows, newest first."))
def list_groups(
    db: Db = DEFAULT_DB,
    status: Annotated[
        list[str] | None,
        option(
            "--status",
            metavar="STATUS",
            help=tr("running, completed, failed or cancelled; may be repeated."),
            autocompletion=names.words(STATUSES),
        ),
    ] = None,
    limit: Annotated[int, option(min=1, max=99_999, metavar="N", help=tr("Maximum number of groups."))] = 20,
    after: Annotated[str | None, option(metavar="GROUP_ID", help=tr("Continue the list after this group."))] = None,
    json: Json = False,
) -> None:
    async def work(tq: TaskQ) -> list[GroupState]:
        last = None if after is None else await group_id_of(tq, after)
        return await tq.groups(status=status or None, limit=limit + 1, after=last)

    found = with_tq(db, work)
    more, found = len(found) > limit, found[:limit]
    if json:
        echo_json([msgspec.to_builtins(group_view(each)) for each in found])
        return
    if not found:
        echo(tr("no groups"))
        return
    rows = [
        [
            *(each.group_id, each.name or "", str(each.status), each.total, each.completed, each.failed),
            *(each.cancelled, _budget(each)),
        ]
        for each in found
    ]
    headers = [GROUP_ID, NAME, STATUS, TOTAL, COMPLETED, FAILED, CANCELLED, marked("BUDGET")]
    shown = len(headers) if any(row[-1] for row in rows) else len(headers) - 1
    echo_table(columns_of(headers[:shown], [row[:shown] for row in rows], name=10, budget=10))
    if more:
        echo(tr("more groups: --after {group_id}", group_id=printable(found[-1].group_id)))


@app.command("show", cls=Command, help=tr("Show a group and its members."))
def show(group_id: GroupId, db: Db = DEFAULT_DB, json: Json = False) -> None:
    async def work(tq: TaskQ) -> GroupDetail:
        known = await group_id_of(tq, group_id)
        detail = page = await group_detail(tq.queue.groups, known, PAGE)
        while page.next is not None:
            page = await group_detail(tq.queue.groups, known, PAGE, page.next)
            detail.members += page.members
        detail.next = None
        return detail

    found = with_tq(db, work)
    if json:
        echo_json(msgspec.to_builtins(found))
        return
    echo(
        tr(
            "group {group} is {status}: {completed} of {total} completed, {failed} failed, {cancelled} cancelled",
            group=printable(found.group_id),
            status=found.status,
            completed=found.completed,
            total=found.total,
            failed=found.failed,
            cancelled=found.cancelled,
        )
    )
    if found.usage or found.budget:
        sums = sorted({*found.usage, *found.budget})
        echo(tr("used up: {sums}", sums=", ".join(_sum(found, name) for name in sums)))
    if found.used_up and found.ended_at is None:
        echo(
            tr(
                "its budget is used up, so no further task starts: aiotaskq groups budget {group} NAME=NUMBER",
                group=printable(found.group_id),
            )
        )
    if found.members:
        names = {each.task_id: each.name or str(each.position) for each in found.members}
        rows = [
            [each.task_id, each.name or "", each.type or "", _status(each), _after(each, names)]
            for each in found.members
        ]
        headers = [TASK_ID, NAME, TYPE, STATUS, marked("AFTER")]
        shown = len(headers) if any(row[-1] for row in rows) else len(headers) - 1
        echo_table(columns_of(headers[:shown], [row[:shown] for row in rows], name=10, type=12, after=10))
    if found.callbacks:
        pushed = [
            [each.task_id or "", each.kind, each.type, tr("not pushed") if each.status is None else str(each.status)]
            for each in found.callbacks
        ]
        echo_table(columns_of([TASK_ID, marked("CALLBACK"), TYPE, STATUS], pushed, type=12))


def _budget(group: GroupState) -> str:
    """Return what is used up of the budget of a group."""
    if group.used_up and group.ended_at is None:
        return tr("used up")
    return ", ".join(_sum(group, name) for name in sorted(group.budget))


def _sum(found: GroupDetail | GroupState, name: str) -> str:
    text = f"{printable(name)} {json_text(found.usage.get(name, 0))}"
    return f"{text} / {json_text(found.budget[name])}" if name in found.budget else text


def _status(member: MemberView) -> str:
    return tr("deleted") if member.status is None else str(member.status)


def _after(member: MemberView, names: dict[str, str]) -> str:
    return ", ".join(names.get(task_id, task_id) for task_id in member.parents)


@app.command("cancel", cls=Command, help=tr("Cancel the tasks of a group that have not ended."))
def cancel(group_id: GroupId, db: Db = DEFAULT_DB, json: Json = False) -> None:
    async def work(tq: TaskQ) -> tuple[str, bool]:
        known = await group_id_of(tq, group_id)
        if cancelled := await tq.group_handle(known).cancel():
            await noted(tq, "cancel-group", known)
        return known, cancelled

    known, done = with_tq(db, work)
    if json:
        echo_json({"group_id": known, "cancelled": done})
    elif done:
        echo(tr("group {group} is cancelled", group=printable(known)))
    else:
        echo(tr("group {group} has ended already", group=printable(known)))


@app.command(
    "budget",
    cls=Command,
    help=tr("Give a group another budget, as tokens=2000000; its tasks go on if that is not used up."),
)
def budget(
    group_id: GroupId,
    amounts: Annotated[
        list[str],
        typer.Argument(metavar="NAME=NUMBER…", help=tr("A name that is left out has no bound."), show_default=False),
    ],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    wanted: dict[str, float] = {}
    for name, number in map(_amount, amounts):
        if name in wanted:
            raise typer.BadParameter(tr("{name} is named twice; give each name one number", name=name))
        wanted[name] = number

    async def work(tq: TaskQ) -> GroupState:
        known = await group_id_of(tq, group_id)
        found = await tq.queue.groups.set_budget(known, wanted)
        await noted(tq, "set-budget", known)
        return found

    found = with_tq(db, work)
    if json:
        echo_json(msgspec.to_builtins(group_view(found)))
    elif found.ended_at is not None:
        echo(tr("the budget of group {group} is set; its tasks have ended already", group=printable(found.group_id)))
    elif found.used_up:
        echo(tr("the new budget of group {group} is used up already", group=printable(found.group_id)))
    else:
        echo(tr("the tasks of group {group} go on", group=printable(found.group_id)))


def _amount(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    if name:
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return name, kind(number)
    raise typer.BadParameter(tr("{text}: NAME=NUMBER is needed, as tokens=2000000", text=text))


@app.command("retry", cls=Command, help=tr("Put back the tasks of a group that did not complete."))
def retry(group_id: GroupId, db: Db = DEFAULT_DB, json: Json = False) -> None:
    async def work(tq: TaskQ) -> tuple[str, int]:
        known = await group_id_of(tq, group_id)
        count = await tq.group_handle(known).retry_failed()
        await noted(tq, "retry-group", known)
        return known, count

    known, count = with_tq(db, work)
    if json:
        echo_json({"group_id": known, "retried": count})
    else:
        echo(tr("tasks put back: {count}", count=count))


@app.command("mend", cls=Command, help=tr("Count anew what remains of each group, after rows were deleted by SQL."))
def mend(db: Db = DEFAULT_DB, json: Json = False) -> None:
    async def work(tq: TaskQ) -> int:
        count = await tq.queue.groups.mend()
        await noted(tq, "mend-groups", f"count: {count}")
        return count

    count = with_tq(db, work)
    if json:
        echo_json({"mended": count})
    else:
        echo(tr("counts mended: {count}", count=count))
