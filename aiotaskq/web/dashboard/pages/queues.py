"""The queues: what each holds, and whether it is paused."""

from __future__ import annotations

import msgspec

from aiotaskq.core.task import Status
from aiotaskq.runtime.queue.operations import Stats
from aiotaskq.web.dashboard.view import View, pages
from aiotaskq.web.dashboard.words import marked


class QueueRow(msgspec.Struct):
    """One queue."""

    name: str
    paused: bool
    counts: dict[str, int]
    """Tasks by status."""


class Queues(msgspec.Struct):
    """The data of the page."""

    queues: list[QueueRow]
    oldest: float | None
    """Seconds for which the oldest ready task of all queues has waited."""


def queue_rows(stats: Stats) -> list[QueueRow]:
    """Return the queues by name: those with tasks, and those that are paused."""
    names = sorted({*stats.queues, *stats.paused, *([] if stats.queues else ["default"])})
    empty = {str(status): 0 for status in Status}
    return [QueueRow(name, name in stats.paused, empty | stats.queues.get(name, {})) for name in names]


@pages("queues", marked("Queues"))
async def queues(view: View) -> Queues:
    """Read what each queue holds."""
    counted = await view.counts.get()
    stats = counted.stats
    return Queues(queue_rows(stats), stats.oldest_age)
