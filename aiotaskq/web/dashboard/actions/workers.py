"""Actions on workers: quiet, wake and resize one; quiet and wake all."""

from __future__ import annotations

from urllib.parse import urlencode

from aiotaskq.errors import ValidationError
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, actions
from aiotaskq.web.dashboard.words import marked


def _done(worker: str, text: str) -> Done:
    return Done(Message(text, {"worker": worker}), "worker?" + urlencode({"id": worker}), (worker,))


@actions("quiet-worker")
async def quiet(change: Change) -> Done:
    """Let a worker claim nothing more."""
    worker = change.needed("id")
    await change.tq.workers.quiet(worker)
    return _done(worker, marked("The worker {worker} is asked to claim nothing more."))


@actions("wake-worker")
async def wake(change: Change) -> Done:
    """Let a quiet worker claim again."""
    worker = change.needed("id")
    await change.tq.workers.wake(worker)
    return _done(worker, marked("The worker {worker} is asked to claim again."))


@actions("resize-worker")
async def resize(change: Change) -> Done:
    """Let a worker have another number of slots."""
    worker, text = change.needed("id"), change.needed("slots")
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise ValidationError(f"slots: a whole number is needed (got {text!r:.60})")
    await change.tq.workers.resize(worker, int(text))
    return _done(worker, marked("The worker {worker} is asked for another number of slots."))


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
