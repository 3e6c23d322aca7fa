"""``aiotaskq tasks``: how tasks are shown, and what one has written."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.application import is_handled, load_quietly, warn_of_unknown
from aiotaskq.cli.door import (
    command_of,
    command_of_several,
    keyword,
    listed,
    options_of,
    register,
    values_of,
    with_target,
)
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import LONG, width_of_output
from aiotaskq.cli.options import DEFAULT_DB, Db, Json, argument, command, option, store_of
from aiotaskq.cli.output import echo, echo_error, echo_json, echo_stderr, echo_table, json_text
from aiotaskq.cli.store_access import actor, short_ids, with_tq
from aiotaskq.cli.tasks_table import STEPS, attempt_line, columns, run_text, waits_for
from aiotaskq.cli.times import Utc, local, local_time
from aiotaskq.core.instants import to_iso
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.status import Status
from aiotaskq.errors import ResultTimeout, TaskFailed
from aiotaskq.log import printable
from aiotaskq.operations.table import Access, perform, read
from aiotaskq.operations.task_views import TaskDetail
from aiotaskq.operations.tasks import Copied, PushBody, Pushed, TaskPage, TaskState, find, tasks

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


def _show(task: TaskDetail) -> None:
    values: dict[str, Any] = msgspec.to_builtins(task)
    values.update({name: local_time(values[name]) for name in TIMES})
    values["run_time"] = run_text(task) or None
    values["waits"] = None  # in `waits_for`
    values["waits_for"] = None if values.pop("waiting") is None else waits_for(task)
    attempts = values.pop("attempts")
    values["attempts"] = "\n".join(attempt_line(attempt) for attempt in task.attempts) if attempts else None
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


NOT_IN_TIME = 5  # exit code
HELP = tr(
    "Push one task by the name of its type; prints its id. With --app the type and the params are checked by your "
    "handlers, whose defaults apply; the store is that of your TaskQ unless --db is given."
)
Wait = Annotated[
    float | None,
    option(tr("Wait at most so long for the task to end, and print its result."), "--wait", min=0.0, metavar="SECONDS"),
]


def _push(context: typer.Context, db: str, target: str | None, wait: float | None, json: bool, **given: Any) -> None:
    params: PushBody = read(tasks["push"], values_of(tasks["push"], given))
    name, queue = params.type, params.queue or "default"
    url = store_of(context, db, target)
    app = None if target is None else load_quietly(target)

    async def work(tq: TaskQ) -> tuple[int, dict[str, Any], str | None]:
        known = is_handled(tq, name, params.params)
        pushed: Pushed = await perform(tasks["push"], Access(tq, True), params, "cli", actor())
        handle, answer = tq.handle(pushed.task_id), msgspec.to_builtins(pushed)
        if not json:  # now: it may take long
            echo(handle.task_id) if wait is None else echo_stderr(handle.task_id)
            if not pushed.created:
                handler = internal(tq).registered.handlers.get(name)
                declared = {} if handler is None or params.throttle is not None else handler.pushed
                waits = params.debounce is not None or declared.get("debounce") is not None
                echo_stderr(
                    tr("the task that waits was changed") if waits else tr("not pushed: a task with this key exists")
                )
        if wait is None:
            if not known:
                await warn_of_unknown(tq, name, queue)
            return 0, answer, None
        try:
            return 0, {**answer, "status": "completed", "result": await handle.result(wait)}, None
        except ResultTimeout as error:
            if not known:
                await warn_of_unknown(tq, name, queue)
            return NOT_IN_TIME, {**answer, "status": str(await handle.status())}, str(error)
        except TaskFailed as error:
            return 1, {**answer, "status": str(error.task.status), "error": error.error}, str(error)

    code, answer, problem = with_tq(url, work, app=app, adds=True)
    if json:
        echo_json(answer)
    elif problem is None and wait is not None:
        echo_json(answer["result"])
    if problem is not None:
        said, _, rest = problem.partition("\n")
        echo_error(said)
        for line in [] if json else without_passwords(rest.strip("\n")).splitlines():  # a traceback
            echo_stderr(printable(line, LONG))
    raise typer.Exit(code)


_PUSH = [*options_of(tasks["push"], ["type", "params"]), *with_target()]
for _name in ("push", "tasks push"):
    register(_name, _push, [*_PUSH, keyword("wait", Wait, None), keyword("json", Json, False)], HELP)
command_of("tasks.list", _show_all, beside=_ids, with_app=True)
command_of("tasks.get", _show, utc=True, with_app=True)
command_of("tasks.steps", listed(marked("no steps"), *STEPS), utc=True, with_app=True)
command_of("tasks.edit", _show, utc=True)
command_of_several(
    "tasks.retry",
    lambda _task: tr("pending again"),
    ask=marked("Tasks to retry: {count}. Continue?"),
    done=marked("tasks retried: {count}"),
)
command_of("tasks.rerun", _copied, with_app=True)
command_of_several("tasks.run_now", lambda _task: tr("due now"))
command_of_several(
    "tasks.cancel",
    _cancelled,
    ask=marked("Tasks to cancel: {count}. Continue?"),
    done=marked("tasks cancelled, or asked to stop: {count}"),
)
command_of_several(
    "tasks.delete",
    lambda _none: tr("deleted"),
    ask=marked("Tasks to delete: {count}. Continue?"),
    done=marked("tasks deleted: {count}"),
)

TaskId = Annotated[str, argument(tr("A task id, or the beginning of one."), "TASK_ID")]
Follow = Annotated[bool, option(tr("Go on until the task has ended."), "--follow", "-f")]
After = Annotated[int, option(tr("Only entries behind this number."), "--after", min=0, metavar="N")]


@command(
    "tasks log",
    tr("Show what a task has written with log and stream, which may be secret; with --follow until its end."),
    tr("Show, and follow, what a task has written with log and stream."),
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
            echo(json_text({"n": note.n, "at": to_iso(note.at) or str(note.at), "kind": note.kind, "data": note.data}))
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
