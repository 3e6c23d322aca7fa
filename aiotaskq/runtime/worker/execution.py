"""One run of a task in a coroutine of its own, and how its handler is interrupted."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from typing import Any

import msgspec

from aiotaskq.core.task import Task
from aiotaskq.runtime.context import TaskContext

Interrupt = str  # "timeout", "cancel", "shutdown", "cut off" or "lost"


class Running(msgspec.Struct, eq=False):
    """One run of a task, and how to interrupt it.

    ``coroutine`` is the asyncio task of this run alone: whatever a handler does to it, or leaves behind to do to it
    later, reaches no other run. An interrupt cancels it, as ``asyncio.timeout`` does.
    """

    # A struct, as the context is: one of each is made for every task, in a third of the time that a class takes.
    task: Task
    context: TaskContext
    coroutine: asyncio.Task[Any] | None = None
    reason: Interrupt | None = None
    abandoned: bool = False
    begun: bool = False
    """Whether the coroutine has begun: until then it must not be cancelled, for a cancel would end it unseen."""
    unwound: bool = False
    """Whether the time is over in which a handler ends that heeds its timeout."""
    unmarking: bool = False
    """Whether the mark that it runs alone is being taken back."""
    _over: bool = False
    _asked: int = 0

    def interrupt(self, reason: Interrupt) -> None:
        """Cancel the handler, once; the first reason counts, but a lost lease counts more."""
        if self._over:
            return
        if reason == "cancel":
            self.context.cancel_requested = True
        if self.reason is None or reason in ("lost", "cut off", "shutdown"):
            self.reason = reason
            if self.coroutine is not None and self.begun:
                self._asked += 1
                self.coroutine.cancel(f"aiotaskq: {reason}")

    @property
    def overdue(self) -> bool:
        """Whether the handler has passed its timeout and goes on: a thread, or a coroutine that swallows its cancel."""
        return self.reason == "timeout" and not self._over

    @property
    def deaf(self) -> bool:
        """Whether the handler was told of its timeout, had time to unwind, and goes on."""
        return self.overdue and self.unwound

    def runs_in(self, coroutine: asyncio.Task[Any] | None) -> bool:
        """Whether it is this coroutine that runs the task."""
        return coroutine is self.coroutine

    def is_current(self) -> bool:
        """Whether its coroutine is what runs just now."""
        return _get_running_loop() is not None and asyncio.current_task() is self.coroutine

    def over(self) -> None:
        """The handler has ended: from now on it is not interrupted."""
        self._over = True

    def take_back(self) -> None:
        """Undo the cancels that were asked for: the handler's thread goes on, and this coroutine waits for it."""
        while self._asked:
            self._asked -= 1
            if self.coroutine is not None:
                self.coroutine.uncancel()
