"""The queue of the memory backend: an asyncio.Queue of pending tasks, and those that wait in it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakSet

from aiotaskq.backends.memory.lane import Lane, first_of
from aiotaskq.concurrency.shared_queue import SharedQueue, in_steps
from aiotaskq.core.task import PENDING, RUNNING, Task


class TaskQueue(SharedQueue[Task]):
    """The pending tasks among the ``rows`` of a backend, in claim order, with a lane for each named queue.

    It holds what is due and in no paused queue: that is what ``qsize`` counts and ``get`` waits for. It reads no clock,
    so it does not know when a delayed task becomes due: a claim says what time it is, and lets those in that are due.
    """

    def __init__(
        self,
        maxsize: int = 0,
        *,
        rows: dict[str, Task] | None = None,
        lock: AbstractContextManager[Any] | None = None,
        taken: Callable[[Task], Task] | None = None,
    ) -> None:
        """Make an empty queue. A backend gives its rows by id, its reentrant lock, and ``taken``.

        That is called under the lock with each task that ``get`` takes; it puts another row under the id of the task,
        or none, and returns what ``get`` shall.
        """
        self._rows: dict[str, Task] = {} if rows is None else rows
        self._taken = (lambda task: self._rows.pop(task.task_id)) if taken is None else taken
        self.lock = threading.RLock() if lock is None else lock
        self.sleepers: WeakSet[Arrivals] = WeakSet()
        self.places: dict[Any, Arrivals] = {}  # by the future that waits
        super().__init__(maxsize, lock=self.lock)

    # ---- as an asyncio.Queue ----

    def _init(self, maxsize: int) -> None:
        self.lanes: dict[str, Lane] = {}
        self.paused: set[str] = set()
        self._open: list[Lane] = []  # those that are not paused

    def _put(self, item: Task) -> None:
        self._rows[item.task_id] = item
        lane = self.lanes.get(item.queue)
        if lane is None:
            lane = self.lanes[item.queue] = Lane(self._rows, self._look_again)
            self._open = self.open(tuple(self.lanes))
        lane.put(item)

    def _get(self) -> Task:
        lane = first_of(self.open())
        assert lane is not None
        return self._taken(lane.pop())

    def empty(self) -> bool:
        with self.lock:
            return not self.has()

    def qsize(self) -> int:
        with self.lock:
            return sum(lane.due() for lane in self.open())

    def _wakeup_next(self, waiters: deque[asyncio.Future[Any]]) -> None:
        if not waiters:  # as a rule
            return
        if waiters is not self._getters:
            super()._wakeup_next(waiters)
            return
        for waiter in tuple(waiters):  # a copy: to look for tasks may find a delayed one, and wake all
            if not self.places.get(waiter, self).empty() and waiter in waiters:
                waiters.remove(waiter)
                if self.wake(waiter):
                    return

    # ---- for the backend, which holds the lock ----

    enter = asyncio.Queue.put_nowait
    """``put_nowait`` without taking the lock again."""

    def end(self, row: Task) -> None:
        """Count a row that was replaced or deleted as done, if it was not done before."""
        if row.status is PENDING or row.status is RUNNING:
            asyncio.Queue.task_done(self)

    def open(self, names: Sequence[str] | None = None) -> list[Lane]:
        """Return the lanes of these named queues, or of all, without those that are paused."""
        if names is None:
            return self._open
        return [self.lanes[name] for name in names if name in self.lanes and name not in self.paused]

    def take(self, now: int, limit: int, names: Sequence[str] | None) -> Iterator[Task]:
        """Give up to ``limit`` tasks in claim order; each has another row under its id when the next is asked for.

        Those who wait are woken for what is left.
        """
        lanes = self.open(names)
        if len(lanes) == 1:  # as a rule
            yield from lanes[0].take(now, limit)
        else:
            while limit and (lane := first_of(lanes, now)) is not None:
                limit -= 1
                yield from lane.take(now, 1)
        if self._getters:
            self.pass_on()

    def has(self, names: Sequence[str] | None = None) -> bool:
        """Return whether there is a task to get in these named queues, or in any."""
        for lane in self.open(names):  # noqa: SIM110 - `any` would take twice as long
            if lane.first() is not None:
                return True
        return False

    def enter_running(self) -> None:
        """Count a task that was inserted as running: it is unfinished, and never was in the queue."""
        self._unfinished_tasks += 1
        self._finished.clear()

    def pause(self, name: str, paused: bool) -> None:
        """Leave the lane of a named queue out, or let it in again."""
        with self.lock:
            (self.paused.add if paused else self.paused.discard)(name)
            self._open = self.open(tuple(self.lanes))
            if not paused:
                self._look_again()
                self.pass_on()

    def _look_again(self) -> None:
        """Tell all who wait that something has changed which they may wait for."""
        for sleeper in list(self.sleepers):
            sleeper()


class Arrivals(asyncio.Queue[None]):
    """The place of one consumer among those who wait in a TaskQueue.

    Its ``get`` waits in the line of the TaskQueue's getters until there is a task in the consumer's queues, or until
    the consumer is called, and takes nothing. Taking is left to a claim: ``get`` has no owner, lease and time to give.
    """

    def __init__(self, tasks: TaskQueue, names: Sequence[str] | None) -> None:
        """Make a place for a consumer of these named queues, or of all, in the running loop."""
        self._running_loop = asyncio.get_running_loop()
        super().__init__()
        self._tasks = tasks
        self._names = names
        self._getters = tasks._getters
        self._waiter: asyncio.Future[None] | None = None
        self.asked = False
        """Whether it was called since it was cleared."""
        self.wanted = True
        """Whether the consumer can take tasks; without that it waits to be called."""
        with tasks.lock:
            tasks.sleepers.add(self)

    def empty(self) -> bool:
        # Asked comes last: a look at the tasks may find a delayed one, and ask.
        return not ((self.wanted and self._tasks.has(self._names)) or self.asked)

    def get_nowait(self) -> None:
        return None

    def _wakeup_next(self, waiters: Any) -> None:
        self._tasks._wakeup_next(waiters)

    def _get_loop(self) -> Any:
        return self  # to be asked for the future

    def create_future(self) -> asyncio.Future[None]:
        """Return the future that stands in the line of getters."""
        self._tasks.places.pop(self._waiter, None)  # it was woken, but another one has taken the task
        self._waiter = waiter = self._running_loop.create_future()
        self._tasks.places[waiter] = self
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
            self._tasks.places.pop(self._waiter, None)

    def close(self) -> None:
        """Leave; another one who waits is woken for what is there."""
        self.wanted = False
        with self._tasks.lock:
            self._tasks.sleepers.discard(self)
            self._tasks.pass_on()
