"""Claimed tasks that wait for a free slot of a worker. Only the fetcher changes a buffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from aiotaskq.core.task import Task


class Buffer(deque[Task]):
    """Tasks in the order in which they were claimed."""

    moved = 0
    """The clock's ticks when a task last came into the empty buffer, or a slot became free."""

    def take(self, which: Callable[[Task], bool] = lambda _task: True) -> list[Task]:
        """Take out the tasks for which ``which`` is true."""
        taken = [task for task in self if which(task)]
        if taken:
            kept = [task for task in self if not which(task)]
            self.clear()
            self.extend(kept)
        return taken

    def take_last(self, keep: int) -> list[Task]:
        """Take out all but the first ``keep`` tasks."""
        return [self.pop() for _ in range(len(self) - keep)][::-1]

    def waited(self, ticks: int) -> int:
        """Return for how many ticks tasks have waited while no slot became free."""
        return ticks - self.moved if self else 0
