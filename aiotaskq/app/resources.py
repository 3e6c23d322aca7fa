"""Per-worker resources: made when a worker starts, passed to handlers by type, closed when it stops."""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from aiotaskq.errors import ValidationError


def kind_of(factory: Callable[..., Any]) -> Any:
    """Return the type of a factory's resource, from its return annotation. Raises ValidationError without one."""
    given = typing.get_type_hints(factory).get("return")
    if inspect.isasyncgenfunction(factory) or inspect.isgeneratorfunction(factory):
        arguments = typing.get_args(given)
        given = arguments[0] if arguments else None
    if given is None or given is type(None):
        raise ValidationError(f"resource {factory.__name__}: annotate what it gives, as '-> AsyncIterator[Client]'")
    return given


async def open_resource(factory: Callable[[], Any], stack: contextlib.AsyncExitStack) -> Any:
    """Make one resource; the stack closes generators. Errors of the factory propagate."""
    if inspect.isasyncgenfunction(factory):
        make: Callable[[], AsyncIterator[Any]] = factory
        return await stack.enter_async_context(contextlib.asynccontextmanager(make)())
    if inspect.isgeneratorfunction(factory):
        make_sync: Callable[[], Iterator[Any]] = factory
        return stack.enter_context(contextlib.contextmanager(make_sync)())
    made = factory()
    return await made if inspect.isawaitable(made) else made
