"""One run of a task in a coroutine of its own, and how its handler is interrupted; what a worker is to its parts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from aiotaskq.concurrency.loop_bound import running_loop_or_none
from aiotaskq.core.outcome import Outcome
from aiotaskq.core.task import Task

if TYPE_CHECKING:
    from aiotaskq.runtime.context import TaskContext
    from aiotaskq.runtime.handler import Handler
    from aiotaskq.runtime.queue.queue import Queue
    from aiotaskq.runtime.worker.heartbeat import Heartbeat
    from aiotaskq.runtime.worker.tally import Tally

# Why a task is released.
NEVER_STARTED = "never started"
STOPPED = "its worker was stopped"
FENCED = "its worker was cut off from the store"

Interrupt = Literal["timeout", "cancel", "shutdown", "fenced", "lost"]


class Execution(msgspec.Struct, eq=False):
    """One run of a task.

    ``coroutine`` is the asyncio task in which it runs. A cancel by its handler, also a delayed one, reaches no other
    run: a task in which a handler may have left something is not used again. An interrupt cancels it, as
    ``asyncio.timeout`` does.
    """

    # A struct, as the context is: one of each is created for every task, three times as fast as an ordinary class.
    task: Task
    context: TaskContext
    coroutine: asyncio.Task[Any] | None = None
    reason: Interrupt | None = None
    abandoned: bool = False
    """Whether the worker has stopped and left the handler running."""
    began: int | None = None
    """The clock's ticks when the coroutine began. Before, an interrupt only sets ``reason``: a cancel would be lost."""
    unwound: bool = False
    """Whether the handler has had the time to unwind after its timeout."""
    ended: bool = False
    """Whether the handler has ended; it is not interrupted any more."""
    handler: Handler | None = None
    """The version of the handler that the task has begun with; None where that was not looked up."""
    _cancels: int = 0

    def interrupt(self, reason: Interrupt) -> None:
        """Cancel the handler; the first reason counts, unless the task is lost or the worker stops."""
        if self.ended:
            return
        if reason == "cancel":
            self.context.cancel_requested = True
        if self.reason is None or reason in ("lost", "fenced", "shutdown"):
            self.reason = reason
            if self.coroutine is not None and self.began is not None:
                self._cancels += 1
                with contextlib.suppress(RuntimeError):  # its loop was closed
                    self.coroutine.cancel(f"aiotaskq: {reason}")

    def uncancel(self) -> None:
        """Undo the cancels of this class, where the coroutine goes on, for instance to wait for a thread."""
        while self._cancels:
            self._cancels -= 1
            if self.coroutine is not None:
                self.coroutine.uncancel()

    @property
    def overdue(self) -> bool:
        """Whether the handler goes on after its timeout: in a thread, or in a coroutine that swallows its cancel."""
        return self.reason == "timeout" and not self.ended

    @property
    def stuck(self) -> bool:
        """Whether the handler is overdue although it has had the time to unwind."""
        return self.overdue and self.unwound

    def is_current(self) -> bool:
        """Whether its coroutine is what runs now."""
        loop = running_loop_or_none()
        return loop is not None and asyncio.current_task(loop) is self.coroutine


class Host(Protocol):
    """What the parts of a worker need of it. All of it is called on the worker's loop."""

    queue: Queue
    heartbeat: Heartbeat
    tally: Tally | None
    """What its tasks did since that was last written; None if nothing is written."""
    queues: tuple[str, ...] | None
    """The queues to claim from; None for every queue that is not paused."""
    concurrency: int
    lease: float
    poll_interval: float
    executions: dict[str, Execution]
    """What runs, by task id: each has a slot."""

    @property
    def owner(self) -> str:
        """The id under which to claim."""

    def start_run(self, task: Task) -> None:
        """Run a task in a free slot."""

    def settled(self, task: Task, outcome: Outcome, after: Task | None) -> None:
        """Tell that the outcome of a task is written; ``after`` is the task now, None if it was lost."""

    def follow_ups(self, after: Task) -> tuple[Task, ...]:
        """Return the tasks to push in the transaction that writes this ended task."""

    def chore(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background."""

    def look_idle(self) -> None:
        """Look whether anything runs or is to be written: a round has ended."""

    async def until_idle(self, seconds: float) -> bool:
        """Wait until nothing runs and all outcomes are written; return whether that is so within ``seconds``."""


def retrieve(run: asyncio.Task[None]) -> None:
    """Retrieve the exception of a run that ends the loop, which raises it, too: else asyncio would log it as lost."""
    if not run.cancelled():
        run.exception()
