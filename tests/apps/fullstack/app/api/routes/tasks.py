from typing import Any

from aiotaskq.errors import NotFound
from aiotaskq.integrations.fastapi import TaskQDep
from fastapi import APIRouter, HTTPException

from app.models import TaskPublic

router = APIRouter(prefix="/tasks", tags=["tasks"])


@router.get("/{task_id}", response_model=TaskPublic)
async def read_task(tq: TaskQDep, task_id: str) -> Any:
    """Retrieve the status of a task."""
    try:
        return TaskPublic(task_id=task_id, status=await tq.handle(task_id).status())
    except NotFound:
        raise HTTPException(status_code=404, detail="Task not found") from None
