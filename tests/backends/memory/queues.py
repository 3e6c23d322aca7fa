"""The queue that CPython's tests of asyncio.Queue run on, and what tests of several threads need."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

from aiotaskq.backends.memory.lock import BriefLock
from aiotaskq.backends.memory.ready_queue import Queues, TaskQueue
from aiotaskq.concurrency.shared_waits import in_steps
from aiotaskq.core.task import Task


class Items(TaskQueue):
    """The memory queue, for items that are anything: each is carried by a task of the same priority."""

    def __init__(self, maxsize: int = 0) -> None:
        self._ids = itertools.count()
        self._tasks: dict[str, Task] = {}
        super().__init__(Queues(self._tasks, BriefLock()), maxsize)

    def _put(self, item: Any) -> None:
        number = next(self._ids)
        task = Task(task_id=str(number), type="item", params={"item": item}, seq=number, priority=self.priority(item))
        self._tasks[task.task_id] = task
        super()._put(task)

    def priority(self, item: Any) -> int:
        return 0

    def _get(self) -> Any:
        return self._tasks.pop(super()._get().task_id).params["item"]


class SharedItems(Items):
    """These items for threads and loops: each method runs under the lock, as the backend calls it."""

    @property
    def lock(self) -> BriefLock:
        return self._queues.lock

    async def put(self, item: Any) -> None:
        await in_steps(super().put(item), self.lock)

    async def get(self) -> Any:
        return await in_steps(super().get(), self.lock)

    async def join(self) -> None:
        await in_steps(super().join(), self.lock)

    def put_nowait(self, item: Any) -> None:
        with self.lock:
            super().put_nowait(item)

    def get_nowait(self) -> Any:
        with self.lock:
            return super().get_nowait()

    def task_done(self) -> None:
        with self.lock:
            super().task_done()


def in_thread(function: Any, *args: Any) -> None:
    """Run it in a thread while this one, and its loop, stand still."""
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


async def settled(rounds: int = 10) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0)
