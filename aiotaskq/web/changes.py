"""Tasks and schedules, created and changed by request bodies of the operations API and by forms of the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.validation import check_json
from aiotaskq.errors import TaskConflict
from aiotaskq.log import printable
from aiotaskq.operations.fields import Count, Instant, Name, Seconds
from aiotaskq.runtime.queue.edits import TaskChanges
from aiotaskq.web.views import body_options

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ


class EditBody(Struct, forbid_unknown_fields=True):
    """Changes of a pending task; fields left out stay."""

    params: Annotated[dict[str, Any], Meta(description="All of them")] | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    queue: Name | UnsetType = UNSET
    at: Instant | UnsetType = UNSET
    delay: Seconds | UnsetType = UNSET
    max_retries: Count | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0, description="Seconds; null is that of the handler")] | UnsetType | None = UNSET


async def change_task(tq: TaskQ, task_id: str, body: EditBody, fence: int | None = None) -> None:
    """Change what a body sets of a pending task. Raises ValidationError, NotFound and TaskConflict.

    ``fence`` is that of the task of which the changes were made; another one is a conflict.
    """
    changes = cast(TaskChanges, body_options(body))
    if "params" in changes:
        check_json("params", changes["params"])
    task = await tq.get(task_id)
    if fence is not None and task.fence != fence:
        raise TaskConflict(f"task {printable(task_id)} changed meanwhile; read it again, and repeat the edit")
    await tq.queue.edits.edit(task, changes)  # written only where the fence is still that of the row just read
