"""Actions on workers: quiet, wake and resize one; quiet and wake all."""

from __future__ import annotations

from aiotaskq.web.dashboard.actions.fields import whole
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, actions, done, link
from aiotaskq.web.dashboard.words import marked


@actions("quiet-worker")
async def quiet(change: Change) -> Done:
    """Let a worker claim nothing more."""
    worker = change.needed("id")
    await change.tq.workers.quiet(worker)
    return done(marked("The worker {worker} is asked to claim nothing more."), link("worker", id=worker), worker=worker)


@actions("wake-worker")
async def wake(change: Change) -> Done:
    """Let a quiet worker claim again."""
    worker = change.needed("id")
    await change.tq.workers.wake(worker)
    return done(marked("The worker {worker} is asked to claim again."), link("worker", id=worker), worker=worker)


@actions("resize-worker")
async def resize(change: Change) -> Done:
    """Let a worker have another number of slots."""
    worker = change.needed("id")
    await change.tq.workers.resize(worker, whole("slots", change.needed("slots"), 6))
    return done(
        marked("The worker {worker} is asked for another number of slots."), link("worker", id=worker), worker=worker
    )


@actions("quiet-workers")
async def quiet_all(change: Change) -> Question | Done:
    """Let all workers claim nothing more."""
    if not change.sure:
        count = len(await change.tq.workers.list())
        text = marked("Quiet all workers ({count})? No task starts until they are woken; tasks that run go on.")
        return Question(text, {"count": count}, marked("Quiet all workers"), "workers")
    asked = await change.tq.workers.quiet()
    return Done(Message(marked("Workers asked to claim nothing more: {count}."), {"count": asked}), "workers", ("*",))


@actions("wake-workers")
async def wake_all(change: Change) -> Done:
    """Let all workers claim again."""
    asked = await change.tq.workers.wake()
    return Done(Message(marked("Workers asked to claim again: {count}."), {"count": asked}), "workers", ("*",))
