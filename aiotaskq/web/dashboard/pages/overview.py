"""The overview: what needs attention, how many tasks are in which state, what workers did, and each queue."""

from __future__ import annotations

from typing import Any

from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.operations.task_views import task_view
from aiotaskq.web.dashboard.attention import Notice, look
from aiotaskq.web.dashboard.queue_cards import MOST_CARDS, queue_cards
from aiotaskq.web.dashboard.view import View, log_of, page
from aiotaskq.web.dashboard.words import marked

RECENT = 5  # failed tasks that are listed
LOOKED_AT = 20  # failed tasks that are counted before the history has them


@page("", marked("Overview"), "span", "by")
async def overview(view: View) -> dict[str, Any]:
    """Read the counts, what workers did, and what needs attention."""
    counted = await view.shared.counts.get()
    stats, backend, worker = counted.stats, view.tq.queue.backend, view.tq.worker

    async def read() -> list[Task]:
        found = await backend.get(await backend.last_ended(Status.FAILED, LOOKED_AT))
        return [task for task in found if task is not None and task.status is Status.FAILED]

    async def noticed() -> list[Notice]:
        return await look(view, stats, failed, await log_of(view))

    failed = await view.keep("failures", read) if stats.counts.get("failed") else []
    return {
        "attention": await view.keep("attention", noticed),
        "counts": stats.counts,
        "approximate": counted.approximate,
        "ready": stats.ready,
        "oldest": stats.oldest_age,
        "activity": await view.shared.past.activity(view.text("span"), by=view.text("by")),
        "written": worker is None or worker.tally is not None,  # whether what the worker of this process did is
        "queues": await queue_cards(view, stats),
        "more_queues": max(0, len(stats.queues) - MOST_CARDS),
        "failed": [task_view(each, errors=view.show_args, params=False) for each in failed[:RECENT]],
    }
