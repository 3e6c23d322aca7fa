"""The verbs of a store that never waits: plain functions for each task, without coroutines and lists."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from aiotaskq.backends.base import Backend
from aiotaskq.core.task import Task


class DirectBackend(Backend):
    """A store whose methods never suspend, and which any thread may call; there is nothing to open."""

    suspends: ClassVar[bool] = False
    objects: bool = False
    """Whether params and results may be any Python objects, and not only JSON values."""
    enqueue: Callable[[Task], None]
    """Pushes a task with a new id and no other key; in the main thread without a lock."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    @abstractmethod
    def insert(self, task: Task) -> Task:
        """Do as ``push`` with one pending task."""

    @abstractmethod
    def step(
        self,
        owner: str,
        now: int,
        queues: Sequence[str] | None = None,
        before: Task | None = None,
        after: Task | None = None,
    ) -> Task | None:
        """Do as ``exchange`` with one change, or none, and a limit of one; return the claimed task, or None.

        Empty ``queues`` claim nothing. The claimed task has no lease. Raises LeaseLost, and does nothing, if the guard
        of the change does not hold.
        """


def holds_objects(backend: Backend) -> bool:
    """Whether params and results may be any Python objects."""
    return isinstance(backend, DirectBackend) and backend.objects
