"""Actions on queues: pause and resume."""

from __future__ import annotations

from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, actions
from aiotaskq.web.dashboard.words import marked


@actions("pause-queue")
async def pause(change: Change) -> Done:
    """Stop handing out tasks of a queue."""
    name = change.needed("queue")
    await change.tq.pause(name)
    return Done(Message(marked("The queue {queue} is paused."), {"queue": name}), "queues", (name,))


@actions("resume-queue")
async def resume(change: Change) -> Done:
    """Hand out its tasks again."""
    name = change.needed("queue")
    await change.tq.resume(name)
    return Done(Message(marked("The queue {queue} runs again."), {"queue": name}), "queues", (name,))
