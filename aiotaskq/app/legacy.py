"""The documented API, awaited: ``MemoryQueue``, ``DatabaseQueue``, ``Scheduler``, and the process-wide objects."""

from __future__ import annotations

import asyncio
import builtins
import threading
import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Unpack

import msgspec

import aiotaskq.runtime.scheduler.scheduler
from aiotaskq.app.schedules import check_names
from aiotaskq.app.settings import schedules_elsewhere, settings, visibility_timeout
from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend
from aiotaskq.backends.url import KEEP_ENDED, OBJECTS, has_tables, is_shared, memory_options, scheme_of
from aiotaskq.concurrency.clock import Clock, SteadyClock, SystemClock
from aiotaskq.concurrency.loop_bound import after_fork, keep_alive, running_loop_or_none
from aiotaskq.core.errors import kind_name
from aiotaskq.core.schedule import Schedule, ScheduleOptions, foreign_timing, new_schedule
from aiotaskq.errors import ValidationError
from aiotaskq.log import log, printable
from aiotaskq.runtime.public_values import PublicValues
from aiotaskq.runtime.queue.capacity import WhenFull
from aiotaskq.runtime.queue.queue import Queue


class StoredQueue(Queue, PublicValues):
    """A queue and public values in one object."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        cleanup_interval: float | timedelta,
        *,
        keep_ended: int | None = None,
        visibility: float | timedelta | None = None,
        **options: Any,
    ) -> None:
        backend = connect(url, keep_ended=keep_ended)
        if is_shared(url):
            options["visibility"] = visibility_timeout() if visibility is None else visibility
        self.url = url
        """The store's URL, password included."""
        Queue.__init__(self, backend, clock, **options)
        PublicValues.__init__(self, backend.values, clock, durable=backend.durable, cleanup_interval=cleanup_interval)

    async def open(self) -> None:
        """Connect, and create or adopt the tables; idempotent. The first use opens it, too, but not after ``close``."""
        await self.backend.open()

    async def close(self) -> None:
        """Stop the cleanup and give back every connection; idempotent."""
        await self.stop_cleanup()
        await self.backend.close()


class MemoryQueue(StoredQueue):
    """A task queue and public values with times to live, in memory. Threads and event loops may share it."""

    def __init__(
        self,
        cleanup_interval: float | timedelta = 60,
        *,
        maxsize: int = 0,
        when_full: WhenFull = "wait",
        keep_ended: int = KEEP_ENDED,
    ) -> None:
        """Make a queue. ``cleanup_interval`` in seconds; ``maxsize`` 0 is unbounded; ``when_full`` is ``wait``,
        ``raise`` or ``drop_oldest`` (see ``TaskQ``). The latest ``keep_ended`` ended tasks are kept, and as many dead
        letters beside them.

        Raises ValidationError for a wrong value.
        """
        super().__init__(
            OBJECTS, SteadyClock(), cleanup_interval, maxsize=maxsize, when_full=when_full, keep_ended=keep_ended
        )


class DatabaseQueue(StoredQueue):
    """The same in a SQL database: pushed tasks are on disk, and a pop is a lease."""

    def __init__(
        self,
        url: str | None = None,
        cleanup_interval: float | timedelta = 60,
        *,
        visibility: float | timedelta | None = None,
        maxsize: int = 0,
        when_full: WhenFull = "wait",
    ) -> None:
        """Make a queue on a database URL, default ``AIOTASKQ_DATABASE_URL``; ``visibility``: a pop's lease in seconds.

        Raises ValidationError for a URL that names no SQL database, or a wrong value.
        """
        place = settings().database_url if url is None else url
        if not has_tables(place):
            raise ValidationError(f"url: a SQL database is needed, as in sqlite:///app.db (got {scheme_of(place)}://)")
        options: dict[str, Any] = {"visibility": visibility, "maxsize": maxsize, "when_full": when_full}
        super().__init__(place, SystemClock(), cleanup_interval, **options)


class RedisQueue(StoredQueue):
    """The same in Redis or Valkey: processes share it, and a pop is a lease."""

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        cleanup_interval: float | timedelta = 60,
        *,
        visibility: float | timedelta | None = None,
        maxsize: int = 0,
        when_full: WhenFull = "wait",
    ) -> None:
        """Make a queue on a server's URL; ``visibility`` is the seconds of a pop's lease.

        Raises ValidationError for a wrong URL or value, and MissingExtra when the extra ``redis`` is not installed.
        """
        if has_tables(url) or not is_shared(url):
            raise ValidationError(f"url: a Redis server is needed, as in redis://host:6379/0 (got {scheme_of(url)}://)")
        options: dict[str, Any] = {"visibility": visibility, "maxsize": maxsize, "when_full": when_full}
        super().__init__(url, SystemClock(), cleanup_interval, **options)


class Scheduler(aiotaskq.runtime.scheduler.scheduler.Scheduler):
    """The scheduler: schedules in ``AIOTASKQ_DATABASE_URL``, fired into the process-wide queue."""

    def __init__(
        self, check_interval: float | timedelta = 10, *, url: str | None = None, queue: Queue | None = None
    ) -> None:
        """Make a scheduler. ``check_interval``: the longest time in seconds between two checks of the database.

        Without ``url`` the schedules of a queue in Redis are beside its tasks, unless ``AIOTASKQ_DATABASE_URL`` names a
        SQL database. Raises ValidationError for a wrong value.
        """
        if queue is not None and not isinstance(queue, Queue):
            raise ValidationError(f"queue: a queue of aiotaskq is needed (got {kind_name(queue)})")
        target: Any = _queue_here() if queue is None else queue
        self._own: list[Backend] = []
        if target is None:
            target = make_queue()
            self._own.append(target.backend)
        place = _place_of_schedules(target) if url is None else url
        if getattr(target, "url", None) == place:
            home = target.backend  # so a schedule and the task that it fires are written in one transaction
        else:
            home = connect(place)
            self._own.append(home)
        self._home = home
        self._stopped = False
        super().__init__(home.schedules, target, target.backend, SystemClock(), check_interval=check_interval)

    async def stop(self) -> None:
        """Stop firing, and close the connections; idempotent. It can be started again.

        Schedules can be added, read and changed before a start and after a stop as well; the first call connects.
        """
        self._stopped = True
        await super().stop()
        for backend in self._own:
            await backend.close()

    async def start(self) -> None:
        """Open the database and start firing; idempotent."""
        await self._reopen()
        await self._home.open()
        await super().start()

    async def _reopen(self) -> None:
        if self._stopped:
            self._stopped = False
            for backend in self._own:
                await backend.open()

    async def add(self, schedules: Sequence[Schedule]) -> Sequence[Schedule]:
        await self._reopen()
        return await super().add(schedules)

    async def get(self, task_id: str) -> Schedule:
        await self._reopen()
        return await super().get(task_id)

    async def list(self, enabled_only: bool = False) -> Sequence[Schedule]:
        await self._reopen()
        return await super().list(enabled_only)

    async def delete(self, task_id: str) -> bool:
        await self._reopen()
        return await super().delete(task_id)

    # ---- the documented verbs ----

    async def add_scheduler_task(
        self,
        name: str,
        task_type: str,
        schedule_type: Literal["interval", "cron", "once"],
        params: dict[str, Any] | None = None,
        interval_seconds: int | timedelta | None = None,
        cron_expression: str | None = None,
        execute_at: float | datetime | None = None,
        max_runs: int = 0,
        description: str | None = None,
        *,
        task_id: str | None = None,
        start_at: float | datetime | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> str:
        """Store a schedule and return its id; if the id exists, that schedule stays as it is.

        Args:
            interval_seconds, cron_expression, execute_at: the timing of that type; one of another type is ignored, with
                a warning in the log.
            execute_at, start_at: epoch seconds or an aware datetime; a ``once`` in the past fires now.
            max_runs: 0 is no limit.
            options: as of ``Schedules.add``.

        Raises ValidationError naming the field, and MissingExtra for a calendar without the extra ``calendars``.
        """
        check_names("add_scheduler_task", options)
        timing = {"interval_seconds": interval_seconds, "cron_expression": cron_expression, "execute_at": execute_at}
        foreign = foreign_timing(schedule_type, timing)
        schedule = new_schedule(
            name,
            task_type,
            schedule_type,
            params,
            **timing | dict.fromkeys(foreign),
            max_runs=max_runs,
            description=description,
            task_id=task_id,
            start_at=start_at,
            now=self.clock.now(),
            **options,
        )
        for field in foreign:
            title = f"'{printable(name)}' {schedule.task_id}"
            log.warning("schedule {}: {} is ignored; its type is {}", title, field, schedule.schedule_type)
        await self.add([schedule])
        return schedule.task_id

    async def list_tasks(self, enabled_only: bool = False) -> builtins.list[dict[str, Any]]:
        """Return the schedules as dicts with the table's columns, in the order in which they were added."""
        found = [_columns(schedule) for schedule in await self.list(enabled_only)]
        log.debug("list schedules: {}", len(found))
        return found

    async def get_task(self, task_id: str) -> dict[str, Any]:
        """Return one schedule as a dict. Raises NotFound, and ValidationError for an id that is not text."""
        found = _columns(await self.get(task_id))
        log.debug("get schedule {}", printable(task_id))
        return found

    async def pause_task(self, task_id: str) -> None:
        """Disable a schedule, in every process. Raises NotFound."""
        await self.pause(task_id)

    async def resume_task(self, task_id: str) -> None:
        """Enable a schedule; runs that are overdue follow its misfire policy. Raises NotFound, ValidationError."""
        await self.resume(task_id)

    async def update_task(self, /, task_id: str, **changes: Any) -> None:
        """Change columns of a schedule; with another timing its next run is later than now.

        Raises NotFound, ValidationError.
        """
        await self.update(task_id, **changes)

    async def delete_task(self, task_id: str) -> bool:
        """Delete a schedule; return whether there was one. The tasks that it has fired stay. Raises ValidationError."""
        return await self.delete(task_id)


def _place_of_schedules(queue: Any) -> str:
    beside: str | None = getattr(queue, "url", None)
    if beside is not None and is_shared(beside) and not has_tables(beside) and not schedules_elsewhere(beside):
        return beside
    return settings().database_url


def _columns(schedule: Schedule) -> dict[str, Any]:
    columns: dict[str, Any] = msgspec.structs.asdict(schedule)
    del columns["version"], columns["outbox"]
    return columns


# ---- one queue and one scheduler a process --------------------------------------------------------------------------

# A connection belongs to one event loop, so there is one object of a durable queue and of the scheduler per loop. They
# share the store, which prevents that a task is popped or a due time fired twice.

AnyQueue = MemoryQueue | DatabaseQueue | RedisQueue

_lock = threading.Lock()
_memory: list[MemoryQueue] = []
_queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AnyQueue] = weakref.WeakKeyDictionary()
_schedulers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Scheduler] = weakref.WeakKeyDictionary()


def make_queue() -> AnyQueue:
    """Return the process-wide queue: the one in memory, or a new object of the store that ``AIOTASKQ_QUEUE_URL`` names.

    Raises ValidationError for a wrong URL, and MissingExtra.
    """
    url = settings().queue_url
    if is_shared(url):
        return DatabaseQueue(url) if has_tables(url) else RedisQueue(url)
    with _lock:
        if not _memory:
            _memory.append(MemoryQueue(keep_ended=memory_options(url).keep_ended))
        return _memory[0]


def _queue_here() -> AnyQueue | None:
    """Return the process-wide queue for the running loop; None if it is durable and no loop runs."""
    if not is_shared(settings().queue_url):
        return make_queue()
    loop = running_loop_or_none()
    if loop is None:
        return None
    if loop not in _queues:
        _queues[loop] = make_queue()
    return _queues[loop]


async def get_queue() -> AnyQueue:
    """Return the process-wide queue, its cleanup running: in memory, or in the store ``AIOTASKQ_QUEUE_URL`` names."""
    queue = _queue_here()
    assert queue is not None  # this coroutine runs in a loop
    await queue.start_cleanup()
    return queue


async def get_scheduler() -> Scheduler:
    """Return the process-wide scheduler, started; it pushes into the process-wide queue."""
    loop = asyncio.get_running_loop()
    scheduler = _schedulers.get(loop)
    if scheduler is None:
        scheduler = _schedulers[loop] = Scheduler()
    await scheduler.start()
    return scheduler


async def push_task(task: Mapping[str, Any], priority: int = 0) -> str:
    """Add a task to the process-wide queue; see ``MemoryQueue.push_task``."""
    return await (await get_queue()).push_task(task, priority)


async def pop_task(timeout: float | timedelta | None = None) -> dict[str, Any] | None:
    """Take the next task of the process-wide queue; see ``MemoryQueue.pop_task``."""
    return await (await get_queue()).pop_task(timeout)


async def set_public(key: str, value: Any, ttl: float | timedelta | None = None) -> None:
    """Store a public value; see ``MemoryQueue.set_public``."""
    await (await get_queue()).set_public(key, value, ttl)


async def get_public(key: str) -> Any:
    """Read a public value; see ``MemoryQueue.get_public``."""
    return await (await get_queue()).get_public(key)


async def delete_public(key: str) -> bool:
    """Remove a public value; see ``MemoryQueue.delete_public``."""
    return await (await get_queue()).delete_public(key)


@after_fork
def _forget() -> None:
    # In a forked child the tasks in memory are copies, which only the parent may run. Inherited connections must not be
    # closed, not even by the garbage collector, so they are kept.
    global _lock
    _lock = threading.Lock()
    for kept in (_queues, _schedulers):
        keep_alive(*kept.values())
        kept.clear()
    _memory.clear()
