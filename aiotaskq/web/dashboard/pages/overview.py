"""The overview: how many tasks are in which state, each queue, and what needs attention."""

from __future__ import annotations

import msgspec

from aiotaskq.core.task import SECOND
from aiotaskq.web.dashboard.pages.queues import QueueRow, queue_rows
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas import TaskView
from aiotaskq.web.views import task_view

RECENT = 5  # failed tasks shown


class Overview(msgspec.Struct, kw_only=True):
    """The data of the page."""

    counts: dict[str, int]
    """Tasks by status."""
    ready: int
    oldest: float | None
    """Seconds for which the oldest ready task has waited."""
    queues: list[QueueRow]
    failed: list[TaskView]
    """The latest tasks that failed."""
    started_at: int
    """Microseconds UTC at which the data was read."""


@pages("", marked("Overview"))
async def overview(view: View) -> Overview:
    """Read the counts and what needs attention."""
    counted = await view.counts.get()
    stats = counted.stats
    failed = await view.tq.find(status="failed", limit=RECENT) if stats.counts.get("failed") else []
    return Overview(
        counts=stats.counts,
        ready=stats.ready,
        oldest=stats.oldest_age,
        queues=queue_rows(stats),
        failed=[task_view(each, one=False, show=False) for each in failed],
        started_at=view.now // SECOND * SECOND,
    )
