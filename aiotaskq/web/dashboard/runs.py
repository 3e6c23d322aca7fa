"""What pages say of workers and of tasks that run: how long these have run and may run, what a worker can run."""

from __future__ import annotations

from collections.abc import Collection

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.task import SECOND, Status, Task


def types_told(types: Collection[str] | None) -> list[str] | None:
    """Return the types that a worker tells of, without its ``order@2`` for a version of the type ``order``."""
    return None if types is None else [each for each in types if each.rpartition("@")[0] not in types]


def elapsed(task: Task, now: int) -> float | None:
    """Return for how many whole seconds a task has run; None if it does not run. ``now`` in microseconds UTC.

    Whole ones, since each change is sent to the pages that are open.
    """
    if task.status is not Status.RUNNING or task.began_at is None:
        return None
    return float(max(0, now - task.began_at) // SECOND)


def timeout_of(tq: TaskQ, task: Task) -> float | None:
    """Return the seconds that a run of a task may take: its own, else those of its handler, where that is known."""
    if task.timeout is not None:
        return task.timeout
    handler = tq.registered.handlers.get(task.type)
    return None if handler is None else handler.timeout
