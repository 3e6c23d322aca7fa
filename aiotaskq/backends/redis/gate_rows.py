"""Gates in Redis: their texts, their index entries, and the part of a transaction that reads and writes them.

The text of a gate has a version and the numbers of the tasks that hold a slot and wait. Each transaction that changes
one of these, or what waits there, writes the text; so its comparison at the commit sees all of that.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from aiotaskq.backends.flow.transaction import Transaction, Waiting
from aiotaskq.core.gate import PARKED, Bounds, Flow, Gate, Starts
from aiotaskq.core.parking import at_gate, passing_order, slots, tokens
from aiotaskq.core.task import PENDING, Status, Task

LATER = 1_000  # tasks that are released at a time: those that were not due
MOST_PASSING = 5_000  # tasks in one transaction: the server runs no other command during its script
GROWTH = 4  # how many times as many tasks are read where those that were read did not do

_encode = msgspec.json.Encoder().encode
_STATUSES = {str(status).encode(): status for status in Status}
_PRIORITY_BIAS = 2**63  # so that the order of the texts of priorities is that of the numbers
_HEAD = re.compile(rb"(\S+) (-?\d+) ([01]) (\S+) (\S+) ([0-3]) (-?\d+) (-?\d+) (\S+) (\d+) (\d+) ").match
_NAMES = re.compile(rb"(\S+) (\S+) (\d+) ").match


class _Began(msgspec.Struct):
    began_at: int | None = None


_began = msgspec.json.Decoder(_Began).decode


# ---- texts ----


class StoredGate(NamedTuple):
    """A gate as it was read."""

    gate: Gate | None
    """None where there is none."""
    version: int
    held: int
    waiting: int


_bounds_of = functools.lru_cache(1_000)(msgspec.json.Decoder(Bounds).decode)
_bounds_text = functools.lru_cache(1_000)(lambda bounds: _encode(bounds).decode())


@functools.lru_cache(4_000)
def _flow_of(text: bytes) -> Flow:
    """Return the flow of a task with gates; most tasks at a gate have the same."""
    try:
        return msgspec.json.decode(text, type=Flow)
    except (msgspec.DecodeError, ValueError):
        return Flow()  # it is told where the row is read as a whole


def read_gate(key: str, text: bytes) -> StoredGate:
    """Return the gate with this text, as ``lua/gates_read.lua`` returns it."""
    if text.startswith(b"-"):
        _, held, waiting = text.split(b" ")
        return StoredGate(None, 0, int(held), int(waiting))
    version, held, waiting, tat, closed, next_at, charged, fixed, bounds = text.split(b" ", 8)
    gate = Gate(
        key=key,
        bounds=_bounds_of(bounds),
        fixed=fixed == b"1",
        tat=int(tat),
        charged_until=int(charged),
        closed_until=int(closed),
        next_at=None if next_at == b"-" else int(next_at),
    )
    return StoredGate(gate, int(version), int(held), int(waiting))


def gate_text(gate: Gate, version: int, held: int, waiting: int) -> str:
    """Return the text of a gate."""
    next_at = "-" if gate.next_at is None else gate.next_at
    return (
        f"{version} {held} {waiting} {gate.tat} {gate.closed_until} {next_at} {gate.charged_until} {int(gate.fixed)} "
        f"{_bounds_text(gate.bounds)}"
    )


def sized(name: str) -> str:
    """Return a name behind its length in bytes and a colon."""
    return f"{len(name) if name.isascii() else len(name.encode())}:{name}"


class Place(NamedTuple):
    """Where a task waits."""

    gate: str
    queue: str
    order: str
    """A member of ``wait:…``."""
    due: int
    is_later: bool
    """Whether it was not due when it was written."""


def place_of(task: Task | None) -> Place | None:
    """Return where a task waits, None if it is at no gate."""
    if task is None or (gate := at_gate(task)) is None:
        return None
    due = task.due_at or 0
    order = f"{task.priority + _PRIORITY_BIAS:016x}{max(0, due):016x}{max(0, task.seq):016x}{task.task_id}"
    return Place(gate, task.queue, order, due, due > task.seq)


class StateText:
    """The state of a row with a flow, and its task without what it does not need to pass gates."""

    __slots__ = ("_after", "_before", "_flow_to", "_json", "_middle", "_tail", "task", "text")

    def __init__(self, task_id: str, text: bytes) -> None:
        """Raises ValueError for a text that has no flow, or cannot be read."""
        head = _HEAD(text)
        if head is None or head[6] not in (b"2", b"3"):
            raise ValueError("the row has no flow")
        lane_at = head.end()
        names_at = lane_at + int(head[10])
        json_at = names_at + int(head[11])
        names = _NAMES(text, names_at, json_at)
        if names is None:
            raise ValueError("the flow cannot be read")
        gate_at = names.end()
        flow_at = gate_at + (int(names[2]) if names[2].isdigit() else 0)
        flow_to = flow_at + int(names[3])
        priority, _, queue = text[lane_at:names_at].partition(b":")
        run_at, due = int(head[8]), names[1]
        self.text = text
        self._before, self._middle = text[: head.start(8)], text[head.end(8) : head.start(11)]
        self._after, self._tail = text[lane_at:names_at], text[names.end(2) : gate_at]
        self._flow_to, self._json = text[flow_at:json_at], text[json_at:]
        self.task = Task(
            task_id=task_id,
            type="",
            status=_STATUSES[head[1]],
            priority=int(priority),
            fence=int(head[2]),
            queue=queue.decode(),
            run_at=run_at,
            seq=int(head[7]),
            expires_at=None if head[5] == b"-" else int(head[5]),
            due_at=None if due.startswith(b"-") else int(due),
            gate=text[gate_at:flow_at].decode() if flow_at > gate_at else None,
            flow=_flow_of(text[flow_at:flow_to]),
        )

    def at(self, after: Task) -> bytes:
        """Return the text of the row where it is at another place."""
        gate = (after.gate or "").encode()
        due = b"-" if after.due_at is None else b"%d" % after.due_at
        names = b"%b %b%b%b%b" % (due, b"%d" % len(gate) if gate else b"-", self._tail, gate, self._flow_to)
        return b"%b%d%b%d %b%b%b" % (
            *(self._before, after.run_at, self._middle, len(names), self._after, names, self._json),
        )

    def began_at(self) -> int | None:
        """Return when the run began that the row has, in microseconds UTC."""
        return _began(b"{%b}" % self._json[1:]).began_at


def read_state(task_id: str, text: bytes) -> StateText | None:
    """Return the state of a row, None if there is none, or none with a flow."""
    try:
        return StateText(task_id, text) if text else None
    except (ValueError, KeyError):
        return None


class WaitingRead(NamedTuple):
    """The first tasks that wait at a gate, as they were read."""

    limit: int
    """The most that were read of each queue."""
    is_whole: bool
    """Whether these are all of the queues that are not paused."""
    rows: Sequence[StateText]


class LaterRead(NamedTuple):
    """The tasks at a gate that were not due and are."""

    now: int
    next_due: int | None
    """When the next one is due."""
    rows: Sequence[StateText]


class GateReads:
    """What was read of gates for a transaction."""

    def __init__(self) -> None:
        self.gates: dict[str, StoredGate] = {}
        self.texts: dict[str, bytes | None] = {}
        """Those of the gates, which the commit compares."""
        self.waiting: dict[str, WaitingRead] = {}
        self.later: dict[str, LaterRead] = {}
        self.holders: dict[str, Sequence[StateText]] = {}
        self.lost: dict[str, Sequence[str]] = {}
        """Of the gates with holders, the ids that hold a slot and have no row with a flow."""
        self.counted: dict[str, tuple[int, int]] = {}
        """How many tasks hold a slot and wait, by the index."""
        self.paused: list[str] | None = None
        self.states: dict[str, StateText] = {}
        """By id."""

    def wanted_again(self) -> Wanted:
        """Return what reads the same again."""
        return Wanted(
            gates=list(self.gates),
            waiting={key: read.limit for key, read in self.waiting.items()},
            later={key: read.now for key, read in self.later.items()},
            holders=list(self.holders),
            counted=list(self.counted),
            paused=self.paused is not None,
        )


class Wanted(msgspec.Struct):
    """What is to be read of gates."""

    gates: Collection[str] = ()
    waiting: Mapping[str, int] = {}
    """By gate, how many of the tasks that wait there."""
    later: Mapping[str, int] = {}
    """By gate, when what was not due is due by now."""
    holders: Collection[str] = ()
    counted: Collection[str] = ()
    paused: bool = False

    def beside(self, known: GateReads) -> Wanted | None:
        """Return what of this was not read yet, None if all was."""
        gates = [key for key in self.gates if key not in known.gates]
        waiting, later = {}, {}
        for key, limit in self.waiting.items():
            read = known.waiting.get(key)
            if read is None or (read.limit < limit and not read.is_whole):
                waiting[key] = limit if read is None else max(limit, GROWTH * read.limit)
        for key, now in self.later.items():
            found = known.later.get(key)
            if found is None or found.now < now:
                later[key] = now
        holders = [key for key in self.holders if key not in known.holders]
        counted = [key for key in self.counted if key not in known.counted]
        paused = self.paused and known.paused is None
        if not (gates or waiting or later or holders or counted or paused):
            return None
        return Wanted(gates, waiting, later, holders, counted, paused)

    def words(self) -> dict[str, list[Any]]:
        """Return it for ``lua/gates_read.lua``."""
        return {
            "gates": list(self.gates),
            "waiting": [word for pair in self.waiting.items() for word in pair],
            "later": [word for key, now in self.later.items() for word in (key, str(now), LATER)],
            "holders": list(self.holders),
            "counted": list(self.counted),
        }

    def read(self, answer: Sequence[Any], into: GateReads) -> None:
        """Take what ``lua/gates_read.lua`` has answered."""
        gates, waiting, later, holders, counted, paused = answer
        for key, text in zip(self.gates, gates, strict=True):
            into.gates[key] = read_gate(key, text)
            into.texts[key] = None if text.startswith(b"-") else text
        for (key, limit), (is_whole, words) in zip(self.waiting.items(), waiting, strict=True):
            into.waiting[key] = WaitingRead(limit, is_whole == 1, self._rows(words, into)[0])
        for (key, now), (next_due, words) in zip(self.later.items(), later, strict=True):
            at = None if next_due is None else int(float(next_due))
            into.later[key] = LaterRead(now, at, self._rows(words, into)[0])
        for key, words in zip(self.holders, holders, strict=True):
            into.holders[key], into.lost[key] = self._rows(words, into)
        for key, words in zip(self.counted, counted, strict=True):
            held, waits = words.split(b" ")
            into.counted[key] = int(held), int(waits)
        into.paused = [name.decode() for name in paused]

    def _rows(self, words: Sequence[bytes], into: GateReads) -> tuple[list[StateText], list[str]]:
        found, lost = [], []
        pieces = iter(words)
        for name, text in zip(pieces, pieces, strict=True):
            task_id = name.decode(errors="backslashreplace")
            row = into.states.get(task_id) or read_state(task_id, text)  # the first one counts: it is compared
            if row is None:
                lost.append(task_id)
            else:
                into.states[task_id] = row
                found.append(row)
        return found, lost


# ---- in a transaction ----


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
            left_out = len(stored) - len(rows)
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
