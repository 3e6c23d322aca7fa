"""Whether there is room at their gates for more tasks that wait: looked at before a push that locks no gate."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from aiotaskq.backends.sql import gate_statements as sql
from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import Bounds, Gate, admit, declared
from aiotaskq.core.parking import pushed_at, tokens
from aiotaskq.core.task import Task


def check_room(connection: Connection, tasks: Sequence[Task]) -> None:
    """Raise QueueFull if more tasks than may would wait at their gates; for a push that locks no gate."""
    here: dict[str, list[Task]] = {}
    for task in tasks:
        if task.flow is not None and task.parked and task.gate is not None:
            here.setdefault(task.gate, []).append(task)
    if not any(bounds.max_waiting is not None for line in here.values() for bounds in [_own(line[-1])]):
        return
    found = {gate.key: gate for gate in sql.read(connection, list(here), len(here))}
    gates = {
        key: declared(found.get(key, Gate(key=key)), _own(line[-1]), max(map(pushed_at, line)))
        for key, line in here.items()
    }
    bounds = {key: gate.bounds.max_waiting for key, gate in gates.items()}
    most = {key: bound for key, bound in bounds.items() if bound is not None}
    # With those that are pushed; of these the first may pass where none waits.
    full = sql.beyond(connection, {key: max(0, bound - len(here[key])) for key, bound in most.items()})
    waited, held = sql.beyond(connection, dict.fromkeys(most, 0)), sql.held(connection, most)
    for key, bound in most.items():
        line = here[key]
        due = [tokens(task, key) for task in line if (task.due_at or 0) <= pushed_at(task)]
        count = admit(gates[key], held[key], 0, max(map(pushed_at, line)), due)[0]
        if key in full if key in waited else len(line) - count > bound:
            raise gate_full(key, bound)


def _own(task: Task) -> Bounds:
    assert task.flow is not None
    return task.flow.gates[0][1]
