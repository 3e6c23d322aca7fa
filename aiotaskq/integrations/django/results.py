"""From a stored task to a result of Django's, and from a stored name to a task of Django's."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.utils import timezone

from aiotaskq.core.coded import readable_result
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.outcome import attempts_of, end_of
from aiotaskq.core.status import PENDING, Status
from aiotaskq.core.task import SECOND, Attempt, Task
from aiotaskq.integrations.django import framework
from aiotaskq.integrations.django.framework import TaskError, TaskResult, TaskResultStatus

__all__ = ["aware", "raised", "result_of", "task_at"]

_STATUSES = {
    Status.PENDING: TaskResultStatus.READY,
    Status.RUNNING: TaskResultStatus.RUNNING,
    Status.COMPLETED: TaskResultStatus.SUCCESSFUL,
}
_RAISED = re.compile(r"attempt (\d+) raised (\S+)")
_NOT_RAISED = {"lost": "aiotaskq.errors.LeaseLost", "timed_out": "builtins.TimeoutError"}
_OTHER = "aiotaskq.errors.TaskFailed"


def task_at(path: str) -> Any:
    """Return the task of Django's with this path, None if there is none.

    A module is imported only if it belongs to an installed application: a stored name is data. Raises what the import
    raises.
    """
    module, _, name = path.rpartition(".")
    if module not in sys.modules:
        if apps.get_containing_app_config(path) is None:
            return None
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                return None
            raise
    found = getattr(sys.modules[module], name, None)
    return found if isinstance(found, framework.Task) else None


def aware(moment: datetime) -> datetime:
    """Return a time with a time zone: without one it is in that of the settings."""
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment


def raised(attempt: int, error: BaseException) -> str:
    """Return the line in the log of a task from which ``result_of`` reads the class of an exception."""
    return f"attempt {attempt} raised {type(error).__module__}.{type(error).__qualname__}"


def result_of(row: Task, alias: str, notes: Sequence[LogEntry] = ()) -> Any:
    """Return the result of a stored task, whose notes name the classes of its exceptions.

    None if there is no such task in the code.
    """
    task = task_at(row.type)
    if task is None:
        return None
    attempts = attempts_of(row)
    waits = row.status is PENDING and not attempts and row.due_us >= (row.created_at + 1) * SECOND
    task = dataclasses.replace(
        task,
        priority=min(100, max(-100, -row.priority)),
        queue_name=row.queue,
        backend=alias,
        run_after=_moment(row.due_us) if waits else None,
    )
    result = TaskResult(
        task=task,
        id=row.task_id,
        status=_STATUSES.get(row.status, TaskResultStatus.FAILED),
        enqueued_at=_moment(row.created_at * SECOND),
        started_at=_moment(attempts[0].began_at) if attempts else None,
        last_attempted_at=_moment(attempts[-1].began_at) if attempts else None,
        finished_at=_moment(end_of(row)) if row.final else None,
        args=row.params.get("args", []),
        kwargs=row.params.get("kwargs", {}),
        backend=alias,
        errors=_errors(row, attempts, notes),
        # The id of the worker of an attempt that has completed is not kept, and of many attempts only the newest are.
        worker_ids=["unknown"] * (attempts[0].number - 1 if attempts else 0)
        + [attempt.worker or "unknown" for attempt in attempts],
    )
    if row.status is Status.COMPLETED:
        object.__setattr__(result, "_return_value", readable_result(row))
    return result


def _errors(row: Task, attempts: Sequence[Attempt], notes: Sequence[LogEntry]) -> list[Any]:
    classes = {int(line[1]): line[2] for note in notes if (line := _RAISED.match(note.text))}
    failed = [attempt for attempt in attempts if attempt.outcome in ("failed", "timed_out", "lost")]
    found = []
    for attempt in failed:
        text = attempt.error or ""
        if attempt is failed[-1] and (row.error_message or "").startswith(text.partition("\n")[0]):
            text = row.error_message or text  # with the traceback
        path = classes.get(attempt.number) or _NOT_RAISED.get(attempt.outcome or "") or _OTHER
        found.append(TaskError(exception_class_path=path, traceback=text))
    return found


def _moment(microseconds: int | None) -> datetime | None:
    if microseconds is None:
        return None
    moment = datetime.fromtimestamp(microseconds / SECOND, UTC)
    return moment if settings.USE_TZ else timezone.make_naive(moment)
