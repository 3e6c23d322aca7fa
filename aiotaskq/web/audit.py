"""The audit of changes by the operations API or the dashboard: actor, action, targets, as a log line and an event."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.log import log, printable
from aiotaskq.runtime.events import OPERATED

Actor = Callable[[Any], str | Awaitable[str]]
"""Called with the framework's request: the name of the visitor. It may be a coroutine function."""


async def actor_of(actor: Actor | None, request: Any) -> str:
    """Return the name of the visitor, "" where nothing tells it."""
    if actor is None:
        return ""
    found = actor(request)
    return str(await found if inspect.isawaitable(found) else found)


def audit(tq: TaskQ, where: str, action: str, actor: str, targets: Sequence[str]) -> None:
    """Log a change and emit its event; ``where`` is what it was made with."""
    log.info("{}: {} {} by {}", where, action, printable(", ".join(targets)), printable(actor) or "-")
    tq.registered.events.emit(OPERATED, tq.queue.clock.now(), action=action, actor=actor, targets=list(targets))


def with_error(targets: Sequence[str], error: BaseException) -> list[str]:
    """Return the targets of a change that an error has stopped midway."""
    return [*targets, f"stopped by: {type(error).__name__}"]
