"""The groups in memory, and the lists of their members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiotaskq.backends.groups import GroupReads
from aiotaskq.backends.memory.ended import Ended
from aiotaskq.backends.memory.gate_rows import Line
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.core.gate import budget_gate
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.task import Task


class GroupRows:
    """The part of a transaction in memory that reads and writes groups; of the ended ones it keeps the latest."""

    rows: Mapping[str, Task]
    lines: dict[str, Line]

    def __init__(self, ended: Ended) -> None:
        """``ended`` has the ended tasks, and as many ended groups stay."""
        self._ended_tasks = ended
        self.kept: dict[str, GroupState] = {}
        """Every group, the oldest first."""
        ended.groups = self.kept
        self.members: dict[str, list[Member]] = {}
        self.ended: dict[str, None] = {}
        """Those that are in no other group, and may be dropped."""

    def groups(self, ids: Sequence[str], lock: bool = True) -> dict[str, GroupState]:
        return {group_id: self.kept[group_id] for group_id in ids if group_id in self.kept}

    def write_groups(self, groups: Sequence[GroupState], callbacks: bool = False) -> None:
        before = [self.kept.get(group.group_id) for group in groups]
        self.kept |= {group.group_id: group for group in groups}
        for was, group in zip(before, groups, strict=True):
            if group.parent_id not in self.kept and (was is None or _state(was) != _state(group)):
                self._keep_members(group)
        while len(self.ended) > self._ended_tasks.keep:
            self.drop_groups(self._tree(next(iter(self.ended))))

    def _keep_members(self, group: GroupState) -> None:
        """Keep the ended members of a group that is in no other one, or keep them no more."""
        tree = self._tree(group.group_id)
        self._ended_tasks.keep_members(member.member_id for each in tree for member in self.members.get(each, ()))
        if any(_state(group)):
            self.ended.pop(group.group_id, None)
        else:
            self.ended[group.group_id] = None

    def _tree(self, group_id: str) -> list[str]:
        """Return the ids of a group and of the groups in it."""
        tree = [group_id]
        for each in tree:
            tree += self.inner_groups([each])
        return tree

    def add_members(self, members: Sequence[Member]) -> None:
        for member in members:
            self.members.setdefault(member.group_id, []).append(member)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        return [m.member_id for group_id in ids for m in self.members.get(group_id, ()) if m.is_group]

    def drop_groups(self, ids: Sequence[str]) -> None:
        for group_id in ids:
            if (group := self.kept.pop(group_id, None)) is not None and group.budget:
                self.lines.pop(budget_gate(group_id), None)
            self.members.pop(group_id, None)
            self.ended.pop(group_id, None)

    def count_live(self, ids: Sequence[str]) -> dict[str, int]:
        return {group_id: sum(map(self._is_live, self.members.get(group_id, ()))) for group_id in ids}

    def _is_live(self, member: Member) -> bool:
        if member.is_group:
            return (group := self.kept.get(member.member_id)) is not None and group.ended_at is None
        return (row := self.rows.get(member.member_id)) is not None and not row.final


def _state(group: GroupState) -> tuple[bool, bool]:
    """Return whether a group goes on, and whether a task needs it."""
    return group.ended_at is None, group.needed_by > 0


class MemoryGroupReads(GroupReads):
    """The groups of a backend."""

    def __init__(self, tx: GroupRows, lock: BriefLock) -> None:
        self._tx, self._lock = tx, lock

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

    async def cancelling(self, limit: int) -> list[str]:
        with self._lock:
            live = (group for group in self._tx.kept.values() if group.cancel_requested and group.ended_at is None)
            return [group.group_id for group in live][:limit]

    async def over(self, before: int, limit: int) -> list[str]:
        with self._lock:
            return [each for each in self._tx.ended if (self._tx.kept[each].ended_at or 0) < before][:limit]

    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        with self._lock:
            ids = sorted(task.task_id for task in self._tx.rows.values() if task.waits and task.task_id > after)
            return ids[:limit], ids[limit - 1] if len(ids) > limit else ""
