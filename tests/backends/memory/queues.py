"""Queues that the tests of the shared queue run on."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

from aiotaskq.backends.memory.ready_queue import TaskQueue
from aiotaskq.core.task import Task


class Items(TaskQueue):
    """The memory queue, for items that are anything: each is carried by a task of the same priority."""

    def __init__(self, maxsize: int = 0) -> None:
        self._ids = itertools.count()
        super().__init__(maxsize)

    def _put(self, item: Any) -> None:
        number = next(self._ids)
        task = Task(task_id=str(number), type="item", params={"item": item}, seq=number, priority=self.priority(item))
        super()._put(task)

    def priority(self, item: Any) -> int:
        return 0

    def _get(self) -> Any:
        return super()._get().params["item"]


def in_thread(function: Any, *args: Any) -> None:
    """Run it in a thread while this one, and its loop, stand still."""
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


async def settled(rounds: int = 10) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0)
