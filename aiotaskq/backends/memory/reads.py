"""The rows of the memory backend, those that run, and what is read of them; whether there is room for a push."""

from __future__ import annotations

import bisect
import heapq
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec.structs import replace

from aiotaskq.backends.base import Backend, QueueStats, Room, matching, stats_of
from aiotaskq.backends.change import holds
from aiotaskq.backends.memory.ended import Ended, Keys
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.memory.ready_queue import Queues
from aiotaskq.backends.pending_types import MOST_COUNTED, PendingType, count_types, first_of
from aiotaskq.core.errors import queue_full
from aiotaskq.core.status import PENDING, RUNNING, Status
from aiotaskq.core.task import SECOND, Task, TaskFilter, of_objects


class MemoryReads(Backend):
    """The rows of the backend, with their keys and queues, and its reads. What is no coroutine runs under the lock."""

    suspends: ClassVar[bool] = False
    objects: bool
    _ended: Ended

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[str, Task] = {}
        self._running: dict[str, None] = {}  # the ids of the running tasks, in the order of their claims
        self._keys, self._lock = Keys(), BriefLock()
        self.queues = Queues(self._tasks, self._lock)
        self._latest = 0  # instant of a bounded push; threads read the clock before they take the lock

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    def _start(self, task: Task, owner: str, now: int, end: int | None) -> Task:
        """Make a task running, with a lease until ``end``."""
        task = of_objects(task) if self.objects else task  # its result may be one
        at, fence = now // SECOND, task.fence + 1
        self._tasks[task.task_id] = after = replace(
            task, status=RUNNING, started_at=at, began_at=now, fence=fence, lease_owner=owner, lease_until=end
        )
        self._running[task.task_id] = None
        return after

    def _edit(self, task_id: str, fence: int | None, **changes: Any) -> bool:
        """Change a running task; return False if it does not run, or under another fence than one that is given."""
        task = self._tasks.get(task_id)
        if task is None or task.status is not RUNNING or fence not in (task.fence, None):
            return False
        self._tasks[task_id] = task.replace(**changes)
        return True

    def conflicting(self, task: Task) -> Task | None:
        """Return the row that has the id or a key of this task, or None."""
        row = self._tasks.get(task.task_id)
        if row is None and (holder := self._keys.holder(task)) is not None:
            row = self._tasks.get(holder)
        return row

    async def find(self, where: TaskFilter, limit: int) -> list[Task]:
        with self._lock:
            match = matching(where)
            found = sorted((-task.seq, task.task_id) for task in self._tasks.values() if match(task))
            last = self._tasks.get(where.after)  # type: ignore[arg-type]  # None is no id
            return [self._tasks[i] for n, i in found if last is None or (n, i) > (-last.seq, last.task_id)][:limit]

    async def ids_with_prefix(self, prefixes: Sequence[str], limit: int) -> list[list[str]]:
        with self._lock:
            ids = sorted(task_id for task_id in self._tasks if isinstance(task_id, str))  # others begin with none
            found = []
            for prefix in prefixes:
                at = bisect.bisect_left(ids, prefix)
                found.append([task_id for task_id in ids[at : at + limit] if task_id.startswith(prefix)])
            return found

    async def overdue(self, now: int, limit: int) -> list[Task]:
        with self._lock:
            ends = [(self._tasks[i].lease_until, i) for i in self._running]
            queued = self.queues.values()
            ends += [(task.expires_at, task.task_id) for queue in queued for task in queue.expired(now)]
            late = sorted((end, task_id) for end, task_id in ends if end is not None and end <= now)
            return [self._tasks[task_id] for _, task_id in late[:limit]]

    async def next_run_at(self, now: int, queues: Sequence[str] | None = None) -> int | None:
        with self._lock:
            return min(
                (at for queue in self.queues.open(queues) if (at := queue.next_at(now)) is not None), default=None
            )

    async def stats(self, now: int) -> QueueStats:
        with self._lock:
            ready = self._ready(now)
            others = [*(self._tasks[i] for i in self._running), *self._ended.tasks()]
            counts = Counter([(task.queue, task.status) for task in others])
            counts.update({(name, PENDING): queue.pending() for name, queue in self.queues.items()})
            rows = [(queue, str(status), count) for (queue, status), count in counts.items() if count]
            return stats_of(rows, len(ready), min((task.run_at for task in ready), default=None))

    async def active(self, schedule_ids: Sequence[str]) -> dict[str, int]:
        with self._lock:
            found = Counter(task.scheduler_task_id for task in self._tasks.values() if not task.final)
            return {schedule_id: found[schedule_id] for schedule_id in schedule_ids}

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        with self._lock:
            return [self._tasks.get(task_id) for task_id in ids]

    async def last_ended(self, status: Status, limit: int) -> list[str]:
        with self._lock:
            ended = [row for row in self._ended.tasks() if row.status is status and row.completed_at is not None]
            latest = heapq.nlargest(limit, ended, lambda row: (row.completed_at, row.seq, row.task_id))
            return [row.task_id for row in latest]

    async def count_ready(self, now: int, queues: Sequence[str] | None = None) -> int:
        with self._lock:
            return sum(queue.count(now) for queue in self.queues.open(queues))

    async def paused(self) -> list[str]:
        return sorted(self.queues.paused)

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        """Raise QueueFull if there is no room for these tasks, or a change of ``room.instead`` does not hold."""
        rows = [self._tasks.get(change.before.task_id) for change in room.instead]
        if not all(row is not None and holds(row, change) for row, change in zip(rows, room.instead, strict=True)):
            raise queue_full(room.maxsize, 0)
        self._latest = max(self._latest, room.now)
        leaving = room.leaving
        size = sum(queue.count(self._latest) for queue in self.queues.open())
        if leaving:
            size -= len(leaving.intersection(task.task_id for task in self._ready(self._latest)))
        if len(tasks) > (left := room.maxsize - size):
            room.new_of(tasks, map(self.conflicting, tasks), left)

    async def least_ready(self, now: int, limit: int) -> list[Task]:
        with self._lock:
            ready = self._ready(max(now, self._latest))
            return heapq.nsmallest(limit, ready, lambda task: (-task.priority, task.run_at, task.seq))

    async def pending_types(self, now: int, limit: int) -> list[PendingType]:
        with self._lock:
            pending = (task for task in self._tasks.values() if task.status is PENDING)  # the first pushes
            return count_types(first_of(itertools.islice(pending, MOST_COUNTED), now, limit), now)

    def _ready(self, now: int) -> list[Task]:
        return [task for queue in self.queues.open() for task in queue.ready(now)]
