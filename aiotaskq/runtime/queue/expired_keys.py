"""Finds pending tasks that have expired, and whose unique keys conflict with a push: those keys are free."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.core.task import Status, Task


def expired_conflicts(tasks: Sequence[Task], stored: Sequence[Task], now: int) -> dict[int, Task]:
    """Return the expired rows that conflict with ``tasks``, by the positions of the tasks.

    ``stored`` is the answer of the store to the push of ``tasks``.
    """
    return {
        position: row
        for position, (task, row) in enumerate(zip(tasks, stored, strict=True))
        if row is not task and _is_expired(row, task, now)
    }


def _is_expired(row: Task, task: Task, now: int) -> bool:
    """Whether the row conflicts with the task by its unique key only, and has expired."""
    return (
        row.status is Status.PENDING
        and row.task_id != task.task_id
        and task.unique_key is not None
        and row.unique_key == task.unique_key
        and row.expires_at is not None
        and row.expires_at <= now
    )
