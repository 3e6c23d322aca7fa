"""The queue actor: pushing, popping and settling by hand, and the operator's verbs, over any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aiotaskq.backends.base import Backend, Change
from aiotaskq.concurrency.batcher import Batch
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.outcome import (
    POP_OWNER,
    Cancelled,
    Completed,
    Expired,
    Failed,
    HandedBack,
    Outcome,
    Released,
    Requeued,
    settle,
)
from aiotaskq.core.task import (
    SECOND,
    Status,
    Task,
    TaskFilter,
    check_int,
    check_json,
    check_key,
    check_seconds,
    same_content,
    task_from_dict,
    task_to_dict,
)
from aiotaskq.errors import DatabaseUnavailable, LeaseLost, NotFound, ResultTimeout, TaskConflict, ValidationError
from aiotaskq.log import gate, log, named, printable
from aiotaskq.runtime.clock_steps import StepLog
from aiotaskq.runtime.events import Events
from aiotaskq.runtime.owner import fresh_owner
from aiotaskq.runtime.queue.bulk import RETRYABLE, count_all, counted, ended_before, purge_all, retry_all, statuses
from aiotaskq.runtime.queue.bulk import Stats as Stats
from aiotaskq.runtime.queue.capacity import Bound
from aiotaskq.runtime.queue.claims import Claims, Taker
from aiotaskq.runtime.queue.expired_keys import take_expired_keys
from aiotaskq.runtime.queue.known_ids import KnownIds
from aiotaskq.runtime.queue.pushed import PushedEvents
from aiotaskq.runtime.queue.reaper import Reaper
from aiotaskq.runtime.queue.unacked import OpenPops
from aiotaskq.runtime.queue.waiters import Waiting
from aiotaskq.runtime.task_log import log_outcome

REAP_INTERVAL = 15.0  # seconds between two looks for them, at most


class Queue:
    """Tasks of one store. Arguments and results are values; nothing here depends on which store it is."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        events: Events | None = None,
        visibility: float = 300.0,
        poll_interval: float = 1.0,
        maxsize: int = 0,
        when_full: str = "wait",
    ) -> None:
        """Wire a queue. ``visibility`` and ``poll_interval`` in seconds; ``maxsize`` 0 is unbounded.

        ``when_full`` is ``wait``, ``raise`` (QueueFull) or ``drop_oldest``, which cancels ready tasks in the push's
        transaction: of the largest priority number, the oldest first.
        """
        self._backend = backend
        self._clock = clock
        self.events = events if events is not None else Events()
        self._visibility = check_seconds("visibility", visibility, zero=False)
        self._poll_interval = check_seconds("poll_interval", poll_interval, zero=False)
        self._waiting = Waiting(backend)
        self._bound = Bound(backend, clock, self.events, self._waiting, maxsize, when_full, self._poll_interval)
        self._waits = backend.grouped or self._bound.maxsize > 0
        self._pushes: Batch[Task, Task] = Batch(self._push)
        self._updates: Batch[Change, bool] = Batch(backend.update)
        self._reads: Batch[str, Task | None] = Batch(backend.get)
        self.claims = Claims(backend, clock, bounded=bool(self._bound.maxsize))
        self.takers: list[Taker] = []
        """Workers of this queue, which may claim what is pushed here in the transaction that pushes it."""
        self._pushed = PushedEvents(backend, clock, self.events)
        self._pops = OpenPops()
        self.told_of_step = StepLog()
        self.known_ids = KnownIds(backend, clock, self.add, self._pushed)
        self._next_reap = 0  # ticks
        self.reaper = Reaper(backend, clock, self.events, self.settle)
        self._pop_owner = fresh_owner(POP_OWNER)

    @property
    def immediate(self) -> bool:
        """Whether pushing, popping what is ready and settling never suspend: any thread may do it, without a loop.

        What does have to wait asks for the running loop first."""
        return not self._waits and not (self.events.wanted and "pushed" in self.events)

    # ---- pushing ----

    async def add(self, tasks: Sequence[Task], session: Any = None) -> list[Task]:
        """Push in one transaction; answer with what now stands for each: the object given, or what was in the way.

        With ``session`` it is the caller's own transaction, and is not committed here. Raises ValidationError (before
        anything is written, also for more than ``maxsize``), QueueFull (with a session also where it would wait),
        DatabaseUnavailable with the ids, and NotSupported where the store cannot join it.
        """
        if self._backend.durable:
            for task in tasks:
                self._check_durable(task)
        try:
            if session is None and not self._bound.maxsize:
                stored = await (self._pushes.add(tasks) if self._backend.grouped else self._backend.push(tasks))
            else:
                stored = []
                committed = None if session is None else self._pushed.at_commit(tasks, stored)
                stored += await self._bound.push(tasks, session, committed)
            if not self._bound.maxsize and (len(tasks) != 1 or stored[0] is not tasks[0]):
                now = self._clock.now()
                for expired in await take_expired_keys(self._backend, now, tasks, stored, session):
                    if session is None:
                        log_outcome(expired, Expired(), expired, now)
                        self.events.emit("expired", now, expired)
            if session is None and (self.events.wanted or gate.open):
                self._pushed.tell(tasks, stored)
            return stored
        except DatabaseUnavailable as error:  # of a group, it is the error of each of its pushes
            if session is not None:
                raise  # nothing of it is there before the caller commits
            raise error.of_push(task.task_id for task in tasks) from error

    async def _push(self, tasks: Sequence[Task]) -> list[Task]:
        taker = next((each for each in self.takers if each.wants), None)
        return await (self._backend.push(tasks) if taker is None else taker.push(tasks))

    @staticmethod
    def _check_durable(task: Task) -> None:
        check_json("params", task.params)
        if task.extra:
            check_json("task", task.extra)
        for field, name in (("on_success", task.on_success), ("on_failure", task.on_failure)):
            if name is not None and not isinstance(name, str):
                raise ValidationError(f"{field}: a function cannot be stored; give the name of a task")

    async def push_task(self, task: Mapping[str, Any], priority: int = 0) -> str:
        """Add a task given as a dict (``type``, ``params``, optional ``task_id``), which is not changed; return its id.

        In memory an id may be any hashable value, on a durable store a string of at most 36 characters. One that is
        running is handed back as pending with the new fields, one that has ended runs again, one that is pending with
        the same content is a no-op. Raises ValidationError, and TaskConflict when the id is pending with other content,
        or when it ended and a newer task holds its unique key.
        """
        new = task_from_dict(task, priority, self._clock.now(), any_id=not self._backend.durable)
        while True:
            (stored,) = await self.add([new])
            if stored is new:
                return new.task_id
            if stored.status is Status.RUNNING:
                if await self.settle(stored, HandedBack(new)) is not None:
                    self._pops.given_back(stored)
                    log.task("push", new)
                    return new.task_id
            elif stored.final:
                if await self.known_ids.run_again(stored, new):
                    return new.task_id
            elif same_content(stored, new):
                log.debug("push {}: it is pending already", named(new))
                return new.task_id
            else:
                raise TaskConflict(
                    f"task_id: {printable(new.task_id)} is {stored.status} with other content; use another id"
                )

    # ---- popping by hand ----

    async def pop_task(self, timeout: float | None = None, *, visibility: float | None = None) -> dict[str, Any] | None:
        """Take the next task as a dict; wait ``timeout`` seconds (None for ever, 0 looks once), then return None.

        On a durable store the pop is a lease of ``visibility`` seconds (default that of the queue): a task not settled
        by then comes back as a retry. The task is the calling coroutine's, for ``task_done``; where the call runs in a
        coroutine of its own, as in ``asyncio.wait_for`` on Python 3.11, it is that one's: use ``timeout`` instead.
        Raises ValidationError for a negative timeout.
        """
        wait = None if timeout is None else check_seconds("timeout", timeout)
        seconds = self._visibility if visibility is None else check_seconds("visibility", visibility, zero=False)
        task = await self._pop_one(seconds)
        if task is None and wait != 0:
            task = await self._pop_waiting(wait, seconds)
        if task is None:
            return None
        await self._remember(task)
        if gate.open:
            log.task("pop", task)
        return task_to_dict(task)

    async def _pop_waiting(self, wait: float | None, visibility: float) -> Task | None:
        end = None if wait is None else self._clock.ticks() + int(wait * SECOND)
        await self._backend.watch()
        with self._waiting.woken_by_tasks() as woken:
            while True:
                woken.clear()  # before the look: what comes after it is not missed
                if (task := await self._pop_one(visibility)) is not None:
                    return task
                now = self._clock.now()
                pause = self._poll_interval if self._backend.shared else 60.0
                if (at := await self._backend.next_run_at(now)) is not None:
                    pause = min(pause, max(0.0, (at - now) / SECOND))
                if end is not None:
                    left = (end - self._clock.ticks()) / SECOND
                    if left <= 0:
                        return None
                    pause = min(pause, left)
                await self._clock.wait(woken, pause)

    async def _pop_one(self, visibility: float) -> Task | None:
        if self._backend.durable and self._clock.ticks() >= self._next_reap:
            # There may be no worker anywhere, so consumers by hand look after each other.
            self._next_reap = self._clock.ticks() + int(min(REAP_INTERVAL, visibility / 4) * SECOND)
            await self.reaper.reap()
        now = self._clock.now()
        lease = now + int(visibility * SECOND) if self._backend.durable else None
        _, tasks = await self.claims.exchange((), self._pop_owner, now, 1, lease_until=lease)
        if tasks and tasks[0].undecodable is not None:
            undecodable = Failed(f"undecodable: {tasks[0].undecodable}", retryable=False)
            log_outcome(tasks[0], undecodable, await self.settle(tasks[0], undecodable), now)
            return await self._pop_one(visibility)
        return tasks[0] if tasks else None

    async def _remember(self, task: Task) -> None:
        if self._backend.durable and (former := self._pops.left_open()) is not None:
            log.warning("{} was popped and not settled; it comes back after its visibility timeout", named(former))
        forgotten = self._pops.add(task)
        if forgotten is not None and forgotten.given_back is None and not self._backend.durable:
            await self._backend.delete([forgotten.task.task_id])  # a store without leases would keep it for ever

    async def task_done(self, task_id: str | None = None) -> None:
        """Say that a popped task is finished: the newest unsettled one of this coroutine (or thread).

        If that has none, the oldest unsettled one of any thread; or the one named. One that was pushed again since its
        pop is settled already: then nothing is written. Raises NoOpenTask when no pop is open, LeaseLost when the
        visibility timeout passed and the task was taken over; after any other error the pop is still open.
        """
        pop = self._pops.take(task_id)
        if gate.open:
            log.task("task_done", pop.task)
        if pop.given_back is not None:
            return
        try:
            after = await self.settle(pop.task, Completed())
        except BaseException:
            self._pops.put_back(pop)  # else the next call would complete an older one, whose handler may have failed
            raise
        if after is None:
            raise LeaseLost(
                f"task {pop.task.task_id} was not settled within its visibility timeout and is no longer yours"
            )

    def adopt(self, other: Queue) -> None:
        """Take over the pops of another queue object of the same store, which is used no more."""
        self._pops.adopt(other._pops)

    async def give_back(self, task_id: str) -> None:
        """Put a popped task back as if it had not been popped: whoever popped it has left, and never saw it."""
        pop = self._pops.take(task_id)
        if pop.given_back is None:
            await self.settle(pop.task, Released("its caller left"))
            log.task("give back", pop.task)

    # ---- settling ----

    async def settle(
        self,
        task: Task,
        outcome: Outcome,
        *,
        then: Callable[[Task], tuple[Task, ...]] | None = None,
        lease_over: bool = False,
    ) -> Task | None:
        """Write what becomes of a task; return its new state, or None if it is no longer the one that was read.

        ``then`` names the tasks that are pushed in the same transaction.
        """
        while True:
            after = settle(task, outcome, self._clock.now())
            change = Change(task, after, then(after) if then is not None else (), lease_over)
            (held,) = await (self._updates.add([change]) if self._backend.grouped else self._backend.update([change]))
            if held:
                self._pushed.tell(change.then, change.then)
                return after
            (row,) = await self._backend.get([task.task_id])
            # Only the cancel flag may have come in between; then the rules decide anew.
            if row is None or lease_over or (row.status, row.fence) != (task.status, task.fence):
                # Only who holds this fence can have completed it: an answer of the store was lost.
                ours = row is not None and row.status is after.status is Status.COMPLETED and row.fence == task.fence
                return row if ours else None
            if row.cancel_requested == task.cancel_requested:
                return None
            task = row.replace(params=task.params, extra=task.extra)

    async def complete_with(
        self, session: Any, task: Task, result: Any, *, then: Callable[[Task], tuple[Task, ...]]
    ) -> Task | None:
        """Complete a running task in the caller's own transaction; return its new state, None if it is lost."""
        after = settle(task, Completed(result), self._clock.now())
        (held,) = await self._backend.update_with(session, [Change(task, after, then(after))])
        return after if held else None

    # ---- reading and operating ----

    async def get_queue_size(self) -> int:
        """Return how many tasks are ready to be popped."""
        return await self._backend.count_ready(self._clock.now())

    async def is_empty(self) -> bool:
        """Return whether no task is ready to be popped."""
        return not await self.get_queue_size()

    async def get(self, task_id: str) -> Task:
        """Return a task by id. Raises NotFound."""
        (task,) = await (self._reads.add([task_id]) if self._backend.grouped else self._backend.get([task_id]))
        if task is None:
            raise NotFound(f"there is no task {printable(task_id)}")
        return task

    async def find(
        self,
        *,
        status: str | Iterable[str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        scheduler_task_id: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Task]:
        """List tasks, the newest first; ``after`` continues behind that task id.

        Raises ValidationError, and NotFound when there is no such task (any more).
        """
        where = TaskFilter(
            status=statuses(status), type=type, queue=queue, scheduler_task_id=scheduler_task_id, after=after
        )
        check_int("limit", limit, 1, 100_000)
        if after is not None:
            await self.get(after)  # a page behind a task that is gone would be the first page again
        return await self._backend.find(where, limit)

    async def cancel(self, task_id: str) -> bool:
        """Cancel a pending task, or ask a running one to stop; return False if it has ended. Raises NotFound."""
        while not (task := await self.get(task_id)).final:
            if task.status is Status.RUNNING:
                (flagged,) = await self._backend.request_cancel([task_id])
                if flagged:
                    log.task("cancel", task)
                    return True
            elif (after := await self.settle(task, Cancelled())) is not None:
                log.task("cancel", after)
                self.events.emit("cancelled", self._clock.now(), after)
                return True
        return False

    async def retry(self, task_id: str) -> Task:
        """Put a failed, cancelled or expired task back, its retries unused. Raises NotFound, TaskConflict."""
        task = await self.get(task_id)
        if task.status not in RETRYABLE:
            raise TaskConflict(
                f"task {printable(task_id)} is {task.status}; only failed, cancelled or expired ones are retried"
            )
        after = await self.settle(task, Requeued())
        if after is None:
            raise TaskConflict(f"task {printable(task_id)} changed meanwhile, or a newer task holds its unique key")
        log.task("retry", after)
        return after

    async def retry_many(
        self,
        *,
        status: str | Iterable[str] = "failed",
        type: str | None = None,
        queue: str | None = None,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Put ended tasks that match back, the newest first, at most ``limit``; return how many. As ``retry``.

        ``progress`` hears how many so far. Raises ValidationError for a status that is not retried.
        """
        left = None if limit is None else check_int("limit", limit, 1)
        where = TaskFilter(status=statuses(status), type=type, queue=queue)
        return await retry_all(self._backend, self._clock, where, left, progress)

    async def purge(
        self,
        *,
        status: str | Iterable[str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        older_than: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Delete ended tasks that match, in small transactions; return how many. ``older_than`` in seconds.

        ``progress`` hears how many so far."""
        before = ended_before(older_than, self._clock)
        where = TaskFilter(status=statuses(status), type=type, queue=queue, completed_before=before)
        return await purge_all(self._backend, where, progress)

    async def count(
        self,
        *,
        status: str | Iterable[str] | None = None,
        type: str | None = None,
        queue: str | None = None,
        older_than: float | None = None,
    ) -> int:
        """Count tasks that match, as for ``purge``; slowly where a type or an age is named."""
        before = ended_before(older_than, self._clock)
        where = TaskFilter(status=statuses(status), type=type, queue=queue, completed_before=before)
        return await count_all(self._backend, self._clock, where)

    async def pause(self, queue: str = "default") -> None:
        """Stop handing out tasks of a queue, in every process; pushes go on."""
        await self._backend.set_paused(check_key("queue", queue, 100), True)
        log.debug("pause queue {}", printable(queue))

    async def resume(self, queue: str = "default") -> None:
        """Hand out tasks of a paused queue again."""
        await self._backend.set_paused(check_key("queue", queue, 100), False)
        log.debug("resume queue {}", printable(queue))

    async def paused(self) -> list[str]:
        """Return the paused queues."""
        return await self._backend.paused()

    async def stats(self) -> Stats:
        """Count tasks by status and queue, and what is ready."""
        return await counted(self._backend, self._clock)

    async def wait_for_end(self, task_id: str, timeout: float | None = None) -> Task:
        """Wait until a task has ended, here or in another process; return it. Raises ResultTimeout, NotFound."""
        end = None
        if timeout is not None:
            end = self._clock.ticks() + int(check_seconds("timeout", timeout) * SECOND)
        await self._backend.watch()
        with self._waiting.woken_at_end(task_id) as woken:
            pause = self._poll_interval
            while True:
                woken.clear()
                task = await self.get(task_id)
                if task.final:
                    return task
                left = pause if end is None else min(pause, (end - self._clock.ticks()) / SECOND)
                if left <= 0:
                    raise ResultTimeout(f"task {task_id} ({task.type}) is {task.status} after {timeout:g} s")
                await self._clock.wait(woken, left)
