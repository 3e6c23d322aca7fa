"""What the memory backend counts and finds among many rows, and whether there is room for a push."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from aiotaskq.backends.base import QueueStats, Room, holds, matches, stats_of
from aiotaskq.backends.memory.keys import Keys
from aiotaskq.backends.memory.ready_queue import TaskQueue
from aiotaskq.core.errors import queue_full
from aiotaskq.core.task import PENDING, Task, TaskFilter


class Reads:
    """Reads of rows, keys and the queue that the backend writes. Used under the backend's lock."""

    def __init__(self, rows: Mapping[str, Task], keys: Keys, queue: TaskQueue) -> None:
        self._rows = rows
        self._keys = keys
        self._queue = queue
        self._latest = 0  # the latest instant of a bounded push: threads read the clock before they take the lock

    def find(self, where: TaskFilter, limit: int) -> list[Task]:
        """List tasks, the newest push first."""
        found = sorted((-task.seq, task.task_id) for task in self._rows.values() if matches(task, where))
        last = self._rows.get(where.after)  # type: ignore[arg-type]  # None is no id
        return [self._rows[i] for n, i in found if last is None or (n, i) > (-last.seq, last.task_id)][:limit]

    def overdue(self, running: Iterable[str], expiring: Iterable[str], now: int, limit: int) -> list[Task]:
        """Return those whose lease is over, and those that expired, the longest overdue first."""
        late = [(self._rows[i].lease_until, i) for i in running]
        late += [(self._rows[i].expires_at, i) for i in expiring]
        return [self._rows[i] for when, i in sorted((w, i) for w, i in late if w is not None and w <= now)[:limit]]

    def stats(self, now: int, held: Iterable[Task]) -> QueueStats:
        """Count the pending tasks, and those that are ``held`` or have ended."""
        ready = self._ready(now)
        counts = Counter([(task.queue, task.status) for task in held])
        counts.update({(name, PENDING): len(lane) for name, lane in self._queue.lanes.items()})
        rows = [(queue, str(status), count) for (queue, status), count in counts.items() if count]
        return stats_of(rows, len(ready), min((task.run_at for task in ready), default=None))

    def active(self, schedule_ids: Sequence[str]) -> dict[str, int]:
        """Count the unfinished tasks of each schedule."""
        found = Counter(task.scheduler_task_id for task in self._rows.values() if not task.final)
        return {schedule_id: found[schedule_id] for schedule_id in schedule_ids}

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        """Raise QueueFull if there is no room for these tasks, or a change of ``room.instead`` does not hold."""
        rows = [self._rows.get(change.before.task_id) for change in room.instead]
        if not all(row is not None and holds(row, change) for row, change in zip(rows, room.instead, strict=True)):
            raise queue_full(room.maxsize, 0)
        self._latest = max(self._latest, room.now)
        leaving = {row.task_id for row in rows if row is not None}
        size = sum(lane.count(self._latest) for lane in self._queue.open())
        if leaving:
            size -= len(leaving.intersection(task.task_id for task in self._ready(self._latest)))
        if size + len(tasks) > room.maxsize and (new := self._count_new(tasks, leaving)) > room.maxsize - size and new:
            raise queue_full(room.maxsize, size + new - room.maxsize)

    def least_ready(self, now: int, limit: int) -> list[Task]:
        """Return ready tasks, the largest priority number first, of one priority the oldest first."""
        ready = self._ready(max(now, self._latest))
        return heapq.nsmallest(limit, ready, lambda task: (-task.priority, task.run_at, task.seq))

    def _ready(self, now: int) -> list[Task]:
        return [task for lane in self._queue.open() for task in lane.ready(now)]

    def _count_new(self, tasks: Sequence[Task], leaving: Container[str]) -> int:
        """Count those that no row is in the way of, but one that is leaving, nor another of these."""
        count, keys, ids = 0, Keys(), set[str]()
        for task in tasks:
            held = self._keys.holder(task)
            row = self._rows.get(task.task_id) or (None if held is None else self._rows.get(held))
            if (row is None or row.task_id in leaving) and task.task_id not in ids and keys.holder(task) is None:
                ids.add(task.task_id)
                keys.add(task)
                count += 1
        return count
