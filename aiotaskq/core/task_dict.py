"""The documented task dict: a Task is made from one by a push, and turned into one by a pop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.ids import new_id, next_seq
from aiotaskq.core.task import SECOND, Task, new_task
from aiotaskq.core.validation import INT32, MAX_ID, MAX_NAME, check_key, shown

_READ = (
    "task_id",
    "type",
    "params",
    "priority",
    "retry_count",
    "max_retries",
    "queue",
    "scheduler_task_id",
    "timeout",
)
_KNOWN = frozenset(_READ) | {"created_at"}  # a popped dict that is pushed again has it; a push sets its own


def task_from_dict(
    source: Mapping[str, Any], priority: object, now: int, *, any_id: bool = False, kind: type[Task] = Task
) -> Task:
    """Return a task made from the documented dict, which is not changed; unknown keys go to ``extra``.

    Its params are a copy, so that the caller may go on with its own; the values in it are those of the caller.

    A ``priority`` other than 0 replaces that of the dict, so that a popped task that is pushed again keeps its own.
    ``any_id`` and ``kind`` as for ``new_task``. Raises ValidationError naming the field.
    """
    if type(source) is dict and len(source) == 2 and type(priority) is int:
        # The usual dict, a type and params, is checked in one expression, since the checks below take longer than the
        # rest of a push into memory. Those find what is wrong where this one finds that something is.
        name, params = source.get("type"), source.get("params")
        wrong = type(name) is not str or not name.isprintable() or not name.strip() or len(name) > MAX_NAME
        if not wrong and type(params) is dict and -INT32 <= priority <= INT32:
            return kind(
                task_id=new_id(),
                type=name,  # type: ignore[arg-type]  # a str, or it would be wrong
                params=params.copy(),
                priority=priority,
                created_at=now // SECOND,
                run_at=now,
                seq=next_seq(now),
            )
    if not isinstance(source, Mapping):
        raise ValidationError(f"task: a dict is needed (got {type(source).__name__})")
    if "type" not in source:
        raise ValidationError("type: missing; a task is a dict with at least 'type' (a non-empty string)")
    known = {name: source[name] for name in _READ if name in source and name != "params"}
    if priority != 0 or isinstance(priority, bool):
        known["priority"] = priority
    extra: dict[str, Any] = {}
    for key, value in source.items():
        if not isinstance(key, str):
            raise ValidationError(f"task: key {shown(key)} is {type(key).__name__}; keys are strings")
        if key not in _KNOWN:
            extra[key] = value
    scheduler_task_id = known.pop("scheduler_task_id", None)
    if scheduler_task_id is not None:
        check_key("scheduler_task_id", scheduler_task_id, MAX_ID)
    return new_task(
        known.pop("type"),
        params.copy() if type(params := source.get("params")) is dict else params,
        now=now,
        scheduler_task_id=scheduler_task_id,
        extra=extra,
        any_id=any_id,
        kind=kind,
        **known,
    )


def task_to_dict(task: Task) -> dict[str, Any]:
    """Return the documented dict of a popped task: a new one, its params as well, with the keys of ``extra``."""
    known: dict[str, Any] = {
        "task_id": task.task_id,
        "type": task.type,
        "params": task.params.copy(),
        "priority": task.priority,
        "retry_count": task.retry_count,
        "max_retries": task.max_retries,
        "created_at": task.created_at,
    }
    if task.scheduler_task_id is not None:
        known["scheduler_task_id"] = task.scheduler_task_id
    if task.queue != "default":
        known["queue"] = task.queue
    if task.timeout is not None:
        known["timeout"] = task.timeout
    return {**task.extra, **known} if task.extra else known
