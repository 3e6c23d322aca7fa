"""The part of a transaction in Redis that reads and writes gates, and names the index entries of their tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from aiotaskq.backends.change import Change
from aiotaskq.backends.flow.transaction import Transaction, Waiting
from aiotaskq.backends.redis.reads import NOTHING, Reads, StateText, StoredGate, Unread
from aiotaskq.backends.redis.rows import json_of
from aiotaskq.core.gate import PARKED, Bounds, Gate, Starts
from aiotaskq.core.parking import at_gate, is_later, passing_order, slots, slots_and_gate, starts_of
from aiotaskq.core.status import PENDING
from aiotaskq.core.task import Task

MOST_PASSING = 5_000  # tasks in one transaction: the server runs no other command during its script
_PRIORITY_BIAS = 2**63  # so that the order of the texts of priorities is that of the numbers


class GateRows(Transaction):
    """The part of a transaction that reads and writes gates."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._gates: dict[str, Gate] = {}  # as they are now
        self._held: dict[str, int] = {}  # changes of the counts
        self._waits: dict[str, int] = {}
        self._changed: dict[str, None] = {}  # the gates that are to be written
        self._before: dict[str, Task | None] = {}  # as they were read
        self._now: dict[str, Task | None] = {}  # tasks with gates as they were written
        self._entered: dict[str, dict[str, Task]] = {}  # those that wait, by gate
        self._holding: dict[str, dict[str, bool]] = {}  # by gate and task id: tasks took a slot, or gave it back
        self._later: dict[str, dict[str, int]] = {}  # by gate and task id: when tasks are due that are not due yet
        self._released: set[str] = set()
        self._passed = 0
        self.is_partial = False
        """Whether gates were made due, since another transaction goes on with what waits there."""
        self.commands: list[Any] = []  # name, key and words of each
        self.fields: defaultdict[str, dict[str, str | Literal[False]]] = defaultdict(dict)
        """What is to be written to hashes: by key and field a text, False to delete the field."""
        self.scores: defaultdict[str, dict[str, int | None]] = defaultdict(dict)
        """The same for sorted sets: by key and member a score, None to remove the member."""
        self.moved: dict[str, tuple[StateText, Task]] = {}  # rows of which only the place changes
        self.states: list[str | bytes] = []  # ids and states of rows of which no index entry changes

    def need(self, **names: Collection[Any]) -> None:
        """Read what of this is not read yet: names by kind; see ``Reads.missing``."""
        unread = {kind: missing for kind, each in names.items() if (missing := self._reads.missing(kind, each))}
        if unread:
            raise Unread(unread)

    def read(self, kind: str, names: Collection[Any]) -> dict[Any, Any]:
        """Read names of a kind; see ``Reads``."""
        self.need(**{kind: names})
        found = self._reads.found.get(kind, {})
        return {name: found[name] for name in names}

    @abstractmethod
    def write(self, change: Change, row: Task, is_due: bool = False) -> None:
        """Write a task that was read, or written, as a whole."""

    # ---- what is written ----

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
        for key in {*had} ^ {*has} if had != has else ():
            self._held[key] = self._held.get(key, 0) + (1 if key in has else -1)
            self._holding.setdefault(key, {})[task_id] = key in has
            self._changed[key] = None
        if left is not None:
            self._entered.get(left, {}).pop(task_id, None)
            self._later.get(left, {}).pop(task_id, None)
            self._waits[left] = self._waits.get(left, 0) - 1
            self._changed[left] = None
        if entered is not None:
            assert after is not None
            self._entered.setdefault(entered, {})[task_id] = after
            self._waits[entered] = self._waits.get(entered, 0) + 1
            self._changed[entered] = None
            if not is_due and is_later(after):
                self._later.setdefault(entered, {})[task_id] = max(0, after.due_at or 0)

    def _put_places(self) -> None:
        """Name the index entries of the tasks that were written."""
        for key, changes in self._holding.items():
            for task_id, holds in changes.items():
                self.scores["slots"][f"{sized(key)}:{task_id}"] = 0 if holds else None
        for task_id, before in self._before.items():
            after = self._now[task_id]
            if before is not None and (left := at_gate(before)) is not None:
                self._put_place(before, left, None)
            if after is not None and (entered := at_gate(after)) is not None:
                self._put_place(after, entered, self._later.get(entered, {}).get(task_id, 0))

    def _put_place(self, task: Task, gate: str, score: int | None) -> None:
        self.scores[f"wait:{sized(task.queue)}:{gate}"][order_text(task)] = score
        if score is not None:
            self.scores[f"lines:{gate}"][task.queue] = 0

    def rewrite(self, changes: Sequence[tuple[Task, Task]], is_due: bool = False) -> None:
        for before, after in changes:
            row = self._reads.states.get(before.task_id)
            if row is not None and (row.task is before or before.task_id in self.moved):
                self.moved[before.task_id] = (row, after)
                self.post(before, after, is_due)
            else:
                self.write(Change(before, after), before, is_due)

    def let_pass(self, changes: Sequence[tuple[Task, Task]]) -> Collection[str]:
        self._passed += len(changes)
        self.rewrite(changes, is_due=True)
        return ()

    def put_gates(self) -> list[str | bytes]:
        """Note the gates, and the tasks at them, that were written; return ids and states of rows to write."""
        for key, stored in self.read("gates", self._changed).items():
            gate = self._gates.get(key) or stored.gate or Gate(key=key)
            held = max(0, stored.held + self._held.get(key, 0))
            waiting = max(0, stored.waiting + self._waits.get(key, 0))
            self.fields["gates"][key] = json_of(StoredGate(stored.version + 1, held, waiting, gate))
            if gate.next_at != (None if stored.gate is None else stored.gate.next_at):
                self.scores["gates:due"][key] = gate.next_at
        states = [*self.states]
        for row, after in self.moved.values():
            states += (after.task_id, row.at(after))
            if not row.task.parked or not after.parked:
                lane, stamp = f"lane:{after.priority}:{after.queue}", f"{after.seq:020d}{after.task_id}"
                self.scores[lane][stamp] = None if after.parked else after.run_at
            if after.expires_at is not None and not after.parked:
                self.scores["expiring"][after.task_id] = after.expires_at
                self.scores["expired"][after.task_id] = None
        self._put_places()
        return states

    def writes(self) -> list[Any]:
        """Return the commands that write what was noted: name, key and words of each."""
        writes: list[Any] = [*self.commands]
        for name, fields in self.fields.items():
            gone = [field for field, value in fields.items() if value is False]
            put = [word for field, value in fields.items() if value is not False for word in (field, value)]
            writes += [*([["HDEL", name, gone]] if gone else ()), *([["HSET", name, put]] if put else ())]
        for name, members in self.scores.items():
            gone = [member for member, score in members.items() if score is None]
            put = [word for member, score in members.items() if score is not None for word in (str(score), member)]
            writes += [*([["ZREM", name, gone]] if gone else ()), *([["ZADD", name, put]] if put else ())]
        return writes

    # ---- gates ----

    def gates(self, known: Mapping[str, Bounds | None], wait: bool = True) -> dict[str, Gate]:
        for key, stored in self.read("gates", known).items():
            if key not in self._gates:
                self._gates[key] = stored.gate or Gate(key=key, bounds=known[key] or Bounds())
                if stored.gate is None:
                    self._changed[key] = None
        return {key: self._gates[key] for key in known}

    def stored_gates(self, keys: Collection[str]) -> dict[str, Gate]:
        found = {key: self._gates.get(key) or stored.gate for key, stored in self.read("gates", keys).items()}
        return {key: gate for key, gate in found.items() if gate is not None}

    def write_gates(self, gates: Sequence[Gate]) -> None:
        for gate in gates:
            self._gates[gate.key] = gate
            self._changed[gate.key] = None

    def drop_gates(self, keys: Collection[str]) -> None:
        for key in keys:
            self._changed.pop(key, None)
            self.fields["gates"][key] = False
            self.commands.append(["UNLINK", f"lines:{key}", []])
            self.scores["gates:due"][key] = None

    # ---- slots ----

    def counts(self, keys: Collection[str]) -> dict[str, tuple[int, int]]:
        return {
            key: (gate.held + self._held.get(key, 0), gate.waiting + self._waits.get(key, 0))
            for key, gate in self.read("gates", keys).items()
        }

    def recount(self, keys: Collection[str]) -> list[str]:
        self.need(gates=keys, holders=keys, counted=keys)
        found, wrong = self._reads.found, []
        for key in keys:
            rows, lost = found["holders"][key]
            lost = [*lost, *(row.task.task_id for row in rows if key not in slots(row.task))]
            for task_id in lost:
                self.scores["slots"][f"{sized(key)}:{task_id}"] = None
            held, waiting = found["counted"][key]
            stored, held = found["gates"][key], held - len(lost)
            if (held, waiting) != (stored.held, stored.waiting):
                self._held[key], self._waits[key] = held - stored.held, waiting - stored.waiting
                self._changed[key] = None
            wrong += [key] if lost else []
        return wrong

    def holders(self, keys: Collection[str]) -> dict[str, list[Task]]:
        """Read the tasks that hold a slot of these gates."""
        found = {}
        for key, (stored, _lost) in self.read("holders", keys).items():
            changed = self._holding.get(key, {})
            rows = [row.task for row in stored if row.task.task_id not in changed]
            rows = [self._now.get(task.task_id, task) or task for task in rows]
            more = [self._now[task_id] for task_id, holds in changed.items() if holds]
            found[key] = [*rows, *(task for task in more if task is not None)]
        return found

    def starts(self, gates: Collection[Gate], now: int) -> dict[str, Starts]:
        return {key: starts_of(tasks, key) for key, tasks in self.holders([gate.key for gate in gates]).items()}

    def unstarted(self, keys: Collection[str], queue: str | None) -> list[Task]:
        found = {task.task_id: task for tasks in self.holders(keys).values() for task in tasks}
        return [task for task in found.values() if task.status is PENDING and queue in (None, task.queue)]

    # ---- what waits ----

    def waiting(self, limits: Mapping[str, int], now: int) -> dict[str, Waiting]:
        wanted = {key: limit for key, limit in limits.items() if self._stored_waiting(key)}
        self.need(waiting=wanted, paused=[""])
        reads, more, paused = self._reads.found, {}, self.paused_queues()
        found: dict[str, Waiting] = {}
        for key, limit in limits.items():
            later_due = reads["later"][key].next_due if key in self._released else None
            if self._passed >= MOST_PASSING or (later_due is not None and later_due <= now):
                self.is_partial = True  # enough have passed, or some that are due are not among those that may
                found[key] = [], now  # the gate is due again
                continue
            if key not in wanted and not self._entered.get(key):
                continue
            read = reads["waiting"][key] if key in wanted else NOTHING
            rows = [row.task for row in read.rows if row.task.task_id not in self._now and at_gate(row.task) == key]
            left_out = len(read.rows) - len(rows) + read.unread
            later = self._later.get(key, {})
            rows += [task for task in self._entered.get(key, {}).values() if task.task_id not in later]
            if key in self._released:
                rows += [row.task for row in reads["later"][key].rows if row.task.task_id not in self._now]
            due, next_due = [], None
            for task in sorted(rows, key=passing_order):
                if task.due_at is not None and task.due_at > now:
                    next_due = min(task.due_at, next_due or task.due_at)  # a clock ahead has pushed it
                    left_out += 1
                elif task.queue in paused or (task.expires_at or PARKED) <= now:
                    left_out += 1
                else:
                    due.append(task)
            if not read.is_whole and read.limit - left_out < limit:
                more[key] = limit + left_out
            found[key] = due[:limit], next_due
        if more:
            self.need(waiting=more)
        return found

    def _stored_waiting(self, key: str) -> bool:
        """Whether tasks waited at a gate when it was read."""
        return bool(self.read("gates", [key])[key].waiting)

    def release(self, keys: Collection[str], now: int) -> None:
        stored = [key for key in keys if self._stored_waiting(key)]
        self.need(later=dict.fromkeys(stored, now))
        for key in keys:
            later = self._later.get(key, {})
            for task_id in [task_id for task_id, due in later.items() if due <= now]:
                del later[task_id]
            if key in stored and key not in self._released:
                self._released.add(key)
                for row in self._reads.found["later"][key].rows:
                    if row.task.task_id not in self._now and at_gate(row.task) == key:
                        self._put_place(row.task, key, 0)
                        self._changed[key] = None

    def next_due(self, key: str) -> int | None:
        found = [*self._later.get(key, {}).values()]
        if self._stored_waiting(key):
            self.need(later={key: 0})
            read = self._reads.found["later"][key]
            if read.next_due is not None:
                found.append(read.next_due)
            if key not in self._released:
                found += [row.task.due_at or 0 for row in read.rows]
        return min(found, default=None)

    def paused_queues(self) -> Collection[str]:
        paused: list[str] = self.read("paused", [""])[""]
        return paused


def sized(name: str) -> str:
    """Return a name behind its length in bytes and a colon."""
    return f"{len(name.encode())}:{name}"


def order_text(task: Task) -> str:
    """Return the member of ``wait:…`` of a task: its place in the order in which tasks pass a gate, and its id."""
    due = max(0, task.due_at or 0)
    return f"{task.priority + _PRIORITY_BIAS:016x}{due:016x}{max(0, task.seq):016x}{task.task_id}"
