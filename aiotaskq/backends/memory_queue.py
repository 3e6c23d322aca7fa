"""The queue of the memory backend: an asyncio.Queue that knows claim order, delay and expiry."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection
from heapq import heapify, heappop, heappush
from typing import Any

from aiotaskq.task import INT64, Task, claim_order

Entry = tuple[Any, int, Task]
"""What it is ordered by, a number that only this entry has (so that tasks are never compared), and the task."""

LATE_LOOK = 1_000_000  # microseconds: what 64 threads may wait for a lock

_numbers = itertools.count()  # one for all queues: their heads are compared, too


class ReadyQueue(asyncio.Queue[Task]):
    """Pending tasks of one queue. ``get_nowait`` gives what ``head`` has just found.

    It is used without blocking and under the backend's lock, so it belongs to no loop. Tasks are removed lazily: an
    entry whose number is no longer the live one under its task's id is skipped when it comes up.
    """

    def _init(self, maxsize: int) -> None:
        self._queue: list[Entry] = []  # heap in claim order: released
        self._future: list[Entry] = []  # heap by run_at: not due yet
        self._new: list[Entry] = []  # put since the last look: due or not, that depends on the next `now`
        self._live: dict[str, int] = {}
        self._released: dict[str, Task] = {}
        self._latest, self._soonest = 0, INT64  # at instants between these, all that is released is due and not expired

    def _put(self, task: Task) -> None:
        number = next(_numbers)
        self._live[task.task_id] = number
        self._new.append((task.run_at, number, task))
        if len(self._new) > 1000 + 2 * len(self._live):
            self._new = self._living(self._new)

    def _get(self) -> Task:
        task = heappop(self._queue)[2]
        self.discard(task.task_id)
        return task

    def _living(self, entries: list[Entry]) -> list[Entry]:
        """The entries without those that were cancelled meanwhile, as a heap."""
        kept = [entry for entry in entries if self._live.get(entry[2].task_id) == entry[1]]
        heapify(kept)
        return kept

    def discard(self, task_id: str) -> None:
        """Take a task out, wherever it stands."""
        self._live.pop(task_id, None)
        self._released.pop(task_id, None)

    def _release(self, now: int) -> None:
        if self._new:
            for entry in self._new:
                if entry[0] <= now:
                    self._let_go(entry)
                else:
                    heappush(self._future, entry)
            self._new.clear()
            if len(self._queue) + len(self._future) > 1000 + 2 * len(self._live):
                self._queue, self._future = self._living(self._queue), self._living(self._future)
        while self._future and self._future[0][0] <= now:
            self._let_go(heappop(self._future))

    def _let_go(self, entry: Entry) -> None:
        _, number, task = entry
        if self._live.get(task.task_id) == number:
            self._released[task.task_id] = task
            self._latest = max(self._latest, task.run_at)
            if task.expires_at is not None:
                self._soonest = min(self._soonest, task.expires_at)
            heappush(self._queue, (claim_order(task), number, task))

    def ready(self, now: int) -> Collection[Task]:
        """Return all that could be claimed at ``now``."""
        self._release(now)
        # Threads read the clock before they take the lock: such a look may be a little older than the last one.
        if self._latest - LATE_LOOK <= now < self._soonest:
            return self._released.values()
        for task in [task for task in self._released.values() if _expiry(task) <= now]:
            self.discard(task.task_id)
        self._latest = max((task.run_at for task in self._released.values()), default=0)
        self._soonest = min((_expiry(task) for task in self._released.values()), default=INT64)
        return [task for task in self._released.values() if task.run_at <= now]

    def head(self, now: int) -> Entry | None:
        """Return the order and task of the first in claim order at ``now``, or None."""
        self._release(now)
        while self._queue:
            entry = self._queue[0]
            _, number, task = entry
            if self._live.get(task.task_id) == number:
                if task.run_at <= now < _expiry(task):
                    return entry
                self._send_back(entry, now)
            heappop(self._queue)
        return None

    def _send_back(self, entry: Entry, now: int) -> None:
        _, number, task = entry
        if _expiry(task) <= now:
            self.discard(task.task_id)  # it is the reaper's: nobody claims it any more
        else:  # the clock was set back
            del self._released[task.task_id]
            heappush(self._future, (task.run_at, number, task))

    def next_at(self, now: int) -> int | None:
        """Return ``now`` if a task is ready, else when the first will be, or None."""
        if self.head(now):
            return now
        while self._future:
            _, number, task = self._future[0]
            if self._live.get(task.task_id) == number:
                if now < _expiry(task):
                    return task.run_at
                self.discard(task.task_id)
            heappop(self._future)
        return None


def _expiry(task: Task) -> int:
    return INT64 if task.expires_at is None else task.expires_at
