"""The table of tasks: filtered by indexed columns, in pages, the newest first."""

from __future__ import annotations

from typing import Any

import msgspec

from aiotaskq.core.task import Status, Task
from aiotaskq.runtime.queue.bulk import task_filter
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas import TaskView
from aiotaskq.web.views import task_view

ROWS = 50
WINDOW = 10_000
"""Tasks of each status that are looked at for a filter without an index, the newest first."""
WITHOUT_INDEX = ("type", "queue", "error")
FILTERS = ("status", "type", "queue", "schedule", "error")


class TaskRows(msgspec.Struct, kw_only=True):
    """The data of the page."""

    tasks: list[TaskView]
    filters: dict[str, str]
    """Each filter; empty where it is not set."""
    filtered: bool
    more: str | None
    """The id of the last task where there are more behind it."""
    window: int | None
    """How many tasks of each status were looked at, the newest first; None where all were."""
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
    found, window = await _find(view, where)
    return TaskRows(
        tasks=[task_view(each, one=False, show=False) for each in found[:ROWS]],
        filters={name: view.text(name) or "" for name in FILTERS},
        filtered=any(map(view.text, FILTERS)),
        more=found[ROWS - 1].task_id if len(found) > ROWS else None,
        window=None if len(found) > ROWS else window,
        counts=stats.counts,
        queues=sorted(stats.queues),
    )


async def _find(view: View, given: dict[str, Any]) -> tuple[list[Task], int | None]:
    """Return one task more than a page has, and how many of each status were looked at, None for all."""
    after = view.text("after")
    if "scheduler_task_id" in given or not any(name in given for name in WITHOUT_INDEX):
        return await view.tq.find(**given, limit=ROWS + 1, after=after), None
    if after is not None:
        await view.tq.get(after)  # a page behind a task that is gone would be the first page again
    where = task_filter(**{name: given.get(name) for name in ("status", *WITHOUT_INDEX)})
    where = msgspec.structs.replace(where, after=after, newest=WINDOW)
    return await view.tq.queue.backend.find(where, ROWS + 1), WINDOW
