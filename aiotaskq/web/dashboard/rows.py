"""What several pages show: queues, values as JSON, how long tasks have run, and why they wait."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from aiotaskq.app.push import debounce_of
from aiotaskq.core.edit import first_push
from aiotaskq.core.instants import to_iso
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.operations.hidden import plain
from aiotaskq.runtime.handler import Handler
from aiotaskq.runtime.queue.operations import Stats


class QueueRow(msgspec.Struct):
    """One queue."""

    name: str
    paused: bool
    counts: dict[str, int]
    """Tasks by status."""
    next_age: float | None = None
    """Seconds for which the task that is claimed next has been ready; None where none is, or it was not looked for."""


def queue_rows(stats: Stats) -> list[QueueRow]:
    """Return the queues by name: those with tasks, and those that are paused."""
    names = sorted({*stats.queues, *stats.paused, *([] if stats.queues else ["default"])})
    return [queue_row(stats, name) for name in names]


def queue_row(stats: Stats, name: str) -> QueueRow:
    """Return one queue, also where it has no task."""
    empty = {str(status): 0 for status in Status}
    return QueueRow(name, name in stats.paused, empty | stats.queues.get(name, {}))


def json_text(value: Any) -> str:
    """Return a value as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(plain(value)), indent=2).decode()


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


def timeout_of(handlers: Mapping[str, Handler], task: Task) -> float | None:
    """Return the seconds that a run of a task may take: its own, else those of its handler, where that is known."""
    if task.timeout is not None:
        return task.timeout
    handler = handlers.get(task.type)
    return None if handler is None else handler.timeout


def debounced(handlers: Mapping[str, Handler], task: Task) -> dict[str, Any] | None:
    """Return how further calls of its key move a task, where its handler is known to debounce them; else None.

    ``delay`` are the seconds from a call until it is due, ``latest`` when it is due at the latest, None for no limit.
    """
    handler = handlers.get(task.type)
    if handler is None or task.unique_key is None or task.attempts or task.status is not Status.PENDING:
        return None
    rule = debounce_of(handler.pushed)
    if rule is None:
        return None
    latest = None if rule.max_wait is None else to_iso(first_push(task) + rule.max_wait)
    return {"delay": rule.delay / SECOND, "latest": latest}
