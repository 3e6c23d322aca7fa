"""The check of ``max_waiting`` before a push: whether too many tasks would wait at a gate."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from aiotaskq.backends.flow.transaction import Transaction
from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import Bounds, Gate, Starts, admit, declared
from aiotaskq.core.parking import at_gate, passed, passing_order, pushed_at, tokens
from aiotaskq.core.task import Task


class _Trial:
    """A gate as it would be after a push."""

    def __init__(self, gate: Gate, held: int, starts: Starts, has_due: bool) -> None:
        """``has_due`` is whether due tasks wait there already: then no task of the push passes."""
        self.gate, self.held, self.starts, self.has_due = gate, held, starts, has_due
        self.staying = 0
        """How many tasks of the push would wait there."""

    def passing(self, line: Sequence[Task], now: int, paused: Collection[str]) -> Sequence[Task]:
        """Return those of these tasks of the push that would pass at ``now``, and count the others."""
        found: Sequence[Task] = ()
        if not self.has_due and not self.staying:
            candidates = [task for task in line if (task.due_at or 0) <= now and task.queue not in paused]
            due = sorted(candidates, key=passing_order)
            weights = [tokens(task, self.gate.key) for task in due]
            count, self.gate = admit(self.gate, self.held, self.starts, now, weights)
            self.held += count
            found = due[:count]
        self.staying += len(line) - len(found)
        return found


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
    trials = {key: _Trial(gate, held[key], starts.get(key, Starts()), key in waited) for key, gate in stored.items()}
    while here:
        behind: dict[str, list[Task]] = {}
        for key, line in here.items():
            for task in trials[key].passing(line, now, paused):
                after = passed(task, now)
                if (next_key := at_gate(after)) is not None:
                    behind.setdefault(next_key, []).append(after)
        here = behind
    room = {key: bound - trials[key].staying for key, bound in max_waiting.items()}
    full = tx.with_more_waiting({key: count for key, count in room.items() if count >= 0})
    for key, count in room.items():
        if count < 0 or key in full:
            raise gate_full(key, max_waiting[key])
