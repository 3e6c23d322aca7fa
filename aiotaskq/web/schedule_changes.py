"""Schedules created and changed from request bodies: by the operations API and by the forms of the dashboard."""

from __future__ import annotations

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.schedule import check_timing
from aiotaskq.core.validation import MAX_ID, check_json, check_key
from aiotaskq.errors import NotFound, TaskConflict
from aiotaskq.web.schemas import ScheduleBody, ScheduleChanges
from aiotaskq.web.views import body_options


async def create_schedule(tq: TaskQ, body: ScheduleBody) -> str:
    """Store a schedule and return its id. Raises ValidationError, and TaskConflict where there is one with this id."""
    options = body_options(body)
    check_json("params", options["params"])
    # add_scheduler_task() would ignore the timing of another schedule type, as the documented function does.
    check_timing(body.schedule_type, body.interval_seconds, body.cron_expression, body.execute_at)
    wanted = options["task_id"]
    if wanted is not None:
        try:
            await tq.scheduler.get(check_key("task_id", wanted, MAX_ID))
        except NotFound:
            pass
        else:
            raise TaskConflict(f"task_id: there is a schedule {wanted} already; change that one, or use another id")
    return await tq.scheduler.add_scheduler_task(**options)


async def change_schedule(tq: TaskQ, schedule_id: str, body: ScheduleChanges) -> None:
    """Change what a body sets of a schedule. Raises ValidationError and NotFound."""
    changes = body_options(body)
    if "params" in changes:
        check_json("params", changes["params"])
    await tq.scheduler.update_task(schedule_id, **changes)
