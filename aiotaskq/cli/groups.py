"""``aiotaskq groups``: how groups, chains and workflows are shown."""

from __future__ import annotations

from aiotaskq.cli.door import command
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import group
from aiotaskq.cli.output import echo, echo_table, json_text
from aiotaskq.log import printable
from aiotaskq.operations.groups import GroupDetail, GroupPage, GroupView, MembersRetried, MemberView, Mended, groups

app = group()
GROUP_ID, NAME, STATUS, TOTAL, COMPLETED = map(marked, ("GROUP_ID", "NAME", "STATUS", "TOTAL", "COMPLETED"))
FAILED, CANCELLED, TASK_ID, TYPE = map(marked, ("FAILED", "CANCELLED", "TASK_ID", "TYPE"))


def _show_all(page: GroupPage) -> None:
    if not page.groups:
        echo(tr("no groups"))
        return
    rows = [
        [
            *(each.group_id, each.name or "", each.status, each.total, each.completed, each.failed),
            *(each.cancelled, _budget(each)),
        ]
        for each in page.groups
    ]
    headers = [GROUP_ID, NAME, STATUS, TOTAL, COMPLETED, FAILED, CANCELLED, marked("BUDGET")]
    shown = len(headers) if any(row[-1] for row in rows) else len(headers) - 1
    echo_table(columns_of(headers[:shown], [row[:shown] for row in rows], name=10, budget=10))


def _show(found: GroupDetail) -> None:
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


def _budget(group: GroupView) -> str:
    """Return what is used up of the budget of a group."""
    if group.used_up and group.ended_at is None:
        return tr("used up")
    return ", ".join(_sum(group, name) for name in sorted(group.budget))


def _sum(found: GroupView, name: str) -> str:
    text = f"{printable(name)} {json_text(found.usage.get(name, 0))}"
    return f"{text} / {json_text(found.budget[name])}" if name in found.budget else text


def _status(member: MemberView) -> str:
    return tr("deleted") if member.status is None else str(member.status)


def _after(member: MemberView, names: dict[str, str]) -> str:
    return ", ".join(names.get(task_id, task_id) for task_id in member.parents)


def _show_cancelled(found: GroupView) -> None:
    echo(tr("group {group} is cancelled", group=printable(found.group_id)))


def _show_budget(found: GroupView) -> None:
    if found.ended_at is not None:
        echo(tr("the budget of group {group} is set; its tasks have ended already", group=printable(found.group_id)))
    elif found.used_up:
        echo(tr("the new budget of group {group} is used up already", group=printable(found.group_id)))
    else:
        echo(tr("the tasks of group {group} go on", group=printable(found.group_id)))


def _show_retried(found: MembersRetried) -> None:
    echo(tr("tasks put back: {count}", count=found.retried))


def _show_mended(found: Mended) -> None:
    echo(tr("counts mended: {count}", count=found.mended))


command(app, groups["list"], _show_all)
command(app, groups["get"], _show)
command(app, groups["cancel"], _show_cancelled)
command(app, groups["budget"], _show_budget, arguments=["budget"])
command(app, groups["retry"], _show_retried)
command(app, groups["mend"], _show_mended)
