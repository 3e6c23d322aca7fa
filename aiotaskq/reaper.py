"""The reaper: settles what nobody holds any more, whoever claimed it; in every worker, and it needs no handlers."""

from __future__ import annotations

import random
from collections.abc import Callable

from aiotaskq.backends.base import Backend
from aiotaskq.clock import Clock
from aiotaskq.leases import LeaseKeeper
from aiotaskq.outcome import Expired, LeaseExpired, Outcome, Released
from aiotaskq.queue import Queue
from aiotaskq.service import Service
from aiotaskq.task import Status, Task

LIMIT = 500  # tasks settled in one round


class Reaper:
    """Looks for overdue leases and expired tasks, beside one worker; any number of them may look at once."""

    def __init__(
        self,
        queue: Queue,
        backend: Backend,
        clock: Clock,
        *,
        owner: str,
        keeper: LeaseKeeper,
        interval: float,
        follow_ups: Callable[[Task], tuple[Task, ...]],
    ) -> None:
        """Wire a reaper for the worker ``owner``; ``interval`` in seconds between two looks, with jitter."""
        self._queue = queue
        self._backend = backend
        self._clock = clock
        self._owner = owner
        self._keeper = keeper
        self._interval = interval
        self._follow_ups = follow_ups
        self._service = Service("reaper", self.look, clock)

    async def start(self) -> None:
        """Start looking in the running loop."""
        await self._service.start()

    async def stop(self) -> None:
        """Look no more; idempotent."""
        await self._service.stop()

    async def look(self) -> float:
        """Settle what is overdue; return the seconds until the next look."""
        now = self._clock.now()
        late = await self._backend.overdue(now, LIMIT)
        for task in late:
            if (task.task_id, task.fence) in self._keeper:
                continue  # our worker's; the heartbeat decides
            after = await self._queue.settle(task, self._outcome(task), lease_over=True, then=self._follow_ups)
            if after is not None:
                self._queue.events.emit("expired" if after.status is Status.EXPIRED else "lost", now, after)
        return 0.0 if len(late) == LIMIT else self._interval * random.uniform(0.8, 1.2)

    def _outcome(self, task: Task) -> Outcome:
        if task.status is Status.PENDING:
            return Expired()
        if task.lease_owner == self._owner:
            # Our worker lives and does not know of it: the answer to a claim was lost on its way. Nobody crashed.
            return Released("it never started")
        return LeaseExpired()
