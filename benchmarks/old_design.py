"""The design that aiotaskq replaced, for comparison: worker threads on a heap under one lock, values in a dict.

Written anew after its usage guide: ids from ``uuid4``, a ``queue.PriorityQueue``, a store under an ``RLock`` with a
clean-up by hand. What it could not do (keep a task through a crash, retry, time out, delay) costs nothing here.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

Task = dict[str, Any]


class ThreadQueue:
    """Tasks on a heap, or in another queue of the standard library, taken by threads."""

    def __init__(self, tasks: queue.Queue[tuple[int, int, Task]] | None = None) -> None:
        self._tasks = queue.PriorityQueue() if tasks is None else tasks
        self._numbers = itertools.count()  # the original's heap raised on equal priorities: dicts have no order

    def push_task(self, task: Task, priority: int = 0) -> str:
        """Add a task; return its id."""
        task_id = str(uuid.uuid4())
        whole = {"task_id": task_id, "priority": priority, "created_at": time.time(), "retry_count": 0, **task}
        self._tasks.put((priority, next(self._numbers), whole))
        return task_id

    def pop_task(self, timeout: float | None = None) -> Task | None:
        """Take the next task, or None when the time is over."""
        try:
            return self._tasks.get(timeout=timeout)[2]
        except queue.Empty:
            return None

    def task_done(self) -> None:
        """Say that a popped task is finished."""
        self._tasks.task_done()

    def join(self) -> None:
        """Wait until every task is finished."""
        self._tasks.join()

    def is_empty(self) -> bool:
        """Return whether nothing is left to be popped."""
        return self._tasks.empty()


class ThreadStore:
    """Values with a time to live in a dict under one lock."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[Any, float | None]] = {}
        self._lock = threading.RLock()

    def set_public(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Store a value."""
        with self._lock:
            self._values[key] = (value, None if ttl is None else time.time() + ttl)

    def get_public(self, key: str) -> Any:
        """Return the value, or None."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            if found[1] is not None and found[1] < time.time():
                del self._values[key]
                return None
            return found[0]


class Workers:
    """Threads that pop tasks and look their handlers up by type, until they are stopped."""

    def __init__(self, tasks: ThreadQueue, handlers: dict[str, Callable[..., Any]], count: int) -> None:
        self._tasks = tasks
        self._handlers = handlers
        self._stopped = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._stopped:
            task = self._tasks.pop_task(timeout=0.1)
            if task is not None:
                self._handlers[task["type"]](**task["params"])
                self._tasks.task_done()

    def stop(self) -> None:
        """Stop the threads after their running tasks."""
        self._stopped = True
        for thread in self._threads:
            thread.join()
