"""How tasks pass their gates in a transaction, at its end: a transaction that has locked a gate waits for no task.

``core.gate`` and ``core.parking`` have the rules. A task that passes a gate may have another gate behind it that the
transaction has not locked. That gate is locked only if no other transaction has locked it. Else it is *missed*: a
transaction after this one admits it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple

from msgspec.structs import replace

from aiotaskq.backends.flow.transaction import NO_WAITING, USED_UP, Touched, Transaction, Waiting, rewrite
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


def admit_touched(tx: Transaction, refused: bool = True) -> Admitted | None:
    """Admit the gates that the transaction has touched, at its end; None where it has touched none.

    Raises QueueFull for a push of too many tasks, where it is ``refused``.
    """
    if not (touched := tx.touched):
        return None
    admission = _Admission(tx, touched)
    admission.lock()
    admission.declare()
    closed = admission.change()
    for keys, queue in touched.parked:
        _park(tx, keys, queue)
    admission.lock_free([key for key in touched.known if key not in admission.gates])
    admission.note_delayed()
    due = [key for key in touched.swept if (at := admission.gates[key].next_at) is not None and at <= touched.now]
    admission.admit([*touched.keys, *sorted(due)])
    admission.make_due([key for key in touched.due if key not in closed])
    if refused:
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


def _park(tx: Transaction, keys: Collection[str], queue: str | None) -> None:
    """Park the tasks again that have passed these gates and have not started."""
    found = [task for task in tx.unstarted(keys, queue) if slots(task)]
    if found:
        rewrite(tx, [(task, parked_again(task)) for task in found])


class Visit:
    """The state of one gate during a visit.

    Another transaction may have locked a task that may pass. The next one may pass instead of it, so ``decide`` and
    ``note_passed`` are called in turn until no task was locked.
    """

    passed: Sequence[tuple[Task, Task]] = ()
    """The tasks that have passed, each as it was and as it is."""
    passing: Sequence[tuple[Task, Task]] = ()
    """The tasks that may pass, and have not, each as it is and as it will be."""
    locked: Set[str] = frozenset()
    """The ids of tasks that may pass, but that other transactions have locked."""
    next_due: int | None = None
    """When the next of the tasks is due that were read and are not due."""
    next_gates: Sequence[str] = ()
    """The gates behind this one, to which ``passed`` and ``passing`` go."""
    repeat = False
    """Whether the gate has to be visited again, since all tasks that were read pass, and others may."""

    def __init__(self, gate: Gate, held: int, wanted: int, starts: Starts = _NO_STARTS) -> None:
        """``held`` tasks hold a slot, and ``wanted`` are read; only a rate needs ``starts``."""
        self.key, self.held, self.wanted, self.starts = gate.key, held, wanted, starts
        self.before = self.gate = gate
        """The gate as it was before the visit, and after the admission of ``passed`` and ``passing``."""

    def decide(self, found: Waiting, now: int) -> None:
        """Set which of the tasks that were found may pass at ``now``, in addition to those that have."""
        waiting, self.next_due = found
        if self.locked:
            more = [task for task in waiting if task.task_id not in self.locked]
            waiting = [*[before for before, _ in self.passed], *more]
        rated = self.before.bounds.interval is not None
        weights = [tokens(task, self.key) for task in waiting] if rated else [1] * len(waiting)
        count, self.gate = admit(self.before, self.held, self.starts, now, weights)
        self.passing = changes = [(task, passed(task, now)) for task in waiting[len(self.passed) : count]]
        if self.passed:
            changes = [*self.passed, *changes]
        self.next_gates = [after.gate for _, after in changes if after.run_at == PARKED and after.gate is not None]
        all_pass = self.wanted <= len(waiting) == count
        self.repeat = all_pass and read_ahead(self.gate, self.held + count, now) > 0

    def note_passed(self, locked: Collection[str]) -> bool:
        """Note that ``passing`` have passed, but for those that are ``locked``; return whether any of them is."""
        if not locked and not self.passed:  # nearly always
            self.passed = self.passing
            return False
        here = {task.task_id for task, _ in self.passing if task.task_id in locked}
        self.passed = [*self.passed, *[change for change in self.passing if change[0].task_id not in here]]
        self.locked |= here
        return bool(here)


class _Admission:
    """The gates that a transaction has locked, and what passes them."""

    def __init__(self, tx: Transaction, touched: Touched) -> None:
        self.tx, self.touched, self.now = tx, touched, touched.now
        self.gates: dict[str, Gate] = {}
        """By key; what is written here is stored at the end of the transaction."""
        self._stored: dict[str, Gate] = {}
        """As they were read."""
        self._missed = Touched()
        self._held: dict[str, int] = {}
        """How many tasks hold a slot, by key."""
        self._ready: set[str] = set()
        self._ran: dict[str, list[tuple[int, int]]] | None = None
        self._delayed = touched.delayed

    def lock(self) -> None:
        """Lock the gates that are touched, and make those that do not exist."""
        self._note_locked(self.tx.gates(self.touched.known))

    def lock_free(self, keys: Collection[str]) -> None:
        """Lock those of these gates that no other transaction has locked; the others are missed."""
        if keys:
            known = {key: self.touched.known.get(key) for key in keys}
            self._note_locked(self.tx.gates(known, wait=False))
            self._missed.known |= {key: bounds for key, bounds in known.items() if key not in self.gates}

    def _note_locked(self, found: Mapping[str, Gate]) -> None:
        self.gates.update(found)
        self._stored.update(found)

    def declare(self) -> None:
        """Take the bounds that tasks declare: the later ones count."""
        for key, bounds in self.touched.declared.items():
            gate = declared(self.gates[key], bounds, self.now)
            if gate is not self.gates[key]:  # what waits there may pass, though this push waits elsewhere
                self.gates[key] = replace(gate, next_at=self.now)
        for key, bounds, at in self.touched.redeclared:
            gate = declared(self.gates[key], bounds, at)
            if gate is not self.gates[key]:
                self.gates[key] = replace(gate, next_at=0)

    def change(self) -> set[str]:
        """Change gates, which are to be admitted then; return those that a budget closes."""
        closed = set()
        for key, change in self.touched.changes:
            # First the starts of before: they took their tokens by the bounds of before.
            gate = self.gates[key]
            gate = charged(gate, self._starts([gate]).get(key, _NO_STARTS), self.now)
            gate = self.gates[key] = changed(gate, change, self.now)
            if change is USED_UP:
                self.gates[key] = replace(gate, next_at=gate.closed_until)
                closed.add(key)
            else:
                self._delayed.add(key)
                self.touched.keys[key] = None
        return closed

    def note_delayed(self) -> None:
        """Note at which gates tasks wait for their due time."""
        for task in self.touched.waiting:
            due = task.due_at or 0
            if (due > self.now or due > task.seq) and task.gate is not None:
                self._delayed.add(task.gate)

    def make_due(self, keys: Iterable[str]) -> None:
        """Let the next sweep admit these gates."""
        for key in keys:
            if key in self.gates:
                self.gates[key] = replace(self.gates[key], next_at=0)
            else:
                self._missed.due[key] = None

    def check_waiting(self) -> None:
        """Raise QueueFull if more tasks wait at a gate than may."""
        bounds = {key: self.gates[key].bounds.max_waiting for key in self.touched.bounded}
        most = {key: bound for key, bound in bounds.items() if bound is not None}
        for key in self.tx.with_more_waiting(most) if most else ():
            raise gate_full(key, most[key])

    def end(self) -> Admitted:
        """Write the gates that have changed, and return what is left to do."""
        stored = self._stored
        new = [gate for key, gate in self.gates.items() if gate is not stored[key] and gate != stored[key]]
        if new:
            self.tx.write_gates(new)
        self._missed.now = self.now
        self._missed.delayed.update(self._missed.keys)
        has_next_at = any(gate.next_at is not None for gate in self.gates.values())
        return Admitted(has_next_at, self._ready, self._missed or None)

    # ---- admission ----

    def admit(self, keys: Iterable[str]) -> None:
        """Let tasks pass these gates, and then the gates to which they come."""
        todo = dict.fromkeys(keys)  # first in, first out: a gate behind others sees what has passed all of them
        while todo:
            part = list(itertools.islice(todo, BATCH))
            if unlocked := [key for key in part if key not in self.gates]:
                self.lock_free(unlocked)
                self._missed.keys |= {key: todo.pop(key) for key in unlocked if key not in self.gates}
            for visit in self._visit([key for key in part if key in self.gates], todo):
                del todo[visit.key]
                if visit.next_gates:
                    todo |= dict.fromkeys(visit.next_gates)
                if visit.repeat:
                    todo[visit.key] = None

    def _visit(self, keys: Sequence[str], todo: dict[str, None]) -> Sequence[Visit]:
        """Let the first due tasks pass at these gates, which are locked.

        Return visits of the first of them. A gate to which one of these visits lets a task pass is left out: it is
        visited when the task is there. A gate at which nothing is to be done is removed from ``todo``.
        """
        tx, now = self.tx, self.now
        delayed, held = self._delayed, self._held
        gates = [self.gates[key] for key in keys]
        if later := [
            gate.key for gate in gates if gate.key in delayed or (gate.next_at is not None and gate.next_at <= now)
        ]:
            tx.release(later, now)
        if uncounted := [key for key in keys if key not in held]:
            held.update(tx.held(uncounted))
        starts = self._starts(gates)
        wanted = {gate.key: count for gate in gates if (count := read_ahead(gate, held[gate.key], now))}
        found = tx.waiting(wanted, now) if wanted else {}
        visits = []
        reached: set[str] = set()
        for gate in gates:
            key = gate.key
            if key in reached:
                break
            if key in found or key in delayed or gate.next_at is not None or gate.bounds.interval is not None:
                visit = Visit(gate, held[key], wanted.get(key, 0), starts.get(key, _NO_STARTS))
                visit.decide(found.get(key, NO_WAITING), now)
                visits.append(visit)
                reached.update(visit.next_gates)
            else:
                del todo[key]
        undecided: Sequence[Visit] = visits
        while undecided:
            locked = self._let_pass([change for visit in undecided for change in visit.passing])
            undecided = [visit for visit in undecided if visit.note_passed(locked)]
            if undecided:
                found = tx.waiting({visit.key: visit.wanted + len(visit.locked) for visit in undecided}, now)
            for visit in undecided:
                visit.decide(found.get(visit.key, NO_WAITING), now)
        for visit in visits:
            self._end_visit(visit)
        return visits

    def _let_pass(self, changes: Sequence[tuple[Task, Task]]) -> Collection[str]:
        if not changes:
            return ()
        locked = self.tx.let_pass(changes)
        for _, after in changes:
            if after.run_at != PARKED:
                if after.task_id not in locked:
                    self._ready.add(after.task_id)
            elif after.flow is not None:
                self.touched.known.update(after.flow.gates)
        self.touched.wakes = self.touched.wakes or bool(self._ready)
        return locked

    def _end_visit(self, visit: Visit) -> None:
        """Note how many tasks have passed a gate, and set the ``next_at`` of the gate."""
        now, before, gate = self.now, visit.before, visit.gate
        self._held[visit.key] = visit.held + len(visit.passed)
        if visit.locked:
            # The other transaction may leave them parked here, and it did not see the slots that are free now.
            gate = due_by(gate, now + LOCKED_RETRY)
        if visit.next_due is not None:
            gate = due_by(gate, visit.next_due)
        # A gate at which tasks wait for their due time has a ``next_at``.
        if before.next_at is not None or visit.key in self._delayed:
            at = self.tx.next_due(visit.key)
            if at is not None:
                gate = due_by(gate, at if at > now else now + LOCKED_RETRY)
        self.gates[visit.key] = gate

    def _starts(self, gates: Iterable[Gate]) -> dict[str, Starts]:
        """Return the starts that count at those of these gates that have rates."""
        rated = [gate for gate in gates if gate.bounds.interval is not None]
        if not rated:
            return {}
        if self._ran is None:
            self._ran = {}
            for task in self.touched.ran:
                if (at := task.began_at) is not None:
                    for key in slots(task):
                        self._ran.setdefault(key, []).append((at, tokens(task, key)))
        return {
            key: starts._replace(started=[*starts.started, *self._ran.get(key, ())])
            for key, starts in self.tx.starts(rated, self.now).items()
        }


# ---- before a push ----


def bounds_waiting(tx: Transaction, tasks: Iterable[Task]) -> bool:
    """Whether one of the gates of these new tasks has a ``max_waiting``."""
    bounds: dict[str, Bounds] = {}
    for task in tasks:
        if task.flow is not None:
            bounds.update(task.flow.gates)
    stored = tx.stored_gates(bounds).values()
    return any(each.max_waiting is not None for each in (*bounds.values(), *[gate.bounds for gate in stored]))


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
