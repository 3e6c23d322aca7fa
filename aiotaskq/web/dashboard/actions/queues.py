"""Actions on queues: pause and resume."""

from __future__ import annotations

from aiotaskq.web.dashboard.view import Change, Done, actions, done, link
from aiotaskq.web.dashboard.words import marked


def _page(change: Change, name: str) -> str:
    """Return the page from which the change was asked for."""
    return link("queue", name=name) if change.text("back") == "queue" else "queues"


@actions("pause-queue")
async def pause(change: Change) -> Done:
    """Stop handing out tasks of a queue."""
    name = change.needed("queue")
    await change.tq.pause(name)
    return done(marked("The queue {queue} is paused."), _page(change, name), queue=name)


@actions("resume-queue")
async def resume(change: Change) -> Done:
    """Hand out its tasks again."""
    name = change.needed("queue")
    await change.tq.resume(name)
    return done(marked("The queue {queue} runs again."), _page(change, name), queue=name)
