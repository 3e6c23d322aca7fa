"""Many tasks at once: counting them, and in small transactions putting dead letters back, purging, deleting by age."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import msgspec

from aiotaskq.backends.base import Backend, Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import Service
from aiotaskq.core.outcome import RETRYABLE, Requeued, settle
from aiotaskq.core.task import FINAL, SECOND, Status, TaskFilter
from aiotaskq.core.validation import check_seconds
from aiotaskq.errors import ValidationError
from aiotaskq.log import log

PURGE_CHUNK = 1_000  # rows deleted in one transaction
RETRY_CHUNK = 500  # tasks put back in one transaction
BREATH = 0.05  # seconds between two chunks of the retention, so that claims and pushes come in between
SWEEP_INTERVAL = 60.0  # seconds


def statuses(names: str | Iterable[str] | None) -> tuple[Status, ...]:
    """Return the statuses that a caller names; None names none in particular. Raises ValidationError."""
    if names is None:
        return ()
    try:
        found = [names] if isinstance(names, str) else list(names)
    except TypeError:
        raise ValidationError(f"status: names are needed (got {type(names).__name__})") from None
    if not found:
        raise ValidationError("status: an empty list names none; leave it out to mean every status")
    for name in found:
        if name not in tuple(Status):
            raise ValidationError(f"status: {name!r:.40} is unknown; use {', '.join(Status)}")
    return tuple(map(Status, found))


async def count_all(backend: Backend, clock: Clock, where: TaskFilter) -> int:
    """Count the tasks that match; by reading them, where more than status and queue restricts them."""
    if where.type is None and where.scheduler_task_id is None and where.completed_before is None:
        found = await backend.stats(clock.now())
        counted = found.counts if where.queue is None else found.queues.get(where.queue, {})
        return sum(counted.get(str(status), 0) for status in set(where.status or Status))
    total = 0
    while tasks := await backend.find(where, PURGE_CHUNK):
        total += len(tasks)
        where = msgspec.structs.replace(where, after=tasks[-1].task_id)
        if len(tasks) < PURGE_CHUNK:
            break
    return total


async def retry_all(
    backend: Backend, clock: Clock, where: TaskFilter, limit: int | None, progress: Callable[[int], None] | None = None
) -> int:
    """Put ended tasks that match back, the newest first, at most ``limit``; return how many came back.

    ``progress`` is called with how many so far. One whose unique key a newer task holds stays where it is. Raises
    ValidationError for a status that is not retried.
    """
    if wrong := set(where.status) - RETRYABLE:
        raise ValidationError(f"status: {', '.join(sorted(wrong))} tasks are not retried; use {', '.join(RETRYABLE)}")
    total = 0
    while limit is None or limit > 0:
        tasks = await backend.find(where, RETRY_CHUNK if limit is None else min(limit, RETRY_CHUNK))
        if not tasks:
            break
        now = clock.now()
        total += sum(await backend.update([Change(task, settle(task, Requeued(), now)) for task in tasks]))
        if progress is not None:
            progress(total)
        limit = None if limit is None else limit - len(tasks)
        where = msgspec.structs.replace(where, after=tasks[-1].task_id)
    log.debug("retry_many: {} tasks", total)
    return total


async def purge_all(backend: Backend, where: TaskFilter, progress: Callable[[int], None] | None = None) -> int:
    """Delete ended tasks that match; return how many. Raises ValidationError for a status that has not ended.

    ``progress`` is called with how many so far."""
    for wrong in where.status:
        if wrong not in FINAL:
            raise ValidationError(f"status: only ended tasks are purged, not {wrong}; cancel them first")
    total = 0
    while True:
        deleted = await backend.purge(where, PURGE_CHUNK)
        total += deleted
        if progress is not None:
            progress(total)
        if deleted < PURGE_CHUNK:
            log.debug("purge: {} tasks", total)
            return total
        await asyncio.sleep(0)


def ended_before(seconds: float | None, clock: Clock) -> int | None:
    """Return the epoch second before which a task that is older than ``seconds`` has ended. Raises ValidationError."""
    return None if seconds is None else (clock.now() - int(check_seconds("older_than", seconds) * SECOND)) // SECOND


class Retention:
    """Deletes tasks that ended long ago, in the background; any number of processes may do it at once."""

    def __init__(self, backend: Backend, clock: Clock, *, ended: float | None, failed: float | None) -> None:
        """Wire it; both in seconds since a task's end, None keeps them. ``ended`` is for all but the dead letters."""
        self._backend = backend
        self._clock = clock
        self._ages: dict[Status, float] = {}
        if ended is not None:
            age = check_seconds("retention", ended, zero=False)
            self._ages = dict.fromkeys(FINAL - {Status.FAILED}, age)
        if failed is not None:
            self._ages[Status.FAILED] = check_seconds("retention_failed", failed, zero=False)
        self._service = Service("retention", self._sweep, clock)

    async def start(self) -> None:
        """Start in the running loop, if anything is to be deleted at all."""
        if self._ages:
            await self._service.start()

    async def stop(self) -> None:
        """Delete no more after the chunk that runs; idempotent."""
        await self._service.stop()

    async def _sweep(self) -> float:
        full = False
        for status, age in self._ages.items():
            where = TaskFilter(status=(status,), completed_before=ended_before(age, self._clock))
            full |= await self._backend.purge(where, PURGE_CHUNK) == PURGE_CHUNK
        return BREATH if full else SWEEP_INTERVAL * random.uniform(0.8, 1.2)
