"""``aiotaskq tasks``: how tasks are shown, what one waits for, its attempts and steps, and what it has written."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.door import (
    command_of,
    command_of_several,
    listed,
    options_of,
    params_of,
    show_fields,
    values_of,
    with_target,
)
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.options import DEFAULT_DB, Db, Json, argument, command, option, store_of
from aiotaskq.cli.output import (
    LONG,
    Column,
    echo,
    echo_error,
    echo_json,
    echo_stderr,
    json_text,
    say_stderr,
    width_of_output,
)
from aiotaskq.cli.parameters import keyword, register
from aiotaskq.cli.store_access import actor, load_quietly, short_ids, warn_of_unknown, with_tq
from aiotaskq.cli.times import Utc, ago, duration, local, local_time, shown
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import from_iso, to_iso
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NEVER
from aiotaskq.core.tags import labels
from aiotaskq.core.task import SECOND
from aiotaskq.core.worker_info import read_owner
from aiotaskq.errors import ResultTimeout, TaskFailed
from aiotaskq.log import printable
from aiotaskq.operations.table import Access, perform, read
from aiotaskq.operations.task_views import AttemptView, StepView, TaskDetail, TaskView, first_line
from aiotaskq.operations.tasks import Copied, PushBody, Pushed, TaskPage, TaskState, find, tasks

# ---- how tasks are shown --------------------------------------------------------------------------------------------


def _attempt(task: TaskView) -> str:
    begun = task.status is not Status.PENDING and task.started_at is not None
    return f"{task.retry_count + begun}/{task.max_retries + 1}"


def _due(task: TaskView) -> str:
    """Return in how long a pending task may run, the limit at which it waits, or for how many other tasks."""
    if task.status is not Status.PENDING:
        return ""
    due, now = NEVER if task.run_at is None else from_iso(task.run_at), SystemClock().now()
    if due >= NEVER:
        return tr("by an event")
    if due > now:
        return tr("in {time}", time=duration(due - now))
    if task.limit is not None:
        return tr("at {limit}", limit=task.limit)
    return tr("after {count} others", count=task.waits) if task.waits else tr("now")


def run_text(task: TaskView) -> str:
    """Return how long the latest run took, or has taken until now."""
    if task.status is Status.RUNNING:
        return ago(task.started_at)
    if task.status is Status.PENDING or task.run_time is None:
        return ""
    return duration(round(task.run_time * SECOND))


def progress_text(progress: dict[str, Any] | None) -> str:
    """Return the progress that a handler has reported, in few characters."""
    if not progress:
        return ""
    done, total, message = (progress.get(name) for name in ("done", "total", "message"))
    if done is None:
        return json_text(progress)
    count = f"{done}" if total is None else f"{done}/{total}"
    return f"{count} {message}" if message else count


def worker_text(task: TaskView) -> str:
    """Return host and pid of the process that has a running task; another owner's id as it is."""
    if task.status is not Status.RUNNING or task.lease_owner is None:
        return ""
    name = task.lease_owner.partition("!")[0]
    owner = read_owner(name)
    return name if owner.host is None else f"{owner.host}:{owner.pid}"


STYLES = {"running": "cyan", "completed": "green", "failed": "bold red", "cancelled": "yellow", "expired": "yellow"}
COLUMNS = (
    Column("TASK_ID", "task_id"),
    Column("TYPE", "type", least=12, good=20),
    Column("STATUS", "status", style=lambda status: STYLES.get(str(status), "")),
    Column("ATTEMPT", _attempt, rank=5),
    Column("AGE", lambda task: ago(task.created_at), rank=4),
    Column("DUE", _due, rank=2),
    Column("RUN", run_text, rank=6),
    Column("PROGRESS", lambda task: progress_text(task.progress), rank=7, least=10, good=14),
    Column("QUEUE", "queue", rank=3, least=8, good=14, plain=("default",)),
    Column("WORKER", worker_text, rank=8, least=14, good=20),
    Column("ERROR", "error", rank=1, least=16, good=30),
    Column("TAGS", lambda task: " ".join(labels(task.tags)), rank=9, least=16, good=30, plain=("",)),
    Column("PARAMS", params_of, least=20, plain=("",)),
)
"""The columns of a list of tasks."""


def attempt_line(attempt: AttemptView) -> str:
    took = "" if attempt.run_time is None else f"{attempt.run_time:.3f} s"
    words = (attempt.number, local_time(attempt.began_at), took, attempt.outcome or Status.RUNNING)
    where = (attempt.host or attempt.worker, attempt.version)
    return "  ".join(str(word) for word in (*words, *where, first_line(attempt.error)) if word)


WAITS = {
    "paused": marked("queue {queue} is paused"),
    "delayed": marked("delayed, due in {time}"),
    "retry": marked("delayed, due in {time}"),
    "sleeping": marked("its handler sleeps, until {time}"),
    "event": marked("event {key}, until {time}"),
    "event without end": marked("event {key}"),
    "unknown_type": marked("no worker has a handler of its type; it is tried again in {time}"),
    "unknown version": marked("no worker has version {version} of {type}; it is tried again in {time}"),
    "parents": marked("tasks that have to end before it: {count}"),
    "no worker": marked("no worker claims from queue {queue}"),
    "budget": marked("the budget of group {group} is used up"),
    "limit_paused": marked("{key}: paused until {time}"),
    "limit_paused without end": marked("{key}: paused until resumed"),
    "rate": marked("{key}: its rate, next in {time}"),
    "full": marked("{key}: {held} of {most} are taken, {count} wait"),
    "passing": marked("{key}: it is about to pass"),
}


def waits_for(task: TaskDetail) -> str | None:
    """Return in words what a pending task waits for; None if a worker may claim it, and for any other task."""
    found = task.waiting
    if found is None or (found.reason == "ready" and found.workers != 0):
        return None
    reason: str = "no worker" if found.reason == "ready" else found.reason
    if reason in ("event", "limit_paused") and found.until is None:
        reason += " without end"
    elif reason == "unknown_type" and found.version is not None:
        reason = "unknown version"
    values: dict[str, object] = {"queue": task.queue, "type": task.type, "version": found.version, "group": found.group}
    values |= {"key": found.event, "count": len(found.parents)}
    if reason in ("sleeping", "event", "limit_paused"):
        values["time"] = local_time(found.until)
    else:
        left = 0 if found.until is None else max(SECOND // 1000, from_iso(found.until) - SystemClock().now())
        values["time"] = duration(left)
    if (limit := found.limit) is not None:
        bounds = [each for each in (limit.cap, limit.window) if each is not None]
        values |= {"key": limit.key, "held": limit.held, "most": min(bounds, default=None), "count": limit.waiting}
    return None if values["key"] is None and "{key}" in WAITS[reason] else tr(WAITS[reason], **values)


def _label(step: StepView) -> str:
    return step.name if step.number == 1 else f"{step.name}#{step.number}"


def _kind(step: StepView) -> str:
    kinds = {"step": tr("step"), "sleep": tr("sleep"), "wake": tr("wake"), "wait": tr("wait"), "event": tr("event")}
    return kinds[step.kind]


def _value(step: StepView) -> str:
    if step.undecodable is not None:
        return tr("not decodable: {error}", error=step.undecodable)
    if step.timed_out:
        return tr("did not come in time")
    if step.kind == "wake":
        return tr("ended early")
    if step.kind in ("sleep", "wait"):
        if step.until is None:
            return tr("no timeout")
        return tr("until {time}", time=shown(step.until))
    return "" if step.value is msgspec.UNSET else printable(json_text(step.value), 1_000)


STEPS = (
    Column("AT", lambda step: shown(step.at)),
    Column("KIND", _kind),
    Column("NAME", _label, least=16),
    Column("VALUE", _value, least=16),
)
"""The columns of the steps of a task."""


SHORTENED = 500
"""Longest list with shortened ids: the store is asked about each."""
SECRET = ("params", "result", "extra")
TIMES = ("created_at", "run_at", "started_at", "completed_at", "expires_at", "lease_until")


async def _ids(tq: TaskQ, page: TaskPage) -> dict[str, str]:
    full = width_of_output() is None or len(page.tasks) > SHORTENED
    return {} if full else await short_ids(tq, [task.task_id for task in page.tasks])


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
    values["tags"] = " ".join(labels(task.tags)) or None
    shown = ("progress", "usage", *(() if task.params is msgspec.UNSET else SECRET))
    show_fields(values | {name: json_text(values[name]) for name in shown if values[name] not in (None, {}, False)})


def _copied(copy: Copied) -> None:
    echo(copy.task_id)
    if not copy.created:
        say_stderr("not pushed: a task with this key exists")


def _cancelled(task: TaskState) -> str:
    return tr("cancelled") if task.status is Status.CANCELLED else tr("cancellation requested")


NOT_IN_TIME = 5  # exit code
HELP = tr(
    "Push one task by the name of its type; prints its id. With --app the type and the params are checked by your "
    "handlers, whose defaults apply; the store is that of your TaskQ unless --db is given."
)
Wait = Annotated[
    float | None,
    option("Wait at most so long for the task to end, and print its result.", "--wait", min=0.0, metavar="SECONDS"),
]


def _push(context: typer.Context, db: str, target: str | None, wait: float | None, json: bool, **given: Any) -> None:
    params: PushBody = read(tasks["push"], values_of(tasks["push"], given))
    url = store_of(context, db, target)
    app = None if target is None else load_quietly(target)

    async def work(tq: TaskQ) -> tuple[dict[str, Any], ResultTimeout | TaskFailed | None]:
        registered = internal(tq).registered
        pushed: Pushed = await perform(tasks["push"], Access(tq, True), params, "cli", actor())
        handle, answer = tq.handle(pushed.task_id), msgspec.to_builtins(pushed)
        if not json:  # now: it may take long
            echo(handle.task_id) if wait is None else echo_stderr(handle.task_id)
            if not pushed.created:
                handler = registered.handlers.get(params.type)
                declared = {} if handler is None or params.throttle is not None else handler.pushed
                waits = params.debounce is not None or declared.get("debounce") is not None
                say_stderr("the task that waits was changed" if waits else "not pushed: a task with this key exists")
        problem: ResultTimeout | TaskFailed | None = None
        try:
            if wait is not None:
                return answer | {"status": "completed", "result": await handle.result(wait)}, None
        except TaskFailed as error:
            return answer | {"status": str(error.task.status), "error": error.error}, error
        except ResultTimeout as error:
            problem, answer["status"] = error, str(await handle.status())
        if not registered.knows(params.type):
            await warn_of_unknown(tq, params.type, params.queue or "default")
        return answer, problem

    answer, problem = with_tq(url, work, app=app, adds=True)
    if json:
        echo_json(answer)
    elif "result" in answer:
        echo_json(answer["result"])
    if problem is not None:
        said, _, rest = str(problem).partition("\n")
        echo_error(said)
        for line in [] if json else without_passwords(rest.strip("\n")).splitlines():  # a traceback
            echo_stderr(printable(line, LONG))
        raise typer.Exit(NOT_IN_TIME if isinstance(problem, ResultTimeout) else 1)


_PUSH = [*options_of(tasks["push"], ["type", "params"]), *with_target()]
for _name in ("push", "tasks push"):
    register(_name, _push, [*_PUSH, keyword("wait", Wait, None), keyword("json", Json, False)], HELP)
command_of("tasks.list", listed("no tasks", *COLUMNS), beside=_ids, with_app=True)
command_of("tasks.get", _show, utc=True, with_app=True)
command_of("tasks.steps", listed("no steps", *STEPS), utc=True, with_app=True)
command_of("tasks.edit", _show, utc=True)
command_of_several(
    "tasks.retry",
    lambda _task: tr("pending again"),
    ask="Tasks to retry: {count}. Continue?",
    done="tasks retried: {count}",
)
command_of("tasks.rerun", _copied, with_app=True)
command_of_several("tasks.run_now", lambda _task: tr("due now"))
command_of_several(
    "tasks.cancel",
    _cancelled,
    ask="Tasks to cancel: {count}. Continue?",
    done="tasks cancelled, or asked to stop: {count}",
)
command_of_several(
    "tasks.delete",
    lambda _none: tr("deleted"),
    ask="Tasks to delete: {count}. Continue?",
    done="tasks deleted: {count}",
)

TaskId = Annotated[str, argument("A task id, or the beginning of one.", "TASK_ID")]
Follow = Annotated[bool, option("Go on until the task has ended.", "--follow", "-f")]
After = Annotated[int, option("Only entries behind this number.", "--after", min=0, metavar="N")]


@command(
    "tasks log",
    "Show what a task has written with log and stream, which may be secret; with --follow until its end.",
    "Show, and follow, what a task has written with log and stream.",
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
