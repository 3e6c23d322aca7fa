"""The Backend contract: what a store of tasks, public values and schedules must do, verb by verb.

A backend knows rows, not rules: no retries, no back-off, no cron, no TTL arithmetic, no handlers, no time of day.
``now`` and every other instant is an argument, in microseconds. Verbs take and return lists, in the same order, so that
a thousand concurrent calls can become one transaction. Each verb is atomic: all of its rows, or (when it raises) none.
A value that is larger than the store can take at once raises ValidationError, which names both sizes.
``tests/contract`` proves every sentence below on each backend.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from aiotaskq.core.task import FINAL, Status, Task, TaskFilter
from aiotaskq.errors import NotSupported

if TYPE_CHECKING:
    from asyncio import Future

    from aiotaskq.concurrency.wakeup import Arrivals
    from aiotaskq.core.schedule import Schedule

READY = "ready"
"""Hint: tasks became claimable (or will at a time not yet known to the sleepers)."""
ENDED = "ended"
"""Hint: tasks reached a final status; the argument is their ids, nothing when they are not known."""
TAKEN = "taken"
"""Hint: tasks were claimed, so a bounded queue has room."""
CANCEL = "cancel"
"""Hint: running tasks were asked to stop; the argument is their ids."""
KINDS = (READY, ENDED, TAKEN, CANCEL)


class Change(msgspec.Struct, frozen=True, gc=False):
    """One guarded write: ``before`` as it was read, ``after`` as it shall be.

    ``then`` are tasks pushed in the same transaction, if and only if the guard held. With ``lease_over`` the guard also
    asks that the lease is still the one that was read (a reaper's write must lose against a heartbeat).
    """

    # Unknown to the garbage collector: they end with their call, and by the hundred they would start a collection.
    before: Task
    after: Task
    then: tuple[Task, ...] = ()
    lease_over: bool = False


class Room(msgspec.Struct, frozen=True):
    """The bound of a push: at most ``maxsize`` ready tasks, counted in the transaction of the push.

    A task counts that is ready at ``now``; in a shared store at the latest push stamp there if that is later, since the
    clocks of two hosts differ. ``instead`` settles ready tasks in the same transaction, to make room.
    """

    maxsize: int
    now: int
    instead: tuple[Change, ...] = ()


class ScheduleChange(msgspec.Struct, frozen=True):
    """One guarded write of a schedule, and the tasks that it fires, in one transaction."""

    before: Schedule
    after: Schedule
    tasks: tuple[Task, ...] = ()


class QueueStats(msgspec.Struct, frozen=True):
    """What a store holds, counted now. ``oldest`` is the ``run_at`` of the oldest ready task, or None."""

    counts: dict[str, int]
    ready: int
    oldest: int | None
    queues: dict[str, dict[str, int]]


class InvalidRow(msgspec.Struct, frozen=True):
    """A row found when a database was adopted (or checked) that does not mean what its column says; it is kept."""

    table: str
    id: str
    column: str
    problem: str
    action: str


class Hints:
    """Who wants to be told that something may have changed. A hint is never the truth.

    ``forward`` is set by a backend that can tell other processes, too; what they say comes in through ``hear``.
    """

    def __init__(self) -> None:
        self.listeners: dict[str, tuple[Callable[[str, Sequence[str]], None], ...]] = {}
        self._lock = threading.Lock()
        self.forward: Callable[[str, Sequence[str]], None] | None = None

    def listen(self, listener: Callable[[str, Sequence[str]], None], *kinds: str) -> Callable[[], None]:
        """Call ``listener(kind, names)`` after each commit, from any thread; returns what ends it.

        Of these kinds only, or of all.
        """
        with self._lock:
            for kind in kinds or KINDS:
                self.listeners[kind] = (*self.listeners.get(kind, ()), listener)

        def stop() -> None:
            with self._lock:
                for kind in kinds or KINDS:
                    left = tuple(known for known in self.listeners.get(kind, ()) if known is not listener)
                    if left:
                        self.listeners[kind] = left
                    else:
                        self.listeners.pop(kind, None)

        return stop

    def tell(self, kind: str, names: Sequence[str] = ()) -> None:
        """Tell every listener, and other processes; listeners must be quick and must not raise."""
        for listener in self.listeners.get(kind, ()):
            listener(kind, names)
        if self.forward is not None:
            self.forward(kind, names)

    def hear(self, kind: str, names: Sequence[str] = ()) -> None:
        """Tell the listeners of this process only, for instance what another one has said."""
        for listener in self.listeners.get(kind, ()):
            listener(kind, names)

    def tell_updated(self, changes: Sequence[Change], held: Sequence[bool]) -> None:
        """Tell what came of an update."""
        ended, ready = [], False
        heard = self.forward is not None or ENDED in self.listeners
        for change, ok in zip(changes, held, strict=True):
            if ok:
                if change.after.status not in FINAL or change.then:
                    ready = True
                if heard and change.after.status in FINAL:
                    ended.append(change.after.task_id)
        if ended:
            self.tell(ENDED, ended)
        if ready:
            self.tell(READY)


class Backend(ABC):
    """A store. The constructor takes no resources; ``open`` does, ``close`` gives all of them back."""

    name: ClassVar[str]
    durable: ClassVar[bool]
    """Whether rows survive the process; then params must be JSON."""
    shared: ClassVar[bool]
    """Whether other processes see the same rows."""
    has_clock = True
    """Whether ``ping`` may tell a time that is not the host's."""
    steady: ClassVar[bool] = False
    """Whether time should be taken from a clock that cannot be set back (nothing outlives the process)."""
    grouped: ClassVar[bool] = True
    """Whether many rows in one call are cheaper than many calls; then concurrent calls are put together."""
    hands_over: bool = False
    """Whether ``push_and_claim`` costs hardly more than ``push``, as where one transaction follows the other anyway."""
    values: Values
    schedules: Schedules | None = None
    invalid_rows: Sequence[InvalidRow] = ()

    def __init__(self) -> None:
        self.hints = Hints()

    @abstractmethod
    async def open(self) -> None:
        """Make ready for use; idempotent; the first verb does it too. Raises DatabaseUnavailable or SchemaTooNew."""

    @abstractmethod
    async def close(self) -> None:
        """Give back every connection, thread and file; idempotent.

        Verbs of a durable store raise ClosedError until the next ``open``; one in memory has nothing to close.
        """

    async def ping(self) -> int | None:
        """Make one round trip; return the store's clock in microseconds UTC, None where the host's is the store's.

        Raises DatabaseUnavailable, also if one of its tables is missing.
        """
        return None

    async def tidy(self) -> None:  # noqa: B027 - most stores keep themselves in order
        """Give back disk space that is not needed; each worker calls it now and then. Raises DatabaseUnavailable."""

    async def clock_set(self, anchor: int, back: int, now: int) -> None:  # noqa: B027
        """Take note that the host's clock less its ticks is ``anchor`` now, and before that was ``back`` more.

        Where rows go by the host's clock, what waits beyond ``now`` is moved back by ``back``, by the first that tells.
        """

    def another(self) -> Backend:
        """Return a backend on the same rows for another event loop, with connections of its own; not opened yet."""
        return self

    async def watch(self) -> None:  # noqa: B027 - nothing to do is right where no other process is
        """From now on tell this process's listeners what other processes do, as soon as the store can; until ``close``.

        Idempotent. Hints only: a store that cannot, or whose channel is cut for a while, leaves it to polling.
        """

    def arrivals(self, queues: Sequence[str] | None = None) -> Arrivals | None:
        """Return what wakes a consumer of these queues, in the running loop, when it should look for tasks.

        That is when there is one to claim, or when the next one is due earlier than before. One task wakes one
        consumer, the one that has waited longest. None where a store has hints only, which wake every consumer.
        """
        return None

    def pending(self) -> Iterable[Future[Any]]:
        """Return what the store does for the running loop just now: until it has ended, virtual time stands still."""
        return ()

    # ---- tasks ----

    @abstractmethod
    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        """Insert; answer with the row that now stands for each: the very object given, or the one that was in the way.

        In the way is the row with the same id, the same idempotency key, or the same unique key among pending and
        running rows; also one inserted earlier in the same call. A push that is repeated, because its outcome was
        unknown, is the same push (same id, same ``seq``): the object given stands for it. Hints ``ready``.

        With ``room`` the number of ready tasks is bounded, however many processes push. Raises QueueFull, and nothing
        is written, when there is no room for the tasks that would be inserted; its ``excess`` says how many are too
        many, or is 0 where the guard of one of ``room.instead`` does not hold. These are written first.
        """

    async def push_with(
        self,
        session: Any,
        tasks: Sequence[Task],
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> list[Task]:
        """``push`` in the caller's own transaction, which only the caller commits: a SQLAlchemy session or connection.

        ``committed`` is called when that happens, from any thread. Raises NotSupported where there is no SQL, and
        ValidationError for another database's session.
        """
        raise NotSupported(f"session: {self.name} cannot join a transaction; push after the commit, or use a SQL store")

    async def update_with(
        self, session: Any, changes: Sequence[Change], committed: Callable[[], None] = lambda: None
    ) -> list[bool]:
        """``update`` in the caller's own transaction. Raises as ``push_with``."""
        raise NotSupported(f"session: {self.name} cannot join a transaction; return from the handler instead")

    @abstractmethod
    async def claim(
        self, owner: str, now: int, limit: int, *, queues: Sequence[str] | None = None, lease_until: int | None = None
    ) -> list[Task]:
        """Hand out up to ``limit`` pending tasks that are due, not expired, and in no paused queue, in claim order.

        Each becomes ``running`` with its fence raised by one, this owner, this lease, ``began_at`` and ``started_at``.
        No two calls ever get the same task with the same fence. A row that cannot be decoded has ``undecodable`` set.
        """

    @abstractmethod
    async def update(self, changes: Sequence[Change]) -> list[bool]:
        """Write each ``after`` whose row still has the status and fence of ``before``; answer which held.

        For an ``after`` that is not final the cancel flag must be as read, too, or a cancel would be lost. One that
        brings a final task back does not hold while a newer task has its unique key.

        Changes apply one after the other: of two for the same row, the second sees what the first has written. A change
        that does not hold alters nothing and does not stop the others. What only a push sets (type, params, extra,
        schedule, timeout, follow-ups, time of creation) is written only if params or extra are other objects than
        before; the keys and progress never (``report`` does that). A unique key is free again once its task is final.
        Hints ``ended`` and ``ready``.
        """

    async def exchange(
        self,
        changes: Sequence[Change],
        owner: str,
        now: int,
        limit: int,
        *,
        queues: Sequence[str] | None = None,
        lease_until: int | None = None,
    ) -> tuple[list[bool], list[Task]]:
        """``update`` and then ``claim``; in one transaction or round trip where that is cheaper."""
        held = await self.update(changes) if changes else []
        tasks = await self.claim(owner, now, limit, queues=queues, lease_until=lease_until) if limit else []
        return held, tasks

    async def push_and_claim(
        self,
        tasks: Sequence[Task],
        owner: str,
        now: int,
        limit: int,
        *,
        queues: Sequence[str] | None = None,
        lease_until: int | None = None,
    ) -> tuple[list[Task], list[Task]]:
        """``push`` and then ``claim``; in one transaction where it ``hands_over``. Hints ``ready`` for what is left."""
        stored = await self.push(tasks)
        return stored, await self.claim(owner, now, limit, queues=queues, lease_until=lease_until)

    @abstractmethod
    async def heartbeat(self, held: Sequence[tuple[str, int]], lease_until: int) -> list[bool | None]:
        """Extend the lease of running tasks by (id, fence): None where it is lost, else whether to cancel."""

    @abstractmethod
    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        """Store the progress of running tasks by (id, fence); answer which held."""

    @abstractmethod
    async def request_cancel(self, ids: Sequence[str]) -> list[bool]:
        """Set the cancel flag of running tasks; answer which were running. Hints ``cancel``."""

    async def cancelling(self, ids: Sequence[str]) -> list[str]:
        """Return which of these tasks run and were asked to stop."""
        found = await self.get(ids)
        return [t.task_id for t in found if t is not None and t.status is Status.RUNNING and t.cancel_requested]

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        """Read by id; None where there is none."""

    @abstractmethod
    async def find(self, where: TaskFilter, limit: int) -> list[Task]:
        """List tasks, the newest push first, at most ``limit``; ``where.after`` continues behind that id."""

    @abstractmethod
    async def overdue(self, now: int, limit: int) -> list[Task]:
        """Read running tasks whose lease is over, and pending ones that expired, the longest overdue first."""

    @abstractmethod
    async def next_run_at(self, now: int, queues: Sequence[str] | None = None) -> int | None:
        """Return when to claim next: a time <= ``now`` if a task is due, else the earliest ``run_at``, or None.

        Paused queues do not count.
        """

    @abstractmethod
    async def count_ready(self, now: int, queues: Sequence[str] | None = None) -> int:
        """Count the tasks that ``claim`` could hand out at ``now``."""

    @abstractmethod
    async def least_ready(self, now: int, limit: int) -> list[Task]:
        """Read tasks that count for a ``Room``, the largest priority number first, of one priority the oldest first."""

    @abstractmethod
    async def stats(self, now: int) -> QueueStats:
        """Count rows by status and queue, and what is ready (due, not expired, not paused)."""

    @abstractmethod
    async def active(self, schedule_ids: Sequence[str]) -> dict[str, int]:
        """Count unfinished tasks by the schedule that fired them, for the overlap policies."""

    @abstractmethod
    async def purge(self, where: TaskFilter, limit: int) -> int:
        """Delete up to ``limit`` *final* tasks that match; return how many."""

    @abstractmethod
    async def delete(self, ids: Sequence[str]) -> int:
        """Forget tasks whatever their status; return how many there were."""

    @abstractmethod
    async def set_paused(self, queue: str, paused: bool) -> None:
        """Pause or resume a queue for every process; pushes go on, claims do not. Hints ``ready`` on resume."""

    @abstractmethod
    async def paused(self) -> list[str]:
        """Return the paused queues, sorted."""


Held = tuple[Any, int, int]
"""A value, when it ends in nanoseconds of ``Clock.nanos``, and what only its store reads."""


class Values(ABC):
    """A store of public values. ``expires_at`` in microseconds, None for never; at or before now it is gone."""

    held: Mapping[str, Held] | None = None
    """Where values are objects of this process: all of them by key. To read one takes no call, and no wait."""

    def keep(self, key: str, value: Any, until: int) -> bool:
        """Put in place of the value under ``key``, if there is one and that is all there is to do; else answer False.

        Only where ``held`` is; ``until`` in nanoseconds. After False it may or may not have been written: ``put`` it.
        """
        return False

    @abstractmethod
    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        """Store (key, value, expires_at), each replacing what was under its key."""

    @abstractmethod
    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        """Read: a 1-tuple of the value, or None where it is missing or expired."""

    @abstractmethod
    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        """Delete; answer where there was a live one."""

    @abstractmethod
    async def keys(self, now: int) -> list[str]:
        """Return the live keys, sorted."""

    @abstractmethod
    async def count(self, now: int) -> int:
        """Count the live keys."""

    @abstractmethod
    async def expire(self, now: int, limit: int) -> int:
        """Remove up to ``limit`` expired rows; return how many. Holds the loop for well under 10 ms a call."""

    @abstractmethod
    async def clear(self) -> None:
        """Remove every public value."""


class Schedules(ABC):
    """A store of schedules; it lives in SQL."""

    @abstractmethod
    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        """Insert; answer like ``push``: the very object given, or the row that had this id."""

    @abstractmethod
    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        """Compare and swap, and push what was fired, in one transaction per call; answer which held.

        The guard is the row's version, due time, run count and ``enabled`` as read. A fired task whose id exists is
        not doubled.
        """

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        """Read by id; None where there is none."""

    @abstractmethod
    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        """Return the schedules, those of an earlier second first; within a second by id."""

    @abstractmethod
    async def due(self, now: int, limit: int) -> list[Schedule]:
        """Read enabled schedules whose due time is at or before ``now``, the earliest first."""

    @abstractmethod
    async def written_after(self, now: int) -> list[Schedule]:
        """Read enabled schedules that were written, and are due, in a later second than that of ``now``."""

    @abstractmethod
    async def undelivered(self, limit: int) -> list[Schedule]:
        """Read schedules with something in their outbox."""

    @abstractmethod
    async def next_due(self) -> int | None:
        """Return the earliest due time of an enabled schedule in microseconds, or None."""

    @abstractmethod
    async def delete(self, ids: Sequence[str]) -> list[bool]:
        """Delete; answer where there was one. Tasks that were fired stay."""


def holds(row: Any, change: Change) -> bool:
    """Whether the guard of a change holds for the row (status, fence, lease_until, cancel_requested) as it is now."""
    before = change.before
    return (
        (row.status, row.fence) == (before.status, before.fence)
        and not (change.lease_over and row.lease_until != before.lease_until)
        # A cancel that came in meanwhile must not be lost with a task that goes on.
        and (change.after.final or bool(row.cancel_requested) == before.cancel_requested)
    )


def matches(task: Task, where: TaskFilter) -> bool:
    """Whether a task passes the filter (``after`` is paging, not a filter)."""
    before = where.completed_before
    return (
        (not where.status or task.status in where.status)
        and (where.type is None or task.type == where.type)
        and (where.queue is None or task.queue == where.queue)
        and (where.scheduler_task_id is None or task.scheduler_task_id == where.scheduler_task_id)
        and (before is None or (task.completed_at is not None and task.completed_at < before))
    )


def stats_of(rows: Sequence[tuple[str, str, int]], ready: int, oldest: int | None) -> QueueStats:
    """Shape (queue, status, count) rows; every status is present in ``counts``."""
    counts = {str(status): 0 for status in Status}
    queues: dict[str, dict[str, int]] = {}
    for queue, status, count in rows:
        counts[status] = counts.get(status, 0) + count
        queues.setdefault(queue, {})[status] = count
    return QueueStats(counts=counts, ready=ready, oldest=oldest, queues=queues)
