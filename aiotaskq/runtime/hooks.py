"""Hooks: functions of this process that are called after the commit; their errors are logged."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import msgspec

from aiotaskq.core.errors import guess, shown
from aiotaskq.core.instants import utc
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError
from aiotaskq.log import log

if TYPE_CHECKING:
    from aiotaskq.core.groups import GroupState
else:
    GroupState = Any  # ``help`` and ``inspect.signature`` evaluate the fields of a struct

HookName: TypeAlias = Literal[
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
NAMES: tuple[HookName, ...] = get_args(HookName)
OPERATED = "operated"
"""The hook of a change by an operator, through any door; it costs tasks nothing."""


class HookCall(msgspec.Struct, frozen=True):
    """What a hook is called with. ``at`` in microseconds UTC; ``detail`` has what the ``name`` says beside the task.

    ``group`` is the group of ``group_progress`` and ``group_ended``, as it is when the hook is called.
    """

    name: str
    at: int
    task: Task | None = None
    detail: dict[str, Any] = {}
    group: GroupState | None = None

    time = utc("at")


def takes(function: Callable[..., Any], *arguments: object) -> bool:
    """Return whether a function can be called with so many arguments; True where its signature is not known."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:  # also for what is no function
        return False
    except ValueError:  # some built-in functions have no signature
        return True
    return True


class Hooks:
    """Hooks by name. A hook may be a function or a coroutine function; its errors are logged."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[Callable[[HookCall], Any]]] = {}
        """The hooks, by name."""
        self._running: set[asyncio.Future[Any]] = set()
        self.wanted = False
        """Whether there is any hook of what happens to tasks."""

    def on(self, name: str, hook: Callable[[HookCall], Any]) -> None:
        """Call ``hook(call)`` each time that what the name says happens.

        Raises ValidationError for an unknown name, and for what cannot be called so.
        """
        if name not in NAMES:
            meant = guess(name, NAMES) or f"; use {', '.join(NAMES)}"
            raise ValidationError(f"hook: {name!r} is unknown{meant}")
        if not takes(hook, None):
            raise ValidationError(f"hook: a function of one argument, the HookCall, is needed (got {shown(hook)})")
        if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
            raise ValidationError(f"hook: a generator's body would never run; use no yield (got {shown(hook)})")
        self.hooks.setdefault(name, []).append(hook)
        self._look()

    def off(self, name: str, hook: Callable[[HookCall], Any]) -> None:
        """Do not call ``hook`` any more; nothing happens where it is not called."""
        left = [each for each in self.hooks.get(name, ()) if each != hook]
        if left:
            self.hooks[name] = left
        else:
            self.hooks.pop(name, None)
        self._look()

    def adopt(self, other: Hooks) -> None:
        """Add the hooks of ``other``."""
        for name, hooks in other.hooks.items():
            self.hooks.setdefault(name, []).extend(hooks)
        self._look()

    def _look(self) -> None:
        self.wanted = not self.hooks.keys() <= {OPERATED}

    def __contains__(self, name: str) -> bool:
        return name in self.hooks

    def call(
        self, name: str, at: int, task: Task | None = None, *, group: GroupState | None = None, **detail: Any
    ) -> None:
        """Call the hooks of that name."""
        for hook in self.hooks.get(name, ()):
            self.invoke(hook, HookCall(name, at, task, detail, group), f"a hook of {name!r}")

    def wait_for(self, running: asyncio.Future[Any]) -> None:
        """Let ``idle`` wait for what will call hooks."""
        self._running.add(running)
        running.add_done_callback(self._done)

    def invoke(self, function: Callable[[Any], Any], argument: object, what: str) -> None:
        """Call a function of the application, which may be a coroutine function; its errors are logged."""
        try:
            answer = function(argument)
            if inspect.isawaitable(answer):
                self.wait_for(asyncio.ensure_future(answer))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a sys.exit() would end what calls hooks, as the coroutine that writes outcomes
            log.error("{} failed", what, cause=error)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.error("a hook failed", cause=error)

    async def idle(self, timeout: float) -> None:
        """Wait until the running hooks have ended, at most ``timeout`` seconds."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout)
