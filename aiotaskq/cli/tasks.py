"""``aiotaskq tasks``: how tasks are shown, and what one has written."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.door import command, command_on_several
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.ids import short_ids
from aiotaskq.cli.layout import width_of_output
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, group, option
from aiotaskq.cli.output import echo, echo_stderr, echo_table, json_text
from aiotaskq.cli.push import add_push
from aiotaskq.cli.store_access import instant, with_tq
from aiotaskq.cli.tasks_table import attempt_line, columns, run_text, show_steps, waits_for
from aiotaskq.cli.times import Utc, local, local_time
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.task import Status
from aiotaskq.log import printable
from aiotaskq.operations.task_views import TaskDetail
from aiotaskq.operations.tasks import Copied, TaskPage, TaskState, find, tasks

app = group()
SHORTENED = 500
"""Longest list with shortened ids: the store is asked about each."""
SECRET = ("params", "result", "extra")
TIMES = ("created_at", "run_at", "started_at", "completed_at", "expires_at", "lease_until")


async def _ids(tq: TaskQ, page: TaskPage) -> dict[str, str]:
    """Return the shortened ids, where they are shown."""
    full = width_of_output() is None or len(page.tasks) > SHORTENED
    return {} if full else await short_ids(tq, [task.task_id for task in page.tasks])


def _show_all(page: TaskPage, ids: dict[str, str]) -> None:
    if not page.tasks:
        echo(tr("no tasks"))
        return
    echo_table(columns(page.tasks, ids))


def _show(task: TaskDetail, *, utc: bool) -> None:
    values: dict[str, Any] = msgspec.to_builtins(task)
    values.update({name: local_time(values[name], utc) for name in TIMES})
    values["run_time"] = run_text(task) or None
    values["waits"] = None  # in `waits_for`
    values["waits_for"] = None if values.pop("waiting") is None else waits_for(task, utc)
    attempts = values.pop("attempts")
    values["attempts"] = "\n".join(attempt_line(attempt, utc) for attempt in task.attempts) if attempts else None
    if task.params is msgspec.UNSET:
        values["params"] = tr("hidden; tasks get --params shows them")
    width = max(len(name) for name in values)
    for name, value in values.items():
        if value is None or value == {} or value is False:
            continue
        is_json = name in ("progress", "usage") or (name in SECRET and task.params is not msgspec.UNSET)
        text = json_text(value) if is_json else str(value)
        # An error has many lines; each is escaped.
        for number, line in enumerate(without_passwords(text).splitlines() or [""]):
            echo(f"{name if not number else '':<{width}}  {printable(line, 20_000)}".rstrip())


def _copied(copy: Copied) -> None:
    echo(copy.task_id)
    if not copy.created:
        echo_stderr(tr("not pushed: a task with this key exists"))


def _cancelled(task: TaskState) -> str:
    return tr("cancelled") if task.status is Status.CANCELLED else tr("cancellation requested")


add_push(app)
command(app, tasks["list"], _show_all, beside=_ids)
command(app, tasks["get"], _show, utc=True)
command(app, tasks["steps"], show_steps, utc=True)
command(app, tasks["edit"], _show, utc=True, some=True)
command_on_several(
    app,
    tasks["retry"],
    lambda _task: tr("pending again"),
    ask=marked("Tasks to retry: {count}. Continue?"),
    done=marked("tasks retried: {count}"),
)
command(app, tasks["rerun"], _copied, with_app=True)
command_on_several(app, tasks["run_now"], lambda _task: tr("due now"))
command_on_several(
    app,
    tasks["cancel"],
    _cancelled,
    ask=marked("Tasks to cancel: {count}. Continue?"),
    done=marked("tasks cancelled, or asked to stop: {count}"),
)
command_on_several(
    app,
    tasks["delete"],
    lambda _none: tr("deleted"),
    ask=marked("Tasks to delete: {count}. Continue?"),
    done=marked("tasks deleted: {count}"),
)

TaskId = Annotated[
    str, typer.Argument(metavar="TASK_ID", help=tr("A task id, or the beginning of one."), show_default=False)
]
Follow = Annotated[bool, option("--follow", "-f", help=tr("Go on until the task has ended."))]
After = Annotated[int, option("--after", min=0, metavar="N", help=tr("Only entries behind this number."))]


@app.command(
    "log",
    cls=Command,
    help=tr("Show what a task has written with log and stream, which may be secret; with --follow until its end."),
    short_help=tr("Show, and follow, what a task has written with log and stream."),
)
def log(
    task_id: TaskId,
    db: Db = DEFAULT_DB,
    follow: Follow = False,
    after: After = 0,
    utc: Utc = False,
    json: Json = False,
) -> None:
    def show(note: LogEntry) -> None:
        if json:
            echo(json_text({"n": note.n, "at": instant(note.at), "kind": note.kind, "data": note.data}))
            return
        text = tr("ended: {status}", status=note.text) if note.kind == "end" else note.text
        for line in text.splitlines() or [""]:
            echo(f"{local(note.at, utc)}  {printable(line, 20_000)}")

    async def work(tq: TaskQ) -> None:
        handle, last = tq.handle((await tq.get(await find(tq, task_id))).task_id), after
        if follow:
            async for note in handle.stream(last):
                show(note)
            return
        while notes := await handle.log(last):
            for note in notes:
                show(note)
            last = notes[-1].n

    with_tq(db, work)
