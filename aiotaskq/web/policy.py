"""What the host of the API allows: changes, params and results, other origins, body sizes, the visitor's name."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec

from aiotaskq.core.validation import check_int
from aiotaskq.errors import ValidationError

MAX_BODY = 512 * 1024  # bytes; params are at most 256 KiB of JSON, and escapes make text longer


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the host allows; see ``make_policy``."""

    read_only: bool = False
    show_args: bool = False
    origins: frozenset[str] = frozenset()
    max_body: int = MAX_BODY
    own_query: frozenset[str] = frozenset()
    actor: Actor | None = None


def make_policy(
    *,
    read_only: bool = False,
    show_args: bool = False,
    origins: Collection[str] = (),
    max_body: int = MAX_BODY,
    own_query: Collection[str] = (),
    actor: Actor | None = None,
) -> Policy:
    """Check what the host allows.

    Args:
        read_only: every request for a change is answered with 403.
        show_args: tasks and schedules are shown with params and results where that is asked for (``?params=true``),
            and stored values can be read. Without it none of them ever is, and no filter finds
            them: of an error only the type is shown and searched.
        origins: other origins (``https://ops.example.com``) whose pages may ask for changes.
        max_body: bytes of a request's body; longer ones get 413.
        own_query: names of query parameters that the host itself reads, such as ``key`` in its access control. Any
            other parameter that an operation does not know is refused.
        actor: called with the framework's request at a change; returns the name of the visitor, for the audit
            log and the hook ``operated``. It may be a coroutine function.

    Raises:
        ValidationError: for a body limit that is no number of bytes, or origins or own_query given as one text.
    """
    if isinstance(origins, str):
        raise ValidationError(f"origins: a list is needed, not one text (got {origins!r:.60})")
    if isinstance(own_query, str):
        raise ValidationError(f"own_query: a list is needed, not one text (got {own_query!r:.60})")
    check_int("max_body", max_body, 1)
    return Policy(
        read_only=read_only,
        show_args=show_args,
        origins=frozenset(origins),
        max_body=max_body,
        own_query=frozenset(own_query),
        actor=actor,
    )


Actor = Callable[[Any], str | Awaitable[str]]
"""Called with the framework's request: the name of the visitor. It may be a coroutine function."""


async def actor_of(actor: Actor | None, request: Any) -> str:
    """Return the name of the visitor, "" where nothing tells it."""
    if actor is None:
        return ""
    found = actor(request)
    return str(await found if inspect.isawaitable(found) else found)
