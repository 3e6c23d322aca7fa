"""A transaction in memory: the rows of the backend, which its verbs read and write under its lock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends.change import Change, Room
from aiotaskq.backends.flow.gates import admit_touched, check_max_waiting
from aiotaskq.backends.flow.groups import follow, follow_deletes
from aiotaskq.backends.flow.transaction import Followed, Transaction
from aiotaskq.backends.listeners import ENDED, GATES
from aiotaskq.backends.memory.ended import Ended
from aiotaskq.backends.memory.gate_rows import GateRows
from aiotaskq.backends.memory.group_rows import GroupRows
from aiotaskq.backends.memory.side_rows import MemoryOwnedRows
from aiotaskq.core.gate import PARKED
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage

if TYPE_CHECKING:
    from aiotaskq.backends.memory.reads import MemoryReads

Update = Callable[[Sequence[Change]], list[bool]]


class MemoryTransaction(GateRows, GroupRows, Transaction):
    """The rows of a backend. A verb that writes tasks with a flow calls ``end`` then: there is one object for all."""

    def __init__(
        self,
        rows: dict[str, Task],
        ended: Ended,
        insert: Callable[[Task], Task],
        replace: Callable[[Task, Task], None],
        update: Update,
        side: MemoryOwnedRows,
        reads: MemoryReads,
    ) -> None:
        """``insert``, ``replace`` and ``update`` are of the backend, the first two for one row with its indexes."""
        GateRows.__init__(self, rows, reads.queues.paused)
        GroupRows.__init__(self, ended)
        self._own, self._queues, self._listeners = rows, reads.queues, reads.listeners
        self._insert, self._replace, self._update, self._reads = insert, replace, update, reads
        self.side = side
        self.written: list[tuple[Sequence[Change], list[bool]]] = []
        """What ``update`` has written, and which changes held."""
        self.changes: list[tuple[Task, Task]] = []
        """Those of the verb at hand from which something may follow: ``end`` does that."""
        self.heard: Callable[[Followed], None] = lambda followed: None
        """Called with what followed."""
        self.check: Callable[[Sequence[Task]], None] = lambda tasks: None
        """Called with new tasks before they are inserted."""

    def take(self, other: MemoryTransaction) -> None:
        """Take over the groups and the gates of another store."""
        self.kept |= other.kept
        self.members |= {group_id: [*members] for group_id, members in other.members.items()}
        for key, line in other.lines.items():
            self.line(key).gate = line.gate

    def check_push(self, tasks: Sequence[Task]) -> bool:
        self.check(tasks)
        check_max_waiting(self, tasks, lambda task: self._reads.conflicting(task) is None)
        return True

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        return {task_id: self.rows[task_id] for task_id in ids if task_id in self.rows}

    def insert(self, tasks: Sequence[Task]) -> list[Task]:
        return list(map(self._insert, tasks))

    def tag(self, tasks: Sequence[Task]) -> None:
        pass  # what looks for tasks here reads each of them

    def let_pass(self, changes: Sequence[tuple[Task, Task]]) -> Collection[str]:
        for before, after in changes:
            assert before.gate is not None
            line = self.lines[before.gate]
            line.remove(before)
            line.held[after.task_id] = None
            if after.run_at == PARKED:
                self.enter(after)
            self._own[after.task_id] = after
            self._queues[after.queue].replace(before, after)
        return ()

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        for before, after in changes:
            self._replace(before, after)

    def write_usage(self, usages: Mapping[str, Usage]) -> None:
        for task_id, usage in usages.items():
            self._own[task_id] = self.rows[task_id].replace(usage=usage)

    # ---- beside tasks ----

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        self._reads.check_room(tasks, room)

    def update(self, changes: Sequence[Change]) -> list[bool]:
        held = self._update(changes)
        self.written.append((changes, held))
        return held

    # ---- for the backend ----

    def settle(self) -> None:
        """Do what follows from the changes that were noted, level by level."""
        if self.changes:
            changes, self.changes = self.changes, []
            self.touched.written(changes)
            follow(self, changes)

    def end(self) -> bool:
        """Do what follows from what was written, and then admit the gates that were touched.

        Return whether tasks may have become ready by it.
        """
        self.settle()
        while self._ended_tasks.lost:
            follow_deletes(self, [self._ended_tasks.lost.pop()])
        if "touched" not in vars(self):  # most verbs touch nothing
            return False
        touched = self.touched
        if touched.given_back:
            for queue in touched.given_back.keys() & self.paused:
                touched.park(touched.given_back[queue], queue)
        try:
            admitted = admit_touched(self)
        finally:
            del self.touched
        if admitted is not None and admitted.has_next_at:
            self._listeners.notify(GATES)
        if followed := touched.followed:
            if names := followed.all_ended:
                self._listeners.notify(ENDED, names)
            self.heard(followed)
        return touched.wakes
