"""Whether there is room at their gates for more tasks that wait: looked at before anything of a push is written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import Bounds, Gate, admit, declared
from aiotaskq.core.parking import pushed_at, tokens
from aiotaskq.core.task import Task


class Counts(Protocol):
    """What a store reads of gates."""

    def stored(self, keys: Collection[str]) -> Mapping[str, Gate]:
        """Return those of these gates that exist."""

    def held(self, keys: Collection[str]) -> Mapping[str, int]:
        """Count the tasks that hold a slot of each of these gates."""

    def unstarted(self, bursts: Mapping[str, int]) -> Mapping[str, int]:
        """Sum up the tokens of those of them that have not started.

        ``bursts`` are those of the gates; from its burst on one sum is as good as another.
        """

    def beyond(self, counts: Mapping[str, int]) -> Collection[str]:
        """Return those of these gates at which more tasks wait than its count."""


def check_room(counts: Counts, tasks: Iterable[Task]) -> None:
    """Raise QueueFull if more tasks than may would wait at their gates."""
    here: dict[str, list[Task]] = {}
    for task in tasks:
        if task.flow is not None and task.parked and task.gate is not None:
            here.setdefault(task.gate, []).append(task)
    if not here:
        return
    found = counts.stored(here)
    gates: dict[str, Gate] = {}
    most: dict[str, int] = {}
    for key, line in here.items():
        gates[key] = gate = declared(found.get(key, Gate(key=key)), _own(line[-1]), max(map(pushed_at, line)))
        if gate.bounds.max_waiting is not None:
            most[key] = gate.bounds.max_waiting
    if not most:
        return
    # With those that are pushed; of these the first may pass where none waits.
    full = counts.beyond({key: max(0, bound - len(here[key])) for key, bound in most.items()})
    waited, held = counts.beyond(dict.fromkeys(most, 0)), counts.held(most)
    unstarted = counts.unstarted({key: gates[key].bounds.burst for key in most if gates[key].bounds.interval})
    for key, bound in most.items():
        line = here[key]
        due = [tokens(task, key) for task in line if (task.due_at or 0) <= pushed_at(task)]
        count = admit(gates[key], held[key], unstarted.get(key, 0), max(map(pushed_at, line)), due)[0]
        if key in full if key in waited else len(line) - count > bound:
            raise gate_full(key, bound)


def _own(task: Task) -> Bounds:
    assert task.flow is not None
    return task.flow.gates[0][1]
