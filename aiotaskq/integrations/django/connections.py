"""Django's connections around a handler, as around a request."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import close_old_connections, connections

__all__ = ["closing_connections"]

F = TypeVar("F", bound=Callable[..., Any])


def closing_connections(handler: F) -> F:
    """Close the database connections that a handler leaves, as Django does after a request; for ``@tq.task``.

    Before and after a ``def`` handler those that are broken, or older than ``CONN_MAX_AGE``, are closed. What an
    ``async def`` handler calls by ``sync_to_async`` has a thread, and so connections, of its own; all of them are
    closed. The tasks of Django's framework have this already.
    """

    @functools.wraps(handler)
    def in_thread(*args: Any, **kwargs: Any) -> Any:
        close_old_connections()
        try:
            return handler(*args, **kwargs)
        finally:
            close_old_connections()

    @functools.wraps(handler)
    async def in_loop(*args: Any, **kwargs: Any) -> Any:
        async with ThreadSensitiveContext():
            try:
                return await handler(*args, **kwargs)
            finally:
                await sync_to_async(connections.close_all)()

    return cast(F, in_loop if inspect.iscoroutinefunction(handler) else in_thread)
