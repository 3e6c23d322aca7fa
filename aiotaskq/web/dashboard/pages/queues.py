"""The queues: what each holds, whether it is paused, and what workers did with its tasks; they are paused here."""

from __future__ import annotations

from typing import Any

from aiotaskq.operations.queues import queues as operations
from aiotaskq.operations.workers import worker_view
from aiotaskq.web.dashboard.matching import part_of
from aiotaskq.web.dashboard.rows import queue_row, queue_rows
from aiotaskq.web.dashboard.view import View, action, age_of, firsts_of, operated_on, page
from aiotaskq.web.dashboard.words import marked

ROWS = 100
LOOKED_AT = 20
"""Queues whose next task is looked for, and workers of a queue that are listed."""


@page("queues", marked("Queues"), "start", "like")
async def queues(view: View) -> dict[str, Any]:
    """Read what each queue of one page holds."""
    counted = await view.shared.counts.get()
    stats = counted.stats
    like, start = view.text("like"), view.whole("start", 0, 1_000_000)
    found = [row for row in queue_rows(stats) if part_of(like, row.name)]
    rows = found[start : start + ROWS]
    looked = [row for row in rows if row.counts["pending"] and not row.paused][:LOOKED_AT]
    names = [row.name for row in looked]
    firsts = await (firsts_of(view, names) if like or start else view.keep("next", lambda: firsts_of(view, names)))
    for row in looked:
        row.next_age = age_of(view, firsts.get(row.name))
    return {
        "queues": rows,
        "total": len(found),
        "start": start,
        "oldest": stats.oldest_age,
        "approximate": counted.approximate,
        "like": like or "",
    }


@page("queue", marked("Queue"), "name", "span", "by", section="queues")
async def queue(view: View) -> dict[str, Any]:
    """Read one queue."""
    name = view.needed("name")
    backend, registry = view.tq.queue.backend, view.tq.queue.backend.workers
    counted = await view.shared.counts.get()
    row = queue_row(counted.stats, name)
    row.next_age = age_of(view, (await firsts_of(view, [name]))[name])
    ready = await backend.count_ready(view.now, [name])
    alive = None if registry is None else [each for each in await registry.all() if each.lease_until > view.now]
    claiming = [each for each in alive or () if each.claims_from(name)]
    claiming.sort(key=lambda each: (-each.busy, each.started_at, each.owner))
    activity = await view.shared.past.activity(view.text("span"), queue=name, by=view.text("by"))
    return {
        "queue": row,
        "approximate": counted.approximate,
        "ready": ready,
        "later": max(0, row.counts["pending"] - ready),
        "workers": None if alive is None else len(claiming),
        "claiming": [worker_view(each) for each in claiming[:LOOKED_AT]],
        "activity": activity,
        "types": activity.types,
        "changes": await operated_on(view, name, ("queues",)),
    }


action(operations["pause"], marked("The queue {queue} is paused."))
action(operations["resume"], marked("The queue {queue} runs again."))
