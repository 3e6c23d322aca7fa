"""How a transaction lets tasks pass their gates, at its end: a transaction that has locked a gate waits for no task.

The locks of a transaction are taken in one order: tasks, then gates by their keys. A task that passes a gate may have
another one behind it that is not among the locked ones. That one is locked only if it is free; else it is *missed*, and
admitted in a transaction after this one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy import Connection

from aiotaskq.backends.sql import gate_statements as sql
from aiotaskq.backends.sql.rows import decode_flow
from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import PARKED, Bounds, Flow, Gate, admit, declared
from aiotaskq.core.parking import passed, pushed_at, settled_at, slots, touched
from aiotaskq.core.task import Task

MOST = 100  # tasks looked at together where no bound is smaller
RETRY = 100_000  # microseconds until a gate is looked at again whose first tasks were locked


class Opened(NamedTuple):
    """What is left to do after a transaction that admitted gates."""

    now: int
    later: bool
    """Whether a gate has a ``next_at``."""
    missed: Mapping[str, Bounds | None]
    """Gates to admit, and their bounds if they do not exist."""


class Touched:
    """The gates that a transaction touches by the tasks that it writes."""

    def __init__(self) -> None:
        self.now = 0
        """The latest instant of a push or an update, in microseconds UTC."""
        self.keys: dict[str, None] = {}
        """Gates to admit, in this order."""
        self.due: dict[str, None] = {}
        """Gates to make due."""
        self.known: dict[str, Bounds | None] = {}
        """All gates of the tasks at hand."""
        self.followed: list[str] = []
        """The ids of children and groups that have ended by it."""
        self.grouped = False
        """Whether members of groups, or parents, have ended."""
        self._declared: list[tuple[str, Bounds]] = []
        self._pushed: list[Task] = []
        self._parked: list[Task] = []

    def __bool__(self) -> bool:
        return bool(self.keys or self.due)

    def pushed(self, tasks: Iterable[Task]) -> None:
        """Note new rows."""
        for task in tasks:
            if task.flow is not None:
                self.known.update(task.flow.gates)
                self._declared += task.flow.gates
                self.now = max(self.now, pushed_at(task))
                if task.parked and task.gate is not None:
                    self.keys[task.gate] = None
                    self._pushed.append(task)

    def changed(self, connection: Connection, changes: Iterable[tuple[Task, Task]]) -> None:
        """Note what tasks with gates were, and what was written; remove the slots that are free then."""
        gone = []
        for before, after in changes:
            assert before.flow is not None
            self.known.update(before.flow.gates)
            # The widest first: a task that waits there is before one that only now reaches it.
            keys = dict.fromkeys(reversed(touched(before, after)))
            at = settled_at(before, after)
            if at is None:
                self.due |= keys
            else:
                self.keys |= keys
                self.now = max(self.now, at)
            self._parked.append(after)
            if len(before.flow.gates) > 1 and not slots(after):
                gone.append(after.task_id)
        sql.remove_slots(connection, gone)

    def deleted(self, connection: Connection, tasks: Sequence[Task]) -> None:
        """Note that live tasks with gates are deleted, and remove their slots."""
        for task in tasks:
            if task.flow is not None:
                self.known.update(task.flow.gates)
                self.due.update(dict.fromkeys(slots(task)))
        sql.remove_slots(connection, [task.task_id for task in tasks])

    def open(self, connection: Connection, committed: bool = False) -> Opened | None:
        """Admit the gates; the transaction may wait for no task after that.

        Raises QueueFull for a push of too many, unless it was committed.
        """
        if not self:
            return None
        admission = Admission(connection, self.now, self.known)
        admission.lock(self.known)
        for key, bounds in self._declared:
            gate = declared(admission.gates[key], bounds, self.now)
            if gate is not admission.gates[key]:  # what waits there may pass, though this push waits elsewhere
                admission.gates[key] = replace(gate, next_at=self.now)
        waiting = [task for task in (*self._pushed, *self._parked) if task.parked and (task.due_at or 0) > self.now]
        admission.delayed.update(task.gate for task in waiting if task.gate is not None)
        admission.open(self.keys)
        admission.make_due(self.due)
        for key in () if committed else {task.gate for task in self._pushed if task.gate is not None}:
            most = admission.gates[key].bounds.max_waiting
            if most is not None and sql.waiting_up_to(connection, key, most + 1) > most:
                raise gate_full(key, most)
        return admission.end()


class Admission:
    """The gates that a transaction has locked, and what has passed them."""

    def __init__(self, connection: Connection, now: int, bounds: Mapping[str, Bounds | None]) -> None:
        """``bounds`` are those of gates that do not exist."""
        self.gates: dict[str, Gate] = {}
        """By key; what is written here is stored by ``end``."""
        self.delayed: set[str] = set()
        """Gates at which tasks may wait for their due time, though they have no ``next_at``."""
        self._connection, self._now, self._bounds = connection, now, dict(bounds)
        self._stored: dict[str, Gate] = {}
        self._held: dict[str, int] = {}
        self._missed: dict[str, Bounds | None] = {}

    def lock(self, keys: Collection[str]) -> None:
        """Lock these gates, and make those that do not exist."""
        self._take(sql.locked(self._connection, keys))
        new = [key for key in sorted(keys) if key not in self.gates]
        if new:
            sql.add(self._connection, [Gate(key=key, bounds=self._bounds.get(key) or Bounds()) for key in new])
            self._take(sql.locked(self._connection, new))

    def lock_known(self, keys: Collection[str]) -> None:
        """Lock those of these gates that exist."""
        self._take(sql.locked(self._connection, keys))

    def _take(self, found: Mapping[str, Gate]) -> None:
        self.gates.update(found)
        self._stored.update(found)

    def make_due(self, keys: Iterable[str]) -> None:
        """Let the next sweep admit these gates."""
        for key in keys:
            self.gates[key] = replace(self.gates[key], next_at=0)

    def open(self, keys: Iterable[str]) -> None:
        """Admit these gates, and those behind them."""
        todo = dict.fromkeys(keys)  # first in, first out: a gate behind others sees what has passed all of them
        self._held |= sql.held(self._connection, [key for key in todo if key not in self._held])
        while todo:
            del todo[key := next(iter(todo))]
            if not self._is_locked(key):
                self._missed[key] = self._bounds.get(key)
                continue
            onward, more = self._first(key)
            todo |= dict.fromkeys(onward)
            if more:
                todo[key] = None

    def _is_locked(self, key: str) -> bool:
        if key not in self.gates:
            self._take(sql.locked(self._connection, [key], wait=False))
        return key in self.gates

    def end(self) -> Opened:
        """Write the gates that have changed."""
        sql.write(self._connection, [gate for key, gate in self.gates.items() if gate != self._stored[key]])
        later = any(gate.next_at is not None for gate in self.gates.values())
        return Opened(self._now, later, self._missed)

    def _first(self, key: str) -> tuple[list[str], bool]:
        """Let the first due tasks pass that may; return the gates that they wait at now, and whether there may be more.

        Set when the next task may pass.
        """
        now, before = self._now, self.gates[key]
        if key not in self._held:
            self._held |= sql.held(self._connection, [key])
        held, bounds = self._held[key], before.bounds
        most = [bound - held for bound in (bounds.cap, bounds.window) if bound is not None]
        limit = max(0, min(MOST, *most, bounds.burst if bounds.interval else MOST))
        unstarted = 0
        if bounds.interval:
            texts = sql.unstarted(self._connection, key, bounds.burst)
            unstarted = sum(1 if (flow := _flow(text)) is None else flow.weight for text in texts)
        skipped: set[str] = set()
        moved: list[Task] = []
        while True:
            rows, others = sql.first(self._connection, key, now, limit + 1 + len(skipped))
            waiting = moved + [_task(row, key) for row in rows if row[0] not in skipped]
            count, gate = admit(before, held, unstarted, now, [_weight(task) for task in waiting])
            passing = waiting[len(moved) : count]
            free = self._pass(key, passing)
            moved += [task for task in passing if task.task_id in free]
            if len(free) == len(passing):
                break
            skipped |= {task.task_id for task in passing} - free
        self._held[key] += len(moved)
        if skipped:
            # The transaction that has locked these tasks may leave them parked here.
            gate = replace(gate, next_at=min(now + RETRY, gate.next_at or now + RETRY))
        # A gate at which tasks wait for their due time has a ``next_at``.
        if others or before.next_at is not None or key in self.delayed:
            at = sql.later(self._connection, key, now)
            if at is not None:
                at = max(at, gate.closed_until)
                gate = replace(gate, next_at=min(at, gate.next_at or at))
        self.gates[key] = gate
        onward = [after.gate for task in moved if (after := passed(task, now)).parked and after.gate is not None]
        return onward, limit < count == len(waiting)

    def _pass(self, key: str, tasks: Sequence[Task]) -> set[str]:
        """Let tasks pass a gate but for those that another transaction has locked; return the ids of the others."""
        if not tasks:
            return set()
        ready: dict[int, list[str]] = {}
        waiting: dict[str, list[str]] = {}
        for task in tasks:
            after = passed(task, self._now)
            if after.parked and after.gate is not None:
                assert task.flow is not None
                self._bounds |= dict(task.flow.gates)
                waiting.setdefault(after.gate, []).append(task.task_id)
            else:
                due = self._now if task.due_at is None else task.due_at
                ready.setdefault(after.run_at if after.run_at > due else 0, []).append(task.task_id)
        free: set[str] = set()
        for floor, ids in ready.items():
            free |= sql.unpark(self._connection, key, ids, self._now, floor)
        for to, ids in waiting.items():
            free |= sql.onward(self._connection, key, ids, to)
        return free


def check_room(connection: Connection, tasks: Sequence[Task]) -> None:
    """Raise QueueFull if more tasks than may would wait at their gates; for a push that locks no gate."""
    here: dict[str, list[Task]] = {}
    for task in tasks:
        if task.flow is not None and task.parked and task.gate is not None:
            here.setdefault(task.gate, []).append(task)
    if not any(bounds.max_waiting is not None for line in here.values() for bounds in [_own(line[-1])]):
        return
    found = {gate.key: gate for gate in sql.read(connection, list(here), len(here))}
    for key, line in here.items():
        now = max(map(pushed_at, line))
        gate = declared(found.get(key, Gate(key=key)), _own(line[-1]), now)
        if (most := gate.bounds.max_waiting) is not None:
            waiting = sql.waiting_up_to(connection, key, most + 1)
            held = sql.held(connection, [key])[key]
            due = [_weight(task) for task in line if (task.due_at or 0) <= pushed_at(task)]
            count = 0 if waiting else admit(gate, held, 0, now, due)[0]
            if waiting + len(line) - count > most:
                raise gate_full(key, most)


def _own(task: Task) -> Bounds:
    assert task.flow is not None
    return task.flow.gates[0][1]


def _flow(text: str | None) -> Flow | None:
    return None if text is None else decode_flow(text)


def _task(row: Any, key: str) -> Task:
    task_id, priority, due_at, text = row
    flow = _flow(text)
    return Task(task_id=task_id, type="", priority=priority, run_at=PARKED, due_at=due_at, flow=flow, gate=key)


def _weight(task: Task) -> int:
    return 1 if task.flow is None else task.flow.weight
