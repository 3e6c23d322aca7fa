"""Tasks in a table, what one waits for, its attempts and its steps, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import Column, column, style_of_status
from aiotaskq.cli.output import json_text
from aiotaskq.cli.times import ago, duration, local_time, shown
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import from_iso
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NEVER
from aiotaskq.core.task import SECOND
from aiotaskq.log import printable
from aiotaskq.operations.task_views import AttemptView, StepView, TaskDetail, TaskView, first_line
from aiotaskq.runtime.owner import read_owner


def columns(tasks: Sequence[TaskView], ids: Mapping[str, str]) -> list[Column]:
    """Return the columns; ``ids`` are the shortened ids."""
    found = [column("TASK_ID", lambda task: ids.get(task.task_id, task.task_id)), *COLUMNS]
    if any(isinstance(task.params, dict) for task in tasks):
        found.append(column("PARAMS", lambda task: json_text(task.params), least=20))
    return [each(tasks) for each in found]


def _attempt(task: TaskView) -> str:
    """Return the number of the latest run, and how many there may be."""
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


COLUMNS = (
    column("TYPE", "type", least=12, good=20),
    column("STATUS", "status", style=style_of_status),
    column("ATTEMPT", _attempt, rank=5),
    column("AGE", lambda task: ago(task.created_at), rank=4),
    column("DUE", _due, rank=2),
    column("RUN", run_text, rank=6),
    column("PROGRESS", lambda task: progress_text(task.progress), rank=7, least=10, good=14),
    column("QUEUE", "queue", rank=3, least=8, good=14, plain=("default",)),
    column("WORKER", worker_text, rank=8, least=14, good=20),
    column("ERROR", "error", rank=1, least=16, good=30),
)
"""The columns of a list of tasks, behind their ids."""


def attempt_line(attempt: AttemptView) -> str:
    """Return an attempt in one line."""
    took = "" if attempt.run_time is None else f"{attempt.run_time:.3f} s"
    words = (attempt.number, local_time(attempt.began_at), took, attempt.outcome or Status.RUNNING)
    return "  ".join(str(word) for word in (*words, first_line(attempt.error)) if word)


WAITS = {
    "paused": marked("queue {queue} is paused"),
    "delayed": marked("delayed, due in {time}"),
    "retry": marked("delayed, due in {time}"),
    "sleeping": marked("its handler sleeps, until {time}"),
    "event": marked("event {key}, until {time}"),
    "event without end": marked("event {key}"),
    "unknown_type": marked("no worker has a handler of its type; it is tried again in {time}"),
    "unknown version": marked("no worker has version {version} of {type}; it is tried again in {time}"),
    "parents": marked("tasks before it in its workflow: {count}"),
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
    return "" if step.value is UNSET else printable(json_text(step.value), 1_000)


STEPS = (
    column("AT", lambda step: shown(step.at)),
    column("KIND", _kind),
    column("NAME", _label, least=16),
    column("VALUE", _value, least=16),
)
"""The columns of the steps of a task."""
