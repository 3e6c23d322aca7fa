"""The queue of the memory backend: an asyncio.Queue that knows claim order, delay and expiry."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heappop, heappush
from operator import itemgetter

from aiotaskq.task import INT64, Task

Entry = tuple[int, int, int, int, Task]
"""Claim order, a number that only this entry has (so that tasks are never compared), and the task."""

LATE_LOOK = 1_000_000  # microseconds: what 64 threads may wait for a lock

_numbers = itertools.count()  # one for all queues: their heads are compared, too


class ReadyQueue(asyncio.Queue[Task]):
    """Pending tasks of one queue. ``get_nowait`` gives what ``head`` has just found.

    It is used without blocking and under the backend's lock, so it belongs to no loop. Tasks are removed lazily: an
    entry whose task is no longer the live one under its id is skipped when it comes up.
    """

    def _init(self, maxsize: int) -> None:
        # Released, in claim order. Nearly all come in that order, which costs a heap of 100,000 ten times as much.
        self._queue: deque[Entry] = deque()
        self._between: list[Entry] = []  # a heap: released, too, but before the last of those
        self._future: list[tuple[int, int, Task]] = []  # a heap by run_at: not due yet
        self._new: list[Task] = []  # put since the last look: due or not, that depends on the next `now`
        self._live: dict[str, Task] = {}
        self._released: dict[str, Task] = {}
        self._latest, self._soonest = 0, INT64  # at instants between these, all that is released is due and not expired

    def put_nowait(self, task: Task) -> None:
        """Add a task; there is no bound, and nobody waits in ``get``."""
        self._live[task.task_id] = task
        self._new.append(task)

    def get_nowait(self) -> Task:
        task = self._pop()[4]
        del self._live[task.task_id], self._released[task.task_id]
        return task

    def _pop(self) -> Entry:
        """Take the first of the released ones from where it is."""
        if self._between and (not self._queue or self._between[0] < self._queue[0]):
            return heappop(self._between)
        return self._queue.popleft()

    def discard(self, task_id: str) -> None:
        """Take a task out, wherever it stands."""
        if self._live.pop(task_id, None) is not None:
            self._released.pop(task_id, None)
            entries = len(self._new) + len(self._queue) + len(self._between) + len(self._future)
            if entries > 1000 + 2 * len(self._live):
                self._sweep()

    def _sweep(self) -> None:
        """Drop the entries of those that were discarded."""
        self._new = self._living(self._new)
        released = self._living(entry[4] for entry in itertools.chain(self._queue, self._between))
        self._queue, self._between = deque(sorted(map(_entry, released))), []
        self._future = [(task.run_at, next(_numbers), task) for task in self._living(each[2] for each in self._future)]
        heapify(self._future)

    def _living(self, tasks: Iterable[Task]) -> list[Task]:
        """Those that were not discarded, each once."""
        return list({task.task_id: task for task in tasks if self._live.get(task.task_id) is task}.values())

    def _release(self, now: int) -> None:
        for task in self._new:
            if self._live.get(task.task_id) is not task:
                continue
            if task.run_at <= now:
                self._let_go(task)
            else:
                heappush(self._future, (task.run_at, next(_numbers), task))
        self._new.clear()
        while self._future and self._future[0][0] <= now:
            task = heappop(self._future)[2]
            if self._live.get(task.task_id) is task:
                self._let_go(task)

    def _let_go(self, task: Task) -> None:
        self._released[task.task_id] = task
        if task.run_at > self._latest:
            self._latest = task.run_at
        if task.expires_at is not None:
            self._soonest = min(self._soonest, task.expires_at)
        entry = (task.priority, task.run_at, task.seq, next(_numbers), task)  # `_entry`, whose call costs as much again
        if not self._queue or self._queue[-1] < entry:
            self._queue.append(entry)
        else:
            heappush(self._between, entry)

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

    def qsize(self) -> int:
        """Return how many there are, due or not."""
        return len(self._live)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._live

    def head(self, now: int) -> Entry | None:
        """Return the order and task of the first in claim order at ``now``, or None."""
        if self._new or self._future:
            self._release(now)
        while self._queue or self._between:
            entry = self._queue[0] if self._queue else self._between[0]
            if self._between and self._between[0] < entry:
                entry = self._between[0]
            task = entry[4]
            if self._released.get(task.task_id) is task:
                if task.run_at <= now and (task.expires_at is None or now < task.expires_at):
                    return entry
                self._send_back(task, now)
            self._pop()
        return None

    def take(self, now: int, limit: int) -> list[Task]:
        """Take up to ``limit`` tasks in claim order."""
        taken: list[Task] = []
        if self._new or self._future:
            self._release(now)
        if self._latest <= now < self._soonest:  # all that is released is due, and not expired
            while self._queue and not self._between and len(taken) < limit:
                task = self._queue.popleft()[4]
                if self._released.get(task.task_id) is task:
                    del self._live[task.task_id], self._released[task.task_id]
                    taken.append(task)
        while len(taken) < limit and self.head(now) is not None:
            taken.append(self.get_nowait())
        return taken

    def _send_back(self, task: Task, now: int) -> None:
        if _expiry(task) <= now:
            self.discard(task.task_id)  # it is the reaper's: nobody claims it any more
        else:  # the clock was set back
            del self._released[task.task_id]
            heappush(self._future, (task.run_at, next(_numbers), task))

    def next_at(self, now: int) -> int | None:
        """Return ``now`` if a task is ready, else when the first will be, or None."""
        if self.head(now):
            return now
        while self._future:
            task = self._future[0][2]
            if self._live.get(task.task_id) is task:
                if now < _expiry(task):
                    return task.run_at
                self.discard(task.task_id)
            heappop(self._future)
        return None


def first_of(queues: Sequence[ReadyQueue], now: int) -> ReadyQueue | None:
    """Return the queue whose head comes first in claim order at ``now``, or None where all are empty."""
    heads = [(head, queue) for queue in queues if (head := queue.head(now)) is not None]
    return min(heads, key=itemgetter(0))[1] if heads else None


def _entry(task: Task) -> Entry:
    return (task.priority, task.run_at, task.seq, next(_numbers), task)


def _expiry(task: Task) -> int:
    return INT64 if task.expires_at is None else task.expires_at
