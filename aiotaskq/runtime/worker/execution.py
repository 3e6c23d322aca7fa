"""One run of a task in a coroutine of its own, and how its handler is interrupted."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec

from aiotaskq.core.task import Task
from aiotaskq.runtime.context import TaskContext
from aiotaskq.runtime.handler import Handler

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
        try:
            return asyncio.current_task() is self.coroutine
        except RuntimeError:  # no loop runs
            return False


def retrieve(run: asyncio.Task[None]) -> None:
    """Retrieve the exception of a run that ends the loop, which raises it, too: else asyncio would log it as lost."""
    if not run.cancelled():
        run.exception()
