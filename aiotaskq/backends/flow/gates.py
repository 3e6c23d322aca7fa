"""How tasks pass their gates in a transaction, at its end: a transaction that has locked a gate waits for no task.

``core.gate`` and ``core.parking`` have the rules. A task that passes a gate may have another gate behind it that the
transaction has not locked. That gate is locked only if no other transaction has locked it. Else it is *missed*: a
transaction after this one admits it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from aiotaskq.backends.flow.transaction import NO_WAITING, USED_UP, Touched, Transaction, rewrite
from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import (
    PARKED,
    Bounds,
    Gate,
    Starts,
    admit,
    changed,
    charged,
    declared,
    due_by,
    is_idle,
    read_ahead,
)
from aiotaskq.core.parking import at_gate, parked_again, passed, passing_order, pushed_at, slots, tokens
from aiotaskq.core.task import Task

BATCH: Final = 500
"""Gates visited with one set of reads: it bounds their size."""
LOCKED_RETRY: Final = 100_000
"""Microseconds until a gate is admitted again at which another transaction had locked a task: time for its commit."""

_NO_STARTS: Final = Starts()


class Admitted(NamedTuple):
    """What a transaction has done at gates, and what is left to do after it."""

    has_next_at: bool = False
    """Whether a gate has a ``next_at``: then the hint ``gates`` is sent."""
    ready: Collection[str] = ()
    """The ids of the tasks that have passed their last gate."""
    missed: Touched | None = None
    """What is left for another transaction."""


def admit_touched(tx: Transaction) -> Admitted | None:
    """Admit the gates that the transaction has touched, at its end; None where it has touched none.

    Raises QueueFull for a push of too many tasks.
    """
    if not (touched := tx.touched):
        return None
    admission = _Admission(tx, touched)
    admission.lock(touched.known)
    admission.declare()
    closed = admission.change()
    for keys, queue in touched.parked:
        if found := [task for task in tx.unstarted(keys, queue) if slots(task)]:
            rewrite(tx, [(task, parked_again(task)) for task in found])
    if touched.parked:  # at other gates, perhaps
        admission.lock({key: own for key, own in touched.known.items() if key not in admission.gates}, wait=False)
    due = [*touched.keys]
    if touched.swept:
        nexts = {key: admission.gates[key].next_at for key in sorted(touched.swept)}
        due += [key for key, at in nexts.items() if at is not None and at <= touched.now]
    admission.admit(due)
    admission.make_due(closed)
    admission.check_waiting()
    return admission.end()


def mend_gates(tx: Transaction, known: Mapping[str, Bounds | None], now: int) -> int:
    """Do as ``Gates.mend`` for these gates, given with the bounds of those that may not exist."""
    lost = tx.recount(list(known))
    stored = tx.stored_gates(known)
    counts = tx.counts(stored)
    if unused := [key for key, gate in stored.items() if counts[key] == (0, 0) and is_idle(gate, now)]:
        locked = tx.gates(dict.fromkeys(unused), wait=False)
        left = tx.counts(locked)  # what was pushed before the locks counts, too
        tx.drop_gates([key for key, gate in locked.items() if left[key] == (0, 0) and is_idle(gate, now)])
    due = [key for key, bounds in known.items() if bounds is not None and key not in stored]
    for key, gate in stored.items():
        held, waiting = counts[key]
        if waiting and gate.next_at is None and (key in lost or read_ahead(gate, held, now)):
            due.append(key)
    tx.touched.make_due(due, known)
    return len(due)


def let_through(gate: Gate, held: int, starts: Starts, waiting: Sequence[Task], now: int) -> tuple[int, Gate]:
    """Return how many of these tasks may pass a gate, and the gate after that.

    They are due at ``now``, in passing order. ``held`` tasks hold a slot; only a rate needs ``starts``.
    """
    rated = gate.bounds.interval is not None
    weights = [tokens(task, gate.key) for task in waiting] if rated else [1] * len(waiting)
    return admit(gate, held, starts, now, weights)


class _Admission:
    """The gates that a transaction has locked, and what passes them."""

    def __init__(self, tx: Transaction, touched: Touched) -> None:
        self.tx, self.touched, self.now = tx, touched, touched.now
        self.gates: dict[str, Gate] = {}
        """By key; what is written here is stored at the end of the transaction."""
        self._stored: dict[str, Gate] = {}
        """As they were read."""
        self._missed = Touched(now=touched.now)
        self._held: dict[str, int] = {}
        """How many tasks hold a slot, by key."""
        self._ready: set[str] = set()
        self._locked: dict[str, set[str]] = {}
        """By key, the ids of tasks that may pass, but that other transactions have locked."""

    def lock(self, known: Mapping[str, Bounds | None], wait: bool = True) -> None:
        """Lock these gates, and make those that do not exist.

        Without ``wait`` those that exist, and that no other transaction has locked; the others are missed.
        """
        found = self.tx.gates(known, wait)
        self.gates.update(found)
        self._stored.update(found)
        if not wait:
            self._missed.known |= {key: bounds for key, bounds in known.items() if key not in found}

    def declare(self) -> None:
        """Take the bounds that tasks declare."""
        for key, (bounds, at) in self.touched.declared.items():
            before = self.gates[key]
            if (gate := declared(before, bounds, at)) is not before:
                self.gates[key] = replace(gate, next_at=0)  # what waits there may pass, too

    def change(self) -> set[str]:
        """Change gates, which are to be admitted then; return those that a budget closes."""
        closed = set()
        for key, change in self.touched.changes:
            # First the starts of before: they took their tokens by the bounds of before.
            gate = self.gates[key]
            if gate.bounds.interval is not None:
                gate = charged(gate, self._starts([gate])[key], self.now)
            gate = self.gates[key] = changed(gate, change, self.now)
            if change is USED_UP:
                self.gates[key] = replace(gate, next_at=gate.closed_until)
                closed.add(key)
            else:
                self.touched.delayed.add(key)
                self.touched.keys[key] = None
        return closed

    def make_due(self, closed: Collection[str]) -> None:
        """Let the next sweep admit the gates at which the instant of a change is unknown, but for those ``closed``."""
        for key in self.touched.due:
            if key not in self.gates:
                self._missed.due[key] = None
            elif key not in closed:
                gate = self.gates[key]
                if gate.bounds.interval is not None and key in self._ran:  # the sweep does not know of these starts
                    started = self._starts([gate])[key].started
                    gate = charged(gate, Starts(0, started), max(at for at, _ in started))
                self.gates[key] = replace(gate, next_at=0)

    def check_waiting(self) -> None:
        """Raise QueueFull if more tasks wait at a gate than may."""
        bounds = {key: self.gates[key].bounds.max_waiting for key in self.touched.bounded}
        most = {key: bound for key, bound in bounds.items() if bound is not None}
        for key in self.tx.with_more_waiting(most) if most else ():
            raise gate_full(key, most[key])

    def end(self) -> Admitted:
        """Write the gates that have changed, and return what is left to do."""
        stored, new, has_next_at = self._stored, list[Gate](), False
        for key, gate in self.gates.items():
            has_next_at = has_next_at or gate.next_at is not None
            if gate is not stored[key] and gate != stored[key]:
                new.append(gate)
        if new:
            self.tx.write_gates(new)
        self._missed.delayed.update(self._missed.keys)
        return Admitted(has_next_at, self._ready, self._missed or None)

    # ---- admission ----

    def admit(self, keys: Iterable[str]) -> None:
        """Let tasks pass these gates, and then the gates to which they come."""
        todo = dict.fromkeys(keys)  # first in, first out: a gate behind others sees what has passed all of them
        while todo:
            part = list(itertools.islice(todo, BATCH))
            if unlocked := [key for key in part if key not in self.gates]:
                self.lock({key: self.touched.known.get(key) for key in unlocked}, wait=False)
                self._missed.keys |= {key: todo.pop(key) for key in unlocked if key not in self.gates}
            else:
                self._visit([self.gates[key] for key in part], todo)

    def _visit(self, gates: Sequence[Gate], todo: dict[str, None]) -> None:
        """Let the first due tasks pass at these gates, which are locked, and remove the gates from ``todo``.

        A gate to which one before it lets a task pass stays there, with those behind it: it is visited when the task is
        there. So does a gate at which others may pass than the tasks that were read.
        """
        tx, now = self.tx, self.now
        delayed, held, ready = self.touched.delayed, self._held, self._ready
        # One loop, and no comprehensions: most transactions touch one gate.
        delaying: set[str] = set()
        later: list[str] = []
        uncounted: list[str] = []
        rated: list[Gate] = []
        for gate in gates:
            key = gate.key
            # A gate at which tasks wait for their due time has a ``next_at``.
            if gate.next_at is not None or key in delayed:
                delaying.add(key)
                if key in delayed or (gate.next_at or 0) <= now:
                    later.append(key)
            if key not in held:
                uncounted.append(key)
            if gate.bounds.interval is not None:
                rated.append(gate)
        if later:
            tx.release(later, now)
        if uncounted:
            held |= tx.held(uncounted)
        starts = self._starts(rated) if rated else {}
        wanted: dict[str, int] = {}
        for gate in gates:
            if gate.key in held and (count := read_ahead(gate, held[gate.key], now)):
                wanted[gate.key] = count + len(self._locked.get(gate.key, ()))
        found = tx.waiting(wanted, now) if wanted else {}
        changes: list[tuple[Task, Task]] = []
        reached: set[str | None] = set()
        for gate in gates:
            key = gate.key
            if key in reached:
                break
            del todo[key]
            if key not in found and key not in delaying and gate.bounds.interval is None:
                continue
            waiting, next_due = found.get(key, NO_WAITING)
            if locked := self._locked.get(key, ()):
                waiting = [task for task in waiting if task.task_id not in locked]
            count, after = let_through(gate, held.get(key, 0), starts.get(key, _NO_STARTS), waiting, now)
            for task in waiting[:count]:
                moved = passed(task, now)
                changes.append((task, moved))
                if moved.run_at != PARKED:
                    ready.add(moved.task_id)
                elif moved.flow is not None and moved.gate is not None:
                    self.touched.known.update(moved.flow.gates)
                    reached.add(moved.gate)
                    todo[moved.gate] = None
            if count:
                held[key] += count
                if count >= wanted[key] - len(locked) and read_ahead(after, held[key], now):
                    todo[key] = None
            if locked:
                after = due_by(after, now + LOCKED_RETRY)
            if next_due is not None:
                after = due_by(after, next_due)
            if key in delaying and (at := tx.next_due(key)) is not None:
                after = due_by(after, at if at > now else now + LOCKED_RETRY)
            self.gates[key] = after
        if changes and (taken := tx.let_pass(changes)):
            ready.difference_update(taken)
            passed_over = {task.gate for task, _ in changes if task.task_id in taken}
            for gate in [gate for gate in gates if gate.key in passed_over]:
                self._pass_over(gate, changes, taken, starts.get(gate.key, _NO_STARTS))
                todo[gate.key] = None
        self.touched.wakes = self.touched.wakes or bool(ready)

    def _pass_over(
        self, gate: Gate, changes: Sequence[tuple[Task, Task]], taken: Collection[str], starts: Starts
    ) -> None:
        """Leave out those of the tasks that pass a gate which other transactions have locked; others may pass then.

        Such a transaction may leave its task parked here, and it did not see the slots that are free now.
        """
        key = gate.key
        passing = [task for task, _ in changes if task.gate == key]
        left = [task for task in passing if task.task_id not in taken]
        self._locked.setdefault(key, set()).update(task.task_id for task in passing if task.task_id in taken)
        _, after = let_through(gate, self._held[key] - len(passing), starts, left, self.now)
        self._held[key] -= len(passing) - len(left)
        self.gates[key] = due_by(after, self.now + LOCKED_RETRY)

    @functools.cached_property
    def _ran(self) -> dict[str, list[tuple[int, int]]]:
        """By key, the starts of the tasks that hold no slot any more, each with its tokens."""
        ran: dict[str, list[tuple[int, int]]] = {}
        for task in self.touched.ran:
            if (at := task.began_at) is not None:
                for key in slots(task):
                    ran.setdefault(key, []).append((at, tokens(task, key)))
        return ran

    def _starts(self, rated: Collection[Gate]) -> dict[str, Starts]:
        """Return the starts that count at these gates, which have rates."""
        return {
            key: starts._replace(started=[*starts.started, *self._ran.get(key, ())])
            for key, starts in self.tx.starts(rated, self.now).items()
        }


# ---- before a push ----


def check_max_waiting(
    tx: Transaction, tasks: Sequence[Task], is_new: Callable[[Task], bool] = lambda task: True
) -> None:
    """Raise QueueFull if, with those of these tasks that are new, more than ``max_waiting`` would wait at a gate."""
    bounds = {key: own for task in tasks if task.flow is not None for key, own in task.flow.gates}
    found = tx.stored_gates(bounds)
    stored = [gate.bounds for gate in found.values()]
    if all(own.max_waiting is None for own in (*bounds.values(), *stored)):
        return
    here: dict[str, list[Task]] = {}
    now = 0
    for task in tasks:
        if task.flow is not None and is_new(task):
            now = max(now, pushed_at(task))
            if (gate_key := at_gate(task)) is not None:
                here.setdefault(gate_key, []).append(task)
    if not here:
        return
    gates = {key: declared(found.get(key, Gate(key=key)), own, now) for key, own in bounds.items()}
    counts, waited, paused = tx.counts(bounds), tx.with_due(bounds, now), tx.paused_queues()
    held = {key: held for key, (held, _) in counts.items()}
    starts = tx.starts([gate for gate in gates.values() if gate.bounds.interval is not None], now)
    staying = dict.fromkeys(gates, 0)
    while here:
        behind: dict[str, list[Task]] = {}
        for key, line in here.items():
            count = 0
            if key not in waited and not staying[key]:  # else none passes what waits already
                due = [task for task in line if (task.due_at or 0) <= now and task.queue not in paused]
                due.sort(key=passing_order)
                count, gates[key] = let_through(gates[key], held[key], starts.get(key, _NO_STARTS), due, now)
                held[key] += count
                for after in [passed(task, now) for task in due[:count]]:
                    if (next_key := at_gate(after)) is not None:
                        behind.setdefault(next_key, []).append(after)
            staying[key] += len(line) - count
        here = behind
    for key, gate in gates.items():
        if (bound := gate.bounds.max_waiting) is not None and counts[key][1] + staying[key] > bound:
            raise gate_full(key, bound)
