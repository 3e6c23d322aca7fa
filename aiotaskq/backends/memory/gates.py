"""The gates of the memory backend: the tasks that wait at each of them, and those that hold a slot."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from aiotaskq.backends.gates import Gates
from aiotaskq.backends.listeners import GATES, READY, Listeners
from aiotaskq.backends.memory.lane import Lane
from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import Bounds, Gate, GateChange, GateState, admit, changed, declared, is_idle, room_of
from aiotaskq.core.parking import (
    at_gate,
    parked_again,
    passed,
    pushed_at,
    redeclared,
    settled_at,
    slots,
    tokens,
    touched,
)
from aiotaskq.core.parking import left as freed
from aiotaskq.core.task import PENDING, Task, claim_order
from aiotaskq.core.usage import USED_UP_UNTIL


class Line:
    """A gate and its tasks by id. Those that wait are in a lane, as they are when they are free: by their due times."""

    def __init__(self, key: str, rows: Mapping[str, Task]) -> None:
        self._rows = rows
        self.gate = Gate(key=key)
        self.held: dict[str, None] = {}
        self.waiting: dict[str, Task] = {}
        self._lane = Lane(self.waiting, on_delay=lambda: None)

    def enter(self, task: Task) -> None:
        """Add a task that waits."""
        self.waiting[task.task_id] = free = replace(task, run_at=task.due)
        self._lane.put(free)

    def leave(self, task: Task) -> None:
        """Remove a task that has not passed."""
        if (free := self.waiting.pop(task.task_id, None)) is not None:
            self._lane.discard(free)

    def first(self, now: int, paused: Container[str]) -> tuple[list[Task], bool]:
        """Take those of the first due tasks that may pass, and set when the next one may.

        Return these tasks, and whether there may be more of them.
        """
        room, rate = room_of(self.gate, now), self.gate.bounds.interval
        limit = room.limit(len(self.held))
        # One more tells when that may pass, unless only the end of a task with a slot lets it.
        one_more = rate or room.least or limit < room.most - len(self.held)
        wanted = limit + 1 if one_more else limit
        found: list[Task] = []
        left: list[Task] = []
        while len(found) < wanted and (task := self._lane.take_one(now)) is not None:
            (left if task.queue in paused else found).append(task)
        count, self.gate = self.admit(found, now)
        for task in (*found[count:], *left):
            self._lane.put(task)
        for task in found[:count]:
            del self.waiting[task.task_id]
        if (at := self._lane.next_delayed(now)) is not None:
            at = max(at, self.gate.closed_until)
            self.gate = replace(self.gate, next_at=min(at, self.gate.next_at or at))
        return [self._rows[task.task_id] for task in found[:count]], limit < count == len(found)

    def admit(self, tasks: Iterable[Task], now: int) -> tuple[int, Gate]:
        """Apply the rule to tasks that are due."""
        key, held = self.gate.key, map(self._rows.__getitem__, self.held if self.gate.bounds.interval else ())
        unstarted = sum(tokens(task, key) for task in held if task.status is PENDING)
        return admit(self.gate, len(self.held), unstarted, now, [tokens(task, key) for task in tasks])


class MemoryGates(Gates):
    """Every gate of a backend; ``rows`` are its rows, and ``move`` replaces one of them, with its indexes."""

    def __init__(
        self,
        rows: Mapping[str, Task],
        paused: Container[str],
        lock: Any,
        move: Callable[[Task, Task], None],
        listeners: Listeners,
    ) -> None:
        self._rows, self._paused, self._lock, self._move, self._listeners = rows, paused, lock, move, listeners
        self._lines: dict[str, Line] = {}

    async def admit(self, now: int, limit: int) -> int | None:
        with self._lock:
            due = [key for key, line in self._lines.items() if (at := line.gate.next_at) is not None and at <= now]
            self.open(sorted(due)[:limit], now)
            ats = [line.gate.next_at for line in self._lines.values()]
        if due:
            self._listeners.notify(READY)
        return min((at for at in ats if at is not None), default=None)

    async def mend(self, now: int) -> int:
        with self._lock:
            for key, line in list(self._lines.items()):
                if not line.held and not line.waiting and is_idle(line.gate, now):
                    del self._lines[key]
        return 0  # no row leaves without its gates

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        with self._lock:
            all_keys = sorted(key for key in self._lines if key.startswith(prefix)) if keys is None else keys
            known = [key for key in all_keys if key in self._lines]
            lines = [self._lines[key] for key in known[:limit]]
            return [GateState(gate=each.gate, held=len(each.held), waiting=len(each.waiting)) for each in lines]

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                return [], []
            waiting = heapq.nsmallest(limit, line.waiting.values(), claim_order)
            return list(itertools.islice(line.held, limit)), [task.task_id for task in waiting]

    async def change(self, key: str, change: GateChange, now: int) -> Gate:
        with self._lock:
            line = self._line(key)
            line.gate = changed(line.gate, change, now)
            self.open([key], now)
        self._listeners.notify(READY)
        return line.gate

    # ---- for the backend, which holds the lock ----

    def check(self, tasks: Sequence[Task], refused: bool = True) -> list[Task]:
        """Take the bounds that a push declares, and return its new tasks with gates.

        Raises QueueFull if more tasks than may would wait at their gates, and these are ``refused`` then.
        """
        new = [task for task in tasks if task.flow is not None and task.task_id not in self._rows]
        if not new:
            return new
        before = {key: self._line(key).gate for task in new for key, _ in task.flow.gates}  # type: ignore[union-attr]
        self._declare(new)
        for key in before if refused else ():
            line, here = self._line(key), [task for task in new if task.gate == key]
            if here and (most := line.gate.bounds.max_waiting) is not None:
                ready = [task for task in here if (task.due_at or 0) <= pushed_at(task)]
                count = 0 if line.waiting else line.admit(ready, max(map(pushed_at, here)))[0]
                if len(line.waiting) + len(here) - count > most:
                    for name, unchanged in before.items():
                        self._line(name).gate = unchanged
                    raise gate_full(key, most)
        return new

    def _declare(self, tasks: Sequence[Task]) -> None:
        now = max(map(pushed_at, tasks))
        for task in tasks:
            for key, bounds in task.flow.gates:  # type: ignore[union-attr]
                self._take_bounds(key, bounds, now, next_at=now)

    def _take_bounds(self, key: str, bounds: Bounds, now: int, next_at: int) -> None:
        line = self._line(key)
        gate = declared(line.gate, bounds, now)
        if gate is not line.gate and line.waiting:  # it may pass, though this push waits elsewhere
            gate = replace(gate, next_at=next_at)
        line.gate = gate

    def pushed(self, tasks: Sequence[Task]) -> None:
        """Admit the gates at which tasks of a push wait, which are in the rows now, at the latest push stamp."""
        self.open([key for key in map(at_gate, tasks) if key is not None], max(map(pushed_at, tasks)))

    def enter(self, task: Task) -> None:
        """Take note of a row with gates."""
        for key in slots(task):
            self._line(key).held[task.task_id] = None
        if (at := at_gate(task)) is not None:
            self._line(at).enter(task)

    def leave(self, task: Task) -> None:
        """Forget a row with gates."""
        for key in slots(task):
            self._line(key).held.pop(task.task_id, None)
        if (at := at_gate(task)) is not None:
            self._line(at).leave(task)

    def settled(self, before: Task, after: Task, then: Sequence[Task]) -> None:
        """Admit the gates of which ``after`` has no slot any more, or at which it or a follow-up waits now."""
        for key, bounds in redeclared(before, after):
            self._take_bounds(key, bounds, after.due, next_at=0)
        # The widest first: a task that waits there is before one that only now reaches it.
        self.open(reversed(touched(before, after)), settled_at(before, after))
        if gated := [task for task in then if task.flow is not None]:
            self._declare(gated)
            self.pushed(gated)

    def settle(self, row: Task, after: Task) -> None:
        """Replace a row, and do as ``settled``."""
        self._move(row, after)
        self.settled(row, after, ())

    def pause(self, queue: str, paused: bool) -> None:
        """Park what is ready of a paused queue; make the gates due at which tasks of a resumed one wait."""
        with self._lock:
            for task in [task for task in self._rows.values() if task.queue == queue and task.flow and not task.final]:
                if not paused and (at := at_gate(task)) is not None:
                    self.open([at], None)
                elif paused and task.status is PENDING and not task.parked:
                    self._park(task)

    def close_budget(self, key: str) -> None:
        """Close the gate of a group, and park what has passed it and has not started."""
        line = self._line(key)
        line.gate = replace(line.gate, closed_until=USED_UP_UNTIL)
        for task in [row for task_id in line.held if (row := self._rows[task_id]).status is PENDING]:
            self._park(task)

    def open_budget(self, key: str, now: int) -> None:
        """Open the gate of a group, and let its tasks pass."""
        line = self._line(key)
        line.gate = replace(line.gate, closed_until=0)
        self.open([key], now)

    def _park(self, task: Task) -> None:
        """Park a task that has not started at the first of its gates, and make those due of which it had a slot."""
        after = parked_again(task)
        self._move(task, after)
        self.open(freed(task, after), None)

    def drop(self, key: str) -> None:
        """Forget a gate at which no task is."""
        self._lines.pop(key, None)

    def open(self, keys: Iterable[str], now: int | None) -> None:
        """Admit these gates, and those behind them; without ``now`` make them due."""
        todo = dict.fromkeys(keys)  # first in, first out: a gate behind others sees what has passed all of them
        later = False
        while todo:
            del todo[key := next(iter(todo))]
            line = self._line(key)
            if now is None:
                line.gate, later = replace(line.gate, next_at=0), True
                continue
            tasks, more = line.first(now, self._paused)
            for task in tasks:
                after = passed(task, now)
                self._move(task, after)
                if (onward := at_gate(after)) is not None:
                    todo[onward] = None
            if more:
                todo[key] = None
            later = later or line.gate.next_at is not None
        if later:
            self._listeners.notify(GATES)

    def _line(self, key: str) -> Line:
        if (line := self._lines.get(key)) is None:
            line = self._lines[key] = Line(key, self._rows)
        return line
