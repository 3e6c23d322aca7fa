"""The pending tasks of one named queue in memory, in claim order, with delay and expiry."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from aiotaskq.core.task import Task, claim_order

Order = tuple[int, int, int]
Entry = tuple[Order, int, Task]
"""Claim order, a number that only this entry has (so that tasks are never compared), and the task."""
Timed = tuple[int, int, Task]
"""An instant in microseconds, such a number, and the task."""

CLOCK_LAG = 1_000_000  # microseconds: threads read the clock before they wait for the lock

_numbers = itertools.count()


class Lane:
    """Pending tasks of one queue, which are among the ``rows`` of the backend; used under the backend's lock.

    A task is *released* when it is due as far as is known, and *delayed* before that. A task whose entry comes up and
    that is no longer the row under its id was removed: the entry is dropped. ``on_delay`` is called when a task is
    delayed that is due before all other delayed ones.
    """

    def __init__(self, rows: Mapping[str, Task], on_delay: Callable[[], None]) -> None:
        self._rows = rows
        self._on_delay = on_delay
        self._size = 0  # pending tasks, without those that have expired
        self._new: list[Task] = []  # put since the last look, which tells whether they are due
        # Released tasks in claim order. Nearly all are pushed in this order: one heap for all would slow a claim from
        # a backlog by more than a tenth.
        self._in_order: deque[Task] = deque()
        self._last: Order = (0, 0, 0)  # the latest in `_in_order`
        self._out_of_order: list[Entry] = []  # a heap of the released tasks that come before `_last`
        self._delayed: list[Timed] = []  # a heap by run_at
        self._delayed_ids: set[str] = set()
        self._expiring: list[Timed] = []  # a heap by expires_at, of released and delayed tasks
        self._expired_ids: set[str] = set()  # they are pending until the reaper settles them, and never claimed
        self._latest = 0  # the latest run_at of the released tasks

    def __len__(self) -> int:
        """Return how many tasks are pending: due, delayed or expired."""
        return self._size + len(self._expired_ids)

    def due(self) -> int:
        """Return how many tasks are due as far as is known."""
        self._sort_new()
        return self._size - len(self._delayed_ids)

    def entries(self) -> int:
        """Return how many entries the lane has, those of removed tasks included."""
        return len(self._new) + len(self._in_order) + len(self._out_of_order) + len(self._delayed) + len(self._expiring)

    def put(self, task: Task) -> None:
        """Add a task."""
        self._size += 1
        run_at, expires_at = task.run_at, task.expires_at
        order = (task.priority, run_at, task.seq)
        if expires_at is None and run_at <= task.seq and (not self._in_order or self._last <= order):
            # It is due, and in order, as nearly all are.
            self._in_order.append(task)
            self._last = order
            if run_at > self._latest:
                self._latest = run_at
            return
        self._new.append(task)
        if expires_at is not None:
            heappush(self._expiring, (expires_at, next(_numbers), task))

    def discard(self, task: Task) -> None:
        """Take note that a task is no longer among the rows."""
        if task.task_id in self._expired_ids:
            self._expired_ids.remove(task.task_id)
        else:
            self._size -= 1
            self._delayed_ids.discard(task.task_id)
        if self.entries() > 1000 + 3 * self._size:
            self._drop_removed()

    def pop(self) -> Task:
        """Take the task that ``first`` or ``head`` has just found."""
        self._size -= 1
        if len(self._expiring) > 1000 + 3 * self._size:
            self._drop_removed()
        return self._pop()

    def _pop(self) -> Task:
        if self._out_of_order and self._is_out_of_order():
            return heappop(self._out_of_order)[2]
        return self._in_order.popleft()

    def first(self) -> Task | None:
        """Return the first task that is due as far as is known, or None; it may have expired since the last look."""
        if self._new:
            self._sort_new()
        while self._in_order or self._out_of_order:
            out_of_order = self._out_of_order and self._is_out_of_order()
            task = self._out_of_order[0][2] if out_of_order else self._in_order[0]
            if self._is_live(task):
                return task
            self._pop()
        return None

    def head(self, now: int) -> Task | None:
        """Return the task that comes first in claim order at ``now``, or None."""
        if self._new or self._delayed or self._expiring:
            self._advance(now)
        while (task := self.first()) is not None and task.run_at > now:  # the clock was set back
            self._pop()
            self._delay(task)
        return task

    def take_one(self, now: int) -> Task | None:
        """Take the task that comes first in claim order at ``now``, or None; the caller replaces its row."""
        if self._new or self._delayed or self._expiring:
            self._advance(now)
        if self._latest <= now and not (self._out_of_order or self._expiring or self._expired_ids):
            # All released tasks are due, and in order, as in most claims. The general case would slow a worker that
            # drains a queue by a twentieth.
            while self._in_order:
                task = self._in_order.popleft()
                if self._rows.get(task.task_id) is task:
                    self._size -= 1
                    return task
        return None if self.head(now) is None else self.pop()

    def next_at(self, now: int) -> int | None:
        """Return ``now`` if a task can be claimed, else when the first delayed one is due, or None."""
        return now if self.head(now) is not None else self.next_delayed(now)

    def next_delayed(self, now: int) -> int | None:
        """Return when the first task is due that is not due at ``now``, or None."""
        self._advance(now)
        while self._delayed and not self._is_live(self._delayed[0][2]):
            heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None

    def count(self, now: int) -> int:
        """Count the tasks that can be claimed at ``now``."""
        self._advance(now)
        return self._size - len(self._delayed_ids) if self._latest - CLOCK_LAG <= now else len(self.ready(now))

    def ready(self, now: int) -> list[Task]:
        """Return the tasks that can be claimed at ``now``, in no order."""
        self._advance(now)
        released = self._released()
        self._latest = max((task.run_at for task in released), default=0)
        return [task for task in released if task.run_at <= now]

    def expired(self, now: int) -> list[Task]:
        """Return the pending tasks that have expired."""
        self._advance(now)
        return [self._rows[task_id] for task_id in self._expired_ids]

    def _is_live(self, task: Task) -> bool:
        return self._rows.get(task.task_id) is task and task.task_id not in self._expired_ids

    def _is_out_of_order(self) -> bool:
        """Whether the first released task is in `_out_of_order`, which has some."""
        return not self._in_order or self._out_of_order[0][0] < claim_order(self._in_order[0])

    def _advance(self, now: int) -> None:
        """Release the tasks that are due at ``now``, and mark those that have expired."""
        self._sort_new(now)
        while self._delayed and self._delayed[0][0] <= now:
            task = heappop(self._delayed)[2]
            if self._is_live(task):
                self._delayed_ids.discard(task.task_id)
                self._release(task)
        while self._expiring and self._expiring[0][0] <= now:
            task = heappop(self._expiring)[2]
            if self._is_live(task):
                self._size -= 1
                self._expired_ids.add(task.task_id)
                self._delayed_ids.discard(task.task_id)

    def _sort_new(self, now: int | None = None) -> None:
        """Release or delay the new tasks. Without ``now`` the push stamp counts: it is the time of the push."""
        for task in self._new:
            if task.run_at <= (task.seq if now is None else now):
                self._release(task)
            elif self._is_live(task):
                self._delay(task)
        self._new.clear()

    def _delay(self, task: Task) -> None:
        if not self._delayed or task.run_at < self._delayed[0][0]:
            self._on_delay()
        self._delayed_ids.add(task.task_id)
        heappush(self._delayed, (task.run_at, next(_numbers), task))

    def _release(self, task: Task) -> None:
        if task.run_at > self._latest:
            self._latest = task.run_at
        order = claim_order(task)
        if not self._in_order or self._last <= order:
            self._in_order.append(task)
            self._last = order
        else:
            heappush(self._out_of_order, (order, next(_numbers), task))

    def _released(self) -> list[Task]:
        return self._live(itertools.chain(self._in_order, (entry[2] for entry in self._out_of_order)))

    def _live(self, tasks: Iterable[Task]) -> list[Task]:
        """Return the tasks that were not removed, each once."""
        return list({task.task_id: task for task in tasks if self._is_live(task)}.values())

    def _drop_removed(self) -> None:
        """Drop the entries of removed tasks."""
        self._new = self._live(self._new)
        self._in_order, self._out_of_order = deque(sorted(self._released(), key=claim_order)), []
        delayed = self._live(entry[2] for entry in self._delayed)
        self._delayed = [(task.run_at, next(_numbers), task) for task in delayed]
        expiring = self._live(entry[2] for entry in self._expiring)
        self._expiring = [(task.expires_at or 0, next(_numbers), task) for task in expiring]
        heapify(self._delayed)
        heapify(self._expiring)


def first_of(lanes: Sequence[Lane], now: int | None = None) -> Lane | None:
    """Return the lane whose head at ``now`` comes first in claim order, or None where all are empty.

    Without ``now`` the first of the released tasks counts.
    """
    firsts = [lane.first() if now is None else lane.head(now) for lane in lanes]
    heads = [(claim_order(first), number) for number, first in enumerate(firsts) if first is not None]
    return lanes[min(heads)[1]] if heads else None
