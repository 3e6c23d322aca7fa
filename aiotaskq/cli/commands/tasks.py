"""The commands under ``tasks``."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.cli.commands.options import (
    DEFAULT_DB,
    GROUPS,
    Command,
    Db,
    Ids,
    Json,
    Params,
    QueueName,
    StatusNames,
    TypeName,
    Yes,
    ask,
    group,
    option,
)
from aiotaskq.cli.i18n import tr

app = group(GROUPS["tasks"])


@app.command("list", cls=Command, help=tr("List tasks, the newest first."))
def tasks_list(
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    limit: Annotated[int, option(min=1, max=99_999, help=tr("At most so many."))] = 20,
    after: Annotated[str | None, option(metavar="TASK_ID", help=tr("Go on behind this one."))] = None,
    json: Json = False,
) -> None:
    from aiotaskq.cli.tasks import list_tasks

    list_tasks(db, status=status, type=type, queue=queue, limit=limit, after=after, as_json=json)


@app.command("show", cls=Command, help=tr("Show one task and its error; params and result only with --params."))
def tasks_show(
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID", show_default=False)],
    db: Db = DEFAULT_DB,
    params: Params = False,
    json: Json = False,
) -> None:
    from aiotaskq.cli.tasks import show_task

    show_task(db, task_id, params=params, as_json=json)


@app.command(
    "retry",
    cls=Command,
    help=tr("Put failed, cancelled or expired tasks back, their retries unused: those named, or those that match."),
    short_help=tr("Put ended tasks back."),
)
def tasks_retry(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK_ID...]", help=tr("One or more task ids."), show_default=False)
    ] = None,
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    from aiotaskq.cli.tasks import count_tasks, retry_matching, retry_tasks

    if ids:
        if status or type or queue:
            wrong = tr("name tasks, or say which by options; not both")
            raise typer.BadParameter(wrong)
        raise typer.Exit(retry_tasks(db, ids, as_json=json))
    if not (status or type or queue):
        raise typer.BadParameter(tr("which? name tasks, or say --status failed"))
    count = count_tasks(db, status=status or ["failed"], type=type, queue=queue)
    if count:
        ask(tr("Tasks to put back: {count}. Go on?", count=f"{count:,}"), yes, json)
    retry_matching(db, status=status or ["failed"], type=type, queue=queue, total=count, as_json=json)


@app.command("cancel", cls=Command, help=tr("Cancel pending tasks; ask running ones to stop."))
def tasks_cancel(ids: Ids, db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.tasks import cancel_tasks

    raise typer.Exit(cancel_tasks(db, ids, as_json=json))


@app.command(
    "purge",
    cls=Command,
    short_help=tr("Delete ended tasks for good."),
    help=tr("Delete ended tasks for good: all of them, or those that the options name."),
)
def tasks_purge(
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    older_than: Annotated[
        float | None, option(min=0.0, metavar="SECONDS", help=tr("Only those that ended longer ago."))
    ] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    from aiotaskq.cli.tasks import count_tasks, ended, purge_tasks

    total = count_tasks(db, status=ended(status), type=type, queue=queue, older_than=older_than)
    if total:
        ask(tr("Tasks to delete for good: {count}. Go on?", count=f"{total:,}"), yes, json)
    purge_tasks(db, status=status, type=type, queue=queue, older_than=older_than, total=total, as_json=json)
