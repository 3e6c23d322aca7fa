"""What runs here, by context variables: the task, the batch, the step; and the ids of what is pushed inside of a step.

Those are made from the step, so that a repeated step pushes the same tasks.
"""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from typing import Any

_NAMESPACE = uuid.UUID("6e0c3f4e-5d0b-4c86-9f0e-0d6f3c0c7a51")


class Scope:
    """A step that runs, until it is ``over``: a coroutine that it has started keeps its context variables."""

    over = False

    def __init__(self, task_id: str, seq: int, name: str, number: int) -> None:
        self.task_id, self.name = task_id, name
        self._key = f"{task_id}\0{seq}\0{name}\0{number}\0"
        self._pushed: dict[str, int] = {}

    def next_id(self, type: str) -> str:
        """Return the id of a task that is pushed: those of a type are counted in their order.

        Not made from the params: a repeated step may push with another time, or another random number.
        """
        number = self._pushed[type] = self._pushed.get(type, 0) + 1
        return str(uuid.uuid5(_NAMESPACE, f"{self._key}{type}\0{number}"))


current: ContextVar[Any] = ContextVar("aiotaskq_task", default=None)
"""The TaskContext of the task whose handler runs here, or None."""
batch: ContextVar[Any] = ContextVar("aiotaskq_batch", default=None)
"""The contexts of the tasks whose items a handler with ``batch`` has, or None."""
apart: ContextVar[bool] = ContextVar("aiotaskq_apart", default=False)
"""Whether a handler runs here in a child process, apart from its task."""
inside: ContextVar[Scope | None] = ContextVar("aiotaskq_step", default=None)
"""The step that runs here."""


def child_id(type: str) -> str | None:
    """Return the id of a task of this type, or of a group (no type), that is pushed here; None outside of a step."""
    scope = inside.get()
    return None if scope is None or scope.over else scope.next_id(type)
