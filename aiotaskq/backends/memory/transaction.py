"""The transactions of ``backends.flow`` in memory, as far as they read and write what is beside tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from aiotaskq.backends.flow.transaction import Beside, Run
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.memory.side_rows import MemoryOwnedRows
from aiotaskq.core.notes import NewNotes
from aiotaskq.core.task import Task
from aiotaskq.core.usage import risen

if TYPE_CHECKING:
    from aiotaskq.backends.memory.groups import MemoryGroups

T = TypeVar("T")


class MemoryTransactions:
    """Each is under the lock, and one object is the transaction of all."""

    def __init__(self, rows: dict[str, Task], lock: BriefLock, side: MemoryOwnedRows, groups: MemoryGroups) -> None:
        self._rows, self._lock, self.side, self._groups = rows, lock, side, groups

    async def transact(self, body: Callable[[Beside], T]) -> T:
        """Do as ``Store.transact``."""
        with self._lock:
            return body(self)

    def runs(self, ids: Sequence[str], *, wait: bool = True) -> dict[str, Run]:
        rows = [self._rows[task_id] for task_id in ids if task_id in self._rows]
        return {row.task_id: Run(row.status, row.fence) for row in rows}

    def spend(self, new: Sequence[NewNotes]) -> None:
        for each in new:
            row = self._rows[each.task_id]
            usage, more = risen(row.usage, each.usage)
            self._rows[each.task_id] = row.replace(usage=usage)
            if more and row.flow is not None and row.flow.group is not None:
                self._groups.use(row.flow.group, more)
