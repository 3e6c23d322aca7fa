"""The groups of the memory backend, and the lists of their members."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from aiotaskq.backends.base import Room, matches
from aiotaskq.backends.flow import groups as flow
from aiotaskq.backends.flow.groups import concerns, waits_again
from aiotaskq.backends.groups import Groups
from aiotaskq.backends.listeners import ENDED, READY, Listeners
from aiotaskq.backends.memory.ended import Ended
from aiotaskq.backends.memory.gates import MemoryGates
from aiotaskq.core.errors import NotSupported
from aiotaskq.core.groups import GroupState, Member, Plan, deleted
from aiotaskq.core.ids import next_seq
from aiotaskq.core.task import Task, TaskFilter
from aiotaskq.core.usage import Usage


class MemoryGroups(Groups):
    """Every group of a backend, the oldest first; also the ``Transaction`` of ``backends.flow``, under the lock."""

    def __init__(
        self,
        rows: Mapping[str, Task],
        lock: Any,
        gates: MemoryGates,
        push: Callable[[Sequence[Task], bool], Sequence[Task]],
        make_room: Callable[[Sequence[Task], Room], None],
        listeners: Listeners,
        ended: Ended,
    ) -> None:
        """``push`` inserts tasks, and is told whether they are refused where too many would
        wait at a gate; ``ended`` has the ended tasks, and as many ended groups stay.

        ``make_room`` raises QueueFull if there is no room for tasks.
        """
        self._rows, self._lock, self._gates, self._push, self._make_room = rows, lock, gates, push, make_room
        self._listeners, self._ended_tasks = listeners, ended
        self._groups: dict[str, GroupState] = {}
        self._members: dict[str, list[Member]] = {}
        # Those that are in no other group: whether they go on, and whether a task needs them.
        self._outermost: dict[str, tuple[bool, bool]] = {}
        self._ended: dict[str, None] = {}  # those of these that may be dropped
        self._ends: list[tuple[Task, Task]] = []  # changes of the update at hand from which something follows
        self.push_with: Callable[[Plan, Any, Callable[[], None], Room | None], Coroutine[Any, Any, bool]] = _refused
        """Pushes a plan in a session."""

    async def push(
        self,
        plan: Plan,
        session: Any = None,
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> bool:
        if session is not None:
            return await self.push_with(plan, session, committed, room)
        with self._lock:
            made = self.enter(plan, room)
        if made and room is not None and room.instead:
            self._listeners.notify(ENDED, [change.after.task_id for change in room.instead])
        self._listeners.notify(READY)
        return made

    def enter(self, plan: Plan, room: Room | None = None) -> bool:
        """Write a plan under the lock."""
        if plan.groups[0].group_id in self._groups:
            return False
        if room is not None:
            self._make_room(plan.entering, room)
        self.used = True
        self._push(plan.tasks, True)
        self.add_members(plan.members)
        self.write(plan.groups)
        for group_id in plan.used_up:
            self._gates.budget_changed(self._groups[group_id])
        self._gates.admit_touched()
        return True

    async def add(self, group_id: str, tasks: Sequence[Task], now: int) -> int | None:
        with self._lock:
            added = flow.add_tasks(self, group_id, tasks)
            self._gates.admit_touched()
        self._listeners.notify(READY)
        return added

    async def get(self, ids: Sequence[str]) -> list[GroupState | None]:
        with self._lock:
            return [self._groups.get(group_id) for group_id in ids]

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        with self._lock:
            found = sorted(self._groups.values(), key=lambda group: (group.created_at, group.group_id), reverse=True)
            if after is not None:
                ids = [group.group_id for group in found]
                found = found[ids.index(after) + 1 :] if after in ids else []
            return [group for group in found if ended is None or (group.ended_at is not None) == ended][:limit]

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        with self._lock:
            return self._members.get(group_id, [])[start : start + limit]

    async def set_budget(self, group_id: str, budget: Usage, now: int) -> GroupState | None:
        with self._lock:
            group = flow.replace_budget(self, group_id, budget, now)
            self._gates.admit_touched()
        self._listeners.notify(READY)
        return group

    def use(self, group_id: str, more: Usage) -> None:
        """Add to what the members of a group have used up, and of those around it; under the lock."""
        flow.spend(self, {group_id: more})
        self._gates.admit_touched()

    async def request_cancel(self, group_id: str) -> bool:
        with self._lock:
            return flow.flag_cancelled(self, group_id)

    async def cancelling(self, limit: int) -> list[str]:
        with self._lock:
            live = (group for group in self._groups.values() if group.cancel_requested and group.ended_at is None)
            return [group.group_id for group in live][:limit]

    async def purge(self, before: int, limit: int) -> int:
        with self._lock:
            old = [i for i in self._ended if (self._groups[i].ended_at or 0) < before][:limit]
            return sum(map(self._drop, old))

    async def mend(self, now: int) -> int:
        with self._lock:
            return 0  # no row leaves without its group

    # ---- as the transaction of `follow`, under the lock ----

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        return {task_id: self._rows[task_id] for task_id in ids if task_id in self._rows}

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        for before, after in changes:
            self._gates.move(before, after)

    def groups(self, ids: Sequence[str]) -> dict[str, GroupState]:
        return {group_id: self._groups[group_id] for group_id in ids if group_id in self._groups}

    def write(self, groups: Sequence[GroupState]) -> None:
        for group in groups:
            self._groups[group.group_id] = group
        for group in groups:
            if group.parent_id not in self._groups:
                self._keep_members(group)
        while len(self._ended) > self._ended_tasks.keep:
            self._drop(next(iter(self._ended)))

    def _keep_members(self, group: GroupState) -> None:
        """Keep the ended members of a group that is in no other one, or keep them no more."""
        group_id = group.group_id
        state = (group.ended_at is None, group.needed_by > 0)
        if self._outermost.get(group_id) == state:
            return
        self._outermost[group_id] = state
        tree = self._tree(group_id)
        members = [member.member_id for each in tree for member in self._members.get(each, ())]
        self._ended_tasks.keep_members(tree, members, group)
        if any(state):
            self._ended.pop(group_id, None)
        else:
            self._ended[group_id] = None

    def _tree(self, group_id: str) -> list[str]:
        """Return the ids of a group and of the groups in it."""
        tree = [group_id]
        for each in tree:
            tree += self.inner_groups([each])
        return tree

    def insert(self, tasks: Sequence[Task], refused: bool = False) -> None:
        self._push(tasks, refused)

    def existing(self, ids: Sequence[str]) -> set[str]:
        return {task_id for task_id in ids if task_id in self._rows}

    def add_members(self, members: Sequence[Member]) -> None:
        for member in members:
            self._members.setdefault(member.group_id, []).append(member)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        return [m.member_id for group_id in ids for m in self._members.get(group_id, ()) if m.is_group]

    def budget_changed(self, group: GroupState, now: int) -> None:
        self.write([group])
        self._gates.budget_changed(group, now)

    # ---- for the backend, which holds the lock ----

    def purged(self, ended: Sequence[Task], where: TaskFilter) -> list[str]:
        """Return the ids of those of the ended tasks that a purge deletes."""
        found = [task for task in ended if matches(task, where)]
        stay = flow.staying(self, found, where.completed_before)
        return [task.task_id for task in found if task.task_id not in stay]

    def brought_back(self, before: Task, after: Task) -> Task:
        """Return an ended task that is brought back as it is to be written: parked again for its parents."""
        self.settle()  # it reads what follows from the changes before it
        return flow.again(after, self) if waits_again(before, after) else after

    def note(self, before: Task, after: Task, then: Sequence[Task]) -> None:
        """Note a written change, and its follow-ups, if something follows from them; ``end`` does that.

        At once where a task is brought back.
        """
        self._gates.changed(before, after)
        self._gates.touched.pushed(then)
        if concerns(before, after):
            self._ends.append((before, after))
            if before.final and not after.final:
                self.settle()

    def end(self) -> None:
        """Do what follows from what was noted, and then admit the gates that were touched."""
        self.settle()
        while self._ended_tasks.lost:
            self.deleted(self._ended_tasks.lost.pop())
        self._gates.admit_touched()

    def settle(self, now: int = 0) -> None:
        """Do what follows from the changes that were noted, level by level."""
        if not self._ends:
            return
        ends, self._ends = self._ends, []
        followed = flow.follow(self, ends, now)
        if names := followed.all_ended:
            self._listeners.notify(ENDED, names)
        if self.heard is not None:
            self.heard(followed)

    def deleted(self, row: Task) -> None:
        """Note that a row was deleted, and do what follows from that."""
        if row.flow is None:
            return
        if not row.final:
            self._gates.touched.deleted([row])
        after = deleted(row, now := max(next_seq(0), row.seq, row.began_at or 0))
        if after is not row and flow.is_tied(row):
            self._ends.append((row, after))
            self.settle(now)

    def _drop(self, group_id: str) -> int:
        """Drop a group that is in no other one, and the groups in it; return how many."""
        del self._ended[group_id], self._outermost[group_id]
        tree = self._tree(group_id)
        for each in tree:
            if (group := self._groups.pop(each, None)) is not None and group.budget:
                self._gates.drop_budget(each)
            self._members.pop(each, None)
        return len(tree)


async def _refused(_plan: Plan, _session: Any, _committed: Callable[[], None], _room: Room | None) -> bool:
    raise NotSupported("session: memory cannot join a transaction; push after the commit, or use a SQL store")
