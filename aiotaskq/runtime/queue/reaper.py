"""Notices dead workers: settles running tasks whose leases are over, and pending tasks that have expired."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container

from aiotaskq.backends.base import Backend, Change
from aiotaskq.concurrency.clock import Clock, SystemClock
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.core.outcome import POP_OWNER, Expired, Life, Outcome, Released, lease_over, owner_of, uncounted
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.runtime.events import Events
from aiotaskq.runtime.owner import life_of
from aiotaskq.runtime.task_log import log_outcome

LIMIT = 500  # tasks settled in one round


class Reaper:
    """Looks for overdue tasks of one store: for each worker, and for consumers that pop by hand."""

    def __init__(
        self, backend: Backend, clock: Clock, events: Events, settle: Callable[..., Awaitable[Task | None]]
    ) -> None:
        """``settle`` is that of the queue."""
        self._backend = backend
        self._clock = clock
        self._events = events
        self._settle = settle
        self._left = 0  # overdue tasks that the last round left to their workers

    async def reap(
        self,
        *,
        owner: str = "",
        holds: Container[tuple[str, int]] = (),
        then: Callable[[Task], tuple[Task, ...]] | None = None,
        lease: float = 60.0,
    ) -> bool:
        """Settle overdue tasks of any worker; return whether there may be more.

        Args:
            owner: the id of the worker that calls this, if any.
            holds: the deliveries, as id and fence, whose leases that worker renews itself.
            then: returns the tasks that are pushed with the change.
            lease: the length of a lease in seconds.
        """
        now, left = self._clock.now(), 0
        limit = LIMIT + self._left  # tasks that are left to their workers must not hide the others
        late = await self._backend.overdue(now, limit)
        lives: dict[str, Life] = {}
        for task in late:
            if (task.task_id, task.fence) in holds:
                left += 1
                continue
            outcome: Outcome | None = Expired()
            if task.status is not Status.PENDING:
                whose = owner_of(task)
                if owner and whose == owner:
                    # The worker does not know this task: the answer to its claim was lost.
                    outcome = Released("it never started")
                else:
                    life = lives.get(whose) or lives.setdefault(whose, self._life_of(whose))
                    outcome = lease_over(life, now - (task.lease_until or now), int(lease * SECOND))
            if outcome is None:
                left += 1
                continue
            after = await self._settle(task, outcome, lease_over=True, then=then)
            if after is not None:
                log_outcome(task, outcome, after, now)
                self._events.emit("expired" if after.status is Status.EXPIRED else "lost", now, after)
        self._left = left
        return len(late) == limit

    def _life_of(self, owner: str) -> Life:
        # For a pop only the visibility timeout counts, and in virtual time all workers are in this process.
        real = isinstance(self._clock, SystemClock) and not owner.startswith(POP_OWNER)
        return life_of(owner) if real else Life.UNKNOWN

    async def uncount(self, lost: Task) -> None:
        """Take back the crash that was counted when the lease of this delivery ended: its worker did not crash."""
        for attempt in range(1, 11):
            (row,) = await self._backend.get([lost.task_id])
            after = None if row is None else uncounted(row, lost)
            if row is None or after is None or (await self._backend.update([Change(row, after, lease_over=True)]))[0]:
                return
            await self._clock.sleep(backoff(attempt, 0.01, 5.0))  # it has just changed, or is locked
