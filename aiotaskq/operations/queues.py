"""Operations on queues: list, pause, resume; and the counts of a whole store."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from aiotaskq.operations.fields import Count, Name, about, view_of
from aiotaskq.operations.table import Access, Operations

queues = Operations("queues")


class QueueView(Struct):
    """A queue, and its tasks that have not ended."""

    queue: str
    paused: bool
    pending: Count
    running: Count


class QueueList(Struct):
    """Queues, sorted by their names."""

    queues: list[QueueView]


class QueueState(Struct):
    """Whether a queue is paused."""

    queue: str
    paused: bool


@queues()
async def list_(access: Access) -> QueueList:
    """List the queues that have tasks or are paused."""
    found = await access.tq.stats()
    names = sorted({*found.queues, *found.paused})
    counts = {name: found.queues.get(name, {}) for name in names}
    views = [
        QueueView(name, name in found.paused, counts[name].get("pending", 0), counts[name].get("running", 0))
        for name in names
    ]
    return QueueList(views)


@queues(changes=True, thing="queue")
async def pause(access: Access, queue: Annotated[Name, about("The name of a queue")]) -> QueueState:
    """Pause a queue in all processes: no worker claims its tasks. They can still be pushed, and what runs goes on."""
    await access.tq.pause(queue)
    return QueueState(queue, True)


@queues(changes=True, thing="queue")
async def resume(access: Access, queue: Annotated[Name, about("The name of a queue")]) -> QueueState:
    """Let the tasks of a paused queue be claimed again."""
    await access.tq.resume(queue)
    return QueueState(queue, False)


stats = Operations("stats")


class StatsView(Struct):
    """How many tasks there are, and which queues are paused."""

    counts: Annotated[dict[str, Count], about("By status")]
    ready: Annotated[Count, about("Tasks that can be claimed now")]
    oldest_age: Annotated[float | None, about("For how many seconds the oldest of these has waited")]
    queues: Annotated[dict[str, dict[str, Count]], about("By queue and status")]
    paused: list[str]


@stats()
async def get(access: Access) -> StatsView:
    """Count tasks by queue and status; tell which queues are paused, and for how long the oldest ready task waits."""
    return view_of(StatsView, await access.tq.stats())
