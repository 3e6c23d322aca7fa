"""The check of ``max_waiting`` before a push: whether too many tasks would wait at a gate."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import Bounds, Gate, admit, declared
from aiotaskq.core.parking import pushed_at, tokens
from aiotaskq.core.task import Task


class Counts(Protocol):
    """What this module reads of the gates of a store."""

    def stored(self, keys: Collection[str]) -> Mapping[str, Gate]:
        """Return those of these gates that exist."""

    def held(self, keys: Collection[str]) -> Mapping[str, int]:
        """Count the tasks that hold a slot of each of these gates."""

    def unstarted(self, bursts: Mapping[str, int]) -> Mapping[str, int]:
        """Sum up the tokens of the tasks that hold a slot of these gates and have not started.

        ``bursts`` are those of the gates; a sum above its burst has the same effect as the burst.
        """

    def with_more_waiting(self, counts: Mapping[str, int]) -> Collection[str]:
        """Return those of these gates at which more tasks wait than its count."""


def check_room(counts: Counts, tasks: Iterable[Task]) -> None:
    """Raise QueueFull if, with these new tasks, more than ``max_waiting`` would wait at one of their gates."""
    here: dict[str, list[Task]] = {}
    for task in tasks:
        if task.flow is not None and task.parked and task.gate is not None:
            here.setdefault(task.gate, []).append(task)
    if not here:
        return
    found = counts.stored(here)
    gates: dict[str, Gate] = {}
    max_waiting: dict[str, int] = {}
    for key, line in here.items():
        gates[key] = gate = declared(found.get(key, Gate(key=key)), _own(line[-1]), max(map(pushed_at, line)))
        if gate.bounds.max_waiting is not None:
            max_waiting[key] = gate.bounds.max_waiting
    if not max_waiting:
        return
    # Where tasks wait already, all new ones wait. Where none waits, some of the new ones may pass.
    full = counts.with_more_waiting({key: max(0, bound - len(here[key])) for key, bound in max_waiting.items()})
    waited, held = counts.with_more_waiting(dict.fromkeys(max_waiting, 0)), counts.held(max_waiting)
    unstarted = counts.unstarted({key: gates[key].bounds.burst for key in max_waiting if gates[key].bounds.interval})
    for key, bound in max_waiting.items():
        line = here[key]
        due = [tokens(task, key) for task in line if (task.due_at or 0) <= pushed_at(task)]
        count = admit(gates[key], held[key], unstarted.get(key, 0), max(map(pushed_at, line)), due)[0]
        if key in full if key in waited else len(line) - count > bound:
            raise gate_full(key, bound)


def _own(task: Task) -> Bounds:
    assert task.flow is not None
    return task.flow.gates[0][1]
