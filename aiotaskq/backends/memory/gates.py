"""The gates of the memory backend: the tasks that wait at each of them, and those that hold a slot."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from msgspec import structs

from aiotaskq.backends.flow.gates import NOT_USED_UP, USED_UP, Admission, TouchedGates, Visit
from aiotaskq.backends.gates import Gates
from aiotaskq.backends.listeners import GATES, READY, Listeners
from aiotaskq.backends.memory.lane import Lane
from aiotaskq.core.gate import Gate, GateChange, GateState, Starts, due_by, is_idle, read_ahead
from aiotaskq.core.groups import GroupState
from aiotaskq.core.parking import at_gate, is_given_back, parked_again, passed, slots, tokens
from aiotaskq.core.task import PENDING, RUNNING, Task, claim_order
from aiotaskq.core.usage import budget_gate


class Line:
    """A gate, the ids of the tasks that hold a slot, and the tasks that wait.

    The waiting ones are also in a lane, each with its due time as ``run_at``: that is the order in which they pass.
    """

    def __init__(self, key: str) -> None:
        self.gate = Gate(key=key)
        self.held: dict[str, None] = {}
        self.waiting: dict[str, Task] = {}
        self.lane = Lane(self.waiting, on_delay=lambda: None)


class Lines(dict[str, Line]):
    """The lines by the keys of their gates. A lookup with ``[]`` makes a missing one."""

    def __missing__(self, key: str) -> Line:
        line = self[key] = Line(key)
        return line


class MemoryAdmission(Admission):
    """The gates that a verb touches. The verb holds the lock of the backend, so no gate needs one of its own."""

    def __init__(self, gates: MemoryGates, now: int) -> None:
        super().__init__(now)
        self._all = gates

    def lock(self, keys: Collection[str]) -> None:
        self.gates.update({key: self._all.lines[key].gate for key in keys})

    def lock_free(self, keys: Collection[str]) -> Collection[str]:
        self.lock(keys)
        return ()

    def holders(self, gates: Collection[Gate]) -> dict[str, Starts]:
        return {gate.key: starts(self._all.lines[gate.key], self._all.rows) for gate in gates}

    def visit(self, keys: Sequence[str]) -> tuple[Collection[str], Sequence[Visit]]:
        key, now = keys[0], self.now
        line, gate = self._all.lines[key], self.gates[key]
        ahead = read_ahead(gate, now)
        visit = Visit(gate, len(line.held), ahead)
        visit.starts = self.starts([gate]).get(key, visit.starts)
        # One more tells when it may pass, or that more may. Not needed where it passes only at the end of another task.
        wanted = visit.may_pass + (gate.bounds.interval is not None or ahead.if_full or visit.may_pass == ahead.batch)
        found: list[Task] = []
        of_paused_queues: list[Task] = []
        while len(found) < wanted and (task := line.lane.take_one(now)) is not None:
            (of_paused_queues if task.queue in self._all.paused else found).append(task)
        visit.decide([self._all.rows[task.task_id] for task in found], now)
        for task in (*found[len(visit.passing) :], *of_paused_queues):
            line.lane.add(task)
        for task in visit.passing:
            del line.waiting[task.task_id]
            self._all.replace(task, passed(task, now))
        at = line.lane.next_delayed(now)
        self.gates[key] = visit.gate if at is None else due_by(visit.gate, at)
        return (), [visit]


def starts(line: Line, rows: Mapping[str, Task]) -> Starts:
    """Return the starts of the tasks that hold a slot."""
    key = line.gate.key
    held = [rows[task_id] for task_id in line.held]
    return Starts(
        sum(tokens(row, key) for row in held if row.status is PENDING),
        [(row.began_at, tokens(row, key)) for row in held if row.status is RUNNING and row.began_at is not None],
    )


class MemoryGates(Gates):
    """Every gate of a backend, and what ``backends.max_waiting`` reads of them."""

    def __init__(
        self,
        rows: Mapping[str, Task],
        paused: Collection[str],
        lock: Any,
        replace: Callable[[Task, Task], None],
        listeners: Listeners,
    ) -> None:
        """``rows`` are those of the backend, and ``replace`` replaces one of them, with its indexes."""
        self.rows, self.paused, self.replace = rows, paused, replace
        self._lock, self._listeners = lock, listeners
        self.lines = Lines()
        self.touched = TouchedGates()
        """What the verb at hand touches; ``admit_touched`` admits these gates at its end."""

    async def admit(self, now: int, limit: int) -> int | None:
        with self._lock:
            due = [key for key, line in self.lines.items() if (at := line.gate.next_at) is not None and at <= now]
            admission = MemoryAdmission(self, now)
            admission.admit(sorted(due)[:limit])
            self._store(admission)
            ats = [line.gate.next_at for line in self.lines.values()]
        if due:
            self._listeners.notify(READY)
        return min((at for at in ats if at is not None), default=None)

    async def mend(self, now: int) -> int:
        with self._lock:
            for key, line in list(self.lines.items()):
                if not line.held and not line.waiting and is_idle(line.gate, now):
                    del self.lines[key]
        return 0  # no row leaves without its gates

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        with self._lock:
            all_keys = sorted(key for key in self.lines if key.startswith(prefix)) if keys is None else keys
            lines = [self.lines[key] for key in [key for key in all_keys if key in self.lines][:limit]]
            return [GateState(gate=each.gate, held=len(each.held), waiting=len(each.waiting)) for each in lines]

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        with self._lock:
            line = self._known(key)
            waiting = heapq.nsmallest(limit, line.waiting.values(), claim_order)
            return list(itertools.islice(line.held, limit)), [task.task_id for task in waiting]

    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        with self._lock:
            gate = self._changed(key, change, now)
        self._listeners.notify(READY)
        return gate

    # ---- what is read before a push ----

    def stored(self, keys: Collection[str]) -> dict[str, Gate]:
        return {key: self.lines[key].gate for key in keys if key in self.lines}

    def held(self, keys: Collection[str]) -> dict[str, int]:
        return {key: len(self._known(key).held) for key in keys}

    def starts(self, gates: Collection[Gate], now: int) -> dict[str, Starts]:
        return {gate.key: starts(self._known(gate.key), self.rows) for gate in gates}

    def paused_queues(self) -> Collection[str]:
        return self.paused

    def with_due(self, keys: Collection[str], now: int) -> set[str]:
        return {key for key in keys if self._has_due(self._known(key), now)}

    def _has_due(self, line: Line, now: int) -> bool:
        first = line.lane.head(now)
        if first is None or first.queue not in self.paused:
            return first is not None
        return any(task.queue not in self.paused for task in line.lane.ready(now))

    def with_more_waiting(self, counts: Mapping[str, int]) -> set[str]:
        return {key for key, count in counts.items() if len(self._known(key).waiting) > count}

    def _known(self, key: str) -> Line:
        return self.lines.get(key) or Line(key)  # a read makes no gate

    # ---- for the backend, which holds the lock ----

    def admit_touched(self) -> None:
        """Admit the gates that were touched."""
        touched = self.touched
        if not (touched.known or touched.due or touched.waiting):  # most verbs touch no gate
            return
        self.touched = TouchedGates()
        if touched:
            admission = MemoryAdmission(self, touched.now)
            touched.apply(admission)
            self._store(admission)

    def _store(self, admission: Admission) -> None:
        for key, gate in admission.gates.items():
            self.lines[key].gate = gate
        if any(gate.next_at is not None for gate in admission.gates.values()):
            self._listeners.notify(GATES)

    def _changed(self, key: str, change: GateChange, now: int) -> Gate:
        admission = MemoryAdmission(self, now)
        gate = admission.change(key, change)
        self._store(admission)
        return gate

    def enter(self, task: Task) -> None:
        """Take note of a row with gates. A gate that is not there was dropped as idle: the row knows its bounds."""
        if task.flow is not None and not task.final:
            for key, bounds in task.flow.gates:
                if key not in self.lines:
                    self.lines[key].gate = Gate(key=key, bounds=bounds)
        for key in slots(task):
            self.lines[key].held[task.task_id] = None
        if (at := at_gate(task)) is not None:
            line = self.lines[at]
            line.waiting[task.task_id] = free = structs.replace(task, run_at=task.due)
            line.lane.add(free)

    def leave(self, task: Task) -> None:
        """Forget a row with gates."""
        for key in slots(task):
            self.lines[key].held.pop(task.task_id, None)
        if (at := at_gate(task)) is not None and (free := self.lines[at].waiting.pop(task.task_id, None)) is not None:
            self.lines[at].lane.discard(free)

    def move(self, before: Task, after: Task) -> None:
        """Replace a row, and touch its gates."""
        self.replace(before, after)
        self.touched.changed([(before, after)])

    def changed(self, before: Task, after: Task) -> None:
        """Touch the gates of a row that was replaced; park it again if it was given back to a paused queue."""
        self.touched.changed([(before, after)])
        if is_given_back(before, after) and after.queue in self.paused:
            self.move(after, parked_again(after))

    def pause(self, queue: str, paused: bool) -> None:
        """Park what is ready of a paused queue; make the gates due at which tasks of a resumed one wait."""
        with self._lock:
            for task in [task for task in self.rows.values() if task.queue == queue and task.flow and not task.final]:
                if not paused and (at := at_gate(task)) is not None:
                    self.touched.due[at] = None
                elif paused and task.status is PENDING and slots(task):
                    self.move(task, parked_again(task))
            self.admit_touched()

    def budget_changed(self, group: GroupState, now: int = 0) -> None:
        """Close the gate of a group if its budget is used up, and park what has passed it and has not started.

        Else open it, and let its tasks pass at ``now``.
        """
        key = budget_gate(group.group_id)
        self._changed(key, USED_UP if group.used_up else NOT_USED_UP, now)
        for task_id in list(self.lines[key].held) if group.used_up else ():
            if (row := self.rows[task_id]).status is PENDING:
                self.move(row, parked_again(row))

    def drop_budget(self, group_id: str) -> None:
        """Forget the gate of a group, at which no task is."""
        self.lines.pop(budget_gate(group_id), None)
