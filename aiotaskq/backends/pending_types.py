"""The types of pending tasks, counted by queue."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from operator import attrgetter

import msgspec

from aiotaskq.core.outcome import due_since
from aiotaskq.core.task import Task

MOST_COUNTED = 50_000
"""Pending tasks among which some are counted by type."""


class PendingType(msgspec.Struct, frozen=True, order=True):
    """How many pending tasks of one type are in one queue."""

    queue: str
    type: str
    count: int
    due: int
    """Those that are due, or would be if a worker had not put them off, since it had no handler of the type."""


def share(left: int, parts: int) -> int:
    """Return how many tasks are looked at in the next one of so many parts, of those that may be looked at still."""
    return -(-left // parts)


def first_of(tasks: Iterable[Task], now: int, limit: int) -> list[Task]:
    """Return up to ``limit`` of these pending tasks that are due, and as many others: the earliest of both."""
    due: list[Task] = []
    others: list[Task] = []
    for task in tasks:
        (due if task.run_at <= now else others).append(task)
    return [task for part in (due, others) for task in heapq.nsmallest(limit, part, key=attrgetter("run_at"))]


def count_types(tasks: Iterable[Task], now: int) -> list[PendingType]:
    """Count these pending tasks as ``Backend.pending_types``; ``now`` in microseconds UTC."""
    counts, due = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for task in tasks:
        if not task.parked:
            counts[task.queue, task.type] += 1
            due[task.queue, task.type] += due_since(task) <= now
    return [PendingType(queue, kind, count, due[queue, kind]) for (queue, kind), count in counts.items()]
