"""Tells a worker which of its tasks are lost or to be cancelled, and takes back those of dead workers.

And the quarantine, in which a task runs that may have killed its workers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from aiotaskq.backends.change import Change
from aiotaskq.backends.listeners import CANCEL
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.errors import check_seconds
from aiotaskq.core.outcome import MAX_CRASHES, Cancelled, Released, marked, unmarked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.log import log, named
from aiotaskq.runtime.clock_steps import HostClock
from aiotaskq.runtime.task_log import log_lost, log_outcome
from aiotaskq.runtime.worker.execution import FENCED, NEVER_STARTED, Host
from aiotaskq.runtime.worker.heartbeat import Key

if TYPE_CHECKING:
    from aiotaskq.runtime.worker.fetcher import Fetcher


LOST = "lost"  # why the fetcher is paused


class Leases:
    """Interrupts what a worker no longer holds, or is to cancel, and reaps what the store has of dead workers."""

    def __init__(self, worker: Host, fetcher: Fetcher, reap_interval: float | timedelta) -> None:
        """Wire it; ``reap_interval`` in seconds. Raises ValidationError for one that is not positive."""
        self._worker, self._fetcher = worker, fetcher
        self._executions = worker.executions
        self._queue = queue = worker.queue
        self._backend = queue.backend
        self._clock = clock = queue.clock
        self._host_clock = HostClock(queue.backend, clock, queue.step_log)
        self._bound = LoopBound()
        self._stop_listening: Callable[[], None] = lambda: None
        self._canceller = Poller("cancels", self._look_for_cancels, clock)
        self._reap_interval = check_seconds("reap_interval", reap_interval, zero=False)
        self._reaper = Poller("reaper", self.reap, clock)
        self._reap_from = 0  # ticks

    async def start(self) -> None:
        """Listen to hints of cancels, look for those of which no hint comes, and take back what dead workers held."""
        self._bound.bind()
        self._stop_listening = self._backend.listeners.listen(self._cancel_hint, CANCEL)
        if self._backend.shared:
            await self._canceller.start()
        await self._reaper.start()

    def reap_now(self) -> None:
        """Look for overdue and expired tasks now, not at the next time."""
        self._reaper.wake()

    async def stop(self, seconds: float) -> None:
        """Stop all of it; a round under way may take ``seconds`` to end."""
        await asyncio.gather(self._reaper.stop(seconds), self._canceller.stop(seconds))
        self._stop_listening()

    # ---- what the worker holds ----

    def answered(self, held: Sequence[Key], answers: Sequence[bool | None]) -> None:
        """Interrupt what a heartbeat has found lost (None) or to be cancelled (True)."""
        for key, answer in zip(held, answers, strict=True):
            if answer is False:
                continue
            execution = self._executions.get(key[0])
            if execution is not None and execution.task.fence == key[1]:
                if execution.ended:
                    continue  # its row may be written already, as that of a task that sleeps, and the answer on its way
                if answer is None and execution.context.completed:
                    continue  # its handler has ended the task in a transaction of its own, and goes on
                if answer is None and execution.reason != "lost":
                    self._lost(execution.task)
                execution.interrupt("lost" if answer is None else "cancel")
            elif answer is None:
                self._worker.heartbeat.drop(key)
                for task in self._fetcher.buffer.take(lambda task, key=key: (task.task_id, task.fence) == key):  # type: ignore[misc]
                    self._lost(task)

    def _lost(self, task: Task) -> None:
        self.uncount(task)
        log_lost(task)

    def uncount(self, lost: Task) -> None:
        """Take back the crash that the reaper of another host has counted, not knowing that this process lives."""
        if self._backend.shared:
            self._worker.chore(self._queue.reaper.uncount(lost))

    def fenced(self) -> None:
        """Stop everything, since no lease could be renewed in time: other workers may have the tasks by now.

        Nothing is claimed until the store answers again.
        """
        count = len(self._executions)
        log.warning("no lease could be renewed in time: {} running tasks are stopped, others may have them", count)
        for execution in self._executions.values():
            execution.interrupt("fenced")
        self._fetcher.give_back(FENCED)

    async def give_back_unknown(self, keys: Sequence[Key]) -> None:
        """Release tasks that were claimed for this worker in an answer that was lost on its way."""
        for task in await self._backend.get([task_id for task_id, _ in keys]):
            if task is not None and task.status is Status.RUNNING and (task.task_id, task.fence) in keys:
                outcome = Released("it never started")
                after = await self._queue.settle(task, outcome, lease_over=True)
                if after is not None:
                    log_outcome(task, outcome, after, self._clock.now())
                    self._queue.hooks.call("lost", self._clock.now(), after)

    def _cancel_hint(self, _kind: str, task_ids: Sequence[str]) -> None:
        self._bound.call_soon(self._cancel, set(task_ids))  # a hint may come from any thread

    def _cancel(self, task_ids: set[str]) -> None:
        for execution in self._executions.values():
            if execution.task.task_id in task_ids:
                execution.interrupt("cancel")
        for task in self._fetcher.buffer.take(lambda task: task.task_id in task_ids):
            self._fetcher.put(task.replace(cancel_requested=True), Cancelled())

    async def _look_for_cancels(self) -> float:
        """Look for cancel requests of which no hint has come."""
        if self._executions:
            self._cancel(set(await self._backend.cancelling(list(self._executions))))
        await self._host_clock.look()
        return self._worker.poll_interval

    # ---- what dead workers held ----

    async def reap(self) -> float:
        """Take back the tasks of dead workers; return the seconds until the next time."""
        ticks = self._clock.ticks()
        if self._reaper.failures:
            await self._backend.ping()
            # The store is back. Workers that live renew their leases now: one that is still over after a whole lease
            # belongs to a dead worker.
            self._reap_from = ticks + int(self._worker.lease * SECOND)
        if ticks < self._reap_from:
            return min(self._reap_interval, (self._reap_from - ticks) / SECOND)
        tally = self._worker.tally
        try:
            more = await self._queue.reaper.reap(
                then=self._worker.follow_ups,
                settled=None if tally is None else tally.reaped,
                # A task that is taken back may end this process before it is counted.
                lost=lambda: self._fetcher.pause(LOST),
            )
            if tally is not None:
                await tally.write_lost()
        finally:
            self._fetcher.resume(LOST)
        if more:
            return 0.0
        await self._backend.tidy()
        return self._reap_interval * random.uniform(0.8, 1.2)


# ---- quarantine -----------------------------------------------------------------------------------------------------
# A suspect task runs alone in the process, so that if the process dies again, it is clear which task killed it. The
# poison rule (``core.outcome``) fails a task when its process has died under it ``MAX_CRASHES`` times, the last time
# while no other task ran there: only the death of a process with a mark in the task's row (``marked``) ends it. For
# that rule the worker has to do this, and no more:
#
# - A suspect is a task that one more crash makes poison. It starts alone: the mark is true only if nothing else runs,
#   and if no outcome of an earlier run is still to be written: with the process that run would be lost, and counted.
# - Nothing else starts while the mark is there. What is claimed and has not started is released, so that the death of
#   this process is not counted against it.
# - No suspect starts beside another one: each would keep the other from being alone, and neither would be judged.
# - Both waits end after one lease, since a run may take hours. A suspect that could not be alone by then runs beside
#   the others without a mark, as any task does. One that runs alone for longer loses its mark before others start.
#
# Nothing is kept apart without a mark: a process that dies with several tasks in it is held against none of them.

RETRY = 1.0  # seconds between tries to take a mark back
SUSPECT = MAX_CRASHES - 1  # crashes of a task that one more makes poison


class Quarantine:
    """Keeps the other tasks of a worker away from a suspect, for at most one lease before and one while it runs."""

    def __init__(self, worker: Host, fetcher: Fetcher) -> None:
        self._worker, self._fetcher = worker, fetcher
        self._backend, self._clock = worker.queue.backend, worker.queue.clock

    def admit(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return the claimed tasks that may be buffered; start the quarantine of the first suspect among them.

        The others are released, other suspects with a delay, so that they are not claimed again at once.
        """
        if not any(task.crashes >= SUSPECT for task in tasks):
            return tasks
        here = [execution.task for execution in self._worker.executions.values()] + list(self._fetcher.buffer)
        suspect = None
        if not any(task.crashes >= SUSPECT for task in here):
            suspect = next(task for task in tasks if task.crashes >= SUSPECT)
            self._fetcher.pause()
            self._worker.chore(self._run())
        admitted = []
        for task in tasks:
            if task is suspect or (suspect is None and task.crashes < SUSPECT):
                admitted.append(task)
            else:
                self._fetcher.put(task, Released(NEVER_STARTED, SECOND if task.crashes >= SUSPECT else 0))
        return admitted

    async def _run(self) -> None:
        try:
            if await self._worker.until_idle(self._worker.lease):
                for suspect in tuple(self._fetcher.buffer):  # none if it was cancelled, lost or released meanwhile
                    await self._run_alone(suspect)
        finally:
            self._fetcher.resume()

    async def _run_alone(self, task: Task) -> None:
        after, is_marked = marked(task), False
        try:
            is_marked = await self._write(task, after)
        finally:
            for suspect in self._fetcher.buffer.take(lambda each: each is task):
                if is_marked:
                    self._worker.start_run(after)
                else:
                    self._fetcher.put(suspect, Released(NEVER_STARTED))
        if await self._worker.until_idle(self._worker.lease):
            return
        while (execution := self._worker.executions.get(task.task_id)) is not None and execution.reason != "lost":
            before = execution.task.replace(cancel_requested=execution.context.cancel_requested)
            after = unmarked(before)
            if await self._write(before, after):
                execution.task = after
                return
            await self._clock.sleep(RETRY)

    async def _write(self, before: Task, after: Task) -> bool:
        """Write another owner of a running task; return whether the row was as expected."""
        if not self._backend.shared:
            return True
        try:
            return (await self._backend.update([Change(before, after)]))[0]
        except DatabaseUnavailable as error:
            log.warning("{}: whether it runs alone cannot be written: {}", named(after), error)
            return False
