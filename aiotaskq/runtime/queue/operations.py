"""The operator's verbs on the tasks of a store, for Queue and TaskQ: get, find, cancel, retry, purge, count, pause."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

import msgspec

from aiotaskq.core.errors import check_id, check_int, check_key, instant
from aiotaskq.core.history import HOUR, KEEP_DAYS, MINUTE, Period, added_up, hours_from, widened
from aiotaskq.core.outcome import RETRYABLE, Requeued
from aiotaskq.core.status import FINAL, Status, StatusName
from aiotaskq.core.steps import EventValue, Step
from aiotaskq.core.task import SECOND, Filters, Task, Where
from aiotaskq.errors import NotFound, TaskConflict, ValidationError
from aiotaskq.log import log, printable
from aiotaskq.runtime.current import current
from aiotaskq.runtime.fleet import Workers
from aiotaskq.runtime.limits import Limits
from aiotaskq.runtime.queue.bulk import (
    PURGE_CHUNK,
    RETRY_CHUNK,
    cancel_one,
    cancel_page,
    count_all,
    count_purged,
    ended_before,
    of_ended,
    pages,
    retry_all,
    task_filter,
)
from aiotaskq.runtime.step_verbs import EVENT_AGE

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.core.worker_info import WorkerInfo
    from aiotaskq.runtime.queue.pushes import Pushes, TaskChanges

Retried_co = TypeVar("Retried_co", covariant=True)


class Stats(msgspec.Struct, frozen=True):
    """What a queue holds: ``counts`` by status, ``ready`` to be claimed now, ``oldest_age`` of these in seconds."""

    counts: dict[str, int]
    ready: int
    oldest_age: float | None
    queues: dict[str, dict[str, int]]
    paused: list[str]


async def stats_of(backend: Backend, now: int) -> Stats:
    """Count the tasks of a store; ``now`` in microseconds UTC. Raises DatabaseUnavailable."""
    found = await backend.stats(now)
    age = None if found.oldest is None else max(0.0, (now - found.oldest) / SECOND)
    return Stats(found.counts, found.ready, age, found.queues, await backend.paused())


class Operations(ABC, Generic[Retried_co]):
    """The verbs themselves; ``Retried_co`` is what ``retry`` returns: a Task, or a handle of it."""

    @property
    @abstractmethod
    def _operated(self) -> Pushes:
        """The queue that the verbs act on."""

    @abstractmethod
    def _retried(self, task: Task) -> Retried_co:
        """Return what ``retry`` gives for a task that is pending again."""

    @property
    def limits(self) -> Limits:
        """Limits, rates and fair shares: list, change, pause and resume them."""
        return Limits(self._operated.backend, self._operated.clock, self._operated.handlers)

    @property
    def workers(self) -> Workers:
        """The workers of the store: listed, quieted, woken and resized."""
        return Workers(self._operated.backend, self._operated.clock)

    async def emit(
        self, key: str, value: Any = None, *, expires: float | timedelta | None = EVENT_AGE, session: Any = None
    ) -> bool:
        """Store an event, and wake the tasks that wait for it; return False if there is one of this key already.

        The first value of a key stays. It is kept for ``expires`` seconds, None for ever, and then is as if it had
        never been. ``session`` is the SQLAlchemy session or connection in whose transaction it is stored; it exists
        when that is committed. In a handler it waits while the store cannot be reached, as a step does.

        The same transaction pushes one task for each handler that is registered here with ``on=`` for this key, also
        where the queue is full.

        Raises ValidationError for a value that is not JSON, or that such a handler does not take, and NotSupported
        where the store cannot join the session.
        """
        queue, patient = self._operated, current.get() is not None
        event = queue.step_verbs.new_event(key, value, expires)
        tasks = queue.subscribed(event, value)
        if not tasks:
            return await queue.step_verbs.emit(event, session, patient)
        emitted = False

        async def push(tasks: list[Task]) -> list[Task]:
            nonlocal emitted
            emitted, stored = await queue.push_event(event, tasks, session, patient)
            return stored

        await queue.wrapped(push)(tasks)
        return emitted

    async def get_event(self, key: str) -> EventValue | None:
        """Return the event of a key; None if there is none. Raises ValidationError."""
        return await self._operated.step_verbs.event(key)

    async def list_events(self, prefix: str = "", limit: int = 1_000, after: str | None = None) -> list[EventValue]:
        """Return events in the order of their keys, those that begin with ``prefix``, behind the key ``after``.

        Raises ValidationError.
        """
        verbs, limit = self._operated.step_verbs, check_int("limit", limit, 1)
        return await verbs.store.events(verbs.clock.now(), limit, prefix=prefix, after=after)

    async def steps(self, task_id: str) -> list[Step]:
        """Return what the handler of a task has done, slept and waited for, in this order.

        Raises NotFound.
        """
        task = await self._row(task_id)
        return await self._operated.step_verbs.store.read(task.task_id, task.seq)

    async def get(self, task_id: str) -> Task:
        """Return a task by id. Raises NotFound, and ValidationError for a value that cannot be an id in the store."""
        return (await self._operated.backend.whole([await self._row(task_id)]))[0]

    async def _row(self, task_id: str) -> Task:
        """Return a task as ``get`` does, without what is in blobs."""
        task = await self._operated.read(task_id)
        if task is None:
            raise NotFound(f"there is no task {printable(task_id)}")
        return task

    async def find(
        self,
        *,
        limit: int = 100,
        after: str | None = None,
        blobs: bool = True,
        **where: Unpack[Where],
    ) -> list[Task]:
        """List tasks, the newest first; ``after`` continues behind that task id.

        Args:
            status: only tasks of this status, or of one of several.
            type, queue, scheduler_task_id: only tasks of this type, in this queue, fired by this schedule.
            since: only tasks that were created then or later; epoch seconds or an aware datetime.
            error: only tasks whose stored error contains this text, in the message or the traceback; upper and lower
                case differ.
            error_type: only tasks whose error is of a type that begins so, as ``ValueError``.
            tags: only tasks with all of these tags, values by name.
            blobs: whether to read values that are in blobs; else ``undecodable`` says which are.

        Raises ValidationError, and NotFound when there is no such task (any more).
        """
        found = msgspec.structs.replace(task_filter(**where), after=after)
        check_int("limit", limit, 1, 100_000)
        if after is not None:
            await self._row(after)  # a page behind a task that is gone would be the first page again
        tasks = await self._operated.backend.find(found, limit)
        return await self._operated.backend.whole(tasks) if blobs else tasks

    async def cancel(self, task_id: str) -> bool:
        """Cancel a pending task, or ask a running one to stop; return False if it has ended. Raises NotFound."""
        return await cancel_one(self._operated, await self._row(task_id))

    async def cancel_many(
        self,
        *,
        status: StatusName | Iterable[StatusName] = ("pending", "running"),
        progress: Callable[[int], None] | None = None,
        **where: Unpack[Filters],
    ) -> int:
        """Cancel pending tasks that match, and ask running ones to stop, the newest first; return how many.

        ``progress`` is called with how many so far; the filters are those of ``find``. Raises ValidationError for a
        status of tasks that have ended.
        """
        found = task_filter(status=status, **where)
        for wrong in found.status:
            if wrong in FINAL:
                raise ValidationError(f"status: only pending and running tasks are cancelled, not {wrong} ones")
        total = 0
        async for tasks in pages(self._operated.backend, found, RETRY_CHUNK):
            total += await cancel_page(self._operated, tasks)
            if progress is not None:
                progress(total)
        return total

    async def retry(self, task_id: str) -> Retried_co:
        """Put a failed, cancelled or expired task back, its retries unused. Raises NotFound, TaskConflict.

        In a workflow it waits for those tasks before it that have not completed, or, with ``on_failure="run"``, have
        not ended: the one that failed has to be retried, too.
        """
        task = await self._row(task_id)
        if task.status not in RETRYABLE:
            raise TaskConflict(
                f"task {printable(task_id)} is {task.status}; only failed, cancelled or expired ones are retried"
            )
        after = await self._operated.settle(task, Requeued())
        if after is None:
            raise TaskConflict(f"task {printable(task_id)} changed meanwhile, or a newer task holds its unique key")
        log.task("retry", after)
        return self._retried(after)

    async def edit(self, task_id: str, **changes: Unpack[TaskChanges]) -> Retried_co:
        """Change a pending task that is not claimed meanwhile; other fields stay, also its keys and its expiry.

        Changes: ``params`` (all of them; checked by the registered handler, as at a push), ``priority``, ``queue``,
        ``at`` (epoch seconds or an aware datetime) or ``delay`` (seconds from now) until it is due, ``max_retries`` and
        ``timeout`` (None for that of the handler). New params have the limits that the type declares for them.

        Raises ValidationError (also for params of a task with limits that its type does not declare here), NotFound,
        and TaskConflict if it is not pending, waits for tasks that have to end before it, or has changed meanwhile.
        """
        return self._retried(await self._operated.edit_task(await self.get(task_id), changes))

    async def delete(self, task_id: str) -> None:
        """Delete one ended task. Raises NotFound, and TaskConflict for a task that has not ended: cancel it first."""
        check_id(task_id, any_id=not self._operated.backend.durable)
        await self._operated.backend.after.follow([task_id], self._operated.clock.now())  # its end counts, not its row
        if not await self._operated.backend.delete([task_id], ended=True):
            task = await self._row(task_id)
            raise TaskConflict(
                f"task {printable(task_id)} is {task.status}; only ended tasks are deleted, cancel it first"
            )
        log.debug("delete task {}", printable(task_id))

    async def retry_many(
        self,
        *,
        status: StatusName | Iterable[StatusName] = "failed",
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
        **where: Unpack[Filters],
    ) -> int:
        """Put ended tasks that match back, the newest first, at most ``limit``; return how many. As ``retry``.

        ``progress`` is called with how many so far; the filters are those of ``find``. Raises ValidationError
        for a status other than failed, cancelled and expired.
        """
        left = None if limit is None else check_int("limit", limit, 1)
        found = task_filter(status=status, **where)
        return await retry_all(self._operated.backend, self._operated.clock, found, left, progress)

    async def purge(
        self,
        *,
        older_than: float | timedelta | None = None,
        dry_run: bool = False,
        progress: Callable[[int], None] | None = None,
        **where: Unpack[Where],
    ) -> int:
        """Delete ended tasks that match, in small transactions; return how many. ``older_than`` in seconds.

        The members of a group stay until the group has ended, with ``older_than`` so long ago, and as long as it has
        dead letters or a callback that has not ended. Dead letters that match are deleted first.

        Args:
            dry_run: only count what would be deleted.
            progress: called with how many so far.
            where: the filters of ``find``.

        Raises ValidationError.
        """
        found = task_filter(**where, before=ended_before(older_than, self._operated.clock))
        backend = self._operated.backend
        if dry_run:
            return await count_purged(backend, self._operated.clock, found)
        found = of_ended(found)
        await backend.after.follow_all(self._operated.clock.now())
        total = 0
        # Dead letters first: they keep other members of their groups.
        dead = tuple(each for each in found.status if each is Status.FAILED)
        for statuses in filter(None, (dead, tuple(each for each in found.status if each not in dead))):
            deleted = PURGE_CHUNK
            while deleted >= PURGE_CHUNK:
                deleted = await backend.purge(msgspec.structs.replace(found, status=statuses), PURGE_CHUNK)
                total += deleted
                if progress is not None and deleted:
                    progress(total)
                await asyncio.sleep(0)
        log.debug("purge: {} tasks", total)
        return total

    async def count(self, *, older_than: float | timedelta | None = None, **where: Unpack[Where]) -> int:
        """Count tasks that match, as for ``purge``. If more than status and queue is named, matching rows are read."""
        found = task_filter(**where, before=ended_before(older_than, self._operated.clock))
        return await count_all(self._operated.backend, self._operated.clock, found)

    async def pause(self, queue: str = "default") -> None:
        """Stop handing out tasks of a queue, in every process; pushes continue."""
        await self._operated.backend.set_paused(check_key("queue", queue, 100), True)
        log.debug("pause queue {}", printable(queue))

    async def resume(self, queue: str = "default") -> None:
        """Hand out tasks of a paused queue again."""
        await self._operated.backend.set_paused(check_key("queue", queue, 100), False)
        log.debug("resume queue {}", printable(queue))

    async def paused(self) -> list[str]:
        """Return the paused queues."""
        return await self._operated.backend.paused()

    async def history(
        self,
        *,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        type: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        step: int | None = None,
    ) -> list[Period]:
        """Return what workers did, by minute, queue, type and kind of outcome, the earliest first.

        Minutes are kept for 3 hours, then quarters of an hour for 2 days, hours for 30 days, and days for 90 days. Each
        worker writes its sums once a minute, and when it stops; what a killed process has not written is not there.

        Args:
            since, until: periods that began then or later, and before then, as epoch seconds or aware datetimes;
                default the last hour.
            type, queue: only those of this type, and of this queue.
            tag: those of the tasks with a tag of ``TaskQ(history_tags=…)``, as ``tenant=acme``; a name alone means all
                its values, each apart.
            step: seconds of the periods to return: shorter ones are added up, longer ones stay as they are.

        Raises ValidationError, and DatabaseUnavailable.
        """
        now = self._operated.clock.now()
        end = now + MINUTE * SECOND if until is None else instant("until", until)
        begin = now - HOUR * SECOND if since is None else instant("since", since)
        if step is not None:
            check_int("step", step, 1, KEEP_DAYS)
        history = self._operated.backend.history
        found = await history.read(begin, end, hours_from(now), queue=queue, type=type, tag=tag or "")
        return found if step is None else added_up([widened(period, step) for period in found])

    async def stats(self) -> Stats:
        """Count tasks by status and queue, and those that are ready."""
        return await stats_of(self._operated.backend, self._operated.clock.now())


async def unclaimed_queues(
    backend: Backend, stats: Stats, workers: Sequence[WorkerInfo], since: int, most: int | None = None
) -> list[str]:
    """Return the queues with tasks that have been ready ``since`` then, and from which none of these workers claims.

    Paused ones are left out. At most ``most`` queues are looked at.
    """
    pending = {name for name, counts in stats.queues.items() if counts.get(Status.PENDING)}
    waiting = [name for name in pending - {*stats.paused} if not any(each.claims_from(name) for each in workers)]
    firsts = [(name, await backend.next_run_at(since, [name])) for name in sorted(waiting)[:most]]
    return [name for name, first in firsts if first is not None and first <= since]
