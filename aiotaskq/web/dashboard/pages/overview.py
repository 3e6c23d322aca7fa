"""The overview: what needs attention, how many tasks are in which state, what workers did, and each queue of the most.

The queues are small charts of one hour, with what each holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from aiotaskq.core.history import MINUTE
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.operations.task_views import task_view
from aiotaskq.runtime.queue.operations import Stats
from aiotaskq.runtime.waiting import awake
from aiotaskq.web.dashboard.attention import Notice, look
from aiotaskq.web.dashboard.charts import bars, ticks
from aiotaskq.web.dashboard.past import QueueHour
from aiotaskq.web.dashboard.rows import queue_rows
from aiotaskq.web.dashboard.view import View, age_of, firsts_of, log_of, page
from aiotaskq.web.dashboard.words import marked

RECENT = 5  # failed tasks that are listed
LOOKED_AT = 20  # failed tasks that are counted before the history has them
MOST_CARDS = 12
"""Queues of the overview."""
RATED = 10
"""Minutes of which it says what came in and went out per minute."""
AXIS: dict[str, Any] = {"begin": 0, "step": 2 * MINUTE, "zone": UTC}  # small charts have no labels


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


async def queue_cards(view: View, stats: Stats) -> list[dict[str, Any]]:
    """Return the queues that hold most of the tasks that have not ended, by name.

    ``slots`` are those of the workers that claim from it, None without a registry; ``came`` and ``ended`` are tasks per
    minute, ``came`` is None where that was not counted for long enough; ``failed`` counts those of the hour;
    ``empty_in`` are the seconds until it is empty if no more come, None where none wait or none end. ``out``, ``ticks``
    and ``into`` are paths of a small chart: what ended, where some failed, and what came in.
    """
    rows = sorted(queue_rows(stats), key=lambda row: (-row.counts["pending"] - row.counts["running"], row.name))
    rows = sorted(rows[:MOST_CARDS], key=lambda row: row.name)
    past, names = await view.shared.past.queues(), [row.name for row in rows if row.counts["pending"]]
    waiting, workers = await view.keep("cards", lambda: _ready(view, names))
    found = []
    for row in rows:
        first, ready = waiting.get(row.name, (None, 0))
        row.next_age = age_of(view, first)
        claiming = [each for each in workers or () if each.claims_from(row.name)]
        hour = past.get(row.name) or QueueHour([0] * 60, [0] * 60)
        came = view.shared.counts.unended.came(row.name, hour.out, view.now)
        rates = [each for each in came[-1 - RATED : -1] if each is not None]
        pairs = zip(came[::2], came[1::2], strict=True)
        into = [None if one is None or other is None else one + other for one, other in pairs]
        chart = bars([{"out": each} for each in _pairs(hour.out)], ("out",), before=into, **AXIS)
        ended = hour.ended(RATED) / RATED
        found.append(
            {
                "queue": row,
                "ready": ready,
                "slots": None if workers is None else sum(each.concurrency for each in claiming),
                "came": sum(rates) / len(rates) if rates else None,
                "ended": ended,
                "failed": sum(hour.failed),
                "empty_in": ready * MINUTE / ended if ended and ready else None,
                "out": chart.paths["out"],
                "ticks": ticks(_pairs(hour.failed)),
                "into": chart.before,
            }
        )
    return found


def _pairs(minutes: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(minutes[::2], minutes[1::2], strict=True)]


async def _ready(
    view: View, queues: Sequence[str]
) -> tuple[dict[str, tuple[int | None, int]], list[WorkerInfo] | None]:
    """Return when the next task of each of these queues is due and how many are ready; and the workers that claim."""
    backend, firsts = view.tq.queue.backend, await firsts_of(view, queues)
    ready = {name: (firsts[name], await backend.count_ready(view.now, [name])) for name in queues}
    return ready, await awake(backend, view.now)
