"""Events and their listeners: a listener is called after the commit, and its errors are logged."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from aiotaskq.core.groups import GroupState
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.log import log

EventName: TypeAlias = Literal[
    "pushed",
    "started",
    "completed",
    "retried",
    "failed",
    "cancelled",
    "expired",
    "released",
    "lost",
    "timeout",
    "used",
    "unknown",
    "fired",
    "skipped",
    "disabled",
    "stalled",
    "exhausted",
    "quieted",
    "woken",
    "resized",
    "operated",
    "group_progress",
    "group_ended",
    "alert",
]
NAMES: tuple[EventName, ...] = get_args(EventName)
OPERATED = "operated"
"""The event of a change made by a user of the dashboard or the HTTP API; a listener of it costs tasks nothing."""


class Event(msgspec.Struct, frozen=True):
    """An event. ``at`` in microseconds UTC; ``detail`` has what the event ``name`` says beside the task.

    ``group`` is the group of ``group_progress`` and ``group_ended``, as it is when the event is emitted.
    """

    name: str
    at: int
    task: Task | None = None
    detail: dict[str, Any] = {}
    group: GroupState | None = None

    @property
    def time(self) -> datetime:
        """``at`` as an aware datetime in UTC."""
        return to_datetime(self.at)


class Events:
    """Listeners by name. A listener may be a function or a coroutine function; its errors are logged."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[Callable[[Event], Any]]] = {}
        """By the name of the event."""
        self._running: set[asyncio.Future[Any]] = set()
        self.wanted = False
        """Whether there is any listener of what happens to tasks."""

    def on(self, name: str, listener: Callable[[Event], Any]) -> None:
        """Call ``listener(event)`` at each event of that name. Raises ValidationError for an unknown name."""
        if name not in NAMES:
            raise ValidationError(f"event: {name!r} is not one of {', '.join(NAMES)}")
        self.listeners.setdefault(name, []).append(listener)
        self._look()

    def off(self, name: str, listener: Callable[[Event], Any]) -> None:
        """Do not call ``listener`` any more; nothing happens where it is not called."""
        left = [each for each in self.listeners.get(name, ()) if each != listener]
        if left:
            self.listeners[name] = left
        else:
            self.listeners.pop(name, None)
        self._look()

    def adopt(self, other: Events) -> None:
        """Add the listeners of ``other``."""
        for name, listeners in other.listeners.items():
            self.listeners.setdefault(name, []).extend(listeners)
        self._look()

    def _look(self) -> None:
        self.wanted = not self.listeners.keys() <= {OPERATED}

    def __contains__(self, name: str) -> bool:
        return name in self.listeners

    def emit(self, name: str, at: int, task: Task | None = None, **detail: Any) -> None:
        """Call the listeners of that name."""
        for listener in self.listeners.get(name, ()):
            self.call(listener, Event(name, at, task, detail), f"a listener of {name!r}")

    def emit_group(self, name: str, at: int, group: GroupState) -> None:
        """Call the listeners of that name, of an event about a group."""
        for listener in self.listeners.get(name, ()):
            self.call(listener, Event(name, at, group=group), f"a listener of {name!r}")

    def wait_for(self, running: asyncio.Future[Any]) -> None:
        """Let ``idle`` wait for what will emit events."""
        self._running.add(running)
        running.add_done_callback(self._done)

    def call(self, function: Callable[[Any], Any], argument: object, what: str) -> None:
        """Call a function of the application, which may be a coroutine function; its errors are logged."""
        try:
            answer = function(argument)
            if inspect.isawaitable(answer):
                self.wait_for(asyncio.ensure_future(answer))
        except Exception as error:
            log.error("{} failed", what, cause=error)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.error("a listener failed", cause=error)

    async def idle(self, timeout: float) -> None:
        """Wait until the running listeners have ended, at most ``timeout`` seconds."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout)
