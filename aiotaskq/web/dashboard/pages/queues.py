"""The queues: what each holds, whether it is paused, and what workers did with its tasks; they are paused here."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from aiotaskq.core.task import SECOND
from aiotaskq.operations import queues as operations
from aiotaskq.web.dashboard.door import action
from aiotaskq.web.dashboard.matching import part_of
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.past import Activity, TypeSums
from aiotaskq.web.dashboard.rows import QueueRow, queue_row, queue_rows
from aiotaskq.web.dashboard.view import Change, View, link, operated_on, pages
from aiotaskq.web.dashboard.words import marked

LOOKED_AT = 20
"""Queues whose next task is looked for, and workers of a queue that are listed."""
KEEP = 5.0
"""Seconds for which an open page does not look for them anew."""


class Queues(msgspec.Struct):
    """The data of the page."""

    queues: list[QueueRow]
    oldest: float | None
    """Seconds for which the oldest ready task of all queues has waited."""
    approximate: bool
    """Whether the counts may have changed since they were read."""
    like: str = ""
    """The filter: a part of the name; empty where it is not set."""


class Claiming(msgspec.Struct):
    """A worker that claims from the queue, and perhaps from others."""

    id: str
    host: str
    pid: int
    quiet: bool
    busy: int
    concurrency: int


class QueuePage(msgspec.Struct, kw_only=True):
    """The data of one queue's page."""

    queue: QueueRow
    approximate: bool
    """Whether the counts may have changed since they were read."""
    ready: int
    """Tasks that can be claimed now; none of a paused queue."""
    later: int
    """Pending tasks that cannot: delayed, waiting for a retry or at a limit, or held by the pause."""
    workers: int | None
    """How many workers claim from it; None where the store has no registry."""
    claiming: list[Claiming]
    """Some of these, those with the most busy slots first."""
    activity: Activity
    types: list[TypeSums]
    changes: list[Operated]
    """What operators did with it, the latest first."""


@pages("queues", marked("Queues"), "like")
async def queues(view: View) -> Queues:
    """Read what each queue holds."""
    counted = await view.counts.get()
    stats = counted.stats
    like = view.text("like")
    rows = [row for row in queue_rows(stats) if part_of(like, row.name)]
    looked = [row for row in rows if row.counts["pending"] and not row.paused][:LOOKED_AT]
    names = [row.name for row in looked]
    firsts = await (_firsts(view, names) if like else view.keep("next", KEEP, lambda: _firsts(view, names)))
    for row in looked:
        row.next_age = _age(view, firsts.get(row.name))
    return Queues(rows, stats.oldest_age, counted.approximate, like or "")


@pages("queue", marked("Queue"), "name", "span", section="queues")
async def queue(view: View) -> QueuePage:
    """Read one queue."""
    name = view.needed("name")
    backend, registry = view.tq.queue.backend, view.tq.queue.backend.workers
    counted = await view.counts.get()
    row = queue_row(counted.stats, name)
    row.next_age = _age(view, (await _firsts(view, [name]))[name])
    ready = await backend.count_ready(view.now, [name])
    alive = None if registry is None else [each for each in await registry.all() if each.lease_until > view.now]
    claiming = [each for each in alive or () if each.claims_from(name)]
    claiming.sort(key=lambda each: (-each.busy, each.started_at, each.owner))
    return QueuePage(
        queue=row,
        approximate=counted.approximate,
        ready=ready,
        later=max(0, row.counts["pending"] - ready),
        workers=None if alive is None else len(claiming),
        claiming=[
            Claiming(each.owner, each.host, each.pid, each.quiet, each.busy, each.concurrency)
            for each in claiming[:LOOKED_AT]
        ],
        activity=await view.past.activity(view.text("span"), queue=name),
        types=await view.past.types(view.text("span"), queue=name),
        changes=await operated_on(view, name, ("queues",)),
    )


async def _firsts(view: View, queues: Iterable[str]) -> dict[str, int | None]:
    """Return when the next task of each of these queues is due, in microseconds UTC."""
    return {name: await view.tq.queue.backend.next_run_at(view.now, [name]) for name in queues}


def _age(view: View, first: int | None) -> float | None:
    return (view.now - first) / SECOND if first is not None and first <= view.now else None


def _page(change: Change, name: str) -> str:
    """Return the page from which the change was asked for."""
    return link("queue", name=name) if change.text("back") == "queue" else "queues"


action(operations.queues["pause"], _page, marked("The queue {queue} is paused."))
action(operations.queues["resume"], _page, marked("The queue {queue} runs again."))
