"""What is done in a store from time to time: lost and expired tasks are settled, and gates admitted that are due."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiotaskq.backends.change import Change
from aiotaskq.backends.listeners import GATES
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.outcome import Expired, Life, Outcome, is_dead, outcome_of_lost, owner_of, uncounted, was_popped
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter, aged
from aiotaskq.log import log
from aiotaskq.runtime.owner import life_of
from aiotaskq.runtime.task_log import log_outcome

if TYPE_CHECKING:
    from aiotaskq.core.worker_info import WorkerInfo
    from aiotaskq.runtime.queue.pushes import Pushes


LIMIT = 500  # tasks settled, or gates admitted, in one round
AGE_PAGES = 4
"""Pages of LIMIT waiting tasks that one round looks at for those that have waited for long."""
REMEMBERED = 600 * SECOND  # for which a worker that is no longer in the registry is known here


class Reaper:
    """Looks for overdue tasks of one store: for each worker, and for consumers that pop by hand."""

    def __init__(self, queue: Pushes, resume: Callable[[], Awaitable[None]]) -> None:
        """``resume`` goes on with the cancels of groups."""
        self._queue, self._backend, self._clock = queue, queue.backend, queue.clock
        self._resume = resume
        self._after: str | None = None  # the task behind which the next round looks for those that have waited for long
        self._workers: dict[str, tuple[int, WorkerInfo]] = {}  # by id, as they were last read, and when

    async def reap(
        self,
        *,
        then: Callable[[Task], tuple[Task, ...]] | None = None,
        settled: Callable[[Task, Outcome, Task], None] | None = None,
        lost: Callable[[], None] = lambda: None,
    ) -> bool:
        """Remove dead workers, and settle overdue tasks; return whether there may be more.

        ``then`` returns the tasks that are pushed with the change. ``settled`` is called with each task as it was, the
        outcome, and the task as it is written; ``lost`` before the first of them, where some are of dead workers.
        Whatever happens in between, the next call, of any process, goes on: the tasks of a worker that was removed are
        overdue until they are settled.
        """
        now = self._clock.now()
        await self._remove_dead(now)
        await self._resume()
        await self._queue.after_sweep.look_at_all()
        late = await self._backend.overdue(now, LIMIT)
        if any(task.status is not Status.PENDING and not was_popped(task) for task in late):
            lost()
        for task in late:
            outcome: Outcome = Expired()
            version = None
            if task.status is not Status.PENDING:
                owner = owner_of(task)
                _, worker = self._workers.get(owner, (now, None))
                version = None if worker is None else worker.version
                life = Life.UNKNOWN if task.lease_until is not None else self._life_of(owner)
                outcome = outcome_of_lost(life, worker)
            after = await self._queue.settle(task, outcome, lease_over=True, then=then, version=version)
            if after is not None:
                log_outcome(task, outcome, after, now)
                if settled is not None:
                    settled(task, outcome, after)
                if type(outcome) is not Expired:
                    self._queue.hooks.call("lost", now, after)
                if after.final:
                    self._queue.hooks.call(str(after.status), now, after)
        if len(late) == LIMIT:
            return True
        await self._raise_aged(now)
        return False

    async def _raise_aged(self, now: int) -> None:
        """Give tasks that have waited longer than the ``age`` of their handlers the highest priority.

        Each round looks at some of the waiting tasks, the newest first, and the next one at those behind them.
        """
        handlers = self._queue.handlers.items()
        ages = {name: int(handler.age * SECOND) for name, handler in handlers if handler.age is not None}
        for _ in range(AGE_PAGES if ages else 0):
            tasks = await self._backend.find(TaskFilter(status=(Status.PENDING,), after=self._after), LIMIT)
            self._after = tasks[-1].task_id if len(tasks) == LIMIT else None
            late = [task for task in tasks if aged(task.replace(undecodable=None), ages.get(task.type), now)]
            found = [(task, aged(task, ages.get(task.type), now)) for task in await self._backend.whole(late)]
            changes = [Change(task, after) for task, after in found if after is not None]
            if changes and (count := sum(await self._backend.update(changes))):
                log.debug("{} tasks have waited for long, and are claimed before others", count)
            if self._after is None:
                return

    async def _remove_dead(self, now: int) -> None:
        registry = self._backend.workers
        if registry is None:
            return
        found = await registry.all()
        # Another process may remove a worker before its tasks are read here.
        self._workers = {owner: each for owner, each in self._workers.items() if now - each[0] < REMEMBERED}
        self._workers |= {worker.owner: (now, worker) for worker in found}
        for worker in found:
            late, lease = now - worker.lease_until, worker.lease_until - worker.seen_at
            if late >= 0 and is_dead(self._life_of(worker.owner), late, lease) and await registry.remove(worker):
                log.warning("worker {} is dead, or does not answer: its tasks are taken back", worker.owner)

    def _life_of(self, owner: str) -> Life:
        # In virtual time all workers are in this process.
        return life_of(owner) if isinstance(self._clock, SystemClock) else Life.UNKNOWN

    async def uncount(self, lost: Task) -> None:
        """Take back the crash that was counted when the lease of this delivery ended: its worker did not crash."""
        for attempt in range(1, 11):
            (row,) = await self._backend.get([lost.task_id])
            after = None if row is None else uncounted(row, lost)
            if row is None or after is None or (await self._backend.update([Change(row, after, lease_over=True)]))[0]:
                return
            await self._clock.sleep(backoff(attempt, 0.01, 5.0))  # it has just changed, or is locked


MEND_AFTER = 60  # poll intervals between two looks for gates that a dead process or another program has left behind


class LimitSweep(Poller):
    """Admits the gates that are due: in a loop for a worker, and before a pop by hand, since there may be no worker.

    In a store of this process, each change of a time is a hint. In a shared one hints can be lost, so it also polls.
    """

    def __init__(self, queue: Pushes) -> None:
        super().__init__("gates", self.sweep_if_due, queue.clock)
        self._backend, self._interval = queue.backend, queue.poll_interval
        self._next_poll = self._next_mend = 0  # ticks
        self._hinted = False
        self.next_at: int | None = None
        """The earliest time at which a gate may let a task pass, as far as is known; microseconds UTC."""
        self._stop_listening: Callable[[], None] = queue.backend.listeners.listen(self._hint, GATES)

    @property
    def idle(self) -> bool:
        """Whether no time is known at which a gate is due, and no hint has come."""
        return self.next_at is None and not self._hinted

    async def stop(self, timeout: float = 5.0) -> None:
        """End the loop; a round that is under way may take so long."""
        await super().stop(timeout)
        self._next_poll = 0

    def _hint(self, _kind: str, _names: object) -> None:
        self._hinted = True
        self.wake()  # from any thread

    async def sweep_if_due(self) -> float:
        """Sweep if a gate may be due, or a poll is; return the seconds until a gate is, or until the next poll."""
        due = self.next_at is not None and self._clock.now() >= self.next_at
        if self._hinted or due or self._clock.ticks() >= self._next_poll:
            await self.sweep()
        pause = max(0.0, (self._next_poll - self._clock.ticks()) / SECOND)
        return pause if self.next_at is None else min(pause, max(0.0, (self.next_at - self._clock.now()) / SECOND))

    async def sweep(self) -> None:
        """Admit the gates that are due."""
        self._hinted = False
        ticks = self._clock.ticks()
        mend = MEND_AFTER * self._interval
        if ticks >= self._next_mend:
            if self._next_mend:
                await self._backend.gates.mend(self._clock.now())
            self._next_mend = ticks + int(mend * random.uniform(0.8, 1.2) * SECOND)
        self.next_at = await self._backend.gates.admit(self._clock.now(), LIMIT)
        self._next_poll = ticks + int((self._interval if self._backend.shared else mend) * SECOND)
