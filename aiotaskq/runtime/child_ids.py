"""The ids of tasks that are pushed inside of a step: made from the step, so that a repeated step pushes them once."""

from __future__ import annotations

import contextvars
import hashlib
import uuid
from typing import Any

import msgspec

_NAMESPACE = uuid.UUID("6e0c3f4e-5d0b-4c86-9f0e-0d6f3c0c7a51")


class Scope:
    """A step that runs."""

    def __init__(self, task_id: str, seq: int, name: str, number: int) -> None:
        self.task_id, self.name = task_id, name
        self._key = f"{task_id}\0{seq}\0{name}\0{number}\0".encode()
        self._pushed: dict[bytes, int] = {}

    def next_id(self, type: str, params: Any) -> str:
        """Return the id of a task that is pushed: the same calls are counted, and others tell themselves apart.

        So pushes that run side by side may come in another order when the step is repeated.
        """
        try:
            what = msgspec.json.encode([type, params], order="deterministic")
        except (TypeError, ValueError, OverflowError, RecursionError):  # objects in memory, or what the push refuses
            what = msgspec.json.encode([type])
        number = self._pushed[what] = self._pushed.get(what, 0) + 1
        digest = hashlib.sha256(self._key + what).hexdigest()
        return str(uuid.uuid5(_NAMESPACE, f"{digest}{number}"))


class _Scopes:
    """How many steps run in this process: a push looks for its step only where there are some."""

    open = 0


inside: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("aiotaskq_step", default=None)
"""The step that runs here."""
scopes = _Scopes()


def child_id(type: str, params: Any) -> str | None:
    """Return the id of a task, or of a group with a description of it, that is pushed here; None outside of a step."""
    scope = inside.get()
    return None if scope is None else scope.next_id(type, params)
