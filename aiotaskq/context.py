"""What a handler can ask and tell about the task it runs: ``current_task()``."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

from aiotaskq.errors import LeaseLost, NotFound, NotSupported
from aiotaskq.outcome import clip
from aiotaskq.task import SECOND, Task, check_int, check_seconds


class SnoozeRequested(Exception):
    """Raised by ``snooze()`` to leave the handler; the worker puts the task back."""

    def __init__(self, delay: int) -> None:
        super().__init__(f"snooze for {delay / SECOND:g} s")
        self.delay = delay


class TaskContext:
    """The running task, from inside its handler."""

    def __init__(self, task: Task, report: Callable[[dict[str, Any]], Awaitable[bool]]) -> None:
        self.task = task
        """The frozen task as it was claimed; ``task.fence`` tells this delivery from others."""
        self.cancel_requested = False
        """Whether somebody asked the task to stop; an ``async def`` handler is cancelled besides."""
        self._report = report
        self._loop = asyncio.get_running_loop()  # the worker's: a `def` handler runs in a thread

    async def progress(self, done: int, total: int | None = None, message: str | None = None) -> None:
        """Store how far the task is, for ``handle.progress()``. Raises LeaseLost when it is no longer this worker's."""
        value: dict[str, Any] = {"done": check_int("done", done, 0)}
        if total is not None:
            value["total"] = check_int("total", total, 0)
        if message is not None:
            value["message"] = clip(str(message)[:500])
        if not await self._report(value):
            raise LeaseLost(f"task {self.task.task_id} is no longer run here; stop working on it")

    def snooze(self, seconds: float) -> None:
        """Leave the handler now and run the task again after ``seconds``; no retry is consumed."""
        raise SnoozeRequested(int(check_seconds("seconds", seconds) * SECOND))

    async def complete(self, session: Any) -> None:
        """Complete the task in the caller's own database transaction."""
        raise NotSupported("complete(session=…) is not on this version yet; return from the handler instead")


current: contextvars.ContextVar[TaskContext | None] = contextvars.ContextVar("aiotaskq_task", default=None)


def current_task() -> TaskContext:
    """Return the context of the task whose handler runs here. Raises NotFound outside of a handler."""
    context = current.get()
    if context is None:
        raise NotFound("current_task(): no task runs here; call it from a handler")
    return context
