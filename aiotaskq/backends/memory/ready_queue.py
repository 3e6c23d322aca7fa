"""The queues of the memory backend: an asyncio.Queue for each named queue, and the consumers that wait for tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary, ref

from aiotaskq.backends.memory.lane import Lane
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.concurrency.loop_bound import after_fork, running_loop
from aiotaskq.concurrency.shared_waits import in_steps, wake
from aiotaskq.concurrency.uninterrupted import uninterrupted
from aiotaskq.core.status import PENDING, RUNNING
from aiotaskq.core.task import Task, claim_order

_all: WeakValueDictionary[int, Queues] = WeakValueDictionary()  # by id()


class TaskQueue(Lane, asyncio.Queue[Task]):
    """The pending tasks of one named queue: as an asyncio.Queue, those that are released.

    It reads no clock: a delayed task is put when ``advance`` is told a time at which it is due. A task is done when it
    has ended, whether or not it was got. asyncio.Queue assumes that nothing else runs between two of its awaits; the
    lock of ``queues`` makes that true: every method is called under it, and a coroutine is awaited ``in_steps``.
    """

    _getters: deque[asyncio.Future[Any]]
    _putters: deque[asyncio.Future[Any]]
    _unfinished_tasks: int

    def __init__(self, queues: Queues, maxsize: int = 0) -> None:
        """Make one of these queues. ``maxsize`` is 0 in a backend: the bound of all queues is not a rule of one."""
        self._queues, self._line = queues, queues.line
        asyncio.Queue.__init__(self, maxsize)
        self._finished = _Finished()
        self._finished.set()

    def _init(self, maxsize: int) -> None:
        Lane.__init__(self, self._queues.rows, self._queues.call)

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

    def add(self, task: Task) -> None:
        if task.expires_at is None and task.run_at <= task.seq:
            self.put_nowait(task)
        else:
            self.count_unfinished()
            super().add(task)

    def replace(self, before: Task, after: Task) -> None:
        """Take note that a pending task has become another one."""
        self.discard(before)
        self.add(after)
        self.task_done()

    def count_unfinished(self) -> None:
        """Count a task as unfinished before it is put."""
        self._unfinished_tasks += 1
        self._finished.clear()

    def release(self, task: Task) -> None:
        self.put_nowait(task)
        self.task_done()  # it was counted before


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
