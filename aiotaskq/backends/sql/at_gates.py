"""The short path at gates, for databases with the functions of gates: pushes and ends of tasks in one statement each.

It is for tasks with one gate that only wait for a slot. Which of them may pass is then a comparison of numbers, which
the functions do. ``admission`` decides on all else, such as a rate or a task that is not due.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.changes import Group, completions
from aiotaskq.backends.sql.rows import json_text
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.parking import passing_order, pushed_at
from aiotaskq.core.task import Task


class Entering(NamedTuple):
    """The arguments of a push on the short path: each task waits at one gate, or has none."""

    gates: str
    """The gates with the bounds that the push declares, as JSON."""
    at: int
    """The latest instant of a push among the tasks, in microseconds UTC."""
    ranks: Sequence[int | None]
    """By task, its place in claim order among the new tasks at its gate, from 1 on; None for a task without a gate."""
    shared: Sequence[bool]
    """By task, whether its gate is a fair share."""


class Ending(NamedTuple):
    """The arguments of a write of ends on the short path: runs that have completed, of tasks with one gate or none."""

    group: Group
    gates: str
    """The gates whose slots become free, as JSON, each with the flow of a task that has ended there.

    A waiting task with the same flow has only this gate, too; a task with another flow is left to ``admission``.
    """
    bounds: Mapping[str, Bounds]
    """The bounds to make these gates with if they do not exist."""
    ran: Sequence[Task]
    """The tasks as they were."""
    at: int
    """When the last one ended, in microseconds UTC."""


class Ended(NamedTuple):
    """The answer to ``Ending``."""

    written: Collection[str]
    """The ids of the tasks that were written."""
    rows: Sequence[Any]
    """The claimed tasks, as rows of ``READ``."""
    missed: Sequence[str] | None
    """Gates that ``admission`` has to admit before anything else is claimed; None if there is nothing of that."""
    more: bool
    """Whether tasks have become ready that were not claimed."""


def entering(tasks: Sequence[Task]) -> Entering | None:
    """Return the arguments of a push of these tasks; None if the short path is not for them."""
    gates: dict[str, Bounds] = {}
    lines: dict[str, list[int]] = {}
    line: list[int] = []
    key, fair, known = "", False, None
    at = 0
    shared = [False] * len(tasks)
    for number, task in enumerate(tasks):
        if task.unique_key is not None or task.idempotency_key is not None:
            return None
        flow, due_at = task.flow, task.due_at
        if flow is None:
            continue
        if flow is not known:  # the tasks of a push often share one flow
            gate = _only_gate(flow)
            if gate is None:
                return None
            key, bounds = gate
            if bounds.max_waiting is not None or gates.setdefault(key, bounds) != bounds:
                return None
            line, fair, known = lines.setdefault(key, []), bounds.window is not None, flow
        if task.gate != key or not task.parked or due_at is None or due_at > task.seq or task.expires_at is not None:
            return None
        line.append(number)
        shared[number] = fair
        at = max(at, pushed_at(task))
    ranks: list[int | None] = [None] * len(tasks)
    for line in lines.values():
        if len(line) > 1:
            line.sort(key=lambda number: passing_order(tasks[number]))
        for rank, number in enumerate(line, 1):
            ranks[number] = rank
    asked = [{"key": key, "cap": bounds.cap, "fair_window": bounds.window} for key, bounds in gates.items()]
    return Entering(json_text(asked), at, ranks, shared)


def ending(changes: Sequence[Change]) -> Ending | None:
    """Return the arguments of a write of these changes; None if the short path is not for them."""
    gates: dict[str, dict[str, Any]] = {}
    known: dict[str, Bounds] = {}
    last: Flow | None = None
    for change in changes:
        flow = change.before.flow
        if flow is None or flow is last:
            continue
        gate = _only_gate(flow)
        if gate is None or flow.group is not None or flow.parents or flow.children or flow.source is not None:
            return None
        last, (key, bounds) = flow, gate
        if key not in gates:
            known[key] = bounds
            gates[key] = {"key": key, "flow": json_text(flow), "shared": bounds.window is not None}
    group = completions(changes)
    if group is None:
        return None
    at = max([change.after.ended_at or 0 for change in changes])
    return Ending(group, json_text(list(gates.values())), known, [change.before for change in changes], at)


def _only_gate(flow: Flow) -> tuple[str, Bounds] | None:
    """Return the gate of a flow that has one, and no rate."""
    if len(flow.gates) != 1 or flow.gates[0][1].interval is not None:
        return None
    return flow.gates[0]
