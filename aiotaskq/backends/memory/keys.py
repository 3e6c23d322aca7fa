"""The unique and idempotency keys of the memory backend."""

from __future__ import annotations

from aiotaskq.core.task import Task


class Keys:
    """An index from keys to task ids."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, task: Task) -> None:
        """Index the keys of a task; a unique key only until the task has ended."""
        for key in _keys_of(task):
            self._ids[key] = task.task_id

    def remove(self, task: Task) -> None:
        """Remove the keys of a task."""
        for key in _keys_of(task):
            self._ids.pop(key, None)

    def holder(self, task: Task) -> str | None:
        """Return the id of another task that has one of the keys of this one, or None."""
        for key in _keys_of(task):
            if self._ids.get(key, task.task_id) != task.task_id:
                return self._ids[key]
        return None


def _keys_of(task: Task) -> list[tuple[str, str]]:
    if task.unique_key is task.idempotency_key is None:
        return []
    keys = [] if task.idempotency_key is None else [("idempotency", task.idempotency_key)]
    return keys if task.unique_key is None or task.final else [*keys, ("unique", task.unique_key)]
