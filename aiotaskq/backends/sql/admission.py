"""How a transaction lets tasks pass their gates, at its end: a transaction that has locked a gate waits for no task.

The locks of a transaction are taken in one order: tasks, then gates by their keys. A push of tasks without keys takes
those of its gates first, and inserts the tasks as they are then: its insert waits for no other transaction.

A task that passes a gate may have another gate behind it that the transaction has not locked. That gate is locked only
if no other transaction has locked it. Else it is *missed*: a transaction after this one admits it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from aiotaskq.backends.flow.gates import Admission, TouchedGates, Visit, independent
from aiotaskq.backends.flow.groups import Followed
from aiotaskq.backends.sql import gate_statements as sql
from aiotaskq.backends.sql.rows import decode_flow, is_later
from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import PARKED, Bounds, Flow, Gate, Starts, admit, due_by, read_ahead
from aiotaskq.core.parking import passed, passing_order, pushed_at, tokens
from aiotaskq.core.task import Task

Messages = Callable[[Sequence[Task], int], list[Task]]
LOCKED_RETRY = 100_000
"""Microseconds until a gate is admitted again at which another transaction had locked a task: time for its commit."""


class Admitted(NamedTuple):
    """What a transaction that admitted gates has done, and what is left to do after it."""

    now: int
    """The instant of the admission, in microseconds UTC."""
    has_next_at: bool
    """Whether a gate has a ``next_at``: then the hint ``gates`` is sent."""
    missed: Mapping[str, Bounds | None]
    """Gates to admit in another transaction, with the bounds to make them with if they do not exist."""
    ready: Collection[str]
    """The ids of the tasks that have passed their last gate."""


def _no_messages(_ended: Sequence[Task], _now: int) -> list[Task]:
    return []


class Touched(TouchedGates):
    """The gates, groups and children that a transaction touches by the tasks that it writes."""

    def __init__(self, messages: Messages = _no_messages) -> None:
        """``messages``: see ``Groups.messages``."""
        super().__init__()
        self.messages = messages
        self.followed = Followed()
        """What followed for children and groups."""
        self.grouped = False
        """Whether members of groups, or parents, have ended."""
        self._bounded: set[str] = set()
        """Gates at which pushed tasks may be too many."""
        self._admission: SqlAdmission | None = None
        """The admission that ``enter`` has begun."""
        self._entered: set[str] = set()
        """Gates at which nothing is left to do for the new tasks."""

    def enter(self, connection: Connection, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return new tasks as they are to be inserted: where no other task waits, those that may pass have passed.

        The gates are locked before the rows are written. So this is for tasks without keys: the insert of a key may
        wait for another transaction, which may wait for these gates.
        """
        lines: dict[str, list[Task]] = {}
        gates: list[tuple[str, Bounds]] = []
        for task in tasks:
            if task.unique_key is not None or task.idempotency_key is not None:
                return tasks
            if task.flow is not None:
                if task.gate is None or not task.parked or len(task.flow.gates) > 1:
                    return tasks
                lines.setdefault(task.gate, []).append(task)
                gates += task.flow.gates
                self.now = max(self.now, pushed_at(task))
        self.known.update(gates)
        self._admission = SqlAdmission(connection, self.now, self.known)
        self._admission.lock(lines)
        self._admission.declare(gates)
        entered = self._admission.enter(lines)
        for key, line in lines.items():
            parked = [task for task in line if task.task_id not in entered]
            if not parked or (self._admission.is_full(key) and not any(map(is_later, parked))):
                self._entered.add(key)
        return [entered.get(task.task_id, task) for task in tasks]

    def collided(self) -> None:
        """Note that some of the tasks that ``enter`` let pass were not inserted: their gates are admitted again."""
        self._entered.clear()
        if self._admission is not None:
            self._admission.recount()

    def pushed(self, tasks: Iterable[Task], refused: bool = True) -> None:
        """Note new rows; whether they are ``refused`` where too many would wait."""
        new = [task for task in tasks if task.flow is not None and task.gate not in self._entered]
        super().pushed(new)
        if refused:
            parked = [task.flow for task in new if task.flow is not None and task.parked and task.gate is not None]
            self._bounded.update([key for flow in parked for key, _ in flow.gates])

    def written(self, connection: Connection, changes: Iterable[tuple[Task, Task]]) -> None:
        """Note written changes of tasks with gates, each as before and after, and remove the slots they give back."""
        sql.remove_slots(connection, self.changed(changes))

    def dropped(self, connection: Connection, tasks: Sequence[Task]) -> None:
        """Note that live tasks with gates are deleted, and remove their slots."""
        self.deleted(tasks)
        sql.remove_slots(connection, [task.task_id for task in tasks])

    def admit(self, connection: Connection, committed: bool = False) -> Admitted | None:
        """Admit the gates; the transaction must wait for no task after that. None where it has touched no gate.

        Raises QueueFull for a push of too many tasks, unless the push is ``committed``.
        """
        if not self and self._admission is None:
            return None
        admission = self._admission or SqlAdmission(connection, self.now, self.known)
        self.declare(admission)
        admission.admit(self.keys)
        admission.make_due(self.due)
        if not committed:
            admission.check_waiting(self._bounded)
        return admission.end()


class SqlAdmission(Admission):
    """The gates that a transaction has locked in a database, and the tasks that have passed them."""

    def __init__(self, connection: Connection, now: int, bounds: Mapping[str, Bounds | None]) -> None:
        """``bounds`` are for gates that do not exist."""
        super().__init__(now)
        self._connection, self._bounds = connection, dict(bounds)
        self._stored: dict[str, Gate] = {}
        """By key, as they were read."""
        self._held: dict[str, int] = {}
        """How many tasks hold a slot, by key, as far as they were counted under the lock."""
        self._missed: dict[str, Bounds | None] = {}
        self._ready: set[str] = set()
        self._flows: dict[str | None, Flow | None] = {}
        """By their stored text."""

    def lock(self, keys: Collection[str]) -> None:
        self.lock_known(keys)
        new = [key for key in sorted(keys) if key not in self.gates]
        if new:
            gates = [Gate(key=key, bounds=self._bounds.get(key) or Bounds()) for key in new]
            added = sql.add(self._connection, gates)
            self._note_locked({gate.key: gate for gate in gates} if added else sql.locked(self._connection, new))

    def lock_known(self, keys: Collection[str]) -> None:
        """Lock those of these gates that exist."""
        self._note_locked(sql.locked(self._connection, keys))

    def _note_locked(self, found: Mapping[str, Gate]) -> None:
        self.gates.update(found)
        self._stored.update(found)

    def lock_free(self, keys: Collection[str]) -> Collection[str]:
        self._note_locked(sql.locked(self._connection, keys, wait=False))
        missed = {key: self._bounds.get(key) for key in keys if key not in self.gates}
        self._missed |= missed
        return missed.keys()

    def enter(self, lines: Mapping[str, Sequence[Task]]) -> dict[str, Task]:
        """Return, by id, those of these new tasks that pass their gates, as they are after that.

        ``lines`` are the tasks by the gates at which they are parked; they are not inserted yet.
        """
        now = self.now
        aheads = {key: read_ahead(self.gates[key], now) for key in lines if self._unchanged_if_empty(key)}
        entered: dict[str, Task] = {}
        for key, held in sql.held_where_none_waits(self._connection, aheads).items():
            due = [task for task in lines[key] if (task.due_at or 0) <= now and (task.expires_at or PARKED) > now]
            due.sort(key=passing_order)
            count, self.gates[key] = admit(self.gates[key], held, Starts(), now, [tokens(task, key) for task in due])
            self._held[key] = held + count
            entered |= {task.task_id: passed(task, now) for task in due[:count]}
        self._ready |= entered.keys()
        return entered

    def is_full(self, key: str) -> bool:
        """Whether it is known that no further task may pass, and any number may wait."""
        gate = self.gates[key]
        slots = read_ahead(gate, self.now).slots
        return self._unchanged_if_empty(key) and self._held.get(key, 0) >= slots and gate.bounds.max_waiting is None

    def recount(self) -> None:
        """Forget how many tasks hold slots."""
        self._held.clear()

    def check_waiting(self, keys: Collection[str]) -> None:
        """Raise QueueFull if more tasks than may wait at these gates."""
        bounds = {key: self.gates[key].bounds.max_waiting for key in keys}
        most = {key: bound for key, bound in bounds.items() if bound is not None}
        for key in sql.with_more_waiting(self._connection, most):
            raise gate_full(key, most[key])

    def end(self) -> Admitted:
        """Write the gates that have changed, and return what is left to do."""
        stored = self._stored
        changed = [gate for key, gate in self.gates.items() if gate is not stored[key] and gate != stored[key]]
        sql.write(self._connection, changed)
        has_next_at = any(gate.next_at is not None for gate in self.gates.values())
        return Admitted(self.now, has_next_at, self._missed, self._ready)

    def _unchanged_if_empty(self, key: str) -> bool:
        """Whether an admission leaves the gate as it is, if no task waits there."""
        gate = self.gates[key]
        return gate.next_at is None and gate.bounds.interval is None and key not in self.delayed

    def holders(self, gates: Collection[Gate]) -> dict[str, Starts]:
        return sql.starts(self._connection, gates, self.now)

    def visit(self, keys: Sequence[str]) -> tuple[Collection[str], Sequence[Visit]]:
        now, connection = self.now, self._connection
        if later := [key for key in keys if self._may_promote(key)]:
            sql.promote(connection, later, now)
        aheads = {key: read_ahead(self.gates[key], now) for key in keys}
        uncounted = {key: ahead for key, ahead in aheads.items() if key not in self._held}
        held, seen = sql.count_and_peek(connection, uncounted) if uncounted else ({}, {})
        self._held |= held
        empty = {key for key, rows in seen.items() if not rows and self._unchanged_if_empty(key)}
        visited = [key for key in keys if key not in empty] if empty else keys
        if still_uncounted := [key for key in visited if key not in self._held]:
            self._held |= sql.held(connection, still_uncounted)
        visits = [Visit(self.gates[key], self._held[key], aheads[key]) for key in visited]
        starts = self.starts([visit.before for visit in visits])
        for visit in visits:
            visit.starts = starts.get(visit.key, visit.starts)
        undecided = []
        for visit in visits:
            if visit.may_pass or now < visit.before.closed_until:
                undecided.append(visit)
            else:
                visit.decide([], now)
        first_round = True
        while undecided:
            limits = {visit.key: visit.may_pass + 1 + len(visit.locked) for visit in undecided}
            found = sql.first_due(connection, now, limits, seen)
            seen = {}
            for visit in undecided:
                rows, visit.next_due = found[visit.key]
                visit.decide([self._task(row, visit.key) for row in rows if row[0] not in visit.locked], now)
            if first_round:
                visits = independent(visits)
                undecided, first_round = [visit for visit in undecided if visit in visits], False
            passing = [(visit.key, task) for visit in undecided for task in visit.passing]
            passed_ids = self._let_pass(passing)
            undecided = [visit for visit in undecided if visit.note_passed(passed_ids)]
        for visit in visits:
            self._end_visit(visit)
        return empty, visits

    def _end_visit(self, visit: Visit) -> None:
        """Note how many tasks have passed a gate, and set the ``next_at`` of the gate."""
        now, before, gate = self.now, visit.before, visit.gate
        self._held[visit.key] += len(visit.passed)
        if visit.locked:
            # The other transaction may leave them parked here, and it did not see the slots that are free now.
            gate = due_by(gate, now + LOCKED_RETRY)
        if visit.next_due is not None:
            gate = due_by(gate, visit.next_due)
        # A gate at which tasks wait for their due time has a ``next_at``.
        if before.next_at is not None or visit.key in self.delayed:
            at = sql.next_due(self._connection, visit.key)
            if at is not None:
                gate = due_by(gate, at if at > now else now + LOCKED_RETRY)
        self.gates[visit.key] = gate

    def _may_promote(self, key: str) -> bool:
        """Whether tasks may have become due at a gate."""
        at = self.gates[key].next_at
        return key in self.delayed or (at is not None and at <= self.now)

    def _let_pass(self, passing: Sequence[tuple[str, Task]]) -> set[str]:
        """Let tasks pass their gates unless another transaction has locked them; return the ids of those that passed.

        ``passing`` are keys of gates, each with a task that waits there.
        """
        if not passing:
            return set()
        ready: dict[int, dict[str, str]] = {}
        waiting: dict[tuple[str, int], dict[str, str]] = {}
        for key, task in passing:
            after, due = passed(task, self.now), self.now if task.due_at is None else task.due_at
            floor = after.due if after.due > due else 0
            if after.parked and after.gate is not None:
                assert task.flow is not None
                self._bounds |= dict(task.flow.gates)
                waiting.setdefault((after.gate, floor), {})[task.task_id] = key
            else:
                ready.setdefault(floor, {})[task.task_id] = key
        ids: set[str] = set()
        for floor, at in ready.items():
            ids |= sql.unpark(self._connection, at, self.now, floor)
        self._ready |= ids
        for (to, floor), at in waiting.items():
            moved = sql.move_to_next(self._connection, at, to, self.now, floor)
            sql.add_slots(self._connection, [(key, task_id) for task_id, key in at.items() if task_id in moved])
            ids |= moved
        return ids

    def _task(self, row: Sequence[Any], key: str) -> Task:
        task_id, priority, due_at, text, _, queue = row
        flow = self._flow(text)
        return Task(
            task_id=task_id, type="", priority=priority, run_at=PARKED, due_at=due_at, flow=flow, gate=key, queue=queue
        )

    def _flow(self, text: str | None) -> Flow | None:
        if text not in self._flows:  # most tasks at a gate have the same flow
            self._flows[text] = None if text is None else decode_flow(text)
        return self._flows[text]
