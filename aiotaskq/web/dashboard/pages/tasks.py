"""The table of tasks: filtered by indexed columns, in pages, the newest first."""

from __future__ import annotations

from typing import Any

import msgspec

from aiotaskq.core.task import Status
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas import TaskView
from aiotaskq.web.views import task_view

ROWS = 50
FILTERS = ("status", "type", "queue", "schedule", "error")


class TaskRows(msgspec.Struct, kw_only=True):
    """The data of the page."""

    tasks: list[TaskView]
    filters: dict[str, str]
    """Each filter; empty where it is not set."""
    filtered: bool
    more: str | None
    """The id of the last task where there are more behind it."""
    counts: dict[str, int]
    """Tasks by status, of every queue."""
    queues: list[str]


def filters_of(view: View) -> dict[str, Any]:
    """Return the filter of the address as arguments of ``TaskQ.find``; an unknown status is left out."""
    found: dict[str, Any] = {name: view.text(name) for name in ("type", "queue", "error") if view.text(name)}
    if (status := view.text("status")) in set(map(str, Status)):
        found["status"] = status
    if schedule := view.text("schedule"):
        found["scheduler_task_id"] = schedule
    return found


@pages("tasks", marked("Tasks"), *FILTERS, "after", "id")
async def tasks(view: View) -> TaskRows:
    """Read one page of tasks."""
    where = filters_of(view)
    counted = await view.counts.get()
    stats = counted.stats
    found = await view.tq.find(**where, limit=ROWS + 1, after=view.text("after"))
    return TaskRows(
        tasks=[task_view(each, one=False, show=False) for each in found[:ROWS]],
        filters={name: view.text(name) or "" for name in FILTERS},
        filtered=any(map(view.text, FILTERS)),
        more=found[ROWS - 1].task_id if len(found) > ROWS else None,
        counts=stats.counts,
        queues=sorted(stats.queues),
    )
