"""What the package uses of a task queue beside its public names, and the options of its runs.

It is apart from ``app.taskq``, so that operations do not import all that a task queue needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec.structs import force_setattr

from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.core.errors import check_seconds

if TYPE_CHECKING:
    from aiotaskq.app.registrations import Registrations
    from aiotaskq.backends.base import Backend, Schedules
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.stopping import ExitCode
    from aiotaskq.runtime.scheduler.scheduler import Scheduler


class RunOptions(msgspec.Struct, frozen=True):
    """How workers and the scheduler run. Raises ValidationError for a wrong ``drain`` or ``grace``."""

    concurrency: int = 10
    """Handlers at a time; checked by the worker."""
    queues: Sequence[str] | None = None
    """Names of the queues that are worked on; None means every queue."""
    scheduler: bool = True
    """Whether schedules are fired."""
    drain: float | timedelta = 25.0
    """Seconds, or a timedelta, that handlers get to end by themselves when the run stops."""
    grace: float | timedelta = 5.0
    """Seconds, or a timedelta, that they get after that to end once they are cancelled."""

    def __post_init__(self) -> None:
        force_setattr(self, "drain", check_seconds("drain", self.drain))
        force_setattr(self, "grace", check_seconds("grace", self.grace))

    @property
    def times(self) -> tuple[float, float]:
        """``drain`` and ``grace`` in seconds."""
        return float(self.drain), float(self.grace)  # type: ignore[arg-type]  # the constructor has converted timedeltas


class Internal(msgspec.Struct):
    """What the package uses of a TaskQ, beside its public names; ``internal(tq)`` returns it."""

    registered: Registrations
    """What was registered with the decorators."""
    codec: Codec | None
    backends: dict[str, Backend]
    """Every store that is used, by URL: of tasks, and where they are others, of schedules and of public values."""
    scheduler: Callable[[], Scheduler]
    """Returns what fires the schedules; made (and its store opened) only when something uses it."""
    open_schedules: Callable[[], Schedules | None]
    """Returns the store of schedules as far as it is in use: another one than that of tasks only with the scheduler."""
    adopt: Callable[[Registrations], None]
    """Adds the registrations of another task queue."""
    run_until: Callable[..., Coroutine[Any, Any, ExitCode]]
    """Does what ``run`` does, until the event is set instead of a signal; its third argument, a function, is called
    once everything has started."""
    on_signal: Callable[[asyncio.Event], None]
    """Handles a signal: the first sets the event of ``run_until``, the next one skips the drain."""
    history_tags: tuple[str, ...]
    """The tags for whose values its workers write sums."""
    bound: LoopBound = msgspec.field(default_factory=LoopBound)
    """The event loop in which it was opened last."""
    stands_by: bool = False
    """Whether ``running`` runs no workers unless ``workers=True``; a test sets it."""


class HasInternal(Protocol):
    """A TaskQ, which imports this module."""

    _internal: Internal


def internal(tq: HasInternal) -> Internal:
    """Return what the package uses of a task queue, beside its public names."""
    return tq._internal
