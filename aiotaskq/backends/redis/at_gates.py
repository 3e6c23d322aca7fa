"""The short path of pushes at gates: the arguments of ``push_at_gates.lua``, for tasks that only wait for a slot.

They are in the order of the commands that write them, so that the script passes whole ranges of them on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from aiotaskq.backends.redis import rows
from aiotaskq.backends.redis.heads import NO_KEYS, keys_of
from aiotaskq.backends.redis.rows import pack, row_words
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.task import Task

MAX_LINES = 1_000  # gates of one push: as MAX_GATES in declare.lua, which leaves those of larger pushes to a sweep

_claim_order = attrgetter("due_at", "seq")
_encode = msgspec.json.Encoder().encode


class _Kind(NamedTuple):
    """What the tasks of a line have in common; many lines have the same."""

    priority: int
    queue: str
    bounds: Bounds


class _Line(NamedTuple):
    """The tasks that wait at the same gate."""

    kind: _Kind
    tasks: list[Task]


def words_at_gates(tasks: Sequence[Task]) -> list[bytes | str | int] | None:
    """Return the arguments of ``push_at_gates.lua`` after its hint; None if ``push.lua`` has to push these tasks.

    Raises ValidationError for a task that no row can hold.
    """
    if len(tasks) > rows.MOST_GATED:
        return None
    lines: dict[str, _Line] = {}
    flow: Flow | None = None
    gate = ""
    for task in tasks:
        if flow is None or task.flow is not flow:
            if (flow := task.flow) is None or not _is_limited(flow):
                return None
            ((gate, bounds),) = flow.gates
        if not _only_waits(task, gate):
            return None
        line = lines.get(gate)
        if line is None:
            lines[gate] = _Line(_Kind(task.priority, task.queue, bounds), [task])
        elif line.kind == (task.priority, task.queue, bounds):
            line.tasks.append(task)
        else:
            return None
    if not 0 < len(lines) <= MAX_LINES or len({task.task_id for task in tasks}) < len(tasks):
        return None
    kinds: dict[_Kind, list[str]] = {}
    for gate, line in lines.items():
        kinds.setdefault(line.kind, []).append(gate)
    return _words(len(tasks), lines, kinds)


def _is_limited(flow: Flow) -> bool:
    """Return whether all that it declares is one gate with slots."""
    if len(flow.gates) != 1 or flow.group is not None or flow.parents or flow.children:
        return False
    ((_, bounds),) = flow.gates
    limited = bounds.cap is not None or bounds.window is not None
    return limited and bounds.interval is None and bounds.max_waiting is None


def _only_waits(task: Task, gate: str) -> bool:
    """Return whether it is new and due, and all that it waits for is this gate."""
    return (
        task.gate == gate
        and task.parked
        and task.due_at is not None
        and task.due_at <= task.seq
        and task.fence == 0
        and not task.cancel_requested
        and task.expires_at is None
        and task.lease_until is None
        and task.completed_at is None
        and keys_of(task) == NO_KEYS
    )


def _words(count: int, lines: Mapping[str, _Line], kinds: Mapping[_Kind, Sequence[str]]) -> list[bytes | str | int]:
    now = max([task.due for line in lines.values() for task in line.tasks])
    ids: list[str] = []
    states: list[str] = []
    bodies: list[str] = []
    live: list[str | int] = []
    dues: list[str | int] = []
    lengths: list[int] = []
    shown: list[bytes | str | int] = []
    for kind, gates in kinds.items():
        bounds = kind.bounds
        shared = bounds.window is not None
        slots = min([most for most in (bounds.cap, bounds.window) if most is not None])
        shown += (f"{kind.priority}:{kind.queue}", _encode(bounds), slots, len(gates))
        for gate in gates:
            tasks = lines[gate].tasks
            lengths.append(len(tasks))
            tasks.sort(key=_claim_order)
            passing = len(tasks) <= slots
            for task in tasks:
                due = task.due
                task_id, body, state = row_words(task, (now if shared else due) if passing else None)
                stamp = f"{task.seq:020d}{task_id}"
                ids.append(task_id)
                states += (task_id, state)
                bodies += (task_id, body)
                live += (0, stamp)
                dues += (due, stamp)
    words: list[bytes | str | int] = [now, count, len(lines), len(kinds), pack(lengths), *shown]
    for gates in kinds.values():
        words += gates
    return [*words, *ids, *states, *bodies, *live, *dues]
