"""The part of a transaction in Redis that reads and writes gates, and names the index entries of their tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiotaskq.backends.flow.transaction import Transaction, Waiting
from aiotaskq.backends.redis.gate_reads import GateReads, Wanted
from aiotaskq.backends.redis.gate_texts import StateText, gate_text, is_later, order_text, sized
from aiotaskq.core.gate import PARKED, Bounds, Gate, Starts
from aiotaskq.core.parking import at_gate, passing_order, slots, slots_and_gate, tokens
from aiotaskq.core.task import PENDING, Task

NONE_WAITS = Waiting(())
MOST_PASSING = 5_000  # tasks in one transaction: the server runs no other command during its script


class GateRows(Transaction):
    """The part of a transaction that reads and writes gates."""

    def __init__(self, reads: GateReads) -> None:
        self._gate_reads = reads
        self._gates: dict[str, Gate] = {}  # as they are now
        self._held: dict[str, int] = {}  # changes of the counts
        self._waits: dict[str, int] = {}
        self._changed: dict[str, None] = {}  # the gates that are to be written
        self._deleted_gates: set[str] = set()
        self._before: dict[str, Task | None] = {}  # as they were read
        self._now: dict[str, Task | None] = {}  # tasks with gates as they were written
        self._entered: dict[str, dict[str, Task]] = {}  # those that wait, by gate
        self._holding: dict[str, dict[str, bool]] = {}  # by gate and task id: tasks took a slot, or gave it back
        self._later: dict[str, dict[str, int]] = {}  # by gate and task id: when tasks are due that are not due yet
        self._released: set[str] = set()
        self._passed = 0
        self.is_partial = False
        """Whether gates were made due, since another transaction goes on with what waits there."""
        self.unlinked: list[str] = []
        self.commands: list[Any] = []  # name, key and words of each
        self._lanes: dict[str, None] = {}  # whose first row may change
        self._sets: dict[str, dict[str, int | None]] = {}  # members of sorted sets, with their scores
        self.moved: dict[str, tuple[StateText, Task]] = {}  # rows of which only the place changes
        self.states: list[str | bytes] = []  # ids and states of rows of which no index entry changes

    @abstractmethod
    def want(self, wanted: Wanted) -> None:
        """Read what of this is not read yet."""

    @abstractmethod
    def write(self, before: Task, after: Task, is_due: bool) -> None:
        """Write a task that was read, or written, as a whole."""

    # ---- what is written ----

    def put(self, key: str, member: str, score: int | None) -> None:
        """Put a member into a sorted set, or remove it."""
        members = self._sets.get(key)
        if members is None:
            members = self._sets[key] = {}
        members[member] = score

    def post(self, before: Task | None, after: Task | None, is_due: bool = False) -> None:
        """Note the place at gates of a task that is written; whether it ``is_due`` where it waits."""
        task = after if before is None else before
        assert task is not None
        if task.flow is None and (after is None or after.flow is None):
            return
        task_id = task.task_id
        self._before.setdefault(task_id, before)
        self._now[task_id] = after
        had, left = ((), None) if before is None else slots_and_gate(before)
        has, entered = ((), None) if after is None else slots_and_gate(after)
        if had != has:
            for key in had:
                if key not in has:
                    self._hold(key, task_id, False)
            for key in has:
                if key not in had:
                    self._hold(key, task_id, True)
        if left is not None:
            self._entered.get(left, {}).pop(task_id, None)
            self._later.get(left, {}).pop(task_id, None)
            self._waits[left] = self._waits.get(left, 0) - 1
            self._changed[left] = None
        if entered is not None:
            assert after is not None
            waiting = self._entered.get(entered)
            if waiting is None:
                waiting = self._entered[entered] = {}
            waiting[task_id] = after
            self._waits[entered] = self._waits.get(entered, 0) + 1
            self._changed[entered] = None
            if not is_due and is_later(after):
                self._later.setdefault(entered, {})[task_id] = after.due_at or 0

    def _hold(self, key: str, task_id: str, holds: bool) -> None:
        self._held[key] = self._held.get(key, 0) + (1 if holds else -1)
        changes = self._holding.get(key)
        if changes is None:
            changes = self._holding[key] = {}
        changes[task_id] = holds
        self._changed[key] = None

    def _put_places(self) -> None:
        """Name the index entries of the tasks that were written."""
        for key, changes in self._holding.items():
            for task_id, holds in changes.items():
                self.put("slots", f"{sized(key)}:{task_id}", 0 if holds else None)
        for task_id, before in self._before.items():
            after = self._now[task_id]
            if before is not None and (left := at_gate(before)) is not None:
                self._put_place(before, left, False, None)
                if is_later(before):
                    self._put_place(before, left, True, None)
            if after is not None and (entered := at_gate(after)) is not None:
                later = task_id in self._later.get(entered, ())
                self._put_place(after, entered, later, (after.due_at or 0) if later else 0)

    def _put_place(self, task: Task, gate: str, is_later: bool, score: int | None) -> None:
        queue, order = sized(task.queue), order_text(task)
        if is_later:
            self.put(f"later:{gate}", queue + order, score)
        else:
            self.put(f"wait:{queue}:{gate}", order, score)
            if score is not None:
                self.put(f"lines:{gate}", task.queue, 0)

    def rewrite(self, changes: Sequence[tuple[Task, Task]], is_due: bool = False) -> None:
        for before, after in changes:
            row = self._gate_reads.states.get(before.task_id)
            moved = self.moved.get(before.task_id)
            if moved is not None or (row is not None and row.task is before):
                assert row is not None
                self.moved[before.task_id] = (row, after)
                self.post(before, after, is_due)
            else:
                self.write(before, after, is_due)

    def let_pass(self, changes: Sequence[tuple[Task, Task]]) -> Collection[str]:
        self._passed += len(changes)
        self.rewrite(changes, is_due=True)
        return ()

    def put_into_lane(self, task: Task, seq: str) -> None:
        """Put a task into its lane if it is ready, else remove it."""
        lane = f"{task.priority}:{task.queue}"
        self.put(f"lane:{lane}", seq + task.task_id, None if task.parked else task.run_at)
        self._lanes[lane] = None

    def gate_words(self) -> tuple[list[Any], list[str | bytes], list[str]]:
        """Return commands that write, ids and states of rows, and lanes whose first row may change."""
        wanted = [key for key in self._changed if key not in self._deleted_gates]
        self.want(Wanted(gates=wanted))
        fields: list[Any] = []
        for key in wanted:
            stored = self._gate_reads.gates[key]
            gate = self._gates.get(key) or stored.gate or Gate(key=key)
            held = max(0, stored.held + self._held.get(key, 0))
            waiting = max(0, stored.waiting + self._waits.get(key, 0))
            fields += (key, gate_text(gate, stored.version + 1, held, waiting))
            if gate.next_at != (None if stored.gate is None else stored.gate.next_at):
                self.put("gates:due", key, gate.next_at)
        states = [*self.states]
        for row, after in self.moved.values():
            states += (after.task_id, row.at(after))
            if not row.task.parked or not after.parked:
                self.put_into_lane(after, f"{after.seq:020d}")
            if after.expires_at is not None and not after.parked:
                self.put("expiring", after.task_id, after.expires_at)
                self.put("expired", after.task_id, None)
        writes: list[Any] = [*self.commands]
        if fields:
            writes.append(["HSET", "gates", fields])
        if self._deleted_gates:
            writes.append(["HDEL", "gates", list(self._deleted_gates)])
        self._put_places()
        for name, members in self._sets.items():
            gone = [member for member, score in members.items() if score is None]
            put = [word for member, score in members.items() if score is not None for word in (str(score), member)]
            if gone:
                writes.append(["ZREM", name, gone])
            if put:
                writes.append(["ZADD", name, put])
        return writes, states, list(self._lanes)

    # ---- gates ----

    def gates(self, known: Mapping[str, Bounds | None], wait: bool = True) -> dict[str, Gate]:
        self.want(Wanted(gates=known))
        for key, bounds in known.items():
            if key not in self._gates:
                stored = self._gate_reads.gates[key].gate
                self._gates[key] = Gate(key=key, bounds=bounds or Bounds()) if stored is None else stored
                if stored is None:
                    self._changed[key] = None
        return {key: self._gates[key] for key in known}

    def stored_gates(self, keys: Collection[str]) -> dict[str, Gate]:
        self.want(Wanted(gates=keys))
        found = {key: self._gates.get(key) or self._gate_reads.gates[key].gate for key in keys}
        return {key: gate for key, gate in found.items() if gate is not None}

    def add_gates(self, gates: Sequence[Gate]) -> None:
        there = self.stored_gates([gate.key for gate in gates])
        self.write_gates([gate for gate in gates if gate.key not in there])

    def write_gates(self, gates: Sequence[Gate]) -> None:
        for gate in gates:
            self._gates[gate.key] = gate
            self._changed[gate.key] = None

    def drop_gates(self, keys: Collection[str]) -> None:
        for key in keys:
            self._deleted_gates.add(key)
            self.unlinked.append(f"lines:{key}")
            self.put("gates:due", key, None)

    # ---- slots ----

    def counts(self, keys: Collection[str]) -> dict[str, tuple[int, int]]:
        self.want(Wanted(gates=keys))
        stored = {key: self._gate_reads.gates[key] for key in keys}
        return {
            key: (gate.held + self._held.get(key, 0), gate.waiting + self._waits.get(key, 0))
            for key, gate in stored.items()
        }

    def recount(self, keys: Collection[str]) -> list[str]:
        self.want(Wanted(gates=keys, holders=keys, counted=keys))
        return [key for key in keys if self._recount(key)]

    def _recount(self, key: str) -> bool:
        reads = self._gate_reads
        lost = [row.task.task_id for row in reads.holders[key] if key not in slots(row.task)]
        lost += reads.lost[key]
        for task_id in lost:
            self.put("slots", f"{sized(key)}:{task_id}", None)
        held, waiting = reads.counted[key]
        stored, held = reads.gates[key], held - len(lost)
        if (held, waiting) != (stored.held, stored.waiting):
            self._held[key], self._waits[key] = held - stored.held, waiting - stored.waiting
            self._changed[key] = None
        return bool(lost)

    def holders(self, keys: Collection[str]) -> dict[str, list[Task]]:
        """Read the tasks that hold a slot of these gates."""
        self.want(Wanted(holders=keys))
        found = {}
        for key in keys:
            changed = self._holding.get(key, {})
            rows = [row.task for row in self._gate_reads.holders[key] if row.task.task_id not in changed]
            rows = [self._now.get(task.task_id, task) or task for task in rows]
            more = [self._now[task_id] for task_id, holds in changed.items() if holds]
            found[key] = [*rows, *(task for task in more if task is not None)]
        return found

    def starts(self, gates: Collection[Gate], now: int) -> dict[str, Starts]:
        if not gates:
            return {}
        found = {}
        for key, tasks in self.holders([gate.key for gate in gates]).items():
            unstarted, started = 0, []
            for task in tasks:
                if task.status is PENDING:
                    unstarted += tokens(task, key)
                elif (at := self._began_at(task)) is not None:
                    started.append((at, tokens(task, key)))
            found[key] = Starts(unstarted, started)
        return found

    def _began_at(self, task: Task) -> int | None:
        row = self._gate_reads.states.get(task.task_id)
        return row.began_at() if row is not None and row.task is task else task.began_at

    def unstarted(self, keys: Collection[str], queue: str | None) -> list[Task]:
        found = {task.task_id: task for tasks in self.holders(keys).values() for task in tasks}
        return [task for task in found.values() if task.status is PENDING and queue in (None, task.queue)]

    # ---- what waits ----

    def waiting(self, limits: Mapping[str, int], now: int) -> dict[str, Waiting]:
        wanted = {key: limit for key, limit in limits.items() if self._stored_waiting(key)}
        self.want(Wanted(waiting=wanted, paused=True))
        found, more, paused = {}, {}, self.paused_queues()
        for key, limit in limits.items():
            if self._goes_on_later(key, now):
                self.is_partial = True
                found[key] = Waiting([], now)  # the gate is due again
                continue
            read = self._gate_reads.waiting.get(key) if key in wanted else None
            if read is None and not self._entered.get(key):
                found[key] = NONE_WAITS
                continue
            stored = [] if read is None else read.rows
            rows = [row.task for row in stored if row.task.task_id not in self._now]
            rows = [task for task in rows if at_gate(task) == key]
            left_out = len(stored) - len(rows) + (0 if read is None else read.unread)
            later = self._later.get(key, {})
            rows += [task for task in self._entered.get(key, {}).values() if task.task_id not in later]
            if key in self._released:
                rows += [row.task for row in self._gate_reads.later[key].rows if row.task.task_id not in self._now]
            due, next_due = [], None
            for task in sorted(rows, key=passing_order):
                if task.due_at is not None and task.due_at > now:
                    next_due = min(task.due_at, next_due or task.due_at)  # a clock ahead has pushed it
                    left_out += 1
                elif task.queue in paused or (task.expires_at or PARKED) <= now:
                    left_out += 1
                else:
                    due.append(task)
            if read is not None and not read.is_whole and read.limit - left_out < limit:
                more[key] = limit + left_out
            found[key] = Waiting(due[:limit], next_due)
        if more:
            self.want(Wanted(waiting=more))
        return found

    def _goes_on_later(self, key: str, now: int) -> bool:
        """Whether enough tasks have passed, or some that are due are not among those that may pass."""
        later = self._gate_reads.later.get(key) if key in self._released else None
        return self._passed >= MOST_PASSING or (
            later is not None and later.next_due is not None and later.next_due <= now
        )

    def _stored_waiting(self, key: str) -> bool:
        """Whether tasks waited at a gate when it was read."""
        if key not in self._gate_reads.gates:
            self.want(Wanted(gates=[key]))
        return self._gate_reads.gates[key].waiting > 0

    def release(self, keys: Collection[str], now: int) -> None:
        stored = [key for key in keys if self._stored_waiting(key)]
        self.want(Wanted(later=dict.fromkeys(stored, now)))
        for key in keys:
            later = self._later.get(key, {})
            for task_id in [task_id for task_id, due in later.items() if due <= now]:
                del later[task_id]
            if key in stored and key not in self._released:
                self._released.add(key)
                rows = [row.task for row in self._gate_reads.later[key].rows if row.task.task_id not in self._now]
                for task in rows:
                    if at_gate(task) == key:
                        self._put_place(task, key, True, None)
                        self._put_place(task, key, False, 0)
                        self._changed[key] = None

    def next_due(self, key: str) -> int | None:
        found = [*self._later.get(key, {}).values()]
        if self._stored_waiting(key):
            if key not in self._gate_reads.later:
                self.want(Wanted(later={key: 0}))
            read = self._gate_reads.later[key]
            if read.next_due is not None:
                found.append(read.next_due)
            if key not in self._released:
                found += [row.task.due_at or 0 for row in read.rows]
        return min(found, default=None)

    def paused_queues(self) -> Collection[str]:
        self.want(Wanted(paused=True))
        return self._gate_reads.paused or ()
