"""One task in one slot of a worker, and how its handler is interrupted without harm to the slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from aiotaskq.context import TaskContext
from aiotaskq.task import Task

Interrupt = str  # "timeout", "cancel", "shutdown", "cut off" or "lost"


class Running(msgspec.Struct, eq=False):
    """One task in one slot, and how to interrupt it.

    An interrupt cancels the slot's coroutine, as ``asyncio.timeout`` does, and takes the cancel back when it arrives:
    the job ends, the slot goes on.
    """

    # A struct, as the context is: one of each is made for every task, in a third of the time that a class takes.
    task: Task
    _slot: asyncio.Task[Any]
    context: TaskContext
    reason: Interrupt | None = None
    abandoned: bool = False
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
            self._asked += 1
            self._slot.cancel(f"aiotaskq: {reason}")

    @property
    def overdue(self) -> bool:
        """Whether the handler has passed its timeout and goes on: a thread cannot be interrupted."""
        return self.reason == "timeout" and not self._over

    def runs_in(self, coroutine: asyncio.Task[Any] | None) -> bool:
        """Whether it is this coroutine that runs the task."""
        return coroutine is self._slot

    def over(self) -> None:
        """The handler has ended: no interrupt reaches the slot any more, and those that did are taken back."""
        self._over = True
        if self._asked:
            self.take_back()

    def take_back(self) -> None:
        """Undo the cancels that were asked for, so that the slot's coroutine is not cancelled itself."""
        while self._asked:
            self._asked -= 1
            self._slot.uncancel()

    async def forget_cancels(self, loop_ends: Callable[[], bool]) -> None:
        """Keep a slot whose handler has cancelled its own coroutine, and may have left before that cancel came."""
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if loop_ends():
                raise
        while self._slot.cancelling():
            self._slot.uncancel()
