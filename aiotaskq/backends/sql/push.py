"""Inserts tasks that conflict with no row."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select

from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import LIVE, TASKS, new_rows, to_task
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.core.task import Task, same_push
from aiotaskq.errors import TaskConflict

c = TASKS.c
TRIES = 10
"""Of a push in conflict with rows that are gone when it reads them."""


def push(tx: Tx, tasks: Sequence[Task], notify: tuple[str, str] | None = None, tries: int = TRIES) -> list[Task]:
    """Insert tasks; return each, or the row that it conflicts with. ``notify``: see ``Dialect.insert``."""
    if tx.insert_new(TASKS, *new_rows(tasks), notify) == len(tasks):
        return list(tasks)
    # Some conflict with other rows.
    rows = conflicts(tx, tasks)
    if gone := [task for task, row in zip(tasks, rows, strict=True) if row is None]:
        # The row that was in conflict has ended, or given up its key, before it was read.
        if not tries:
            raise TaskConflict("push: a key is held by a task that this transaction does not see; begin a new one")
        again = {task.task_id: row for task, row in zip(gone, push(tx, gone, None, tries - 1), strict=True)}
        rows = [again[task.task_id] if row is None else row for task, row in zip(tasks, rows, strict=True)]
    return [task if row is None or same_push(row, task) else row for task, row in zip(tasks, rows, strict=True)]


def conflicts(tx: Tx, tasks: Sequence[Task]) -> list[Task | None]:
    """Return the row with the id or a key of each task, perhaps its own; None where there is none."""
    found: dict[str, Task] = {}
    by_key: dict[tuple[str, str | None], Task] = {}
    for part in chunks(tasks):
        keys = [task.unique_key for task in part if task.unique_key is not None]
        onces = [task.idempotency_key for task in part if task.idempotency_key is not None]
        where = or_(c.task_id.in_([t.task_id for t in part]), c.live_key.in_(keys), c.idempotency_key.in_(onces))
        for row in tx.connection.execute(select(TASKS).where(where)):
            task = to_task(row)
            found[task.task_id] = task
            if task.status in LIVE and task.unique_key is not None:
                by_key["unique", task.unique_key] = task
            if task.idempotency_key is not None:
                by_key["idempotency", task.idempotency_key] = task
    place = {(task.task_id, task.seq): number for number, task in reversed(list(enumerate(tasks)))}
    met: list[Task | None] = []
    for number, task in enumerate(tasks):
        once, unique = ("idempotency", task.idempotency_key), ("unique", task.unique_key)
        rows = [row for row in (found.get(task.task_id), by_key.get(once), by_key.get(unique)) if row is not None]
        # A row inserted later in this call was no conflict.
        rows.sort(key=lambda row: place.get((row.task_id, row.seq), 0) > number)
        met.append(rows[0] if rows else None)
    return met
