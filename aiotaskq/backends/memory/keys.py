"""The unique and idempotency keys of the memory backend: which task has which."""

from __future__ import annotations

from aiotaskq.core.task import Task


class Keys:
    """An index that costs a task without keys, as nearly all are, next to nothing."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], str] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, task: Task) -> None:
        """The task has its keys; a unique one only until it has ended. Who has none is not worth the call."""
        self._held.update((key, task.task_id) for key in _keys_of(task))

    def remove(self, task: Task) -> None:
        """The task has no keys any more."""
        if task.unique_key is not None or task.idempotency_key is not None:
            for key in _keys_of(task):
                self._held.pop(key, None)

    def holder(self, task: Task) -> str | None:
        """Return the id of another task that has one of the keys of this one."""
        if task.unique_key is task.idempotency_key is None:
            return None
        held = (self._held.get(key) for key in _keys_of(task))
        return next((task_id for task_id in held if task_id not in (None, task.task_id)), None)


def _keys_of(task: Task) -> list[tuple[str, str]]:
    keys = [] if task.idempotency_key is None else [("idempotency", task.idempotency_key)]
    return keys if task.unique_key is None or task.final else [*keys, ("unique", task.unique_key)]
