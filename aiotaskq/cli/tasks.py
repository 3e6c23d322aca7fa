"""``aiotaskq tasks``: lists, shows, retries, reruns, cancels and purges tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.registrations import PushMiddleware
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.application import is_handled, load_quietly
from aiotaskq.cli.i18n import Message, marked, tr
from aiotaskq.cli.ids import short_ids, task_id_of
from aiotaskq.cli.layout import width_of_output
from aiotaskq.cli.limits import waits_for
from aiotaskq.cli.names import LiveStatusNames, QueueName, StatusNames, TypeName
from aiotaskq.cli.options import (
    DEFAULT_DB,
    App,
    Command,
    Db,
    DryRun,
    Json,
    Params,
    Yes,
    confirm,
    group,
    option,
    store_of,
)
from aiotaskq.cli.output import echo, echo_json, echo_stderr, echo_table, json_text, progress_bar
from aiotaskq.cli.store_access import counted, each, hidden, instant, noted, read_params, with_tq
from aiotaskq.cli.tasks_table import columns, first_line, run_time, show_steps
from aiotaskq.cli.times import Utc, local, read_since
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.attempts import attempts_of
from aiotaskq.core.attempts import run_time as seconds_of_run
from aiotaskq.core.gate import Flow
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.parking import budgets_of, parked
from aiotaskq.core.steps import Step
from aiotaskq.core.task import FINAL, SECOND, Attempt, Status, Task
from aiotaskq.errors import TaskConflict
from aiotaskq.log import printable
from aiotaskq.runtime.queue.bulk import run_now

app = group()
TASK_ID = marked("A task id, or the beginning of one.")
OneId = Annotated[str, typer.Argument(metavar="TASK_ID", help=tr(TASK_ID), show_default=False)]
Ids = Annotated[
    list[str],
    typer.Argument(metavar="TASK_ID", help=tr("One or more task ids, or the beginnings of ids."), show_default=False),
]
SomeIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="TASK_ID", help=tr("One or more task ids, or the beginnings of ids."), show_default=False),
]
Since = Annotated[
    str | None,
    option("--since", metavar="TIME", help=tr("Only tasks created since then: 2h, 1d12h, or 2026-03-28T12:00.")),
]
ErrorText = Annotated[
    str | None,
    option(
        "--error",
        metavar="TEXT",
        help=tr("Only tasks whose error or traceback contains this text; upper and lower case differ."),
    ),
]

SHORTENED = 500
"""Longest list with shortened ids: the store is asked about each."""
SECRET = ("params", "result", "extra")
"""Fields that may contain secrets: shown only with --params."""
MICROSECONDS = ("run_at", "due_at", "began_at", "ended_at", "lease_until", "expires_at")
SECONDS = ("created_at", "started_at", "completed_at")


def filters(*, since: str | None = None, utc: bool = False, **given: Any) -> dict[str, Any]:
    """Return the filters that were given, as the verbs of a queue take them. Raises BadParameter for a wrong time."""
    time = None if since is None else read_since(since, SystemClock().now(), utc)
    return {name: value for name, value in {**given, "since": time}.items() if value not in (None, [])}


@app.command("list", cls=Command, help=tr("List tasks, newest first."))
def list_tasks(
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    since: Since = None,
    error: ErrorText = None,
    limit: Annotated[int, option(min=1, max=99_999, metavar="N", help=tr("Maximum number of tasks."))] = 20,
    after: Annotated[str | None, option(metavar="TASK_ID", help=tr("Continue the list after this task."))] = None,
    params: Params = False,
    utc: Utc = False,
    json: Json = False,
) -> None:
    where = filters(status=status, type=type, queue=queue, since=since, error=error, utc=utc)
    full = json or width_of_output() is None or limit > SHORTENED

    async def work(tq: TaskQ) -> tuple[list[Task], dict[str, str]]:
        last = None if after is None else await task_id_of(tq, after)
        found = await tq.find(**where, limit=limit + 1, after=last)
        return found, {} if full else await short_ids(tq, [task.task_id for task in found[:limit]])

    tasks, ids = with_tq(db, work)
    more, tasks = len(tasks) > limit, tasks[:limit]
    if json:
        echo_json([_as_dict(task, params=params) for task in tasks])
        return
    if not tasks:
        echo(tr("no tasks"))
        return
    echo_table(columns(tasks, ids, SystemClock().now(), params))
    if more:
        last = tasks[-1].task_id
        echo(tr("for more: --after {task_id}", task_id=printable(ids.get(last, last))))


@app.command("show", cls=Command, help=tr("Show one task and its error; params and result only with --params."))
def show(
    task_id: OneId,
    db: Db = DEFAULT_DB,
    params: Params = False,
    utc: Utc = False,
    json: Json = False,
) -> None:
    async def work(tq: TaskQ) -> tuple[Task, str | None]:
        task = await tq.get(await task_id_of(tq, task_id))
        return task, await waits_for(tq, task, utc)

    task, waits = with_tq(db, work)
    values = _as_dict(task, params=params) | {"waits_for": waits}
    if json:
        echo_json(values | {"attempts": [_attempt_as_dict(attempt) for attempt in attempts_of(task)]})
        return
    values.update({name: local(getattr(task, name), utc) for name in MICROSECONDS})
    values["run_at"] = local(task.due_us, utc)
    values.update({name: local(_in_microseconds(getattr(task, name)), utc) for name in SECONDS})
    for coarse, fine in (("started_at", "began_at"), ("completed_at", "ended_at")):
        if values[fine] is not None:
            values[coarse] = None  # the same to the second
    values["waits"] = None  # in `waits_for`
    values["run_time"] = run_time(task, SystemClock().now()) or None
    if not params:
        values.update({name: hidden(getattr(task, name)) for name in SECRET if getattr(task, name) not in ({}, None)})
    values["attempts"] = "\n".join(_attempt_line(attempt, utc) for attempt in attempts_of(task)) or None
    width = max(len(name) for name in values)
    for name, value in values.items():
        if value is None or value == {} or value is False:
            continue
        shown = json_text(value) if name in ("progress", "usage") or (params and name in SECRET) else str(value)
        # An error has many lines; each is escaped.
        for number, line in enumerate(without_passwords(shown).splitlines() or [""]):
            echo(f"{name if not number else '':<{width}}  {printable(line, 20_000)}".rstrip())


Follow = Annotated[bool, option("--follow", "-f", help=tr("Go on until the task has ended."))]
After = Annotated[int, option("--after", min=0, metavar="N", help=tr("Only entries behind this number."))]


@app.command(
    "log",
    cls=Command,
    help=tr("Show what a task has written with log and emit, which may be secret; with --follow until its end."),
    short_help=tr("Show, and follow, what a task has written with log and emit."),
)
def log(
    task_id: OneId,
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
        handle, last = tq.handle((await tq.get(await task_id_of(tq, task_id))).task_id), after
        if follow:
            async for note in handle.stream(last):
                show(note)
            return
        while notes := await handle.log(last):
            for note in notes:
                show(note)
            last = notes[-1].n

    with_tq(db, work)


@app.command(
    "steps",
    cls=Command,
    help=tr("Show what the handler of a task has done, slept and waited for; values only with --params."),
    short_help=tr("Show what the handler of a task has done, slept and waited for."),
)
def steps(task_id: OneId, db: Db = DEFAULT_DB, params: Params = False, utc: Utc = False, json: Json = False) -> None:
    async def work(tq: TaskQ) -> list[Step]:
        return await tq.steps(await task_id_of(tq, task_id))

    show_steps(with_tq(db, work), params, utc, json)


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
    ids: SomeIds = None,
    db: Db = DEFAULT_DB,
    status: StatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    since: Since = None,
    error: ErrorText = None,
    utc: Utc = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    where = filters(status=status, type=type, queue=queue, since=since, error=error, utc=utc)
    if _by_ids(ids, where, dry_run):
        raise typer.Exit(each(db, ids or [], _retry, task_id_of, as_json=json))
    where.setdefault("status", ["failed"])
    total = _asked(db, where, marked("Tasks to retry: {count}. Continue?"), dry_run, yes, json)
    bar, moved = progress_bar(tr("retry"), total, quiet=json)
    with bar:
        count = with_tq(db, lambda tq: counted(tq, "retry-tasks", where, tq.queue.retry_many(**where, progress=moved)))
    echo_json({"retried": count}) if json else echo(tr("tasks retried: {count}", count=f"{count:,}"))


async def _retry(tq: TaskQ, task_id: str) -> Message:
    await tq.retry(task_id)
    await noted(tq, "retry-task", task_id)
    return Message(marked("pending again"))


@app.command(
    "run-now",
    cls=Command,
    help=tr("Make tasks due now that are delayed, sleep, or wait for their next attempt."),
)
def run_tasks_now(ids: Ids, db: Db = DEFAULT_DB, json: Json = False) -> None:
    raise typer.Exit(each(db, ids, _run_now, task_id_of, as_json=json))


async def _run_now(tq: TaskQ, task_id: str) -> Message:
    await run_now(tq.queue, await tq.get(task_id))
    await noted(tq, "run-task", task_id)
    return Message(marked("due now"))


@app.command(
    "rerun",
    cls=Command,
    short_help=tr("Push an ended task again, as a new one."),
    help=tr(
        "Push an ended task again, as a new one of the same type, queue, priority and limits; prints its id. The ended "
        "task stays as it is."
    ),
)
def rerun(
    context: typer.Context,
    task_id: OneId,
    params: Annotated[
        str | None,
        option(metavar="JSON", help=tr("Other params, as a JSON object; - reads them from standard input.")),
    ] = None,
    db: Db = DEFAULT_DB,
    target: App = None,
    json: Json = False,
) -> None:
    given = None if params is None else read_params(params)
    url = store_of(context, db, target)
    application = None if target is None else load_quietly(target)

    async def work(tq: TaskQ) -> tuple[Task, str, bool]:
        task = await tq.get(await task_id_of(tq, task_id))
        if not task.final:
            said = tr("task {task_id} is {status}; only ended tasks are run again", **_named(task))
            raise TaskConflict(said)
        if task.undecodable is not None and given is None:
            said = tr("the params of task {task_id} cannot be read; give others with --params", **_named(task))
            raise TaskConflict(said)
        values = task.params if given is None else given
        if not is_handled(tq, task.type, values):
            tq.registered.push_middleware.append(_with_gates_of(task))
        kept = {name: getattr(task, name) for name in KEPT if getattr(task, name) is not None}
        handle = await tq.push(task.type, values, **kept)
        await noted(tq, "rerun-task", task.task_id, handle.task_id)
        return task, handle.task_id, handle.created

    task, new_id, created = with_tq(url, work, app=application)
    if json:
        echo_json({"task_id": new_id, "created": created, "rerun_of": task.task_id})
        return
    echo(new_id)
    if not created:
        echo_stderr(tr("not pushed: a task with this key exists"))


KEPT = ("queue", "priority", "max_retries", "timeout", "unique_key", "on_success", "on_failure")
"""Options of the ended task that its rerun has, too."""


def _with_gates_of(ended: Task) -> PushMiddleware:
    """Return a middleware that gives what is pushed the gates of an ended task: no handler is there that names them.

    The new task is in no group, so it does not wait for the budget of one.
    """

    async def push(tasks: list[Task], call_next: Callable[[list[Task]], Awaitable[list[Task]]]) -> list[Task]:
        gates = () if ended.flow is None else ended.flow.gates[len(budgets_of(ended.flow)) :]
        if ended.flow is None or not gates:
            return await call_next(tasks)
        flow = Flow(gates=gates, weight=ended.flow.weight, weights=ended.flow.weights)
        new = [parked(task.replace(flow=flow), task.run_at) for task in tasks]
        rows = await call_next(new)
        return [task if row is made else row for task, made, row in zip(tasks, new, rows, strict=True)]

    return push


def _named(task: Task) -> dict[str, str]:
    return {"task_id": printable(task.task_id), "status": str(task.status)}


@app.command(
    "cancel",
    cls=Command,
    help=tr(
        "Cancel pending tasks, and request the cancellation of running ones: those named, or all that match "
        "the options."
    ),
    short_help=tr("Cancel pending tasks; request the cancellation of running ones."),
)
def cancel(
    ids: SomeIds = None,
    db: Db = DEFAULT_DB,
    status: LiveStatusNames = None,
    type: TypeName = None,
    queue: QueueName = None,
    since: Since = None,
    utc: Utc = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    where = filters(status=status, type=type, queue=queue, since=since, utc=utc)
    if _by_ids(ids, where, dry_run):
        raise typer.Exit(each(db, ids or [], _cancel, task_id_of, as_json=json))
    where.setdefault("status", ["pending", "running"])
    if ended := sorted({*where["status"]}.intersection(FINAL)):
        said = tr("{status} tasks have ended; only pending and running ones are cancelled", status=", ".join(ended))
        raise typer.BadParameter(said, param_hint="--status")
    total = _asked(db, where, marked("Tasks to cancel: {count}. Continue?"), dry_run, yes, json)
    bar, moved = progress_bar(tr("cancel"), total, quiet=json)
    with bar:
        count = with_tq(db, lambda tq: counted(tq, "cancel-tasks", where, tq.cancel_many(**where, progress=moved)))
    if json:
        echo_json({"cancelled": count})
    else:
        echo(tr("tasks cancelled, or asked to stop: {count}", count=f"{count:,}"))


async def _cancel(tq: TaskQ, task_id: str) -> Message:
    ended = not await tq.cancel(task_id)
    status = await tq.handle(task_id).status()
    if ended:
        return Message(marked("has ended already: {status}"), status=status)
    await noted(tq, "cancel-task", task_id)
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
    since: Since = None,
    error: ErrorText = None,
    older_than: Annotated[
        float | None, option(min=0.0, metavar="SECONDS", help=tr("Only tasks that ended longer ago."))
    ] = None,
    utc: Utc = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    where = filters(status=status, type=type, queue=queue, since=since, error=error, older_than=older_than, utc=utc)
    where.setdefault("status", [str(each) for each in Status if each in FINAL])
    total = _asked(db, where, marked("Tasks to delete: {count}. Continue?"), dry_run, yes, json, deletes=True)
    bar, moved = progress_bar(tr("purge"), total, quiet=json)
    with bar:
        count = with_tq(db, lambda tq: counted(tq, "purge-tasks", where, tq.queue.purge(**where, progress=moved)))
    echo_json({"deleted": count}) if json else echo(tr("tasks deleted: {count}", count=f"{count:,}"))


def _by_ids(ids: list[str] | None, where: dict[str, Any], dry_run: bool) -> bool:
    """Whether a command is for the tasks that are named. Raises BadParameter for ids and filters, or for neither."""
    if ids and (where or dry_run):
        raise typer.BadParameter(tr("use task ids or filter options, not both"))
    if not (ids or where):
        raise typer.BadParameter(tr("which tasks? use task ids, or an option such as --status failed"))
    return bool(ids)


def _asked(db: str, where: Any, question: str, dry_run: bool, yes: bool, as_json: bool, deletes: bool = False) -> int:
    """Count the tasks that match, and ask whether to go on; a dry run ends here."""
    total = with_tq(db, lambda tq: tq.queue.purge(**where, dry_run=True) if deletes else tq.queue.count(**where))
    if dry_run:
        echo_json({"matching": total}) if as_json else echo(tr("tasks that match: {count}", count=f"{total:,}"))
        raise typer.Exit(0)
    if total:
        confirm(tr(question, count=f"{total:,}"), yes, as_json)
    return total


def _as_dict(task: Task, *, params: bool) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(task, enc_hook=str)
    for name in ("seq", "attempts", "coded", "flow"):
        values.pop(name)
    values["group"] = None if task.flow is None else task.flow.group
    values["run_time"] = seconds_of_run(task)
    if task.error_message is not None:
        values["error_message"] = without_passwords(task.error_message)
    if not params:
        for name in SECRET:
            values.pop(name)
    values.update({name: instant(getattr(task, name)) for name in MICROSECONDS} | {"run_at": instant(task.due_us)})
    values.update({name: instant(_in_microseconds(getattr(task, name))) for name in SECONDS})
    return values


def _in_microseconds(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * SECOND


def _attempt_as_dict(attempt: Attempt) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(attempt)
    for name in ("began_at", "ended_at"):
        values[name] = instant(values[name])
    if attempt.error is not None:
        values["error"] = without_passwords(attempt.error)
    return values | {"run_time": attempt.seconds}


def _attempt_line(attempt: Attempt, utc: bool) -> str:
    took = "" if attempt.seconds is None else f"{attempt.seconds:.3f} s"
    words = (attempt.number, local(attempt.began_at, utc), took, attempt.outcome or Status.RUNNING)
    return "  ".join(str(word) for word in (*words, first_line(attempt.error)) if word)
