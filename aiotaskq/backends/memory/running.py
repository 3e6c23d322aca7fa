"""The running tasks of the memory backend."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.task import RUNNING, Task


class Running(dict[str, None]):
    """The ids of the running tasks, in the order of their claims; used under the backend's lock."""

    def __init__(self, rows: dict[str, Task]) -> None:
        super().__init__()
        self._rows = rows

    def edit(self, task_id: str, fence: int | None, **changes: Any) -> bool:
        """Change a running task; return False if it does not run, or under another fence than one that is given."""
        task = self._rows.get(task_id)
        if task is None or task.status is not RUNNING or fence not in (task.fence, None):
            return False
        self._rows[task_id] = task.replace(**changes)
        return True
