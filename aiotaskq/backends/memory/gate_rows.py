"""The gates in memory: the tasks that wait at each, in the order in which they pass, and those that hold a slot."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from heapq import heapify, heappop, heappush
from itertools import chain, count, islice

from aiotaskq.backends.flow.transaction import Waiting
from aiotaskq.backends.gates import GateReads
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.core.gate import Bounds, Gate, GateState, Starts
from aiotaskq.core.parking import at_gate, is_later, passing_order, slots, slots_and_gate, tokens
from aiotaskq.core.status import PENDING, RUNNING
from aiotaskq.core.task import Task

_numbers = count()  # so that tasks are never compared


class Line:
    """A gate, the ids of the tasks that hold a slot, and the tasks that wait.

    A task that is no longer the row under its id is dropped when it comes up.
    """

    __slots__ = ("_in_order", "_later", "_out_of_order", "_removed", "_rows", "gate", "held", "waiting")

    def __init__(self, rows: Mapping[str, Task], key: str, bounds: Bounds | None = None) -> None:
        self.gate = Gate(key=key, bounds=bounds or Bounds())
        self.held: dict[str, None] = {}
        self.waiting = 0  # tasks
        self._rows = rows
        self._in_order: deque[Task] = deque()  # nearly all tasks are pushed in this order
        # A heap of those that come before the last in order, and of those that were not due, by when they are.
        self._out_of_order: list[tuple[tuple[int, int, int], int, Task]] = []
        self._later: list[tuple[int, int, Task]] = []
        self._removed = 0  # tasks that wait no longer, and are perhaps not dropped yet

    def add(self, task: Task) -> None:
        """Add a task that waits."""
        self.waiting += 1
        if is_later(task):
            heappush(self._later, (task.due_at or 0, next(_numbers), task))
        else:
            self._put(task)

    def _put(self, task: Task) -> None:
        if not self._in_order or passing_order(self._in_order[-1]) <= passing_order(task):
            self._in_order.append(task)
        else:
            heappush(self._out_of_order, (passing_order(task), next(_numbers), task))

    def remove(self, task: Task) -> None:
        """Forget a task that waits no longer."""
        self.waiting -= 1
        if self._in_order and self._in_order[0] is task:  # nearly always: it passes
            self._in_order.popleft()
            return
        self._removed += 1
        if self._removed > 1000 + 3 * self.waiting:
            self._removed = 0
            heap = (entry[2] for entry in self._out_of_order)
            self._in_order = deque(sorted(filter(self._is_live, chain(self._in_order, heap)), key=passing_order))
            self._out_of_order = []
            self._later = [entry for entry in self._later if self._is_live(entry[2])]
            heapify(self._later)

    def _is_live(self, task: Task) -> bool:
        return self._rows.get(task.task_id) is task

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks that wait."""
        heaps = chain(self._out_of_order, self._later)
        return filter(self._is_live, chain(self._in_order, (entry[2] for entry in heaps)))

    def release(self, now: int) -> None:
        """Put the tasks that are due by now among those that may pass."""
        while self._later and self._later[0][0] <= now:
            task = heappop(self._later)[2]
            if self._is_live(task):
                self._put(task)

    def first(self, limit: int, now: int, paused: Collection[str]) -> Waiting:
        """Return the first tasks in passing order that have not expired, and are in no paused queue."""
        if self._later:
            self.release(now)
        found: list[Task] = []
        seen: list[Task] = []
        next_due: int | None = None
        in_order, heap, rows = self._in_order, self._out_of_order, self._rows
        while in_order or heap:
            if heap and (not in_order or heap[0][0] < passing_order(in_order[0])):
                task = heappop(heap)[2]
            else:
                task = in_order.popleft()
            if rows.get(task.task_id) is not task or (seen and seen[-1] is task):  # it was deleted, and pushed again
                continue
            if task.due_at is not None and task.due_at > now:  # a clock ahead has pushed it
                heappush(self._later, (task.due_at, next(_numbers), task))
                next_due = min(task.due_at, next_due or task.due_at)
                continue
            seen.append(task)
            if task.queue not in paused and (task.expires_at is None or task.expires_at > now):
                found.append(task)
                if len(found) == limit:
                    break
        in_order.extendleft(reversed(seen))
        return found, next_due

    def next_due(self) -> int | None:
        """Return when the next of the tasks is due that were not due."""
        while self._later and not self._is_live(self._later[0][2]):
            heappop(self._later)
        return self._later[0][0] if self._later else None

    def starts(self) -> Starts:
        """Return the starts of the tasks that hold a slot."""
        key = self.gate.key
        held = [self._rows[task_id] for task_id in self.held]
        return Starts(
            sum(tokens(row, key) for row in held if row.status is PENDING),
            [(row.began_at, tokens(row, key)) for row in held if row.status is RUNNING and row.began_at is not None],
        )


class GateRows:
    """The part of a transaction in memory that reads and writes gates."""

    def __init__(self, rows: Mapping[str, Task], paused: Set[str]) -> None:
        """``rows`` are those of the backend, ``paused`` the names of the queues that are."""
        self.rows, self.paused = rows, paused
        self.lines: dict[str, Line] = {}
        """The lines by the keys of their gates."""

    def line(self, key: str, bounds: Bounds | None = None) -> Line:
        """Return the line of a gate, which is made if there is none."""
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Line(self.rows, key, bounds)
        return line

    def _known(self, key: str) -> Line:
        return self.lines.get(key) or Line(self.rows, key)  # a read makes no gate

    def enter(self, task: Task) -> None:
        """Take note of a live row with a flow. A gate that is not there was dropped as idle: the row has its bounds."""
        assert task.flow is not None
        lines, gates = self.lines, task.flow.gates
        held, at = slots_and_gate(task)
        for key in held:
            (lines.get(key) or self.line(key, dict(gates)[key])).held[task.task_id] = None
        if at is not None:
            (lines.get(at) or self.line(at, dict(gates).get(at))).add(task)

    def leave(self, task: Task) -> None:
        """Forget a row with a flow."""
        assert task.flow is not None
        lines, task_id = self.lines, task.task_id
        for key, _ in task.flow.gates:
            if (line := lines.get(key)) is not None:
                line.held.pop(task_id, None)
        if (at := at_gate(task)) is not None and (line := lines.get(at)) is not None:
            line.remove(task)

    # ---- as a transaction ----

    def gates(self, known: Mapping[str, Bounds | None], wait: bool = True) -> dict[str, Gate]:
        lines = self.lines
        return {key: (lines.get(key) or self.line(key, bounds)).gate for key, bounds in known.items()}

    def stored_gates(self, keys: Collection[str]) -> dict[str, Gate]:
        lines = self.lines
        return {key: line.gate for key in keys if (line := lines.get(key)) is not None}

    def write_gates(self, gates: Sequence[Gate]) -> None:
        for gate in gates:
            self.line(gate.key).gate = gate

    def drop_gates(self, keys: Collection[str]) -> None:
        for key in keys:
            del self.lines[key]

    def counts(self, keys: Collection[str]) -> dict[str, tuple[int, int]]:
        lines = {key: self._known(key) for key in keys}
        return {key: (len(line.held), line.waiting) for key, line in lines.items()}

    def held(self, keys: Collection[str]) -> dict[str, int]:
        lines = self.lines
        return {key: len(lines[key].held) for key in keys if lines[key].waiting}

    def starts(self, gates: Collection[Gate], now: int) -> dict[str, Starts]:
        return {gate.key: self._known(gate.key).starts() for gate in gates}

    def waiting(self, limits: Mapping[str, int], now: int) -> dict[str, Waiting]:
        lines = self.lines
        return {
            key: line.first(limit, now, self.paused)
            for key, limit in limits.items()
            if (line := lines.get(key)) is not None and line.waiting
        }

    def release(self, keys: Collection[str], now: int) -> None:
        for key in keys:
            self._known(key).release(now)

    def next_due(self, key: str) -> int | None:
        return self._known(key).next_due()

    def paused_queues(self) -> Collection[str]:
        return self.paused

    def unstarted(self, keys: Collection[str], queue: str | None) -> list[Task]:
        ids: Iterable[str] = dict.fromkeys(task_id for key in keys for task_id in self._known(key).held)
        found = [self.rows[task_id] for task_id in ids]
        return [row for row in found if row.status is PENDING and queue in (None, row.queue)]


class MemoryGateReads(GateReads):
    """The gates of a backend."""

    def __init__(self, tx: GateRows, lock: BriefLock) -> None:
        self._tx, self._lock = tx, lock

    async def due(self, now: int, limit: int) -> tuple[list[str], int | None]:
        with self._lock:
            ats = [(at, key) for key, line in self._tx.lines.items() if (at := line.gate.next_at) is not None]
        due = heapq.nsmallest(limit, (each for each in ats if each[0] <= now))
        return [key for _, key in due], min(ats)[0] if ats else None

    async def known(self) -> dict[str, None]:
        with self._lock:
            return dict.fromkeys(self._tx.lines)

    async def of_queue(self, queue: str, held: bool) -> set[str]:
        with self._lock:
            rows = [row for row in self._tx.rows.values() if row.queue == queue and row.status is PENDING and row.flow]
            if held:
                return {key for row in rows for key in slots(row)}
            return {key for row in rows if (key := at_gate(row)) is not None}

    async def find(self, keys: Sequence[str] | None = None, limit: int = 1_000, *, prefix: str = "") -> list[GateState]:
        lines = self._tx.lines
        with self._lock:
            all_keys = sorted(key for key in lines if key.startswith(prefix)) if keys is None else keys
            found = [lines[key] for key in [key for key in all_keys if key in lines][:limit]]
            return [GateState(gate=each.gate, held=len(each.held), waiting=each.waiting) for each in found]

    async def tasks(self, key: str, limit: int) -> tuple[list[str], list[str]]:
        with self._lock:
            line = self._tx.lines.get(key)
            if line is None:
                return [], []
            waiting = heapq.nsmallest(limit, line.tasks(), passing_order)
            return list(islice(line.held, limit)), [task.task_id for task in waiting]
