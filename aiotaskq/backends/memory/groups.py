"""The groups of the memory backend."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aiotaskq.backends.base import Room, matches
from aiotaskq.backends.flow.groups import add_tasks, fill, flag_cancelled, replace_budget, staying
from aiotaskq.backends.groups import Groups
from aiotaskq.backends.listeners import ENDED, READY, Listeners
from aiotaskq.backends.memory.transaction import MemoryTransaction
from aiotaskq.core.errors import NotSupported
from aiotaskq.core.groups import GroupState, Member, Plan
from aiotaskq.core.task import Task, TaskFilter
from aiotaskq.core.usage import Usage


class MemoryGroups(Groups):
    """Every group of a backend."""

    def __init__(
        self,
        tx: MemoryTransaction,
        lock: Any,
        make_room: Callable[[Sequence[Task], Room], None],
        listeners: Listeners,
    ) -> None:
        """``make_room`` raises QueueFull if there is no room for tasks."""
        self._tx, self._lock, self._make_room, self._listeners = tx, lock, make_room, listeners
        tx.messages = self.messages
        tx.heard = lambda followed: None if self.heard is None else self.heard(followed)
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
        if self._tx.groups([plan.groups[0].group_id]):
            return False
        if room is not None:
            self._make_room(plan.entering, room)
        self.used = True
        self._tx.check_push(plan.tasks)  # nothing is written yet
        self._tx.add_groups(plan.groups, plan.members)
        fill(self._tx, plan)
        self._tx.end()
        return True

    async def add(self, group_id: str, tasks: Sequence[Task], now: int) -> int | None:
        with self._lock:
            added = add_tasks(self._tx, group_id, tasks)
            self._tx.end()
        self._listeners.notify(READY)
        return added

    async def get(self, ids: Sequence[str]) -> list[GroupState | None]:
        with self._lock:
            return [self._tx.kept.get(group_id) for group_id in ids]

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        with self._lock:
            found = sorted(self._tx.kept.values(), key=lambda group: (group.created_at, group.group_id), reverse=True)
            if after is not None:
                ids = [group.group_id for group in found]
                found = found[ids.index(after) + 1 :] if after in ids else []
            return [group for group in found if ended is None or (group.ended_at is not None) == ended][:limit]

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        with self._lock:
            return self._tx.members.get(group_id, [])[start : start + limit]

    async def set_budget(self, group_id: str, budget: Usage, now: int) -> GroupState | None:
        with self._lock:
            group = replace_budget(self._tx, group_id, budget, now)
            self._tx.end()
        self._listeners.notify(READY)
        return group

    async def request_cancel(self, group_id: str) -> bool:
        with self._lock:
            return flag_cancelled(self._tx, group_id)

    async def cancelling(self, limit: int) -> list[str]:
        with self._lock:
            live = (group for group in self._tx.kept.values() if group.cancel_requested and group.ended_at is None)
            return [group.group_id for group in live][:limit]

    async def purge(self, before: int, limit: int) -> int:
        with self._lock:
            return self._tx.purge_groups(before, limit)

    async def mend(self, now: int) -> int:
        with self._lock:
            return 0  # no row leaves without its group

    def purged(self, ended: Sequence[Task], where: TaskFilter) -> list[str]:
        """Return the ids of those of the ended tasks that a purge deletes, under the lock."""
        found = [task for task in ended if matches(task, where)]
        stay = staying(self._tx, found, where.completed_before)
        return [task.task_id for task in found if task.task_id not in stay]


async def _refused(_plan: Plan, _session: Any, _committed: Callable[[], None], _room: Room | None) -> bool:
    raise NotSupported("session: memory cannot join a transaction; push after the commit, or use a SQL store")
