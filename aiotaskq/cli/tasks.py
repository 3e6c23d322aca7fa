"""``aiotaskq tasks``: lists, shows, retries, cancels and purges tasks."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import Message, marked, tr
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, Params, Yes, confirm, group, option
from aiotaskq.cli.output import echo, echo_json, echo_table, json_text, progress_bar
from aiotaskq.cli.store_access import age, each, hidden, instant, with_tq
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.task import FINAL, SECOND, Status, Task
from aiotaskq.log import printable

app = group()
Ids = Annotated[list[str], typer.Argument(metavar="TASK_ID", help=tr("One or more task ids."), show_default=False)]
StatusNames = Annotated[
    list[str] | None,
    option(
        "--status",
        metavar="STATUS",
        help=tr("pending, running, completed, failed, cancelled or expired; may be repeated."),
    ),
]
TypeName = Annotated[str | None, option("--type", metavar="TYPE", help=tr("Only tasks of this type."))]
QueueName = Annotated[str | None, option("--queue", metavar="QUEUE", help=tr("Only tasks of this queue."))]

LISTED = tuple(map(marked, ("TASK_ID", "TYPE", "STATUS", "RETRIES", "AGE", "QUEUE", "ERROR")))
PLAIN = ("default", "")
"""A last column in which every row has one of these values is left out, to save room."""
SECRET = ("params", "result", "extra")
"""Fields that may contain secrets: shown only with --params."""


@app.command("list", cls=Command, help=tr("List tasks, newest first."))
def list_tasks(
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    limit: Annotated[int, option(min=1, max=99_999, help=tr("Maximum number of tasks."))] = 20,
    after: Annotated[str | None, option(metavar="TASK_ID", help=tr("Continue the list after this task."))] = None,
    json: Json = False,
) -> None:
    tasks = with_tq(db, lambda tq: tq.find(status=status or None, type=type, queue=queue, limit=limit + 1, after=after))
    more, tasks = len(tasks) > limit, tasks[:limit]
    if json:
        echo_json([_as_dict(task, params=False) for task in tasks])
        return
    if not tasks:
        echo(tr("no tasks"))
        return
    now = SystemClock().now() // SECOND
    rows: list[list[object]] = [
        [
            task.task_id,
            task.type,
            task.status,
            f"{task.retry_count}/{task.max_retries}",
            age(now - task.created_at),
            task.queue,
            _first_line(task.error_message),
        ]
        for task in tasks
    ]
    headers = list(LISTED)
    for column in (6, 5):
        if all(row[column] in PLAIN for row in rows):
            del headers[column]
            for row in rows:
                del row[column]
    echo_table(headers, rows, cut_last=headers[-1] == "ERROR")
    if more:
        echo(tr("for more: --after {task_id}", task_id=printable(tasks[-1].task_id)))


@app.command("show", cls=Command, help=tr("Show one task and its error; params and result only with --params."))
def show(
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID", show_default=False)],
    db: Db = DEFAULT_DB,
    params: Params = False,
    json: Json = False,
) -> None:
    task = with_tq(db, lambda tq: tq.get(task_id))
    values = _as_dict(task, params=params)
    if json:
        echo_json(values)
        return
    if not params:
        values.update({name: hidden(getattr(task, name)) for name in SECRET if getattr(task, name) not in ({}, None)})
    width = max(len(name) for name in values)
    for name, value in values.items():
        if value is None or value == {} or value is False:
            continue
        shown = json_text(value) if params and name in SECRET else str(value)
        # An error has many lines; each is escaped.
        for number, line in enumerate(without_passwords(shown).splitlines() or [""]):
            echo(f"{name if not number else '':<{width}}  {printable(line, 20_000)}".rstrip())


@app.command(
    "retry",
    cls=Command,
    help=tr(
        "Retry failed, cancelled or expired tasks: those named, or all that match the options. Their retry "
        "count starts again at 0."
    ),
    short_help=tr("Retry failed, cancelled or expired tasks."),
)
def retry(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="TASK_ID", help=tr("One or more task ids."), show_default=False)
    ] = None,
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    if ids:
        if status or type or queue:
            raise typer.BadParameter(tr("use task ids or filter options, not both"))
        raise typer.Exit(each(db, ids, _retry, as_json=json))
    if not (status or type or queue):
        raise typer.BadParameter(tr("which tasks? use task ids, or an option such as --status failed"))
    statuses = status or ["failed"]
    total = with_tq(db, lambda tq: tq.queue.count(status=statuses, type=type, queue=queue))
    if total:
        confirm(tr("Tasks to retry: {count}. Continue?", count=f"{total:,}"), yes, json)
    bar, moved = progress_bar(tr("retry"), total, quiet=json)
    with bar:
        count = with_tq(db, lambda tq: tq.queue.retry_many(status=statuses, type=type, queue=queue, progress=moved))
    echo_json({"retried": count}) if json else echo(tr("tasks retried: {count}", count=f"{count:,}"))


async def _retry(tq: TaskQ, task_id: str) -> Message:
    await tq.retry(task_id)
    return Message(marked("pending again"))


@app.command("cancel", cls=Command, help=tr("Cancel pending tasks; request the cancellation of running ones."))
def cancel(ids: Ids, db: Db = DEFAULT_DB, json: Json = False) -> None:
    raise typer.Exit(each(db, ids, _cancel, as_json=json))


async def _cancel(tq: TaskQ, task_id: str) -> Message:
    ended = not await tq.cancel(task_id)
    status = await tq.handle(task_id).status()
    if ended:
        return Message(marked("has ended already: {status}"), status=status)
    return Message(marked("cancelled") if status is Status.CANCELLED else marked("cancellation requested"))


@app.command(
    "purge",
    cls=Command,
    short_help=tr("Delete ended tasks."),
    help=tr("Delete ended tasks: all, or those that match the options."),
)
def purge(
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    older_than: Annotated[
        float | None, option(min=0.0, metavar="SECONDS", help=tr("Only tasks that ended longer ago."))
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    statuses = status or [str(each) for each in Status if each in FINAL]
    total = with_tq(db, lambda tq: tq.queue.count(status=statuses, type=type, queue=queue, older_than=older_than))
    if total:
        confirm(tr("Tasks to delete: {count}. Continue?", count=f"{total:,}"), yes, json)
    bar, moved = progress_bar(tr("purge"), total, quiet=json)
    with bar:
        count = with_tq(
            db,
            lambda tq: tq.queue.purge(status=statuses, type=type, queue=queue, older_than=older_than, progress=moved),
        )
    echo_json({"deleted": count}) if json else echo(tr("tasks deleted: {count}", count=f"{count:,}"))


def _as_dict(task: Task, *, params: bool) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(task, enc_hook=str)
    values.pop("seq")
    if task.error_message is not None:
        values["error_message"] = without_passwords(task.error_message)
    if not params:
        for name in SECRET:
            values.pop(name)
    for name in ("run_at", "lease_until", "expires_at"):
        values[name] = instant(values[name])
    for name in ("created_at", "started_at", "completed_at"):
        values[name] = instant(None if values[name] is None else values[name] * SECOND)
    return values


def _first_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[0] if lines else ""
