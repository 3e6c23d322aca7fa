"""The queues of the memory backend: an asyncio.Queue for each named queue, and the consumers that wait for tasks."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any
from weakref import WeakValueDictionary, ref

from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.concurrency.loop_bound import after_fork, running_loop
from aiotaskq.concurrency.shared_waits import in_steps, wake
from aiotaskq.concurrency.uninterrupted import uninterrupted
from aiotaskq.core.gate import PARKED
from aiotaskq.core.status import PENDING, RUNNING
from aiotaskq.core.task import Task, claim_order

Order = tuple[int, int, int]
Entry = tuple[Order, int, Task]
"""Claim order, a number that only this entry has (so that tasks are never compared), and the task."""
Timed = tuple[int, int, Task]
"""An instant in microseconds, such a number, and the task."""

CLOCK_LAG = 1_000_000  # microseconds: threads read the clock before they wait for the lock

_numbers = itertools.count()
_all: WeakValueDictionary[int, Queues] = WeakValueDictionary()  # by id()


class TaskQueue(asyncio.Queue[Task]):
    """The pending tasks of one named queue, in claim order: as an asyncio.Queue, those that are released.

    A task is *released* when it is due as far as is known, and *delayed* before that. It reads no clock: a delayed task
    is put when ``advance`` is told a time at which it is due. A task whose entry comes up and that is no longer the row
    under its id was removed: the entry is dropped.

    A task is done when it has ended, whether or not it was got. asyncio.Queue assumes that nothing else runs between
    two of its awaits; the lock of ``queues`` makes that true: every method is called under it, and a coroutine is
    awaited ``in_steps``.
    """

    _getters: deque[asyncio.Future[Any]]
    _putters: deque[asyncio.Future[Any]]
    _unfinished_tasks: int

    def __init__(self, queues: Queues, maxsize: int = 0) -> None:
        """Make one of these queues. ``maxsize`` is 0 in a backend: the bound of all queues is not a rule of one."""
        self._queues, self._line, self._rows = queues, queues.line, queues.rows
        asyncio.Queue.__init__(self, maxsize)
        self._finished = _Finished()
        self._finished.set()

    def _init(self, maxsize: int) -> None:
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

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return running_loop()  # asyncio.Queue would keep the first one

    def _wakeup_next(self, waiters: deque[asyncio.Future[Any]]) -> None:
        while waiters:
            if wake(waiters.popleft(), self._pass_on):
                return
        if self._line and waiters is self._getters:
            self._queues.wake_next()

    def _pass_on(self) -> None:
        """Wake the next waiter for what the one that was woken cannot use any more."""
        with self._queues.lock:
            if not self.empty():
                self._wakeup_next(self._getters)
            if not self.full():
                self._wakeup_next(self._putters)

    def forget(self) -> None:
        """Drop all waiters."""
        self._getters.clear()
        self._putters.clear()

    def pending(self) -> int:
        """Return how many tasks are pending: due, delayed, parked or expired."""
        return self._size + self._parked + len(self._delayed_ids) + len(self._expired_ids)

    def qsize(self) -> int:
        """Return how many tasks are released: what ``asyncio.Queue`` counts."""
        return self._size

    def entries(self) -> int:
        """Return how many entries there are, those of removed tasks included."""
        return len(self._in_order) + len(self._out_of_order) + len(self.delayed) + len(self.expiring)

    def add(self, task: Task) -> None:
        """Add a task, released if it was due by its push stamp, which is the time of the push."""
        if task.expires_at is not None:
            heappush(self.expiring, (task.expires_at, next(_numbers), task))
        if task.run_at <= task.seq:
            self.put_nowait(task)
            return
        self.count_unfinished()
        if task.run_at == PARKED:
            self._parked += 1
        else:
            self.delay(task)

    def count_unfinished(self) -> None:
        """Count a task as unfinished before it is put."""
        self._unfinished_tasks += 1
        self._finished.clear()

    def replace(self, before: Task, after: Task) -> None:
        """Take note that a parked task has become another one."""
        self._uncount(before)
        self._unfinished_tasks -= 1  # ``add`` counts it again
        self.add(after)

    def delay(self, task: Task) -> None:
        """Keep a task until ``advance`` finds it due."""
        if not self.delayed or task.run_at < self.delayed[0][0]:
            self._queues.call()
        self._delayed_ids.add(task.task_id)
        heappush(self.delayed, (task.run_at, next(_numbers), task))

    def discard(self, task: Task) -> None:
        """Take note that a task is no longer among the rows."""
        self._uncount(task)
        if task.run_at != PARKED and self.entries() > 1000 + 3 * self.pending():
            self._drop_removed()

    def _uncount(self, task: Task) -> None:
        if task.task_id in self._expired_ids:
            self._expired_ids.remove(task.task_id)
        elif task.run_at == PARKED:
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
                self.put_nowait(task)
                self.task_done()  # it was counted before
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


class _Finished(asyncio.Event):
    """The event that ``join`` waits for; it wakes each waiter in its own loop."""

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        return running_loop()

    def set(self) -> None:
        self._value = True
        for waiter in tuple(self._waiters):
            wake(waiter)


class Queues(dict[str, TaskQueue]):
    """The queues of a backend by name, and the consumers that wait for tasks of any of them; used under the ``lock``.

    A lookup with ``[]`` makes a missing queue.
    """

    def __init__(self, rows: Mapping[str, Task], lock: BriefLock) -> None:
        """Make the queues of the pending tasks among these rows, which are by id."""
        super().__init__()
        self.rows, self.lock = rows, lock
        self.paused: set[str] = set()
        """The names of the queues that are paused."""
        self.unpaused: list[TaskQueue] = []
        """The queues that are not paused."""
        self.consumers: set[ref[Arrivals]] = set()  # each push from a thread asks whether it is empty
        """Every consumer that is not closed."""
        self.line: dict[Arrivals, None] = {}
        """The consumers that wait, the longest wait first."""
        _all[id(self)] = self

    def __missing__(self, name: str) -> TaskQueue:
        queue = self[name] = TaskQueue(self)
        self._find_unpaused()
        return queue

    def _find_unpaused(self) -> None:
        self.unpaused = self.open(tuple(self))

    def enqueue(self, task: Task) -> None:
        """Enter a task that has a new id and no other key; the main thread takes no lock.

        The next holder of the lock finds it among the rows.
        """
        try:
            self.lock.intake.append(task)
        finally:  # also if a signal handler raises here
            if self.consumers:
                uninterrupted(self._take_in)

    def _take_in(self) -> None:
        with self.lock:
            pass  # the task is entered, which wakes a consumer

    def open(self, names: Sequence[str] | None = None) -> list[TaskQueue]:
        """Return the queues of these names, or all, without the paused ones."""
        if names is None:
            return self.unpaused
        return [self[name] for name in names if name in self and name not in self.paused]

    def has(self, names: Sequence[str] | None = None) -> bool:
        """Return whether there is a task to get in these queues, or in any."""
        for queue in self.open(names):  # noqa: SIM110 - a generator would take twice as long
            if not queue.empty():
                return True
        return False

    def take(self, now: int, limit: int, names: Sequence[str] | None) -> Iterator[Task]:
        """Yield up to ``limit`` tasks, as ``take_one`` does; the caller replaces each row before the next."""
        while limit and (task := self.take_one(now, names)) is not None:
            limit -= 1
            yield task

    def take_one(self, now: int, names: Sequence[str] | None) -> Task | None:
        """Get the first task of these queues, or of all, that is due at ``now``; the caller replaces its row."""
        queues = self.unpaused if names is None else self.open(names)
        for queue in queues:
            if queue.delayed or queue.expiring:
                queue.advance(now)
        while queues:
            queue = queues[0] if len(queues) == 1 else first_of(queues)
            try:
                task = queue.get_nowait()
            except asyncio.QueueEmpty:
                break
            if task.run_at <= now:
                return task
            queue.delay(task)  # the clock was set back
        return None

    def done(self, row: Task) -> None:
        """Count a row that was replaced or deleted as done, unless it had ended before."""
        if row.status is PENDING or row.status is RUNNING:
            self[row.queue].task_done()

    def pause(self, name: str, paused: bool) -> None:
        """Exclude a queue, or include it again."""
        with self.lock:
            (self.paused.add if paused else self.paused.discard)(name)
            self._find_unpaused()
            if not paused:
                self.call()

    def call(self) -> None:
        """Let every consumer look for tasks."""
        for each in list(self.consumers):
            if (consumer := each()) is not None:
                consumer()

    def wake_next(self) -> None:
        """Wake the first consumer in line for which there is a task."""
        for consumer in self.line:
            if not consumer.empty():
                break
        else:
            return
        if not consumer.wake():
            self.wake_next()

    def pass_on(self) -> None:
        """Wake the next consumer for a task that the one that was woken for it does not take."""
        with self.lock:
            self.wake_next()

    def forget(self) -> None:
        """Drop all waiters, in a forked child: those of the parent's loops would be woken instead of the child's."""
        self.line.clear()
        for queue in self.values():
            queue.forget()


def first_of(queues: Sequence[TaskQueue]) -> TaskQueue:
    """Return the queue whose first released task comes first in claim order; any, where none has one."""
    firsts = [(claim_order(first), number) for number, queue in enumerate(queues) if (first := queue.first())]
    return queues[min(firsts)[1] if firsts else 0]


class Arrivals(asyncio.Queue[None]):
    """One consumer of the queues, as an asyncio.Queue that is empty until the consumer should look for tasks.

    Its ``get`` takes nothing: a claim takes the task, since it passes owner, lease and time, which ``get`` does not.
    """

    _getters: deque[asyncio.Future[None]]

    def __init__(self, queues: Queues, names: Sequence[str] | None) -> None:
        """Make a consumer of the queues of these names, or of all, in the running loop."""
        running_loop()
        super().__init__()
        self._queues, self._names = queues, names
        self.asked = False
        """Whether the consumer was called since it was cleared."""
        self.wanted = True
        """Whether the consumer can take tasks; otherwise only a call wakes it."""
        self._entry = ref(self, queues.consumers.discard)
        with queues.lock:
            queues.consumers.add(self._entry)

    def empty(self) -> bool:
        return not (self.asked or (self.wanted and self._queues.has(self._names)))

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        self._queues.line[self] = None  # `get` asks for the loop when it is about to wait
        return running_loop()

    def wake(self) -> bool:
        """End the wait of ``get``; return False if nothing waits there."""
        self._queues.line.pop(self, None)
        while self._getters:
            if wake(self._getters.popleft(), self._queues.pass_on):
                return True
        return False

    def get_nowait(self) -> None:
        return None

    def _wakeup_next(self, waiters: Any) -> None:
        self._queues.wake_next()

    def __call__(self) -> None:
        """Wake the consumer, from any thread."""
        if self.asked:
            return
        with self._queues.lock:
            self.asked = True
            self.wake()

    def clear(self) -> None:
        """Forget that the consumer was called: it is about to look."""
        self.asked = False

    def is_set(self) -> bool:
        """Return whether the consumer was called."""
        return self.asked

    async def wait(self) -> None:
        """Wait until there is a task, or until the consumer is called."""
        if not self.wanted:
            self._queues.pass_on()
        try:
            await in_steps(self.get(), self._queues.lock)
        finally:
            with self._queues.lock:
                self._queues.line.pop(self, None)

    def close(self) -> None:
        """Leave the queues, and wake another consumer for the tasks that are there."""
        self.wanted = False
        with self._queues.lock:
            self._queues.consumers.discard(self._entry)
            self._queues.wake_next()


@after_fork
def _forked() -> None:
    for queues in list(_all.values()):
        queues.forget()
