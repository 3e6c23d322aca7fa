"""The queue of the memory backend: an asyncio.Queue of pending tasks in claim order, and the waiting in it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import ref

from aiotaskq.backends.memory.lane import Lane, first_of
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.concurrency.running_loop import running_loop
from aiotaskq.concurrency.shared_queue import SharedQueue, in_steps
from aiotaskq.concurrency.uninterrupted import uninterrupted
from aiotaskq.core.task import PENDING, RUNNING, Task


class TaskQueue(SharedQueue[Task]):
    """The pending tasks among the ``rows`` of a backend, in claim order, with a lane for each named queue.

    As an asyncio.Queue it holds the tasks that are due and in no paused queue: ``qsize`` counts them and ``get`` waits
    for them. It reads no clock: a delayed task gets in when a claim, which passes the time, finds it due.
    """

    def __init__(
        self,
        maxsize: int = 0,
        *,
        rows: dict[str, Task] | None = None,
        lock: BriefLock | None = None,
        taken: Callable[[Task], Task] | None = None,
    ) -> None:
        """Make an empty queue. A backend passes its rows by id, its lock, and ``taken``.

        ``taken`` is called under the lock with each task that ``get`` takes: it replaces or removes the row of the
        task, and its value is what ``get`` returns.
        """
        self._rows: dict[str, Task] = {} if rows is None else rows
        self._taken = (lambda task: self._rows.pop(task.task_id)) if taken is None else taken
        self.lock = BriefLock() if lock is None else lock
        self.lock.enter = self.enter
        self.consumers: set[ref[Arrivals]] = set()  # each push from a thread asks whether it is empty
        """Every consumer of this queue that is not closed: its ``Arrivals``."""
        self.getting = 0
        """How many calls of ``get`` there are, whether or not they wait."""
        self.waiting: dict[Any, Arrivals] = {}
        """The consumers that wait, by their futures in the line of getters."""
        super().__init__(maxsize, lock=self.lock)
        self.getters = self._getters
        """The line of the futures that wait for a task."""

    # ---- as an asyncio.Queue ----

    def _init(self, maxsize: int) -> None:
        self.lanes: dict[str, Lane] = {}
        self.paused: set[str] = set()
        self._open: list[Lane] = []  # the lanes that are not paused

    def _put(self, item: Task) -> None:
        self._rows[item.task_id] = item
        lane = self.lanes.get(item.queue)
        if lane is None:
            lane = self.lanes[item.queue] = Lane(self._rows, self._wake_all)
            self._open = self.open(tuple(self.lanes))
        lane.put(item)

    def _get(self) -> Task:
        lane = first_of(self.open())
        assert lane is not None
        return self._taken(lane.pop())

    async def get(self) -> Task:
        with self.lock:
            self.getting += 1
        try:
            return await super().get()
        finally:
            with self.lock:
                self.getting -= 1

    def empty(self) -> bool:
        with self.lock:
            return not self.has()

    def qsize(self) -> int:
        with self.lock:
            return sum(lane.due() for lane in self.open())

    def _wakeup_next(self, waiters: deque[asyncio.Future[Any]]) -> None:
        if waiters is not self._getters:
            super()._wakeup_next(waiters)
        elif waiters:
            for waiter in tuple(waiters):  # a copy: a look may find a delayed task, and wake every consumer
                if not self.waiting.get(waiter, self).empty() and waiter in waiters:
                    waiters.remove(waiter)
                    if self.wake(waiter):
                        return

    def enqueue(self, task: Task) -> None:
        """Add a task that has a new id and no other key: from any thread, without the lock unless it is ``attended``.

        The next holder of the lock finds it among the rows.
        """
        try:
            self.lock.intake.append(task)
        finally:  # also if a signal handler raises here: a consumer may have come since the caller asked
            if self.attended():
                uninterrupted(self._take_in)

    def attended(self) -> bool:
        """Whether a consumer may wait for a task."""
        return bool(self.getting or self.consumers)

    def _take_in(self) -> None:
        with self.lock:
            pass  # the task is entered, which wakes a consumer

    # ---- for the backend, which holds the lock ----

    def enter(self, task: Task) -> None:
        """Do as ``put_nowait``."""
        self._put(task)
        if not self._unfinished_tasks:
            self._finished.clear()
        self._unfinished_tasks += 1
        if self._getters:
            self._wakeup_next(self._getters)

    def end(self, row: Task) -> None:
        """Count a row that was replaced or deleted as done, unless it had ended before."""
        if row.status is PENDING or row.status is RUNNING:
            self._unfinished_tasks -= 1
            if not self._unfinished_tasks:
                self._finished.set()

    def open(self, names: Sequence[str] | None = None) -> list[Lane]:
        """Return the lanes of these named queues, or of all, without the paused ones."""
        if names is None:
            return self._open
        return [self.lanes[name] for name in names if name in self.lanes and name not in self.paused]

    def take(self, now: int, limit: int, names: Sequence[str] | None) -> Iterator[Task]:
        """Yield up to ``limit`` tasks, as ``take_one`` does; the caller replaces each row before the next."""
        while limit and (task := self.take_one(now, names)) is not None:
            limit -= 1
            yield task

    def take_one(self, now: int, names: Sequence[str] | None) -> Task | None:
        """Take the first task in claim order, or return None; the caller replaces its row.

        The consumers that wait are woken for the tasks that are left.
        """
        lanes = self._open if names is None else self.open(names)
        lane = lanes[0] if len(lanes) == 1 else first_of(lanes, now)
        task = None if lane is None else lane.take_one(now)
        for waiter in self._getters:
            if (consumer := self.waiting.get(waiter)) is None or consumer.wanted:
                self.pass_on()
                break
        return task

    def has(self, names: Sequence[str] | None = None) -> bool:
        """Return whether there is a task to get in these named queues, or in any."""
        for lane in self.open(names):  # noqa: SIM110 - a generator would take twice as long
            if lane.first() is not None:
                return True
        return False

    def enter_running(self) -> None:
        """Count a task as unfinished that was inserted as running, so that it never was in the queue."""
        self._unfinished_tasks += 1
        self._finished.clear()

    def pause(self, name: str, paused: bool) -> None:
        """Exclude the lane of a named queue, or include it again."""
        with self.lock:
            (self.paused.add if paused else self.paused.discard)(name)
            self._open = self.open(tuple(self.lanes))
            if not paused:
                self._wake_all()
                self.pass_on()

    def _wake_all(self) -> None:
        for each in list(self.consumers):
            if (consumer := each()) is not None:
                consumer()


class Arrivals(asyncio.Queue[None]):
    """One consumer of a TaskQueue, as an asyncio.Queue that is empty until the consumer should look for tasks.

    Its ``get`` waits in the line of the TaskQueue's getters and takes nothing: a claim takes the task, since it passes
    owner, lease and time, which ``get`` does not.
    """

    def __init__(self, tasks: TaskQueue, names: Sequence[str] | None) -> None:
        """Make a consumer of these named queues, or of all, in the running loop."""
        self._running_loop = running_loop()
        super().__init__()
        self._tasks = tasks
        self._names = names
        self._getters = tasks.getters
        self._waiter: asyncio.Future[None] | None = None
        self.asked = False
        """Whether the consumer was called since it was cleared."""
        self.wanted = True
        """Whether the consumer can take tasks; otherwise only a call wakes it."""
        self._entry = ref(self, tasks.consumers.discard)
        with tasks.lock:
            tasks.consumers.add(self._entry)

    def empty(self) -> bool:
        return not (self.asked or (self.wanted and self._tasks.has(self._names)))

    def get_nowait(self) -> None:
        return None

    def _wakeup_next(self, waiters: Any) -> None:
        self._tasks.pass_on()

    def _get_loop(self) -> Any:
        return self  # asyncio.Queue.get() asks it for the future

    def create_future(self) -> asyncio.Future[None]:
        """Return the future that waits in the line of getters."""
        self._tasks.waiting.pop(self._waiter, None)  # the consumer was woken, but another one has taken the task
        self._waiter = waiter = self._running_loop.create_future()
        self._tasks.waiting[waiter] = self
        return waiter

    def __call__(self) -> None:
        """Wake the consumer, from any thread."""
        if self.asked:
            return
        with self._tasks.lock:
            self.asked = True
            if (waiter := self._waiter) is not None and waiter in self._getters:
                self._getters.remove(waiter)
                self._tasks.wake(waiter)

    def clear(self) -> None:
        """Forget that the consumer was called: it is about to look."""
        self.asked = False

    def is_set(self) -> bool:
        """Return whether the consumer was called."""
        return self.asked

    async def wait(self) -> None:
        """Wait until there is a task, or until the consumer is called."""
        if not self.wanted:
            self._tasks.pass_on()
        try:
            await in_steps(self.get(), self._tasks.lock)
        finally:
            self._tasks.waiting.pop(self._waiter, None)

    def close(self) -> None:
        """Leave the queue, and wake another consumer for the tasks that are there."""
        self.wanted = False
        with self._tasks.lock:
            self._tasks.consumers.discard(self._entry)
            self._tasks.pass_on()
