"""Takes tasks back whose leases are over, and counts the deaths of their processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container

from aiotaskq.backends.base import Backend, Change
from aiotaskq.concurrency.backoff import backoff
from aiotaskq.concurrency.clock import Clock, SystemClock
from aiotaskq.core.outcome import POP_OWNER, Expired, Life, Outcome, Released, lease_over, owner_of, uncounted
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.runtime.events import Events
from aiotaskq.runtime.owner import life_of
from aiotaskq.runtime.task_log import log_outcome

LIMIT = 500  # overdue tasks settled in one round


class Reaper:
    """Looks for overdue tasks of one store, for a worker or for consumers by hand."""

    def __init__(
        self, backend: Backend, clock: Clock, events: Events, settle: Callable[..., Awaitable[Task | None]]
    ) -> None:
        """Wire it; ``settle`` is that of the queue."""
        self._backend = backend
        self._clock = clock
        self._events = events
        self._settle = settle
        self._left = 0  # overdue tasks that the last look left to their workers

    async def reap(
        self,
        *,
        owner: str = "",
        holds: Container[tuple[str, int]] = (),
        then: Callable[[Task], tuple[Task, ...]] | None = None,
        lease: float = 60.0,
    ) -> bool:
        """Settle what nobody holds any more, whoever claimed it; return whether there may be more of it.

        ``owner`` and ``holds`` are the worker that looks, and its deliveries, about which the heartbeat decides;
        ``lease`` is how long a lease is, in seconds."""
        now, left = self._clock.now(), 0
        limit = LIMIT + self._left  # those that are left to their worker are not to hide the others
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
                    # That worker lives and does not know of it: the answer to a claim was lost on its way.
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
        # Of a pop only its visibility timeout counts; and in virtual time all workers are in this process.
        real = isinstance(self._clock, SystemClock) and not owner.startswith(POP_OWNER)
        return life_of(owner) if real else Life.UNKNOWN

    async def uncount(self, lost: Task) -> None:
        """Take back the crash that was counted when the lease of this delivery ended: its worker lives."""
        for attempt in range(1, 11):
            (row,) = await self._backend.get([lost.task_id])
            after = None if row is None else uncounted(row, lost)
            if row is None or after is None or (await self._backend.update([Change(row, after, lease_over=True)]))[0]:
                return
            await self._clock.sleep(backoff(attempt, 0.01, 5.0))  # it has just changed, or another transaction has it
