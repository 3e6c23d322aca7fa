"""How a transaction lets tasks pass their gates, at its end: a transaction that has locked a gate waits for no task.

The locks of a transaction are taken in one order: tasks, then gates by their keys. A push of tasks without keys takes
those of its gates first, and inserts the tasks as they are then: its insert waits for no other transaction.

A task that passes a gate may have another one behind it that is not among the locked ones. That one is locked only if
it is free; else it is *missed*, and admitted in a transaction after this one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from aiotaskq.backends.admission import Admission, TouchedGates
from aiotaskq.backends.groups import Followed
from aiotaskq.backends.sql import gate_statements as sql
from aiotaskq.backends.sql.claim import Claim, due_of
from aiotaskq.backends.sql.claim_statements import BELOW_ALL, Head
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.hand_on import take_first
from aiotaskq.backends.sql.rows import decode_flow, json_text
from aiotaskq.backends.visit import Visit, independent
from aiotaskq.core.errors import gate_full
from aiotaskq.core.gate import PARKED, Bounds, Flow, Gate, admit, due_by, room_of
from aiotaskq.core.parking import passed, pushed_at, tokens
from aiotaskq.core.task import Task

Messages = Callable[[Sequence[Task], int], list[Task]]
RETRY = 100_000  # microseconds until a gate is looked at again whose first tasks were locked


class Opened(NamedTuple):
    """What is left to do after a transaction that admitted gates."""

    now: int
    later: bool
    """Whether a gate has a ``next_at``."""
    missed: Mapping[str, Bounds | None]
    """Gates to admit, and their bounds if they do not exist."""
    ready: Collection[str]
    """The ids of the tasks that have passed their last gate."""
    taken: Sequence[Any]
    """The rows of those of them that were claimed at once."""
    heads: Sequence[Head] | None
    """The heads of what is ready, if they are known."""


def _no_messages(_ended: Sequence[Task], _now: int) -> list[Task]:
    return []


class Touched(TouchedGates):
    """What a transaction touches by the tasks that it writes: gates, groups and children."""

    def __init__(self, messages: Messages = _no_messages) -> None:
        """``messages``: see ``Groups.messages``."""
        super().__init__()
        self.messages = messages
        self.followed = Followed()
        """What it means for children and groups."""
        self.grouped = False
        """Whether members of groups, or parents, have ended."""
        self._bounded: set[str] = set()
        self._admission: SqlAdmission | None = None
        self._entered: set[str] = set()
        """Gates at which there is nothing to do for new tasks any more."""

    def enter(self, connection: Connection, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return new tasks as they are to be inserted: where no other waits, those that may pass their gate have.

        The gates are locked before the rows are written. So there must be no key for which the insert might wait until
        another transaction ends, which may wait for these gates.
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
            left = [task for task in line if task.task_id not in entered]
            if not left or (self._admission.is_full(key) and all((task.due_at or 0) <= self.now for task in left)):
                self._entered.add(key)
        return [entered.get(task.task_id, task) for task in tasks]

    def collided(self) -> None:
        """Note that some of the tasks that have entered were not inserted: their gates are looked at again."""
        self._entered.clear()
        if self._admission is not None:
            self._admission.recount()

    def pushed(self, tasks: Iterable[Task], refused: bool = True) -> None:
        """Note new rows; whether they are ``refused`` where too many would wait."""
        new = [task for task in tasks if task.flow is not None and task.gate not in self._entered]
        super().pushed(new)
        if refused:
            self._bounded.update([task.gate for task in new if task.parked and task.gate is not None])

    def written(self, connection: Connection, changes: Iterable[tuple[Task, Task]]) -> None:
        """Note what tasks with gates were, and what was written; remove the slots that are free then."""
        sql.remove_slots(connection, self.changed(changes))

    def dropped(self, connection: Connection, tasks: Sequence[Task]) -> None:
        """Note that live tasks with gates are deleted, and remove their slots."""
        self.deleted(tasks)
        sql.remove_slots(connection, [task.task_id for task in tasks])

    def open(self, connection: Connection, committed: bool = False, claim: Claim | None = None) -> Opened | None:
        """Admit the gates; the transaction may wait for no task after that.

        What passes its last gate is claimed at once where a ``claim`` that follows would claim it and nothing before
        it. Raises QueueFull for a push of too many, unless it was committed.
        """
        if not self and self._admission is None:
            return None
        admission = self._admission or SqlAdmission(connection, self.now, self.known)
        admission.claim = claim
        self.declare(admission)
        one = len(self.keys) == 1 and not self.waiting
        if not (one and self.ended is not None and admission.hand_on(next(iter(self.keys)), self.ended)):
            admission.open(self.keys)
        admission.make_due(self.due)
        if not committed:
            admission.check_waiting(self._bounded)
        return admission.end()


class SqlAdmission(Admission):
    """The gates that a transaction of a database has locked, and what has passed them."""

    def __init__(
        self, connection: Connection, now: int, bounds: Mapping[str, Bounds | None], claim: Claim | None = None
    ) -> None:
        """``bounds`` are those of gates that do not exist."""
        super().__init__(now)
        self.claim = claim
        """What follows."""
        self._connection, self._bounds = connection, dict(bounds)
        self._stored: dict[str, Gate] = {}
        self._held: dict[str, int] = {}
        self._missed: dict[str, Bounds | None] = {}
        self._ready: set[str] = set()
        self._taken: list[Any] = []
        self._heads: list[Head] | None = None
        self._unparked: list[tuple[int, int]] = []
        self._flows: dict[str | None, Flow | None] = {}

    def lock(self, keys: Collection[str]) -> None:
        if self.claim is None:
            self._take(sql.locked(self._connection, keys))
        elif keys:
            found, self._heads = sql.locked_with_heads(self._connection, keys)
            self._take(found)
        new = [key for key in sorted(keys) if key not in self.gates]
        if new:
            gates = [Gate(key=key, bounds=self._bounds.get(key) or Bounds()) for key in new]
            added = sql.add(self._connection, gates)
            self._take({gate.key: gate for gate in gates} if added else sql.locked(self._connection, new))

    def lock_known(self, keys: Collection[str]) -> None:
        """Lock those of these gates that exist."""
        self._take(sql.locked(self._connection, keys))

    def _take(self, found: Mapping[str, Gate]) -> None:
        self.gates.update(found)
        self._stored.update(found)

    def lock_free(self, keys: Collection[str]) -> Collection[str]:
        self._take(sql.locked(self._connection, keys, wait=False))
        missed = {key: self._bounds.get(key) for key in keys if key not in self.gates}
        self._missed |= missed
        return missed.keys()

    def enter(self, lines: Mapping[str, Sequence[Task]]) -> dict[str, Task]:
        """Return, by id, those of new tasks that pass their gates, which are not inserted yet, as they are then."""
        now = self.now
        rooms = {key: room_of(self.gates[key], now) for key in lines if self._stays(key)}
        entered: dict[str, Task] = {}
        for key, held in sql.held_where_none_waits(self._connection, rooms).items():
            due = [task for task in lines[key] if (task.due_at or 0) <= now and (task.expires_at or PARKED) > now]
            due.sort(key=lambda task: (task.priority, task.due_at or 0, task.seq))
            count, self.gates[key] = admit(self.gates[key], held, 0, now, [tokens(task, key) for task in due])
            self._held[key] = held + count
            entered |= {task.task_id: passed(task, now) for task in due[:count]}
        self._ready |= entered.keys()
        return entered

    def is_full(self, key: str) -> bool:
        """Whether it is known that no further task may pass."""
        most = room_of(self.gates[key], self.now).most
        return self._stays(key) and self._held.get(key, 0) >= most and self.gates[key].bounds.max_waiting is None

    def recount(self) -> None:
        """Forget how many tasks hold slots."""
        self._held.clear()

    def hand_on(self, key: str, flow: Flow) -> bool:
        """Claim the first tasks at a gate at once if they have this flow and nothing else is ready.

        Return whether no other one may pass.
        """
        claim, now, gate = self.claim, self.now, self.gates[key]
        if claim is None or claim.now != now or len(flow.gates) != 1 or now < gate.closed_until or not self._stays(key):
            return False
        if not self._is_nothing_ready(claim):
            return False
        room = room_of(gate, now)
        floor = now if flow.gates[0][1].window is not None else 0
        found = take_first(self._connection, key, room, json_text(flow), floor, claim)
        if found is None:
            return False
        held, first, rows = found
        self._held[key] = held + len(rows)
        self._taken += rows
        self._ready.update([row[0] for row in rows])
        limit = min(room.together, claim.limit)
        return len(rows) == first and (first < min(room.most - held, limit) or room.most - held <= limit)

    def check_waiting(self, keys: Collection[str]) -> None:
        """Raise QueueFull if more tasks than may wait at these gates."""
        bounds = {key: self.gates[key].bounds.max_waiting for key in keys}
        most = {key: bound for key, bound in bounds.items() if bound is not None}
        for key in sql.beyond(self._connection, most):
            raise gate_full(key, most[key])

    def end(self) -> Opened:
        """Write the gates that have changed."""
        stored = self._stored
        changed = [gate for key, gate in self.gates.items() if gate is not stored[key] and gate != stored[key]]
        sql.write(self._connection, changed)
        later = any(gate.next_at is not None for gate in self.gates.values())
        return Opened(self.now, later, self._missed, self._ready, self._taken, self._heads_now())

    def _heads_now(self) -> list[Head] | None:
        """Return the heads with what is ready since they were read; no task of a priority is before its head."""
        if self._heads is None:
            return None
        heads = {head.priority: head for head in self._heads}
        for priority, run_at in self._unparked:
            if priority not in heads or run_at <= heads[priority].run_at:
                heads[priority] = Head(priority, run_at, BELOW_ALL, "", None, False)
        return sorted(heads.values(), key=lambda head: (head.priority is None, head.priority))

    def _stays(self, key: str) -> bool:
        """Whether a gate at which nothing waits is as it was afterwards."""
        gate = self.gates[key]
        return gate.next_at is None and gate.bounds.interval is None and key not in self.delayed

    def visit(self, keys: Sequence[str]) -> tuple[Collection[str], Sequence[Visit]]:
        now, connection = self.now, self._connection
        rooms = {key: room_of(self.gates[key], now) for key in keys}
        unknown = {key: room for key, room in rooms.items() if key not in self._held}
        held, seen = sql.look(connection, unknown) if unknown else ({}, {})
        self._held |= held
        idle = {key for key, rows in seen.items() if not rows and self._stays(key)}
        some = [key for key in keys if key not in idle] if idle else keys
        if uncounted := [key for key in some if key not in self._held]:
            self._held |= sql.held(connection, uncounted)
        visits = [Visit(self.gates[key], self._held[key], rooms[key]) for key in some]
        rates = {visit.key: visit.before.bounds.burst for visit in visits if visit.before.bounds.interval}
        for key, unstarted in sql.unstarted(connection, rates).items() if rates else ():
            next(visit for visit in visits if visit.key == key).unstarted = unstarted
        looking = []
        for visit in visits:
            if visit.limit or now < visit.before.closed_until:
                looking.append(visit)
            else:
                visit.look([], now)
        first = True
        while looking:
            limits = {visit.key: visit.limit + 1 + len(visit.skipped) for visit in looking}
            found = sql.first(connection, now, limits, seen)
            seen = {}
            for visit in looking:
                rows, visit.others = found[visit.key]
                visit.look([self._task(row, visit.key) for row in rows if row[0] not in visit.skipped], now)
            if first:
                visits = independent(visits)
                looking, first = [visit for visit in looking if visit in visits], False
            passing = [(visit.key, task) for visit in looking for task in visit.passing]
            free = self._pass(passing, self._can_take(looking, [task for _, task in passing]))
            looking = [visit for visit in looking if visit.take(free)]
        for visit in visits:
            self._end_visit(visit)
        return idle, visits

    def _end_visit(self, visit: Visit) -> None:
        """Note what has passed a gate, and set when the next task may."""
        now, before, gate = self.now, visit.before, visit.gate
        self._held[visit.key] += len(visit.moved)
        if visit.skipped:
            # The transaction that has locked these tasks may leave them parked here.
            gate = due_by(gate, now + RETRY)
        # A gate at which tasks wait for their due time has a ``next_at``.
        if visit.others or before.next_at is not None or visit.key in self.delayed:
            at = sql.later(self._connection, visit.key, now)
            if at is not None:
                gate = due_by(gate, at)
        self.gates[visit.key] = gate

    def _can_take(self, visits: Sequence[Visit], tasks: Sequence[Task]) -> bool:
        """Whether the claim that follows would claim all of these tasks, and nothing before them."""
        claim = self.claim
        if claim is None or not tasks or any(visit.onward or visit.more for visit in visits):
            return False
        if len(self._ready) > len(self._taken) or len(self._taken) + len(tasks) > claim.limit:
            return False
        wanted = claim.now == self.now and all(claim.queues is None or task.queue in claim.queues for task in tasks)
        return wanted and self._is_nothing_ready(claim)

    def _is_nothing_ready(self, claim: Claim) -> bool:
        """Whether there was nothing to claim when the gates were locked."""
        if self._heads is None:
            self._heads = list(dialect_of(self._connection).heads(self._connection))
        return next(due_of(self._heads, claim.now), None) is None

    def _pass(self, passing: Sequence[tuple[str, Task]], take: bool) -> set[str]:
        """Let tasks pass their gates unless another transaction has locked them; return the ids of those that did.

        Those that pass their last gate are claimed if they are to be taken.
        """
        if not passing:
            return set()
        ready: dict[int, dict[str, str]] = {}
        waiting: dict[str, dict[str, str]] = {}
        for key, task in passing:
            after = passed(task, self.now)
            if after.parked and after.gate is not None:
                assert task.flow is not None
                self._bounds |= dict(task.flow.gates)
                waiting.setdefault(after.gate, {})[task.task_id] = key
            else:
                due = self.now if task.due_at is None else task.due_at
                ready.setdefault(after.run_at if after.run_at > due else 0, {})[task.task_id] = key
        free: set[str] = set()
        for floor, at in ready.items():
            if take and self.claim is not None:
                rows = sql.take(self._connection, at, self.now, floor, self.claim.lease)
                self._taken += rows
                free.update([row[0] for row in rows])
            else:
                free |= sql.unpark(self._connection, at, self.now, floor)
                tasks = [task for _, task in passing if task.task_id in at]
                now = self.now
                self._unparked += [(t.priority, floor or (now if t.due_at is None else t.due_at)) for t in tasks]
        self._ready |= free
        for to, at in waiting.items():
            moved = sql.onward(self._connection, at, to)
            sql.add_slots(self._connection, [(key, task_id) for task_id, key in at.items() if task_id in moved])
            free |= moved
        return free

    def _task(self, row: Sequence[Any], key: str) -> Task:
        task_id, priority, due_at, text, _, queue = row
        flow = self._flow(text)
        return Task(
            task_id=task_id, type="", priority=priority, run_at=PARKED, due_at=due_at, flow=flow, gate=key, queue=queue
        )

    def _flow(self, text: str | None) -> Flow | None:
        if text not in self._flows:  # most at a gate have the same
            self._flows[text] = None if text is None else decode_flow(text)
        return self._flows[text]
