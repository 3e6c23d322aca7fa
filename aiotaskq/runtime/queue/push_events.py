"""Emits the event ``pushed`` and logs the push: at once, or after the commit of the caller's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.core.task import Task
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import gate, log
from aiotaskq.runtime.events import Events
from aiotaskq.runtime.task_log import log_pushed


class PushedEvents:
    """Emits ``pushed``: at once for a push of the queue, after the commit for one in a transaction of the caller's."""

    def __init__(self, backend: Backend, clock: Clock, events: Events) -> None:
        self._backend = backend
        self._clock = clock
        self._events = events
        self._reading: set[asyncio.Task[None]] = set()

    def emit(self, tasks: Sequence[Task], stored: Sequence[Task]) -> None:
        """Emit for the tasks that are stored themselves; the others conflicted with a row that is there."""
        if gate.open:
            log_pushed(tasks, stored)
        if "pushed" in self._events:
            for task, row in zip(tasks, stored, strict=True):
                if row is task:
                    self._events.emit("pushed", self._clock.now(), task)

    def at_commit(self, tasks: Sequence[Task], stored: Sequence[Task]) -> Callable[[], None]:
        """Return the function to call, from any thread, when the transaction of this push has committed."""
        bound = LoopBound()
        bound.bind()

        def committed() -> None:
            bound.call_soon(self._committed, tasks, stored)  # a loop that is gone has no listeners

        return committed

    def _committed(self, tasks: Sequence[Task], stored: Sequence[Task]) -> None:
        if "pushed" in self._events or gate.open:
            self._reading.add(reading := asyncio.create_task(self._emit_for_stored(tasks, stored)))
            reading.add_done_callback(self._reading.discard)

    async def _emit_for_stored(self, tasks: Sequence[Task], stored: Sequence[Task]) -> None:
        # The transaction has committed, but it may have rolled back to a savepoint before the push.
        new = [task for task, row in zip(tasks, stored, strict=True) if row is task]
        try:
            rows = await self._backend.get([task.task_id for task in new])
        except AiotaskqError as error:
            log.warning("the event 'pushed' is missing for up to {} tasks: {}", len(new), error)
            return
        there = [task for task, row in zip(new, rows, strict=True) if row is not None]
        self.emit(there, there)
