"""The rows of a small store, and its transactions: steps 1 to 4."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.base import matching
from aiotaskq.backends.change import Change, Room, encoded_changes, has_moved, holds
from aiotaskq.backends.flow.gates import admit_touched
from aiotaskq.backends.flow.groups import again, follow, follow_deletes, parents_first, waits_again
from aiotaskq.backends.flow.transaction import Transaction, Waiting, push
from aiotaskq.backends.side_rows import OF_TASKS, TAG, OwnedRows, SideRow
from aiotaskq.core.codec import Codec
from aiotaskq.core.errors import queue_full
from aiotaskq.core.gate import PARKED, Bounds, Gate, Starts, budget_gate
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.parking import at_gate, passing_order, slots, tokens
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.status import PENDING
from aiotaskq.core.tags import labels
from aiotaskq.core.task import Task, TaskFilter, claim_order, same_push
from aiotaskq.core.usage import Usage

T = TypeVar("T")
Names = tuple[str, str]
"""The owner and the name of a side row."""

_PUSHED = ("type", "params", "extra", "scheduler_task_id", "timeout", "on_success", "on_failure", "created_at")
"""The fields that a push sets."""
_KEPT = ("idempotency_key", "progress", "usage")
"""The fields that no update writes."""
_SAME = ("flow", "attempts")
"""The fields of which the rules tell by identity whether they have changed."""


def copied(task: Task) -> Task:
    """Return a task that shares no object with its caller. Raises TypeError for what is not JSON."""
    return msgspec.json.decode(msgspec.json.encode(task), type=Task)


class Rows:
    """The tables of one name, and who listens there."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.backends: list[Any] = []  # those that are open
        self.tasks: dict[str, Task] = {}
        self.groups: dict[str, GroupState] = {}
        self.members: dict[str, tuple[Member, ...]] = {}
        self.gates: dict[str, Gate] = {}
        self.released: dict[str, int] = {}  # by gate: what was due by then is among what may pass
        self.paused: dict[str, None] = {}
        self.schedules: dict[str, Schedule] = {}
        self.side: dict[str, dict[Names, SideRow]] = {}

    def copy(self) -> dict[str, Any]:
        tables = {name: dict(table) for name, table in vars(self).items() if isinstance(table, dict)}
        return {**tables, "side": {kind: dict(rows) for kind, rows in self.side.items()}}


STORES: dict[str, Rows] = {}


class SmallOwnedRows(OwnedRows):
    """Step 4: the side rows inside a transaction."""

    def __init__(self, rows: Rows) -> None:
        self._side = rows.side

    def table(self, kind: str) -> dict[Names, SideRow]:
        return self._side.setdefault(kind, {})

    def _sorted(self, kind: str) -> list[SideRow]:
        return [row for _, row in sorted(self.table(kind).items())]

    def last(self, kind: str, owners: Sequence[str]) -> Mapping[str, str]:
        return {row.owner: row.name for row in self._sorted(kind) if row.owner in owners}

    def of(self, kind: str, owners: Sequence[str], *, texts: bool = True) -> Sequence[SideRow]:
        return [row for row in self._sorted(kind) if row.owner in owners]

    def owners(self, kind: str, limit: int | None, *, prefix: str = "", after: str = "") -> Sequence[str]:
        found = {owner for owner, _ in self.table(kind) if owner.startswith(prefix) and owner > after}
        return sorted(found)[:limit]

    def lock(self, kind: str, names: Sequence[str], owner: str = "") -> Mapping[str, str]:
        table = self.table(kind)
        return {name: table[owner, name].text for name in names if (owner, name) in table}

    def add(self, kind: str, rows: Sequence[SideRow]) -> None:
        for row in rows:
            self.table(kind).setdefault((row.owner, row.name), row)

    def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        self.table(kind).update({(row.owner, row.name): row for row in rows})

    def delete_of(self, kind: str, owners: Sequence[str]) -> None:
        table = self.table(kind)
        for key in [key for key in table if key[0] in owners]:
            del table[key]

    def delete(self, kind: str, owner: str, names: Sequence[str]) -> None:
        for name in names:
            self.table(kind).pop((owner, name), None)


class SmallTransaction(Transaction):
    """Steps 1 to 3: the rows of one transaction. A rollback undoes what it has written."""

    def __init__(self, rows: Rows, messages: Callable[[Sequence[Task], int], list[Task]], codec: Codec | None) -> None:
        self.rows, self.messages, self.codec = rows, messages, codec
        self.side = SmallOwnedRows(rows)
        self.written: list[tuple[Sequence[Change], list[bool]]] = []
        self.has_next_at = False
        self._changes: list[tuple[Task, Task]] = []  # from which something may follow

    def end(self) -> None:
        """Do what follows from what was written."""
        self._follow()
        for queue in self.touched.given_back.keys() & self.rows.paused:
            self.touched.park(self.touched.given_back[queue], queue)
        admitted = admit_touched(self)
        self.has_next_at = admitted is not None and admitted.has_next_at

    # ---- step 1: tasks ----

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        return {task_id: self.rows.tasks[task_id] for task_id in ids if task_id in self.rows.tasks}

    def insert(self, tasks: Sequence[Task]) -> list[Task]:
        return [self._insert(task) for task in tasks]

    def _insert(self, task: Task) -> Task:
        if (row := self.conflicting(task)) is None:
            self.rows.tasks[task.task_id] = copied(task)
            return task
        return task if same_push(row, task) else row

    def conflicting(self, task: Task, but: Collection[str] = ()) -> Task | None:
        """Return the row that has the id or a key of a task; those with the ids ``but`` are left out."""
        rows = self.rows.tasks
        if task.task_id in rows and task.task_id not in but:
            return rows[task.task_id]
        if task.unique_key is None and task.idempotency_key is None:
            return None
        found = [row for row in rows.values() if row.task_id not in but and _has_key_of(row, task)]
        return min(found, key=lambda row: row.idempotency_key != task.idempotency_key, default=None)

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        for _, after in changes:
            self.rows.tasks[after.task_id] = after

    def update(self, changes: Sequence[Change]) -> list[bool]:
        changes = encoded_changes(changes, self.codec)
        held = parents_first(changes, lambda ordered: list(map(self._update, ordered)))
        self.written.append((changes, held))
        return held

    def _update(self, change: Change) -> bool:
        before, after = change.before, change.after
        row = self.rows.tasks.get(before.task_id)
        if row is None or not holds(row, change) or has_moved(row, change):
            return False
        same = after.params is before.params and after.extra is before.extra
        kept = {name: getattr(row, name) for name in (*_KEPT, *(_PUSHED if same else ()))}
        codes = {name: text for name, text in (after.coded or {}).items() if name not in kept}
        codes |= {name: text for name, text in (row.coded or {}).items() if name in kept}
        kept |= {"coded": codes or None, "undecodable": None}
        if after.unique_key is not None:
            kept["unique_key"] = row.unique_key  # one that was given up is not taken back
        if row.flow != before.flow:
            kept["flow"] = row.flow
        after = copied(after.replace(**kept))
        if row.final and not after.final:
            if after.unique_key is not None and self.conflicting(after, [row.task_id]) is not None:
                return False
            self._follow()  # it reads what follows from the changes before it
            after = again(self, after) if waits_again(row, after) else after
        alike = {name: getattr(after, name) for name in _SAME if getattr(after, name) == getattr(row, name)}
        self.rows.tasks[row.task_id] = after
        if change.then:
            push(self, change.then, refused=False)
        self._changes.append((row.replace(**alike), after))
        if row.final and not after.final:
            self._follow()
        return True

    def _follow(self) -> None:
        if self._changes:
            changes, self._changes = self._changes, []
            self.touched.written(changes)
            follow(self, changes)

    def delete(self, rows: Iterable[Task]) -> int:
        """Delete tasks and what is beside them; return how many."""
        gone = [self.rows.tasks.pop(row.task_id) for row in rows]
        for kind in OF_TASKS:
            self.side.delete_of(kind, [row.task_id for row in gone])
        follow_deletes(self, gone)
        return len(gone)

    def ready(self, now: int, queues: Sequence[str] | None = None) -> list[Task]:
        """Return what can be claimed, in claim order."""
        due = [row for row in self.open(queues) if row.run_at <= now < (row.expires_at or PARKED)]
        return sorted(due, key=claim_order)

    def open(self, queues: Sequence[str] | None = None) -> Iterator[Task]:
        """Yield the pending tasks of queues that are not paused."""
        for row in self.rows.tasks.values():
            if row.status is PENDING and row.queue not in self.rows.paused and (queues is None or row.queue in queues):
                yield row

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        rows = [(self.rows.tasks.get(change.before.task_id), change) for change in room.instead]
        if not all(row is not None and holds(row, change) for row, change in rows):
            raise queue_full(room.maxsize, 0)
        size = sum(row.task_id not in room.leaving for row in self.ready(self.latest(room.now)))
        room.new_of(tasks, map(self.conflicting, tasks), room.maxsize - size)

    def latest(self, now: int) -> int:
        return max([now, *(row.seq for row in self.rows.tasks.values() if row.status is PENDING)])

    # ---- step 2: groups ----

    def groups(self, ids: Sequence[str], lock: bool = True) -> dict[str, GroupState]:
        return {group_id: self.rows.groups[group_id] for group_id in ids if group_id in self.rows.groups}

    def write_groups(self, groups: Sequence[GroupState], callbacks: bool = False) -> None:
        self.rows.groups.update({group.group_id: group for group in groups})

    def drop_groups(self, ids: Sequence[str]) -> None:
        for group_id in ids:
            self.rows.groups.pop(group_id, None)
            self.rows.members.pop(group_id, None)
            self.rows.gates.pop(budget_gate(group_id), None)

    def count_live(self, ids: Sequence[str]) -> dict[str, int]:
        return {group_id: sum(map(self._is_live, self.rows.members.get(group_id, ()))) for group_id in ids}

    def _is_live(self, member: Member) -> bool:
        if member.is_group:
            return (group := self.rows.groups.get(member.member_id)) is not None and group.ended_at is None
        return (row := self.rows.tasks.get(member.member_id)) is not None and not row.final

    def add_members(self, members: Sequence[Member]) -> None:
        for member in members:
            self.rows.members[member.group_id] = (*self.rows.members.get(member.group_id, ()), member)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        return [each.member_id for group_id in ids for each in self.rows.members.get(group_id, ()) if each.is_group]

    # ---- step 3: gates ----

    def _at(self, keys: Collection[str]) -> Iterator[tuple[str, Task]]:
        for row in self.rows.tasks.values():
            if row.flow is not None and (key := at_gate(row)) in keys and key is not None:
                yield key, row

    def _holding(self, keys: Collection[str]) -> Iterator[tuple[str, Task]]:
        for row in self.rows.tasks.values():
            if row.flow is not None:
                for key in slots(row):
                    if key in keys:
                        yield key, row

    def gates(self, known: Mapping[str, Bounds | None], wait: bool = True) -> dict[str, Gate]:
        if wait:
            self.add_gates([Gate(key=key, bounds=bounds or Bounds()) for key, bounds in known.items()])
        return self.stored_gates(known.keys())

    def stored_gates(self, keys: Collection[str]) -> dict[str, Gate]:
        return {key: self.rows.gates[key] for key in keys if key in self.rows.gates}

    def write_gates(self, gates: Sequence[Gate]) -> None:
        self.rows.gates.update({gate.key: gate for gate in gates})

    def drop_gates(self, keys: Collection[str]) -> None:
        for key in keys:
            del self.rows.gates[key]

    def counts(self, keys: Collection[str]) -> dict[str, tuple[int, int]]:
        held, waiting = (Counter(key for key, _ in found) for found in (self._holding(keys), self._at(keys)))
        return {key: (held[key], waiting[key]) for key in keys}

    def starts(self, gates: Collection[Gate], now: int) -> dict[str, Starts]:
        unstarted = Counter[str]()
        started: dict[str, list[tuple[int, int]]] = {gate.key: [] for gate in gates}
        for key, row in self._holding(started):
            if row.status is PENDING:
                unstarted[key] += tokens(row, key)
            elif row.began_at is not None:
                started[key].append((row.began_at, tokens(row, key)))
        return {key: Starts(unstarted[key], found) for key, found in started.items()}

    def unstarted(self, keys: Collection[str], queue: str | None) -> list[Task]:
        found = {row.task_id: row for _, row in self._holding(keys)}
        return [row for row in found.values() if row.status is PENDING and queue in (None, row.queue)]

    def waiting(self, limits: Mapping[str, int], now: int) -> dict[str, Waiting]:
        rows: dict[str, list[Task]] = {key: [] for key in limits}
        next_due: dict[str, int] = {}
        for key, row in self._at(limits):
            due = row.due_at or 0
            if due > now:
                if due <= max(row.seq, self.rows.released.get(key, 0)):  # pushed by a clock ahead of this one
                    next_due[key] = min(due, next_due.get(key, due))
            elif row.queue not in self.rows.paused and (row.expires_at or PARKED) > now:
                rows[key].append(row)
        return {key: (sorted(rows[key], key=passing_order)[:limit], next_due.get(key)) for key, limit in limits.items()}

    def release(self, keys: Collection[str], now: int) -> None:
        self.rows.released.update(dict.fromkeys(keys, now))  # `waiting` looks at the due times

    def next_due(self, key: str) -> int | None:
        since = self.rows.released.get(key, 0)
        dues = ((row.due_at or 0, row.seq) for _, row in self._at([key]))
        return min((due for due, seq in dues if due > max(since, seq)), default=None)

    def paused_queues(self) -> Collection[str]:
        return list(self.rows.paused)

    # ---- step 4: what is beside tasks ----

    def matching(self, where: TaskFilter) -> Callable[[Task], bool]:
        match, tags = matching(replace(where, tags={})), self.rows.side.get(TAG, {})  # those of a row may be coded
        return lambda row: match(row) and all((row.task_id, name) in tags for name in labels(where.tags))

    def write_usage(self, usages: Mapping[str, Usage]) -> None:
        for task_id, usage in usages.items():
            self.rows.tasks[task_id] = self.rows.tasks[task_id].replace(usage=usage)


def _has_key_of(row: Task, task: Task) -> bool:
    same_key = task.unique_key is not None and row.unique_key == task.unique_key and not row.final and not task.final
    same_call = task.idempotency_key is not None and row.idempotency_key == task.idempotency_key
    return (same_key or same_call) and row.task_id != task.task_id
