"""The lane of one named queue in memory: its pending tasks in claim order, with delay and expiry."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

from aiotaskq.core.task import Task, claim_order
from aiotaskq.core.validation import INT64

Order = tuple[int, int, int]
Entry = tuple[Order, int, Task]
"""Claim order, a number that only this entry has (so that tasks are never compared), and the task."""

LATE_LOOK = 1_000_000  # microseconds: what 64 threads may wait for a lock

_numbers = itertools.count()


class Lane:
    """Pending tasks of one queue, which are among the ``rows`` of the backend; used under the backend's lock.

    Tasks are removed lazily: an entry is skipped when it comes up and its task is no longer the row under its id.
    ``sooner`` is called when a task is found to be delayed, and is due before all others that were.
    """

    def __init__(self, rows: Mapping[str, Task], sooner: Callable[[], None]) -> None:
        self._rows = rows
        self._sooner = sooner
        self._size = 0  # pending tasks but those that expired
        self._expired: set[str] = set()  # nobody claims these any more: they are the reaper's
        self._delayed: set[str] = set()  # those in `_future`
        # Released, in claim order. Nearly all come in that order, and a heap of 100,000 costs ten times as much.
        self._queue: deque[Task] = deque()
        self._last: Order = (0, 0, 0)  # of these
        self._between: list[Entry] = []  # a heap: released, too, but before the last of those
        self._future: list[tuple[int, int, Task]] = []  # a heap by run_at: not due yet
        self._new: list[Task] = []  # put since the last look: due or not, that depends on the next `now`
        self._latest, self._soonest = 0, INT64  # at instants between these, all that is released is due and not expired

    def put(self, task: Task) -> None:
        """Add a task."""
        self._size += 1
        self._new.append(task)

    def __len__(self) -> int:
        """Return how many there are, due or not, or expired."""
        return self._size + len(self._expired)

    def due(self) -> int:
        """Return how many are due as far as is known."""
        self._sort_new()
        return self._size - len(self._delayed)

    def entries(self) -> int:
        """Return how many entries the lane holds, those of discarded tasks included."""
        return len(self._new) + len(self._queue) + len(self._between) + len(self._future)

    def pop(self) -> Task:
        """Take the task that ``first`` or ``head`` has just found."""
        self._size -= 1
        return self._pop()

    def _pop(self) -> Task:
        return heappop(self._between)[2] if self._is_between() else self._queue.popleft()

    def _is_between(self) -> bool:
        """Whether the first of the released ones is not where most are."""
        return bool(self._between) and (not self._queue or self._between[0][0] < claim_order(self._queue[0]))

    def _is_live(self, task: Task) -> bool:
        return self._rows.get(task.task_id) is task and task.task_id not in self._expired

    def discard(self, task: Task) -> None:
        """Take note that a task is no longer among the rows."""
        if task.task_id in self._expired:
            self._expired.remove(task.task_id)
        else:
            self._size -= 1
            self._delayed.discard(task.task_id)
        if self.entries() > 1000 + 2 * self._size:
            self._sweep()

    def _sweep(self) -> None:
        """Drop the entries of those that were discarded."""
        self._new = self._living(self._new)
        self._queue, self._between = deque(sorted(self._released(), key=claim_order)), []
        self._future = [(task.run_at, next(_numbers), task) for task in self._living(each[2] for each in self._future)]
        heapify(self._future)

    def _released(self) -> list[Task]:
        return self._living(itertools.chain(self._queue, (entry[2] for entry in self._between)))

    def _living(self, tasks: Iterable[Task]) -> list[Task]:
        """Those that were not discarded, each once."""
        return list({task.task_id: task for task in tasks if self._is_live(task)}.values())

    def _sort_new(self, now: int | None = None) -> None:
        """Tell the new tasks that are due at ``now`` from those that are delayed.

        Without ``now`` the push stamp decides: it is the time of the push, or a little later.
        """
        for task in self._new:
            if task.run_at <= (task.seq if now is None else now):
                self._let_go(task)
            elif self._is_live(task):
                self._delay(task)
        self._new.clear()

    def _release(self, now: int) -> None:
        self._sort_new(now)
        while self._future and self._future[0][0] <= now:
            task = heappop(self._future)[2]
            if self._is_live(task):
                self._delayed.discard(task.task_id)
                self._let_go(task)

    def _delay(self, task: Task) -> None:
        if not self._future or task.run_at < self._future[0][0]:
            self._sooner()
        self._delayed.add(task.task_id)
        heappush(self._future, (task.run_at, next(_numbers), task))

    def _let_go(self, task: Task) -> None:
        if task.run_at > self._latest:
            self._latest = task.run_at
        if task.expires_at is not None:
            self._soonest = min(self._soonest, task.expires_at)
        order = (task.priority, task.run_at, task.seq)  # `claim_order`, whose call would cost as much again
        if not self._queue or self._last <= order:
            self._queue.append(task)
            self._last = order
        else:
            heappush(self._between, (order, next(_numbers), task))

    def count(self, now: int) -> int:
        """Count what could be claimed at ``now``."""
        self._release(now)
        # Threads read the clock before they take the lock: such a look may be a little older than the last one.
        if self._latest - LATE_LOOK <= now < self._soonest:
            return self._size - len(self._delayed)
        return len(self.ready(now))

    def ready(self, now: int) -> list[Task]:
        """Return all that could be claimed at ``now``."""
        self._release(now)
        for task in self._released():
            if _expiry(task) <= now:
                self._expire(task)
        released = self._released()
        self._latest = max((task.run_at for task in released), default=0)
        self._soonest = min((_expiry(task) for task in released), default=INT64)
        return [task for task in released if task.run_at <= now]

    def _expire(self, task: Task) -> None:
        self._size -= 1
        self._expired.add(task.task_id)

    def first(self) -> Task | None:
        """Return the first of those that are due as far as is known; it may have expired."""
        if self._new:
            self._sort_new()
        while self._queue or self._between:
            task = self._between[0][2] if self._is_between() else self._queue[0]
            if self._is_live(task):
                return task
            self._pop()
        return None

    def head(self, now: int) -> Task | None:
        """Return the first in claim order at ``now``, or None."""
        if self._new or self._future:
            self._release(now)
        while (task := self.first()) is not None:
            if _expiry(task) <= now:
                self._expire(task)
            elif task.run_at <= now:
                return task
            else:  # the clock was set back
                self._delay(task)
            self._pop()
        return None

    def take(self, now: int, limit: int) -> Iterator[Task]:
        """Give up to ``limit`` tasks in claim order; each has another row under its id when the next is asked for."""
        if self._new or self._future:
            self._release(now)
        if self._latest <= now < self._soonest and not (self._between or self._expired):  # all is due, in this order
            while self._queue and limit:
                task = self._queue.popleft()
                if self._rows.get(task.task_id) is task:
                    self._size -= 1
                    limit -= 1
                    yield task
        while limit and self.head(now) is not None:
            limit -= 1
            yield self.pop()

    def next_at(self, now: int) -> int | None:
        """Return ``now`` if a task is ready, else when the first will be, or None."""
        if self.head(now) is not None:
            return now
        while (task := self._first_delayed()) is not None:
            if now < _expiry(task):
                return task.run_at
            self._expire(task)
            self._delayed.discard(task.task_id)
            heappop(self._future)
        return None

    def _first_delayed(self) -> Task | None:
        while self._future and not self._is_live(self._future[0][2]):
            heappop(self._future)
        return self._future[0][2] if self._future else None


def first_of(lanes: Sequence[Lane], now: int | None = None) -> Lane | None:
    """Return the lane whose head at ``now`` comes first in claim order, or None where all are empty.

    Without ``now`` it is that of those that are due as far as is known.
    """
    firsts = [lane.first() if now is None else lane.head(now) for lane in lanes]
    heads = [(claim_order(first), number) for number, first in enumerate(firsts) if first is not None]
    return lanes[min(heads)[1]] if heads else None


def _expiry(task: Task) -> int:
    return INT64 if task.expires_at is None else task.expires_at
