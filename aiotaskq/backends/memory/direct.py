"""What is done to each task in memory: one call under the lock, with as few others as that takes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from aiotaskq.backends.base import Change
from aiotaskq.backends.direct import DirectBackend
from aiotaskq.backends.listeners import ENDED, READY
from aiotaskq.backends.memory.ended import Ended
from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.memory.ready_queue import TaskQueue
from aiotaskq.core.task import COMPLETED, RUNNING, Task
from aiotaskq.errors import LeaseLost


class DirectMemory(DirectBackend):
    """The commonest case of a push, and of an end followed by a claim; any other is left to the backend."""

    queue: TaskQueue
    _lock: BriefLock
    _tasks: dict[str, Task]
    _running: dict[str, None]
    _ended: Ended

    @abstractmethod
    def _insert(self, task: Task) -> Task: ...

    @abstractmethod
    def _update(self, changes: Sequence[Change]) -> list[bool]: ...

    @abstractmethod
    def _start(self, task: Task, owner: str | None = None, now: int | None = None) -> Task: ...

    def insert(self, task: Task) -> Task:
        lock = self._lock
        if not lock.acquire(False):
            lock.wait()
        try:
            if lock.intake:
                lock.take_in()
            stored = self._insert(task)
        finally:
            lock.release()
        if READY in self.listeners.by_kind:
            self.listeners.notify(READY)
        return stored

    def step(
        self,
        owner: str,
        now: int,
        queues: Sequence[str] | None = None,
        before: Task | None = None,
        after: Task | None = None,
    ) -> Task | None:
        changes: list[Change] = []  # other than the commonest one
        lock = self._lock
        if not lock.acquire(False):
            lock.wait()
        try:
            if lock.intake:
                lock.take_in()
            if before is not None and after is not None:
                usual = before.status is RUNNING and before.unique_key is before.idempotency_key is None
                if usual and after.status is COMPLETED and self._tasks.get(before.task_id) is before:
                    del self._running[before.task_id]
                    self._tasks[before.task_id] = after
                    self._ended.add(after)
                    self.queue.end(before)
                else:
                    changes.append(Change(before, after))
                    if not self._update(changes)[0]:
                        raise LeaseLost(f"task {before.task_id} has changed since it was read")
            task = None if queues == () else self.queue.take_one(now, queues)
            if task is not None:
                task = self._start(task, owner, now)
        finally:
            lock.release()
        if changes:
            self.notify_updated(changes, [True])
        elif after is not None and ENDED in self.listeners.by_kind:
            self.listeners.notify(ENDED, [after.task_id])
        if self._ended.unlogged:
            self._ended.log_dropped()
        return task
