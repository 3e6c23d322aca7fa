"""The overview: what needs attention, how many tasks are in which state, what workers did, and each queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.operations.task_views import task_view
from aiotaskq.web.dashboard.attention import attention, look
from aiotaskq.web.dashboard.rows import queue_rows
from aiotaskq.web.dashboard.view import View, page
from aiotaskq.web.dashboard.words import marked

RECENT = 5  # failed tasks that are listed
LOOKED_AT = 20  # failed tasks that are counted before the history has them
HOUR = 3_600  # seconds
KEEP = 5.0  # seconds for which an open page does not look anew for failures and for what needs attention


@page("", marked("Overview"), "span")
async def overview(view: View) -> dict[str, Any]:
    """Read the counts, what workers did, and what needs attention."""
    counted = await view.shared.counts.get()
    stats = counted.stats
    failed = await view.keep("failures", KEEP, lambda: _failed(view)) if stats.counts.get("failed") else []
    hour = (await view.shared.past.activity("1h")).total.counts.get("failed", 0)
    looked = await view.keep("attention", KEEP, lambda: look(view.tq, stats, view.now))
    worker = view.tq.worker
    return {
        "attention": attention(looked, stats, max(hour, _recent(failed, view.now))),
        "counts": stats.counts,
        "approximate": counted.approximate,
        "ready": stats.ready,
        "oldest": stats.oldest_age,
        "activity": await view.shared.past.activity(view.text("span")),
        "written": worker is None or worker.tally is not None,  # whether what the worker of this process did is
        "queues": queue_rows(stats),
        "failed": [task_view(each, errors=False, params=False) for each in failed[:RECENT]],
        "started_at": view.now // SECOND * SECOND,
    }


async def _failed(view: View) -> list[Task]:
    backend = view.tq.queue.backend
    found = await backend.get(await backend.last_ended(Status.FAILED, LOOKED_AT))
    return [task for task in found if task is not None and task.status is Status.FAILED]


def _recent(failed: Sequence[Task], now: int) -> int:
    """Count those that ended in the last hour: workers write the history only once a minute."""
    return sum(each.completed_at is not None and each.completed_at > now // SECOND - HOUR for each in failed)
