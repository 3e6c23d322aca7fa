"""The ended tasks of the memory backend: it keeps the latest dead letters, and the latest others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

from aiotaskq.backends.memory.keys import Keys
from aiotaskq.core.task import FAILED, Task
from aiotaskq.log import log, named


class Ended:
    """The ids of ended tasks, in the order in which they ended; used under the backend's lock, except ``log_dropped``.

    Dead letters and other tasks have a bound each, so that completed tasks never drop a dead letter.
    """

    def __init__(self, keep: int, rows: dict[str, Task], keys: Keys, lock: AbstractContextManager[Any]) -> None:
        """Make an empty index of the ended tasks among these rows, which are by id; ``keep`` bounds each kind."""
        self._keep = keep
        self._rows = rows
        self._keys = keys
        self._lock = lock
        # Not plain dicts: removing the first key of a dict gets slower with the number of keys removed before.
        self._dead_letters: OrderedDict[str, None] = OrderedDict()
        self._others: OrderedDict[str, None] = OrderedDict()
        self._dropping: set[bool] = set()  # the kinds of which a task was dropped; True is dead letters
        self.unlogged: list[Task] = []
        """The first task of each kind that was dropped, until ``log_dropped``."""

    def __iter__(self) -> Iterator[str]:
        return chain(self._dead_letters, self._others)

    def add(self, task: Task) -> None:
        """Add a task that has ended; drop the oldest of its kind if there are too many."""
        ids = self._dead_letters if task.status is FAILED else self._others
        ids[task.task_id] = None
        if len(ids) > self._keep:
            dropped = self._rows.pop(ids.popitem(last=False)[0])
            if dropped.unique_key is not None or dropped.idempotency_key is not None:
                self._keys.remove(dropped)
            if (dead := ids is self._dead_letters) not in self._dropping:
                self._dropping.add(dead)
                self.unlogged.append(dropped)

    def remove(self, task: Task) -> None:
        """Remove a task that runs again, or was deleted."""
        del (self._dead_letters if task.status is FAILED else self._others)[task.task_id]

    def log_dropped(self) -> None:
        """Log the first task of a kind that was dropped; called without the lock, since writing a log can block."""
        if not self.unlogged:
            return
        with self._lock:
            unlogged, self.unlogged = self.unlogged, []
        for task in unlogged:
            if task.status is FAILED:
                log.warning(
                    "memory:// dropped its first dead letter, {}: it keeps the latest {} of them, and drops older ones "
                    "from now on; retry or purge dead letters, or raise keep_ended",
                    named(task),
                    self._keep,
                )
            else:
                log.info(
                    "memory:// keeps the latest {} ended tasks (keep_ended), and drops older ones from now on; "
                    "dead letters are kept apart",
                    self._keep,
                )
