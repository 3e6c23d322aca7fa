"""The check of ``max_waiting`` before a push: whether too many tasks would wait at a gate."""

from __future__ import annotations

from collections.abc import Iterable

from aiotaskq.backends.flow.gates import Visit
from aiotaskq.backends.flow.transaction import Transaction, Waiting
from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import Bounds, Gate, Starts, declared
from aiotaskq.core.parking import at_gate, passing_order, pushed_at
from aiotaskq.core.task import Task


def bounds_waiting(tx: Transaction, tasks: Iterable[Task]) -> bool:
    """Whether one of the gates of these new tasks has a ``max_waiting``."""
    bounds: dict[str, Bounds] = {}
    for task in tasks:
        if task.flow is not None:
            bounds.update(task.flow.gates)
    every = [*bounds.values(), *[gate.bounds for gate in tx.stored_gates(bounds).values()]]
    return any(each.max_waiting is not None for each in every)


def check_max_waiting(tx: Transaction, tasks: Iterable[Task]) -> None:
    """Raise QueueFull if, with these new tasks, more than ``max_waiting`` would wait at one of their gates."""
    here: dict[str, list[Task]] = {}
    bounds: dict[str, Bounds] = {}
    now = 0
    for task in tasks:
        if task.flow is not None:
            now = max(now, pushed_at(task))
            if task.parked and task.gate is not None:
                here.setdefault(task.gate, []).append(task)
                bounds.update(task.flow.gates)
    if not here:
        return
    found = tx.stored_gates(bounds)
    stored = {key: declared(found.get(key, Gate(key=key)), own, now) for key, own in bounds.items()}
    max_waiting = {key: bound for key, gate in stored.items() if (bound := gate.bounds.max_waiting) is not None}
    if not max_waiting:
        return
    held, waited, paused = tx.held(bounds), tx.with_due(bounds, now), tx.paused_queues()
    starts = tx.starts([gate for gate in stored.values() if gate.bounds.interval is not None], now)
    visits = {key: Visit(gate, held[key], 0, starts.get(key, Starts())) for key, gate in stored.items()}
    staying = dict.fromkeys(stored, 0)
    while here:
        behind: dict[str, list[Task]] = {}
        for key, line in here.items():
            visit = visits[key]
            if key not in waited and not staying[key]:  # else none passes what waits already
                due = [task for task in line if (task.due_at or 0) <= now and task.queue not in paused]
                visit.decide(Waiting(sorted(due, key=passing_order)), now)
                for _, after in visit.passing:
                    if (next_key := at_gate(after)) is not None:
                        behind.setdefault(next_key, []).append(after)
                line = line[len(visit.passing) :]
                visit.note_passed(())
            staying[key] += len(line)
        here = behind
    room = {key: bound - staying[key] for key, bound in max_waiting.items()}
    full = tx.with_more_waiting({key: count for key, count in room.items() if count >= 0})
    for key, count in room.items():
        if count < 0 or key in full:
            raise gate_full(key, max_waiting[key])
