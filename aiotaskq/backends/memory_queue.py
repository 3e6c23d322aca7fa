"""The queue of the memory backend: an asyncio.Queue that knows claim order and delay."""

from __future__ import annotations

import asyncio
import itertools
from heapq import heapify, heappop, heappush

from aiotaskq.task import Task, claim_order

Entry = tuple[tuple[int, int, int], int, Task]


class ReadyQueue(asyncio.Queue[Task]):
    """Pending tasks of one queue. ``get_nowait`` gives the first in claim order among those released by ``ready``.

    It is used without blocking and under the backend's lock, so it belongs to no loop. Tasks are removed lazily: an
    entry whose task is no longer the live one under its id is skipped when it comes up.
    """

    def _init(self, maxsize: int) -> None:
        self._queue: list[Entry] = []
        self._future: list[tuple[int, int, Task]] = []  # heap of (run_at, tie, task)
        self._tie = itertools.count()  # equal orders must never compare tasks
        self._live: dict[str, Task] = {}
        self._released: dict[str, Task] = {}

    def _put(self, task: Task) -> None:
        self._live[task.task_id] = task
        if task.run_at <= task.seq:  # was due when it was pushed
            self._release(task)
        else:
            heappush(self._future, (task.run_at, next(self._tie), task))
            if len(self._future) > 1000 + 2 * len(self._live):  # mostly tasks that were cancelled meanwhile
                self._future = [entry for entry in self._future if self._is_live(entry[2])]
                heapify(self._future)

    def _get(self) -> Task:
        task = heappop(self._queue)[2]
        self.discard(task.task_id)
        return task

    def _is_live(self, task: Task) -> bool:
        return self._live.get(task.task_id) is task

    def _release(self, task: Task) -> None:
        self._released[task.task_id] = task
        heappush(self._queue, (claim_order(task), next(self._tie), task))

    def discard(self, task_id: str) -> None:
        """Take a task out, wherever it stands."""
        self._live.pop(task_id, None)
        self._released.pop(task_id, None)

    def ready(self, now: int) -> dict[str, Task]:
        """Release what is due at ``now``; return all that is released, by id."""
        while self._future and self._future[0][0] <= now:
            task = heappop(self._future)[2]
            if self._is_live(task):
                self._release(task)
        return self._released

    def head(self, now: int) -> Entry | None:
        """Return the order and task that ``get_nowait`` would give at ``now``, or None."""
        self.ready(now)
        while self._queue and not self._is_live(self._queue[0][2]):
            heappop(self._queue)
        return self._queue[0] if self._queue else None

    def next_at(self, now: int) -> int | None:
        """Return ``now`` if a task is ready, else when the first will be, or None."""
        if self.ready(now):
            return now
        while self._future and not self._is_live(self._future[0][2]):
            heappop(self._future)
        return self._future[0][0] if self._future else None
