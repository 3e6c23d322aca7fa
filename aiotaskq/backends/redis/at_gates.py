"""A push of tasks that only wait for a slot: the words of its script, in the order of the commands that write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TypeAlias

import msgspec

from aiotaskq.backends.redis import rows
from aiotaskq.backends.redis.heads import NO_KEYS, keys_of
from aiotaskq.backends.redis.rows import row_words
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.task import Task

MOST_LINES = 1_000  # more than so many gates are left to a sweep

_Place: TypeAlias = tuple[str, int, str]  # gate, priority, queue
_claim_order = attrgetter("due_at", "seq")
_encode = msgspec.json.Encoder().encode


def words_at_gates(tasks: Sequence[Task]) -> list[bytes | str | int] | None:
    """Return the arguments of ``push_at_gates.lua`` behind its hint; None where that script is not enough.

    Raises ValidationError for a task that no row can hold.
    """
    if len(tasks) > rows.MOST_GATED:
        return None
    lines: dict[_Place, list[Task]] = {}
    bounds: dict[str, Bounds] = {}
    for task in tasks:
        flow = task.flow
        if flow is None or not _only_waits(task, flow):
            return None
        ((key, declared),) = flow.gates
        if bounds.setdefault(key, declared) != declared:
            return None
        line = lines.get(place := (key, task.priority, task.queue))
        if line is None:
            lines[place] = [task]
        else:
            line.append(task)
    if not len(lines) == len(bounds) <= MOST_LINES or len({task.task_id for task in tasks}) < len(tasks):
        return None
    return _words(len(tasks), lines, list(bounds.values()))


def _only_waits(task: Task, flow: Flow) -> bool:
    """Return whether it is new and due, and all that it waits for is a slot of one gate."""
    if len(flow.gates) != 1 or flow.group is not None or flow.parents or flow.children or task.due_at is None:
        return False
    ((key, bounds),) = flow.gates
    return (
        task.parked
        and task.gate == key
        and task.due_at <= task.seq
        and (bounds.cap is not None or bounds.window is not None)
        and bounds.interval is None
        and bounds.max_waiting is None
        and task.fence == 0
        and not task.cancel_requested
        and task.expires_at is None
        and task.lease_until is None
        and task.completed_at is None
        and keys_of(task) == NO_KEYS
    )


def _words(count: int, lines: Mapping[_Place, list[Task]], bounds: Sequence[Bounds]) -> list[bytes | str | int]:
    slots = [min(most for most in (each.cap, each.window) if most is not None) for each in bounds]
    now = max(task.due for line in lines.values() for task in line)
    ids: list[str] = []
    states: list[str] = []
    bodies: list[str] = []
    live: list[str | int] = []
    dues: list[str | int] = []
    for line, most, each in zip(lines.values(), slots, bounds, strict=True):
        line.sort(key=_claim_order)
        passing, shared = len(line) <= most, each.window is not None
        for task in line:
            due = task.due
            task_id, body, state = row_words(task, (now if shared else due) if passing else None)
            stamp = f"{task.seq:020d}{task_id}"
            ids.append(task_id)
            states += (task_id, state)
            bodies += (task_id, body)
            live += (0, stamp)
            dues += (due, stamp)
    words: list[bytes | str | int] = [now, count, len(lines), *map(len, lines.values())]
    words += [f"{priority}:{queue}" for _, priority, queue in lines]
    words += [key for key, _, _ in lines]
    words += map(_encode, bounds)
    words += slots
    return [*words, *ids, *states, *bodies, *live, *dues]
