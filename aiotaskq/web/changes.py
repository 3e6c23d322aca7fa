"""Tasks and schedules, created and changed by request bodies of the operations API and by forms of the dashboard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.schedule import Schedule, check_timing
from aiotaskq.core.validation import MAX_ID, check_json, check_key
from aiotaskq.errors import NotFound, TaskConflict
from aiotaskq.log import printable
from aiotaskq.operations.fields import Count, Instant, Name, Seconds
from aiotaskq.operations.hidden import plain
from aiotaskq.runtime.queue.edits import TaskChanges
from aiotaskq.web.schemas.schedules import ScheduleBody, ScheduleChanges
from aiotaskq.web.views import body_options

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ


COLUMNS = {"cron": "cron_expression", "interval": "interval_seconds", "at": "execute_at"}


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


async def create_schedule(tq: TaskQ, body: ScheduleBody) -> str:
    """Store a schedule and return its id. Raises ValidationError, and TaskConflict where there is one with this id."""
    options = body_options(body)
    check_json("params", options["params"])
    # add_scheduler_task() would ignore the timing of another schedule type, as the documented function does.
    check_timing(body.schedule_type, body.interval_seconds, body.cron_expression, body.execute_at)
    wanted = options["task_id"]
    if wanted is not None:
        try:
            await tq.schedules.get(check_key("task_id", wanted, MAX_ID))
        except NotFound:
            pass
        else:
            raise TaskConflict(f"task_id: there is a schedule {wanted} already; change that one, or use another id")
    timing = {kind: options.pop(name) for kind, name in COLUMNS.items()}
    name, task = options.pop("name"), options.pop("task_type")
    del options["schedule_type"]
    made = await tq.schedules.add(name, task, **timing, schedule_id=options.pop("task_id"), **options)
    return made.task_id


def fields_seen(schedule: Schedule, show_args: bool) -> str:
    """Return a digest of what a form shows of a schedule: another one says that it was made of other values.

    The version of the schedule does not: it rises with each run, too.
    """
    names = [name for name in ScheduleChanges.__struct_fields__ if show_args or name != "params"]
    values = {name: plain(getattr(schedule, name)) for name in names}
    return hashlib.sha256(msgspec.json.encode(values, order="sorted")).hexdigest()[:32]


async def change_schedule(
    tq: TaskQ, schedule_id: str, body: ScheduleChanges, as_seen: Callable[[Schedule], bool] = lambda _schedule: True
) -> None:
    """Change what a body sets of a schedule. Raises ValidationError and NotFound.

    ``as_seen`` is asked whether the stored schedule is still the one of which the changes were made. If not, raises
    TaskConflict and writes nothing.
    """

    def check(schedule: Schedule) -> None:
        if not as_seen(schedule):
            name = printable(schedule_id)
            raise TaskConflict(f"schedule {name} changed meanwhile; read it again, and repeat the edit")

    changes = body_options(body)
    if "params" in changes:
        check_json("params", changes["params"])
    await tq.scheduler.update(schedule_id, check, **changes)
