"""The running tasks of the memory backend, which are changed in place."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.task import Task


class Running(dict[str, None]):
    """The ids of running tasks; used under the backend's lock."""

    def __init__(self, rows: dict[str, Task]) -> None:
        """Make an empty index of the running tasks among these rows, which are by id."""
        super().__init__()
        self._rows = rows

    def edit(self, task_id: str, fence: int | None, **changes: Any) -> Task | None:
        """Change a running task if the fence is right, or None, and return it as it was; None if nothing was changed.

        The indexes of the backend must not depend on the fields that are changed.
        """
        task = self._rows.get(task_id) if task_id in self else None
        if task is None or fence not in (task.fence, None):
            return None
        self._rows[task_id] = task.replace(**changes)
        return task
