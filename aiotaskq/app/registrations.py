"""The registrations of one TaskQ: handlers, schedules, middleware, hooks and resources."""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.runtime.handler import Handler, with_versions
from aiotaskq.runtime.hooks import Hooks

if TYPE_CHECKING:
    from aiotaskq.core.alerts import Rules
    from aiotaskq.core.schedule import Schedule
    from aiotaskq.core.webhooks import Webhook

PushMiddleware = Callable[[list[Task], Callable[[list[Task]], Awaitable[list[Task]]]], Awaitable[list[Task]]]


class Registrations(msgspec.Struct):
    """The registrations of one TaskQ, in the order in which they were made."""

    hooks: Hooks = msgspec.field(default_factory=Hooks)
    handlers: dict[str, Handler] = {}
    """By task type."""
    elsewhere: set[str] = set()
    """Task types that other processes handle."""
    schedules: dict[str, Callable[[], Schedule]] = {}
    """What makes each declared schedule, by its name."""
    run_middleware: list[Any] = []
    push_middleware: list[PushMiddleware] = []
    webhooks: dict[str, Webhook] = {}
    """By their names."""
    alerts: Rules | None = None
    resources: dict[Any, Callable[[], Any]] = {}
    """Factories, by the type of what they give."""
    kind: type[Task] = Task
    """The class of its tasks."""

    def update(self, other: Registrations) -> None:
        """Add the registrations of another TaskQ; where both have a name and version, the other one's counts."""
        self.hooks.adopt(other.hooks)
        for name, handler in other.handlers.items():
            known = self.handlers.get(name)
            self.handlers[name] = handler if known is None else with_versions(known, handler)
        self.elsewhere.update(other.elsewhere)
        self.schedules.update(other.schedules)
        self.run_middleware.extend(other.run_middleware)
        self.push_middleware.extend(other.push_middleware)
        self.webhooks.update(other.webhooks)
        self.alerts = other.alerts or self.alerts
        self.resources.update(other.resources)

    def knows(self, type: str) -> bool:
        """Return whether a task type has a handler here, or is declared to have one elsewhere."""
        return type in self.handlers or type in self.elsewhere


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
