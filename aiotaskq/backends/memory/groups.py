"""What is read of the groups in memory."""

from __future__ import annotations

from aiotaskq.backends.groups import GroupReads
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.memory.transaction import MemoryTransaction
from aiotaskq.core.groups import GroupState, Member


class MemoryGroupReads(GroupReads):
    """The groups of a backend."""

    def __init__(self, tx: MemoryTransaction, lock: BriefLock) -> None:
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
            return self._tx.over(before)[:limit]

    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        with self._lock:
            ids = sorted(task.task_id for task in self._tx.rows.values() if task.waits and task.task_id > after)
            return ids[:limit], ids[limit - 1] if len(ids) > limit else ""
