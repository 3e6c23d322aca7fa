"""Ids on the command line: a task is named by its id or the beginning of it; how far an id can be shortened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiotaskq.app.taskq import TaskQ
from aiotaskq.operations.schedules import ScheduleView

SHORTEST = 8
"""Characters to which an id is shortened at most."""


async def short_ids(tq: TaskQ, ids: Sequence[str]) -> dict[str, str]:
    """Return for each of these ids the beginning by which a command finds this task, and no other of the store."""
    prefixes = unique_prefixes(ids)
    found = await tq.queue.backend.ids_with_prefix(list(prefixes.values()), 2)
    unclear = [task_id for task_id, met in zip(prefixes, found, strict=True) if met != [task_id]]
    if unclear:
        # Other tasks of the same moment, which are not listed: most of them differ within a few characters more.
        others = await tq.queue.backend.ids_with_prefix([prefixes[task_id] for task_id in unclear], NEIGHBOURS)
        for task_id, met in zip(unclear, others, strict=True):
            known = len(met) < NEIGHBOURS
            prefixes[task_id] = unique_prefixes([*{task_id, *met}])[task_id] if known else task_id
    return prefixes


NEIGHBOURS = 1_000
"""Ids with a common beginning that are compared; where there are more, an id is not shortened."""


def short_schedule_ids(schedules: Iterable[ScheduleView]) -> dict[str, str]:
    """Return for each of all the schedules the beginning of its id by which a command finds it, and no other one."""
    found = list(schedules)
    prefixes = unique_prefixes([schedule.task_id for schedule in found])
    names = {schedule.name for schedule in found}
    return {task_id: task_id if prefix in names else prefix for task_id, prefix in prefixes.items()}


def unique_prefixes(ids: Sequence[str]) -> dict[str, str]:
    """Return for each id its shortest beginning, of at least ``SHORTEST`` characters, that no other id has.

    A dash is not the end of one. An id with which another one begins is not shortened.
    """
    found = {}
    ordered = sorted(set(ids))
    for number, task_id in enumerate(ordered):
        length = SHORTEST
        for other in ordered[max(0, number - 1) : number] + ordered[number + 1 : number + 2]:
            length = max(length, 1 + _shared(task_id, other))
        prefix = task_id[:length]
        found[task_id] = (
            task_id if len(task_id) <= length + 1 else task_id[: length + 1] if prefix[-1] == "-" else prefix
        )
    return found


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
