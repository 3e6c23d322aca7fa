"""The table of ``aiotaskq tasks list``, and the steps of ``aiotaskq tasks steps``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import Column, columns_of, style_of_status
from aiotaskq.cli.output import echo, echo_json, echo_table, json_text
from aiotaskq.cli.store_access import instant
from aiotaskq.cli.times import duration, local
from aiotaskq.core.attempts import attempts_of
from aiotaskq.core.outcome import owner_of
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.log import printable
from aiotaskq.runtime.owner import read_owner

TASK_ID, TYPE, STATUS, ATTEMPT, AGE, DUE = map(marked, ("TASK_ID", "TYPE", "STATUS", "ATTEMPT", "AGE", "DUE"))
RUN, PROGRESS, QUEUE, WORKER, ERROR, PARAMS = map(marked, ("RUN", "PROGRESS", "QUEUE", "WORKER", "ERROR", "PARAMS"))


def columns(tasks: Sequence[Task], ids: Mapping[str, str], now: int, params: bool) -> list[Column]:
    """Return the columns; ``ids`` are the shortened ids, ``now`` is in microseconds, ``params`` adds theirs."""
    found = [
        Column(header=TASK_ID, cells=[ids.get(task.task_id, task.task_id) for task in tasks]),
        Column(header=TYPE, cells=[task.type for task in tasks], least=12, good=20),
        Column(header=STATUS, cells=[task.status for task in tasks], style=style_of_status),
        Column(header=ATTEMPT, cells=[_attempt(task) for task in tasks], rank=5),
        Column(header=AGE, cells=[duration(now - task.created_at * SECOND) for task in tasks], rank=4),
        Column(header=DUE, cells=[_due(task, now) for task in tasks], rank=2),
        Column(header=RUN, cells=[run_time(task, now) for task in tasks], rank=6),
        Column(header=PROGRESS, cells=[progress_text(task.progress) for task in tasks], rank=7, least=10, good=14),
        Column(header=QUEUE, cells=[task.queue for task in tasks], rank=3, least=8, good=14, plain=("default",)),
        Column(header=WORKER, cells=[worker_text(task) for task in tasks], rank=8, least=14, good=20),
        Column(header=ERROR, cells=[first_line(task.error_message) for task in tasks], rank=1, least=16, good=30),
    ]
    if params:
        found.append(Column(header=PARAMS, cells=[json_text(task.params) for task in tasks], least=20))
    return found


def _attempt(task: Task) -> str:
    """Return the number of the latest run, and how many there may be."""
    begun = task.status is not Status.PENDING and task.started_at is not None
    return f"{task.retry_count + begun}/{task.max_retries + 1}"


def _due(task: Task, now: int) -> str:
    """Return in how long a pending task may run, the gate at which it waits, or for how many other tasks."""
    if task.status is not Status.PENDING:
        return ""
    if task.due_us >= NEVER:
        return tr("by an event")
    if task.due_us > now:
        return tr("in {time}", time=duration(task.due_us - now))
    if not task.parked:
        return tr("now")
    return tr("at {gate}", gate=task.gate) if task.gate else tr("after {count} others", count=task.waits)


def run_time(task: Task, now: int) -> str:
    """Return how long the latest run took, or has taken until now."""
    attempts = attempts_of(task)
    if task.status is Status.PENDING or not attempts or attempts[-1].began_at is None:
        return ""
    ended = attempts[-1].ended_at
    return duration((now if ended is None else ended) - attempts[-1].began_at)


def progress_text(progress: dict[str, Any] | None) -> str:
    """Return the progress that a handler has reported, in few characters."""
    if not progress:
        return ""
    done, total, message = (progress.get(name) for name in ("done", "total", "message"))
    if done is None:
        return json_text(progress)
    count = f"{done}" if total is None else f"{done}/{total}"
    return f"{count} {message}" if message else count


def worker_text(task: Task) -> str:
    """Return host and pid of the process that has a running task; another owner's id as it is."""
    if task.status is not Status.RUNNING or task.lease_owner is None:
        return ""
    owner = read_owner(owner_of(task))
    return owner_of(task) if owner.host is None else f"{owner.host}:{owner.pid}"


def first_line(error: str | None) -> str:
    lines = (error or "").strip().splitlines()
    return lines[0] if lines else ""


def show_steps(found: Sequence[Step], values: bool, utc: bool, as_json: bool) -> None:
    """Print steps in their order, with what they returned only if ``values``."""
    if as_json:
        echo_json([_as_dict(step, values) for step in found])
        return
    if not found:
        echo(tr("no steps"))
        return
    headers = [marked("AT"), marked("KIND"), marked("NAME"), marked("VALUE")]
    rows = [
        [local(step.at, utc, short=True), _kind(step), printable(step.label), _value(step, values, utc)]
        for step in found
    ]
    echo_table(columns_of(headers, rows, name=16, value=16))


def _kind(step: Step) -> str:
    kinds = {"step": tr("step"), "sleep": tr("sleep"), "wake": tr("wake"), "wait": tr("wait"), "event": tr("event")}
    return kinds[step.kind]


def _value(step: Step, values: bool, utc: bool) -> str:
    if step.undecodable is not None:
        return tr("not decodable: {error}", error=step.undecodable)
    if step.timed_out:
        return tr("did not come in time")
    if step.kind == "wake":
        return tr("ended early")
    if step.kind in ("sleep", "wait"):
        if step.until >= NEVER:
            return tr("no timeout")
        return tr("until {time}", time=local(step.until, utc, short=True))
    return printable(step.text, 1_000) if values else ""


def _as_dict(step: Step, values: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"kind": step.kind, "name": step.name, "number": step.number, "at": instant(step.at)}
    if step.undecodable is not None:
        known["undecodable"] = step.undecodable
    elif step.kind in ("sleep", "wait"):
        known["until"] = None if step.until >= NEVER else instant(step.until)
    elif step.timed_out:
        known["timed_out"] = True
    elif values and step.kind != "wake":
        known["value"] = step.value
    if step.version != 1:
        known["version"] = step.version
    return known
