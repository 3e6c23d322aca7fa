"""The actor of a change by the operations API or the dashboard, and what was changed before an error."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Actor = Callable[[Any], str | Awaitable[str]]
"""Called with the framework's request: the name of the visitor. It may be a coroutine function."""


async def actor_of(actor: Actor | None, request: Any) -> str:
    """Return the name of the visitor, "" where nothing tells it."""
    if actor is None:
        return ""
    found = actor(request)
    return str(await found if inspect.isawaitable(found) else found)


def with_error(targets: Sequence[str], error: BaseException) -> list[str]:
    """Return the targets of a change that an error has stopped midway."""
    return [*targets, f"stopped by: {type(error).__name__}"]
