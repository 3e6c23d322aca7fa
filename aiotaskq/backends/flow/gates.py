"""How tasks pass their gates in a transaction, for stores that read and write rows in Python.

``core.gate`` and ``core.parking`` have the rules. A store notes in ``TouchedGates`` what it writes, and then lets an
``Admission`` apply the rules to these gates, which it has locked.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from aiotaskq.core.gate import (
    Bounds,
    Flow,
    Gate,
    GateChange,
    ReadAhead,
    Starts,
    admit,
    changed,
    charged,
    declared,
)
from aiotaskq.core.parking import (
    gates_to_admit,
    holds_back,
    is_end_of_run,
    is_given_back,
    next_gate,
    pushed_at,
    redeclared,
    settled_at,
    slots,
    tokens,
)
from aiotaskq.core.task import RUNNING, Task
from aiotaskq.core.usage import USED_UP_UNTIL

BATCH: Final = 500
"""Gates visited with one set of statements: it bounds the size of the statements."""
USED_UP: Final = GateChange(closed_until=USED_UP_UNTIL)
"""What closes the gate of a budget."""
NOT_USED_UP: Final = GateChange(closed_until=0)
"""What opens it again."""


class TouchedGates:
    """The gates that a transaction touches by the tasks that it writes."""

    def __init__(self) -> None:
        self.now = 0
        """The latest instant of a push or an update, in microseconds UTC."""
        self.keys: dict[str, None] = {}
        """Gates to admit, in this order."""
        self.due: dict[str, None] = {}
        """Gates to make due: the instant of the change is unknown, so the next sweep admits them."""
        self.known: dict[str, Bounds | None] = {}
        """All gates of the written tasks, with the bounds to make them with if they do not exist."""
        self.waiting: list[Task] = []
        """Tasks that were parked at a gate."""
        self.ran: list[Task] = []
        """The tasks that ran and hold no slot any more, as they were."""
        self.given_back: dict[str, dict[str, None]] = {}
        """By queue, the last gates of the tasks that are ready again after a run."""
        self._declared: list[tuple[str, Bounds]] = []
        self._redeclared: list[tuple[str, Bounds, int]] = []

    def __bool__(self) -> bool:
        return bool(self.keys or self.due or self._declared or self._redeclared)

    def pushed(self, tasks: Iterable[Task]) -> None:
        """Note new rows."""
        for task in tasks:
            if task.flow is not None:
                self.known.update(task.flow.gates)
                self._declared += task.flow.gates
                self.now = max(self.now, pushed_at(task))
                if task.parked and task.gate is not None:
                    self.keys[task.gate] = None
                    self.waiting.append(task)

    def changed(self, changes: Iterable[tuple[Task, Task]]) -> list[str]:
        """Note written changes of tasks with gates, each as the task before and after it.

        Return the ids of the tasks that had several gates and hold no slot any more.
        """
        gone = []
        noted: Flow | None = None
        for before, after in changes:
            if (flow := before.flow) is not None and is_end_of_run(before, after):  # most changes: a short cut for them
                if flow != noted:
                    noted = flow
                    self.known.update(flow.gates)
                    self.keys |= {key: None for key, _ in reversed(flow.gates)}
                if len(flow.gates) > 1:
                    gone.append(after.task_id)
                self.now = max(self.now, after.ended_at or 0)
                self.ran.append(before)
                continue
            gates = () if before.flow is None else before.flow.gates
            self.known.update(gates)
            if others := redeclared(before, after):
                self.known.update(others)
                self._redeclared += [(key, bounds, after.due) for key, bounds in others]
            # The widest first: a task that waits there is before one that only now reaches it.
            keys = dict.fromkeys(reversed(gates_to_admit(before, after)))
            at = settled_at(before, after)
            if at is None:
                self.due |= keys
            else:
                self.keys |= keys
                self.now = max(self.now, at)
            if after.parked and not after.final:
                self.waiting.append(after)
            elif after.gate is not None and is_given_back(before, after):
                self.given_back.setdefault(after.queue, {})[after.gate] = None
            if gates and not slots(after):
                if len(gates) > 1:
                    gone.append(after.task_id)
                if before.status is RUNNING:
                    self.ran.append(before)
        return gone

    def deleted(self, tasks: Iterable[Task]) -> None:
        """Note that live tasks are deleted."""
        for task in tasks:
            if task.flow is not None:
                self.known.update(task.flow.gates)
                self.due.update(dict.fromkeys(slots(task)))
                if (key := holds_back(task)) is not None:
                    self.due[key] = None

    def declare(self, admission: Admission) -> None:
        """Lock the gates, and take the bounds that tasks declare."""
        admission.ran = self.ran
        admission.lock([key for key in self.known if key not in admission.gates])
        admission.declare(self._declared)
        admission.redeclare(self._redeclared)
        if self.waiting:
            late = [task.gate for task in self.waiting if (task.due_at or 0) > min(self.now, task.seq)]
            admission.delayed.update([key for key in late if key is not None])

    def apply(self, admission: Admission) -> None:
        """Lock the gates, take the declared bounds, and admit the gates or make them due."""
        self.declare(admission)
        admission.admit(self.keys)
        if self.due:
            admission.make_due(self.due)


class Visit:
    """The state of one gate during a visit.

    Another transaction may have locked a task that may pass. The next one may pass instead of it, so ``decide`` and
    ``note_passed`` are called in turn until no task was locked.
    """

    def __init__(self, gate: Gate, held: int, ahead: ReadAhead) -> None:
        """``held`` is the number of tasks that hold a slot; ``ahead`` is ``core.gate.read_ahead`` of the gate."""
        self.key, self.held = gate.key, held
        self.before = gate
        """The gate as it was before the visit."""
        self.gate = gate
        """The gate after the admission of ``passed`` and ``passing``."""
        self.starts = Starts()
        """Only a rate needs them."""
        self.may_pass = ahead.may_pass(held)
        """The most tasks that pass in this visit."""
        self.passed: list[Task] = []
        self.passing: list[Task] = []
        """The tasks that may pass, and have not."""
        self.locked: set[str] = set()
        """The ids of tasks that may pass, but that other transactions have locked."""
        self.next_due: int | None = None
        """When the next of the tasks is due that were read and are not due."""
        self.next_gates: list[str] = []
        """The gates behind this one, to which ``passed`` and ``passing`` go."""
        self.repeat = False
        """Whether the gate has to be visited again, since all tasks that were read pass."""

    def decide(self, tasks: Sequence[Task], now: int) -> None:
        """Set which of these tasks may pass at ``now``, in addition to those that have; they are in claim order."""
        waiting = [*self.passed, *tasks]
        weights = [tokens(task, self.key) for task in waiting]
        count, self.gate = admit(self.before, self.held, self.starts, now, weights)
        self.passing = waiting[len(self.passed) : count]
        self.next_gates = [key for task in waiting[:count] if (key := next_gate(task)) is not None]
        self.repeat = self.may_pass < count == len(waiting)

    def note_passed(self, ids: set[str]) -> bool:
        """Note that the tasks with these ids have passed; return whether any of ``passing`` was locked."""
        self.passed += [task for task in self.passing if task.task_id in ids]
        locked = {task.task_id for task in self.passing} - ids
        self.locked |= locked
        return bool(locked)


def independent(visits: Sequence[Visit]) -> list[Visit]:
    """Return the first of these visits, up to one of a gate to which a visit before it lets a task pass."""
    reached: set[str] = set()
    found = []
    for visit in visits:
        if visit.key in reached:
            break
        found.append(visit)
        reached.update(visit.next_gates)
    return found


class Admission(ABC):
    """The gates that a transaction has locked, and what passes them."""

    def __init__(self, now: int) -> None:
        """``now`` is in microseconds UTC."""
        self.now = now
        self.gates: dict[str, Gate] = {}
        """By key; what is written here is stored at the end of the transaction."""
        self.delayed: set[str] = set()
        """Gates at which tasks may wait for their due time, though they have no ``next_at``."""
        self.ran: Sequence[Task] = ()
        """The tasks that ran and hold no slot any more, as they were."""
        self._ran: dict[str, list[tuple[int, int]]] | None = None

    @abstractmethod
    def lock(self, keys: Collection[str]) -> None:
        """Lock these gates, and make those that do not exist."""

    @abstractmethod
    def lock_free(self, keys: Collection[str]) -> Collection[str]:
        """Lock those of these gates that no other transaction has locked; return the others."""

    @abstractmethod
    def holders(self, gates: Collection[Gate]) -> Mapping[str, Starts]:
        """Return the starts of the tasks that hold a slot of these gates, which have rates and are locked."""

    @abstractmethod
    def visit(self, keys: Sequence[str]) -> tuple[Collection[str], Sequence[Visit]]:
        """Let the first due tasks pass at these gates, which are locked.

        Return the gates at which there is nothing to do, and visits of the first of the others, of one at least. A gate
        to which one of these visits lets a task pass is left out: it is visited when the task is there.
        """

    def declare(self, gates: Iterable[tuple[str, Bounds]]) -> None:
        """Take the bounds that a push declares."""
        for key, bounds in gates:
            gate = declared(self.gates[key], bounds, self.now)
            if gate is not self.gates[key]:  # what waits there may pass, though this push waits elsewhere
                self.gates[key] = replace(gate, next_at=self.now)

    def redeclare(self, gates: Iterable[tuple[str, Bounds, int]]) -> None:
        """Take the bounds that changed tasks declare, each at its instant, and make these gates due."""
        for key, bounds, at in gates:
            gate = declared(self.gates[key], bounds, at)
            if gate is not self.gates[key]:
                self.gates[key] = replace(gate, next_at=0)

    def make_due(self, keys: Collection[str]) -> None:
        """Let the next sweep admit these gates."""
        self.lock([key for key in keys if key not in self.gates])
        for key in keys:
            self.gates[key] = replace(self.gates[key], next_at=0)

    def change(self, key: str, change: GateChange) -> Gate:
        """Change a gate, which is made if there is none; admit it, and return it."""
        self.lock([key])
        gate = self.gates[key]
        # First the starts of before: they took their tokens by the bounds of before.
        gate = charged(gate, self.starts([gate]).get(key, Starts()), self.now)
        self.gates[key] = changed(gate, change, self.now)
        self.delayed.add(key)
        self.admit([key])
        return self.gates[key]

    def starts(self, gates: Iterable[Gate]) -> dict[str, Starts]:
        """Return the starts that count at those of these gates that have rates."""
        rated = [gate for gate in gates if gate.bounds.interval is not None]
        if not rated:
            return {}
        if self._ran is None:
            self._ran = {}
            for task in self.ran:
                if (at := task.began_at) is not None:
                    for key in slots(task):
                        self._ran.setdefault(key, []).append((at, tokens(task, key)))
        return {
            key: starts._replace(started=[*starts.started, *self._ran.get(key, ())])
            for key, starts in self.holders(rated).items()
        }

    def admit(self, keys: Iterable[str]) -> None:
        """Let tasks pass these gates, and then the gates to which they come."""
        todo = dict.fromkeys(keys)  # first in, first out: a gate behind others sees what has passed all of them
        while todo:
            part = list(itertools.islice(todo, BATCH))
            if unknown := [key for key in part if key not in self.gates]:
                for key in self.lock_free(unknown):
                    del todo[key]
                part = [key for key in part if key in todo]
            nothing_to_do, visits = self.visit(part)
            for key in nothing_to_do:
                del todo[key]
            for visit in visits:
                del todo[visit.key]
                todo |= dict.fromkeys(visit.next_gates)
                if visit.repeat:
                    todo[visit.key] = None
