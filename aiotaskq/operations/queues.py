"""Operations on queues: list, pause, resume."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from aiotaskq.operations.fields import Count, Name, Nothing, about
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


class Named(Struct, forbid_unknown_fields=True):
    """A queue."""

    queue: Annotated[Name, about("The name of a queue")]


class QueueState(Struct):
    """Whether a queue is paused."""

    queue: str
    paused: bool


@queues()
async def list_(access: Access, given: Nothing) -> QueueList:
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
async def pause(access: Access, given: Named) -> QueueState:
    """Pause a queue in all processes: no worker claims its tasks. They can still be pushed, and what runs goes on."""
    await access.tq.pause(given.queue)
    return QueueState(given.queue, True)


@queues(changes=True, thing="queue")
async def resume(access: Access, given: Named) -> QueueState:
    """Let the tasks of a paused queue be claimed again."""
    await access.tq.resume(given.queue)
    return QueueState(given.queue, False)
