"""The running tasks of the memory backend."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from aiotaskq.core.task import RUNNING, SECOND, Task, of_objects


class Running(dict[str, None]):
    """The ids of the running tasks, in the order of their claims; used under the backend's lock."""

    def __init__(self, rows: dict[str, Task], objects: bool) -> None:
        super().__init__()
        self._rows, self._objects = rows, objects

    def start(self, task: Task, owner: str, now: int, end: int | None) -> Task:
        """Make a task running, with a lease until ``end``."""
        task = of_objects(task) if self._objects else task  # its result may be one
        at, fence = now // SECOND, task.fence + 1
        self._rows[task.task_id] = after = replace(
            task, status=RUNNING, started_at=at, began_at=now, fence=fence, lease_owner=owner, lease_until=end
        )
        self[task.task_id] = None
        return after

    def edit(self, task_id: str, fence: int | None, **changes: Any) -> bool:
        """Change a running task; return False if it does not run, or under another fence than one that is given."""
        task = self._rows.get(task_id)
        if task is None or task.status is not RUNNING or fence not in (task.fence, None):
            return False
        self._rows[task_id] = task.replace(**changes)
        return True
