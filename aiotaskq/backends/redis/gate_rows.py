"""The part of a transaction in Redis that reads and writes gates, and names the index entries of their tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aiotaskq.backends.flow.transaction import Transaction, Waiting
from aiotaskq.backends.redis.gate_reads import GateReads, Wanted
from aiotaskq.backends.redis.gate_texts import Place, StateText, gate_text, place_of, sized
from aiotaskq.core.gate import PARKED, Bounds, Gate, Starts
from aiotaskq.core.parking import at_gate, passing_order, slots, tokens
from aiotaskq.core.task import PENDING, Task

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
        self._now: dict[str, Task | None] = {}  # tasks with gates as they were written
        self._entered: dict[str, dict[str, Task]] = {}  # those that wait, by gate
        self._holding: dict[str, dict[str, bool]] = {}  # changes of who holds a slot, by gate
        self._later: dict[str, dict[str, Place]] = {}  # those that wait and were not due when they were written
        self._released: set[str] = set()
        self._passed = 0
        self.is_partial = False
        """Whether gates were made due, since another transaction goes on with what waits there."""
        self._lines: dict[str, tuple[str, str]] = {}  # gate and queue, by the keys of what waits
        self._stored: set[tuple[str, str]] = set()  # members that may be in those sets already
        self.unlinked: list[str] = []
        self._sets: dict[str, dict[str, int | None]] = {}  # members of sorted sets, with their scores
        self.moved: dict[str, tuple[StateText, Task]] = {}  # rows of which only the place changes

    def want(self, wanted: Wanted) -> None:
        """Read what of this is not read yet."""
        raise NotImplementedError

    def write(self, before: Task, after: Task, is_due: bool) -> None:
        """Write a task that was read, or written, as a whole."""
        raise NotImplementedError

    # ---- what is written ----

    def put(self, key: str, member: str, score: int | None) -> None:
        """Put a member into a sorted set, or remove it."""
        members = self._sets.setdefault(key, {})
        if score is None and members.get(member) is not None and (key, member) not in self._stored:
            del members[member]  # it was put there by this transaction
            return
        if score is None:
            self._stored.add((key, member))
        members[member] = score

    def post(self, before: Task | None, after: Task | None, is_due: bool = False) -> None:
        """Note the index entries of a task that is written; whether it ``is_due`` where it waits."""
        task = after if before is None else before
        assert task is not None
        if task.flow is None and (after is None or after.flow is None):
            return
        task_id = task.task_id
        had, has = (() if each is None else slots(each) for each in (before, after))
        for key in had:
            if key not in has:
                self._hold(key, task_id, False)
        for key in has:
            if key not in had:
                self._hold(key, task_id, True)
        left, entered = place_of(before), place_of(after)
        if left != entered:
            if left is not None:
                self._leave(left, task_id)
            if entered is not None:
                self._enter(entered, task_id, entered.is_later and not is_due)
        if entered is not None:
            assert after is not None
            self._entered.setdefault(entered.gate, {})[task_id] = after
        self._now[task_id] = after

    def _hold(self, key: str, task_id: str, holds: bool) -> None:
        self.put("slots", f"{sized(key)}:{task_id}", 0 if holds else None)
        self._held[key] = self._held.get(key, 0) + (1 if holds else -1)
        self._holding.setdefault(key, {})[task_id] = holds
        self._changed[key] = None

    def _leave(self, place: Place, task_id: str) -> None:
        self._entered.get(place.gate, {}).pop(task_id, None)
        self._later.get(place.gate, {}).pop(task_id, None)
        self._put_place(place, False, None)
        if place.is_later:
            self._put_place(place, True, None)
        self._waits[place.gate] = self._waits.get(place.gate, 0) - 1
        self._changed[place.gate] = None

    def _enter(self, place: Place, task_id: str, is_later: bool) -> None:
        self._put_place(place, is_later, place.due if is_later else 0)
        if is_later:
            self._later.setdefault(place.gate, {})[task_id] = place
        self._waits[place.gate] = self._waits.get(place.gate, 0) + 1
        self._changed[place.gate] = None

    def _put_place(self, place: Place, is_later: bool, score: int | None) -> None:
        queue = sized(place.queue)
        if is_later:
            self.put(f"later:{place.gate}", queue + place.order, score)
        else:
            self.put(name := f"wait:{queue}:{place.gate}", place.order, score)
            self._lines[name] = place.gate, place.queue

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

    def let_pass(self, changes: Sequence[tuple[Task, Task]]) -> set[str]:
        self._passed += len(changes)
        self.rewrite(changes, is_due=True)
        return {after.task_id for _, after in changes}

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
        states: list[str | bytes] = []
        lanes: dict[str, None] = {}
        for row, after in self.moved.values():
            states += (after.task_id, row.at(after))
            lane, stamp = f"{after.priority}:{after.queue}", f"{after.seq:020d}{after.task_id}"
            if not row.task.parked or not after.parked:
                self.put(f"lane:{lane}", stamp, None if after.parked else after.run_at)
                lanes[lane] = None
            if after.expires_at is not None and not after.parked:
                self.put("expiring", after.task_id, after.expires_at)
                self.put("expired", after.task_id, None)
        writes: list[Any] = [["HSET", "gates", fields]] if fields else []
        if self._deleted_gates:
            writes.append(["HDEL", "gates", list(self._deleted_gates)])
        for name, (key, queue) in self._lines.items():
            if any(score is not None for score in self._sets[name].values()):
                self.put(f"lines:{key}", queue, 0)
        for name, members in self._sets.items():
            gone = [member for member, score in members.items() if score is None]
            put = [word for member, score in members.items() if score is not None for word in (str(score), member)]
            if gone:
                writes.append(["ZREM", name, gone])
            if put:
                writes.append(["ZADD", name, put])
        return writes, states, list(lanes)

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

    def drop_gate(self, key: str) -> None:
        """Delete a gate at which no task is."""
        self._deleted_gates.add(key)
        self.unlinked.append(f"lines:{key}")
        self.put("gates:due", key, None)

    # ---- slots ----

    def held(self, keys: Collection[str]) -> dict[str, int]:
        self.want(Wanted(gates=keys))
        return {key: self._gate_reads.gates[key].held + self._held.get(key, 0) for key in keys}

    def counts(self, key: str) -> tuple[int, int]:
        """Return how many tasks hold a slot of a gate, and wait there."""
        self.want(Wanted(gates=[key]))
        stored = self._gate_reads.gates[key]
        return stored.held + self._held.get(key, 0), stored.waiting + self._waits.get(key, 0)

    def recount(self, key: str) -> bool:
        """Correct the numbers of a gate by what there is, and drop the slots that no task has; return whether any were.

        Its ``holders`` and what is ``counted`` are read.
        """
        reads = self._gate_reads
        lost = [row.task.task_id for row in reads.holders[key] if key not in slots(row.task)]
        lost += reads.lost[key]
        for task_id in lost:
            self.put("slots", f"{sized(key)}:{task_id}", None)
        held, waiting = reads.counted[key]
        stored, held = reads.gates[key], held - len(lost)
        if (held, waiting) != (stored.held, stored.waiting):
            reads.gates[key] = stored._replace(held=held, waiting=waiting)
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
        wanted = {key: limit for key, limit in limits.items() if self._gates_waiting(key)}
        self.want(Wanted(waiting=wanted, paused=True))
        found, more, paused = {}, {}, self.paused_queues()
        for key, limit in limits.items():
            if self._goes_on_later(key, now):
                self.is_partial = True
                found[key] = Waiting([], 1)  # makes the gate due: any instant that has passed
                continue
            read = self._gate_reads.waiting.get(key) if key in wanted else None
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

    def awaited(self, keys: Collection[str], queue: str) -> list[str]:
        """Return those of these gates at which tasks of a queue wait that is not paused."""
        self.want(Wanted(gates=keys, waiting=dict.fromkeys(keys, 1)))
        read = self._gate_reads.waiting
        return [key for key in keys if any(row.task.queue == queue for row in read[key].rows)]

    def _goes_on_later(self, key: str, now: int) -> bool:
        """Whether enough tasks have passed, or some that are due are not among those that may pass."""
        later = self._gate_reads.later.get(key) if key in self._released else None
        return self._passed >= MOST_PASSING or (
            later is not None and later.next_due is not None and later.next_due <= now
        )

    def _gates_waiting(self, key: str) -> bool:
        """Whether tasks wait at a gate that the transaction has not written."""
        if key not in self._gate_reads.gates:
            self.want(Wanted(gates=[key]))
        return self._gate_reads.gates[key].waiting > 0

    def release(self, keys: Collection[str], now: int) -> None:
        stored = [key for key in keys if self._gates_waiting(key)]
        self.want(Wanted(later=dict.fromkeys(stored, now)))
        for key in keys:
            places = [(i, place) for i, place in self._later.get(key, {}).items() if place.due <= now]
            for task_id, _ in places:
                del self._later[key][task_id]
            if key in stored and key not in self._released:
                self._released.add(key)
                rows = [row.task for row in self._gate_reads.later[key].rows if row.task.task_id not in self._now]
                places += [(task.task_id, place) for task in rows if (place := place_of(task)) and place.gate == key]
            for _, place in places:
                self._put_place(place, True, None)
                self._put_place(place, False, 0)
                self._changed[key] = None

    def next_due(self, key: str) -> int | None:
        found = [place.due for place in self._later.get(key, {}).values()]
        if self._gates_waiting(key):
            if key not in self._gate_reads.later:
                self.want(Wanted(later={key: 0}))
            read = self._gate_reads.later[key]
            if read.next_due is not None:
                found.append(read.next_due)
            if key not in self._released:
                found += [row.task.due_at or 0 for row in read.rows]
        return min(found, default=None)

    def with_due(self, keys: Collection[str], now: int) -> set[str]:
        return {key for key, (tasks, _) in self.waiting(dict.fromkeys(keys, 1), now).items() if tasks}

    def with_more_waiting(self, counts: Mapping[str, int]) -> set[str]:
        return {key for key, count in counts.items() if self.counts(key)[1] > count}

    def paused_queues(self) -> Collection[str]:
        self.want(Wanted(paused=True))
        return self._gate_reads.paused or ()
