"""Pending tasks in memory, in claim order, with delay and expiry."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush

from aiotaskq.core.gate import PARKED
from aiotaskq.core.task import Task, claim_order

Order = tuple[int, int, int]
Entry = tuple[Order, int, Task]
"""Claim order, a number that only this entry has (so that tasks are never compared), and the task."""
Timed = tuple[int, int, Task]
"""An instant in microseconds, such a number, and the task."""

CLOCK_LAG = 1_000_000  # microseconds: threads read the clock before they wait for the lock

_numbers = itertools.count()


class Lane:
    """Pending tasks that are among ``rows``; used under the backend's lock.

    A task is *released* when it is due as far as is known, and *delayed* before that. A task whose entry comes up and
    that is no longer the row under its id was removed: the entry is dropped. ``on_delay`` is called when a task is
    delayed that is due before all other delayed ones.
    """

    def __init__(self, rows: Mapping[str, Task], on_delay: Callable[[], None]) -> None:
        self._rows = rows
        self._on_delay = on_delay
        self._size = 0  # released tasks
        # Released tasks in claim order. Nearly all are pushed in this order: one heap for all would slow a claim from
        # a backlog by more than a tenth.
        self._in_order: deque[Task] = deque()
        self._last: Order = (0, 0, 0)  # the latest in `_in_order`
        self._out_of_order: list[Entry] = []  # a heap of the released tasks that come before `_last`
        self.delayed: list[Timed] = []  # a heap by run_at
        self._delayed_ids: set[str] = set()
        self._parked = 0  # pending tasks that no time releases; an expired one is among the expired
        self.expiring: list[Timed] = []  # a heap by expires_at, of released and delayed tasks
        self._expired_ids: set[str] = set()  # they are pending until the reaper settles them, and never claimed
        self._latest = 0  # the latest run_at of the released tasks

    def pending(self) -> int:
        """Return how many tasks are pending: due, delayed, parked or expired."""
        return self._size + self._parked + len(self._delayed_ids) + len(self._expired_ids)

    def qsize(self) -> int:
        """Return how many tasks are released: what ``asyncio.Queue`` counts."""
        return self._size

    def entries(self) -> int:
        """Return how many entries the lane has, those of removed tasks included."""
        return len(self._in_order) + len(self._out_of_order) + len(self.delayed) + len(self.expiring)

    def add(self, task: Task) -> None:
        """Add a task, released if it was due by its push stamp, which is the time of the push."""
        if task.expires_at is not None:
            heappush(self.expiring, (task.expires_at, next(_numbers), task))
        if task.run_at <= task.seq:
            self.release(task)
        elif task.run_at == PARKED:
            self._parked += 1
        else:
            self.delay(task)

    def delay(self, task: Task) -> None:
        """Keep a task until ``advance`` finds it due."""
        if not self.delayed or task.run_at < self.delayed[0][0]:
            self._on_delay()
        self._delayed_ids.add(task.task_id)
        heappush(self.delayed, (task.run_at, next(_numbers), task))

    def release(self, task: Task) -> None:
        """Add a task to those that are released."""
        self._put(task)

    def discard(self, task: Task) -> None:
        """Take note that a task is no longer among the rows."""
        if task.task_id in self._expired_ids:
            self._expired_ids.remove(task.task_id)
        else:
            self._uncount(task)
        if task.run_at != PARKED and self.entries() > 1000 + 3 * self.pending():
            self._drop_removed()

    def _uncount(self, task: Task) -> None:
        if task.run_at == PARKED:
            self._parked -= 1
        elif task.task_id in self._delayed_ids:
            self._delayed_ids.remove(task.task_id)
        else:
            self._size -= 1

    def advance(self, now: int) -> None:
        """Release the tasks that are due at ``now``, and mark those that have expired."""
        while self.delayed and self.delayed[0][0] <= now:
            task = heappop(self.delayed)[2]
            if self._is_live(task) and task.task_id in self._delayed_ids:
                self._delayed_ids.remove(task.task_id)
                self.release(task)
        while self.expiring and self.expiring[0][0] <= now:
            task = heappop(self.expiring)[2]
            if self._is_live(task):
                self._uncount(task)
                self._expired_ids.add(task.task_id)
        if self.expiring and len(self.expiring) > 1000 + 3 * self.pending():
            self._drop_removed()

    def _put(self, item: Task) -> None:
        self._size += 1
        run_at = item.run_at
        order = (item.priority, run_at, item.seq)
        if run_at > self._latest:
            self._latest = run_at
        if self._last <= order or not self._in_order:
            self._in_order.append(item)
            self._last = order
        else:
            heappush(self._out_of_order, (order, next(_numbers), item))

    def _get(self) -> Task:
        """Take the task that ``first`` has just found."""
        self._size -= 1
        return self._pop() if self._out_of_order else self._in_order.popleft()

    def _pop(self) -> Task:
        return heappop(self._out_of_order)[2] if self._is_out_of_order() else self._in_order.popleft()

    def _is_out_of_order(self) -> bool:
        """Whether the first released task is in `_out_of_order`."""
        heap, in_order = self._out_of_order, self._in_order
        return bool(heap) and (not in_order or heap[0][0] < claim_order(in_order[0]))

    def first(self) -> Task | None:
        """Return the first of the released tasks, or None."""
        while self._in_order or self._out_of_order:
            task = self._out_of_order[0][2] if self._is_out_of_order() else self._in_order[0]
            if self._is_live(task):
                return task
            self._pop()
        return None

    def empty(self) -> bool:
        """Return whether no task is released."""
        in_order = self._in_order
        if in_order and not (self._out_of_order or self._expired_ids):  # as in most claims
            task = in_order[0]
            if self._rows.get(task.task_id) is task:
                return False
        return self.first() is None

    def next_at(self, now: int) -> int | None:
        """Return ``now`` if a task can be claimed, else when the first delayed one is due, or None."""
        self.advance(now)
        while (task := self.first()) is not None and task.run_at > now:  # the clock was set back
            self.delay(self._get())
        if task is not None:
            return now
        while self.delayed and not self._is_live(self.delayed[0][2]):
            heappop(self.delayed)
        return self.delayed[0][0] if self.delayed else None

    def count(self, now: int) -> int:
        """Count the tasks that can be claimed at ``now``."""
        self.advance(now)
        return self._size if self._latest - CLOCK_LAG <= now else len(self.ready(now))

    def ready(self, now: int) -> list[Task]:
        """Return the tasks that can be claimed at ``now``, in no order."""
        self.advance(now)
        released = self._released()
        self._latest = max((task.run_at for task in released), default=0)
        return [task for task in released if task.run_at <= now]

    def expired(self, now: int) -> list[Task]:
        """Return the pending tasks that have expired."""
        self.advance(now)
        return [self._rows[task_id] for task_id in self._expired_ids]

    def _is_live(self, task: Task) -> bool:
        return self._rows.get(task.task_id) is task and task.task_id not in self._expired_ids

    def _released(self) -> list[Task]:
        return self._live(itertools.chain(self._in_order, (entry[2] for entry in self._out_of_order)))

    def _live(self, tasks: Iterable[Task]) -> list[Task]:
        """Return the tasks that were not removed, each once."""
        return list({task.task_id: task for task in tasks if self._is_live(task)}.values())

    def _drop_removed(self) -> None:
        """Drop the entries of removed tasks."""
        self._in_order, self._out_of_order = deque(sorted(self._released(), key=claim_order)), []
        self.delayed = _timed((task.run_at, task) for task in self._live(entry[2] for entry in self.delayed))
        self.expiring = _timed((task.expires_at or 0, task) for task in self._live(entry[2] for entry in self.expiring))


def _timed(tasks: Iterable[tuple[int, Task]]) -> list[Timed]:
    """Return a heap of tasks by instants."""
    heap = [(at, next(_numbers), task) for at, task in tasks]
    heapify(heap)
    return heap
