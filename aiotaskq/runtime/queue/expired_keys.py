"""Frees the unique key of a pending task that has expired, when a push of the same key finds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.outcome import Expired, settle
from aiotaskq.core.task import Status, Task


async def take_expired_keys(
    backend: Backend, now: int, tasks: Sequence[Task], stored: list[Task], session: Any = None
) -> list[Task]:
    """Settle each expired task whose unique key conflicted with a push, and push the new task in its place.

    ``stored`` is the answer of the store to the push of ``tasks``, and is updated. With ``session`` both writes are in
    its transaction. Returns the tasks that are expired now.
    """
    expired: list[Task] = []
    for number, task in enumerate(tasks):
        while _is_expired(stored[number], task, now):
            change = Change(stored[number], settle(stored[number], Expired(), now), (task,))
            if session is None:
                (held,) = await backend.update([change])
                (stored[number],) = await backend.push([task])
            else:
                (held,) = await backend.update_with(session, [change])
                (stored[number],) = await backend.push_with(session, [task])
            if held:
                expired.append(change.after)
            elif session is not None:
                break  # another transaction changed the task, which this one may not see
    return expired


def expired_in_the_way(now: int, tasks: Sequence[Task], stored: Sequence[Task]) -> list[Change]:
    """Return the changes that settle the expired tasks whose unique keys conflicted with ``tasks``."""
    met = {row.task_id: row for task, row in zip(tasks, stored, strict=True) if _is_expired(row, task, now)}
    return [Change(row, settle(row, Expired(), now)) for row in met.values()]


def _is_expired(row: Task, task: Task, now: int) -> bool:
    """Whether the row conflicts with the task by its unique key only, and has expired."""
    return (
        row is not task
        and row.status is Status.PENDING
        and row.task_id != task.task_id
        and task.unique_key is not None
        and row.unique_key == task.unique_key
        and row.expires_at is not None
        and row.expires_at <= now
    )
