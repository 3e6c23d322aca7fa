"""The contract of a backend: what a store of tasks, public values and schedules must do, method by method.

A backend knows rows, not rules: no retries, no back-off, no cron, no TTL arithmetic, no handlers, no time of day.
``now`` and every other instant is an argument, in microseconds UTC. Methods take lists and return lists in the same
order, so that many concurrent calls can become one transaction. Each method is atomic: it writes all of its rows or, if
it raises, none. A value that is larger than the store accepts raises ValidationError, which names both sizes.

To add a backend, see ``docs/architecture.md``; ``tests/contract`` then proves each sentence below for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import msgspec

from aiotaskq.backends.after import After
from aiotaskq.backends.audit import AuditLog
from aiotaskq.backends.change import Change as Change
from aiotaskq.backends.change import Claim as Claim
from aiotaskq.backends.change import Room as Room
from aiotaskq.backends.change import ScheduleChange as ScheduleChange
from aiotaskq.backends.flow.groups import push_within
from aiotaskq.backends.gates import GateReads, Gates
from aiotaskq.backends.groups import GroupReads, Groups
from aiotaskq.backends.history import History
from aiotaskq.backends.listeners import ENDED, READY, Listeners
from aiotaskq.backends.notes import Notes
from aiotaskq.backends.pending_types import MOST_COUNTED, PendingType, count_types, first_of
from aiotaskq.backends.schedules import Schedules as Schedules
from aiotaskq.backends.side_rows import SideRows
from aiotaskq.backends.steps import Steps
from aiotaskq.backends.values import Values
from aiotaskq.backends.workers import Held, Workers
from aiotaskq.core.coded import COLUMNS, no_codec
from aiotaskq.core.errors import INT64, MAX_PAYLOAD
from aiotaskq.core.outcome import owner_of
from aiotaskq.core.status import FINAL, PENDING, RUNNING, Status
from aiotaskq.core.task import Task, TaskFilter

if TYPE_CHECKING:
    from asyncio import Future

    from aiotaskq.backends.flow.transaction import Store
    from aiotaskq.concurrency.wakeup import Arrivals
    from aiotaskq.core.codec import Codec


class QueueStats(msgspec.Struct, frozen=True):
    """Numbers of rows: by status, ready, by queue and status. ``oldest`` is the first ready ``run_at``, or None."""

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


class Backend(ABC):
    """A store. The constructor opens nothing; ``open`` opens connections, threads and files, ``close`` closes them."""

    durable: ClassVar[bool]
    """Whether rows survive the process."""
    shared: bool | Literal["host"]
    """Whether other processes see the same rows; ``"host"`` for those in a file of this host: there one transaction
    writes at a time, one that does two things is cheaper than two, and instants come from the clock of the host.
    """
    suspends: ClassVar[bool] = True
    """Whether its methods may suspend: then calls are batched, since one with many rows is cheaper than many."""
    values: Values
    gates: Gates
    groups: Groups
    after: After
    """The tasks that were pushed after others."""
    store: Store
    """What runs transactions."""
    side: SideRows
    """What capabilities store beside the tasks."""
    history: History
    audit: AuditLog
    notes: Notes
    steps: Steps
    """The handlers' steps, and events."""
    schedules: Schedules
    workers: Workers | None = None
    """The registry of workers; every shared store has one."""
    invalid_rows: Sequence[InvalidRow] = ()
    codec: Codec | None = None
    """What encodes params, extra, progress, results and attempts; only a durable store has one."""
    max_params: int = MAX_PAYLOAD
    """The most bytes of JSON that params may have."""

    def __init__(self) -> None:
        self.listeners = Listeners()

    def keep(self, store: Store, side: SideRows, gates: GateReads, groups: GroupReads) -> None:
        """Make what stands on transactions and on side rows."""
        self.store = side.store = store
        self.side = side
        self.values, self.history, self.audit = Values(side), History(side), AuditLog(side)
        self.steps, self.notes = Steps(store, side), Notes(store, side, self.listeners)
        self.gates, self.groups = Gates(store, gates), Groups(store, groups)
        self.after = After(store)
        self.workers = Workers(side, self.held) if self.shared else None

    def notify_updated(self, changes: Sequence[Change], held: Sequence[bool]) -> None:
        """Pass on the hints of an update; ``held`` says which changes hold."""
        for kind, names in self.hints_of_update(changes, held).items():
            self.listeners.notify(kind, names)

    def hints_of_update(self, changes: Sequence[Change], held: Sequence[bool]) -> dict[str, list[str]]:
        """Return the hints ``ended`` and ``ready`` of an update, with their names, as far as someone may listen."""
        written = [change for change, ok in zip(changes, held, strict=True) if ok]
        wanted = self.listeners.forward is not None or ENDED in self.listeners.by_kind
        ended = [change.after.task_id for change in written if wanted and change.after.status in FINAL]
        hints: dict[str, list[str]] = {ENDED: ended} if ended else {}
        if any(change.then or change.before.flow or change.after.status not in FINAL for change in written):
            hints[READY] = []
        return hints

    @abstractmethod
    async def open(self) -> None:
        """Make the store ready for use; idempotent. The first call of another method does it, too.

        Raises DatabaseUnavailable, and SchemaTooNew if a newer version has written the store.
        """

    @abstractmethod
    async def close(self) -> None:
        """Free every connection, thread and file; idempotent.

        Methods of a durable store raise ClosedError until the next ``open``. A store in memory has nothing to close.
        """

    async def ping(self) -> int | None:
        """Make one round trip; return the store's clock in microseconds UTC, None where the store has no clock.

        Raises DatabaseUnavailable, also if a table is missing.
        """
        return None

    async def keeps_ended(self) -> bool:
        """Return whether ended tasks stay until an age is given: in a database that was adopted from other software."""
        return False

    async def tidy(self) -> None:  # noqa: B027 - most stores keep themselves in order
        """Free unused disk space; each worker calls it at intervals. Raises DatabaseUnavailable."""

    async def clock_set(self, anchor: int, back: int, now: int) -> None:  # noqa: B027
        """Adapt the rows to a host's clock that was set back by ``back`` microseconds.

        ``anchor``, the clock less the ticks of the host, identifies this step of the clock. The first call for it moves
        pending rows that are due after ``now`` back by ``back``, with the ends of sleeps and waits, and gates as
        ``core.gate.set_back`` says, if the rows go by the host's clock.
        """

    def coded_by(self, codec: Codec | None) -> Self:
        """Set the codec, before the first use, and return this backend."""
        self.codec = self.groups.codec = self.after.codec = codec
        self.notes.codec = self.steps.codec = self.schedules.codec = codec
        return self

    def another(self, patience: float | None = None) -> Backend:
        """Return a backend on the same rows, not opened yet, with connections of its own, for another event loop.

        ``patience``: the most seconds without an answer before a connection is given up; None for those of the store.
        """
        return self

    async def watch(self) -> None:  # noqa: B027 - nothing to do is right where no other process is
        """Receive the hints of other processes until ``close``; idempotent.

        A store that cannot, or whose connection is lost for a while, leaves it to polling.
        """

    def arrivals(self, queues: Sequence[str] | None = None) -> Arrivals | None:
        """Return a wakeup for a consumer of these queues in the running loop, or None where hints wake every consumer.

        It wakes the consumer when there is a task to claim, or when the next one is due earlier than before. One task
        wakes one consumer: the one that has waited longest.
        """
        return None

    def pending(self) -> Iterable[Future[Any]]:
        """Return the operations that the store runs for the running loop: virtual time stands still until they end."""
        return ()

    # ---- tasks ----

    @abstractmethod
    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        """Insert tasks, and return for each the row that now stands for it: the object given, or a conflicting row.

        A row conflicts that has the same id, the same idempotency key, or the same unique key while it is pending or
        running; also one that was inserted earlier in the same call. A repeated push, with the same id and ``seq``, is
        no conflict: the object given stands for it. Sends the hint ``ready``. For tasks with gates see ``Gates``.

        With ``room`` the number of ready tasks is bounded, whatever the number of processes that push. The changes of
        ``room.instead`` are written first. Raises QueueFull, and writes nothing, if the new tasks do not fit: its
        ``excess`` is the number of tasks too many, or 0 if the guard of one of these changes does not hold.
        """

    async def push_with(
        self,
        session: Any,
        tasks: Sequence[Task],
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> list[Task]:
        """``push`` in the caller's transaction, which the caller commits; a SQLAlchemy session or connection.

        ``committed`` is called after the commit, from any thread. Raises NotSupported where the store is not SQL, and
        ValidationError for a session of another database.
        """
        return await self.store.transact_with(session, lambda at: push_within(at, tasks, room), committed)

    async def update_with(
        self, session: Any, changes: Sequence[Change], committed: Callable[[], None] = lambda: None
    ) -> list[bool]:
        """``update`` in the caller's transaction. Raises as ``push_with``."""
        return await self.store.transact_with(session, lambda at: at.update(changes), committed)

    async def claim(
        self, owner: str, now: int, limit: int, *, queues: Sequence[str] | None = None, lease_until: int | None = None
    ) -> list[Task]:
        """Claim up to ``limit`` pending tasks that are due, not expired, and in no paused queue; in claim order.

        Each becomes ``running`` with its fence raised by one, this owner, this lease, ``began_at`` and ``started_at``.
        No two calls get the same task with the same fence. A row that cannot be decoded has ``undecodable`` set.
        """
        return await self._claim(Claim(owner, now, limit, queues, lease_until))

    @abstractmethod
    async def _claim(self, wanted: Claim) -> list[Task]:
        """Do as ``claim``."""

    @abstractmethod
    async def update(self, changes: Sequence[Change]) -> list[bool]:
        """Write each ``after`` whose guard holds, and return for each whether it did.

        The guard holds if the row has the status and fence of ``before``. If ``after`` is not final, the cancel flag
        must be that of ``before``, too, or a cancel would be lost. A change that brings a final task back does not hold
        while a newer task has its unique key.

        Changes are applied in order: the second of two for the same row sees what the first has written. A change that
        does not hold writes nothing and does not stop the others. The fields that a push sets (type, params, extra,
        schedule, timeout, follow-ups, time of creation) are written only if params or extra are other objects than
        before; the keys and progress are never written here, except that a change without the unique key of ``before``
        gives it up: no later change of that row takes it back. The unique key of a final task is free. Sends the hints
        ``ended`` and ``ready``.
        """

    async def exchange(self, changes: Sequence[Change], wanted: Claim) -> tuple[list[bool], list[Task]]:
        """``update``, then ``claim``; in one transaction or round trip where that is cheaper."""
        held = await self.update(changes) if changes else []
        return held, await self._claim(wanted) if wanted.limit else []

    async def push_and_claim(
        self, tasks: Sequence[Task], wanted: Claim, ended: Sequence[Change] = ()
    ) -> tuple[list[Task], list[bool], list[Task]]:
        """``push``, then ``exchange`` of ``ended``; in one transaction in a file of the host. Return what both do."""
        return await self.push(tasks), *await self.exchange(ended, wanted)

    async def fire_and_claim(
        self, changes: Sequence[ScheduleChange], wanted: Claim, ended: Sequence[Change] = ()
    ) -> tuple[list[bool], list[bool], list[Task]]:
        """``change`` of the schedules of this store, then ``exchange``; as ``push_and_claim``."""
        return await self.schedules.change(changes), *await self.exchange(ended, wanted)

    @abstractmethod
    async def report(self, progress: Sequence[tuple[str, int, dict[str, Any]]]) -> list[bool]:
        """Store the progress of running tasks, given by id and fence; return for each whether it was running so."""

    @abstractmethod
    async def request_cancel(self, ids: Sequence[str]) -> list[bool]:
        """Set the cancel flags of running tasks; return for each whether it was running. Sends the hint ``cancel``."""

    async def cancelling(self, ids: Sequence[str]) -> list[str]:
        """Return the ids of those tasks that are running and have the cancel flag."""
        found = await self.get(ids)
        return [t.task_id for t in found if t is not None and t.status is Status.RUNNING and t.cancel_requested]

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        """Read tasks by id; None where there is none."""

    async def whole(self, tasks: Sequence[Task], columns: Collection[str] = COLUMNS) -> list[Task]:
        """Return tasks that were read, with these columns from blobs: other reads, and claims, leave them there.

        What is in no blob, or was read from it, is returned as it is. Raises DatabaseUnavailable.
        """
        return list(tasks)

    async def recode(self, ids: Sequence[str]) -> list[bool | None]:
        """Write what is coded of these rows anew with the codec; nothing else of a row changes, and no hint is sent.

        Return for each: True if it is written, False if another transaction has it, None if there is no such row or it
        cannot be decoded, and stays as it is. Raises NotSupported where there is no codec.
        """
        raise no_codec()

    @abstractmethod
    async def find(self, where: TaskFilter, limit: int) -> list[Task]:
        """Read up to ``limit`` tasks that match, the newest push first, behind the id ``where.after`` if given."""

    @abstractmethod
    async def last_ended(self, status: Status, limit: int) -> list[str]:
        """Return the ids of up to ``limit`` tasks with this final status, the latest end first.

        Rows without the time of their end are left out. SQL looks at the first hundred queues by their names.
        """

    @abstractmethod
    async def ids_with_prefix(self, prefixes: Sequence[str], limit: int) -> list[list[str]]:
        """Return for each prefix up to ``limit`` ids of tasks that begin with it, sorted; upper and lower case differ.

        Any of them where there are more. It blocks no other user of the store, however many tasks there are.
        """

    @abstractmethod
    async def overdue(self, now: int, limit: int) -> list[Task]:
        """Read running tasks without a holder (see ``Workers``), and expired ones; the longest overdue first."""

    async def held(self, owners: Sequence[str]) -> dict[str, list[Held]]:
        """Read the running tasks that each of these workers holds, with or without a mark on them."""
        held: dict[str, list[Held]] = {owner: [] for owner in owners}
        for task in await self.find(TaskFilter(status=(RUNNING,)), INT64):
            if (owner := owner_of(task)) in held:
                held[owner].append((task.task_id, task.fence, task.cancel_requested))
        return held

    @abstractmethod
    async def next_run_at(self, now: int, queues: Sequence[str] | None = None) -> int | None:
        """Return when to claim next: an instant <= ``now`` if a task is due, else the earliest ``run_at``, or None.

        Paused queues do not count.
        """

    @abstractmethod
    async def count_ready(self, now: int, queues: Sequence[str] | None = None) -> int:
        """Count the tasks that can be claimed at ``now``."""

    @abstractmethod
    async def least_ready(self, now: int, limit: int) -> list[Task]:
        """Read tasks that count for a ``Room``: the largest priority number first, of one priority the oldest first."""

    async def pending_types(self, now: int, limit: int) -> list[PendingType]:
        """Count pending tasks that are not parked by queue and type, in any order.

        Up to ``limit`` tasks are looked at that are due, and as many others. Those are the earliest, so that they
        include what workers put off, again and again, since they have no handler of its type. A store with more
        priorities or queues than that has its share of each.
        """
        return count_types(first_of(await self.find(TaskFilter(status=(PENDING,)), MOST_COUNTED), now, limit), now)

    @abstractmethod
    async def stats(self, now: int) -> QueueStats:
        """Count rows by status and queue, and what is ready (due, not expired, not paused)."""

    @abstractmethod
    async def active(self, schedule_ids: Sequence[str]) -> dict[str, int]:
        """Count unfinished tasks by the schedule that fired them, for the overlap policies."""

    @abstractmethod
    async def purge(self, where: TaskFilter, limit: int) -> int:
        """Delete up to ``limit`` *final* tasks that match; return how many.

        The members of a group that has not ended stay: see ``Groups``.
        """

    @abstractmethod
    async def delete(self, ids: Sequence[str], *, ended: bool = False) -> int:
        """Delete tasks, whatever their status, or with ``ended`` only final ones; return how many were deleted."""

    @abstractmethod
    async def set_paused(self, queue: str, paused: bool) -> None:
        """Pause or resume a queue for every process: tasks can be pushed, and not claimed. Resuming hints ``ready``."""

    @abstractmethod
    async def paused(self) -> list[str]:
        """Return the paused queues, sorted."""


def matching(where: TaskFilter) -> Callable[[Task], bool]:
    """Return the test that is true of a task that matches the filter, except ``after``, which is for paging."""
    before, equal = where.completed_before, list(where.equal.items())
    return lambda task: (
        (not where.status or task.status in where.status)
        and all(getattr(task, name) == value for name, value in equal)
        and (before is None or (task.completed_at is not None and task.completed_at < before))
        and (where.created_since is None or task.created_at >= where.created_since)
        and (where.error is None or (task.error_message is not None and where.error in task.error_message))
        and (where.error_type is None or (task.error_message or "").startswith(where.error_type))
        and (not where.tags or where.tags.items() <= task.tags.items())
    )


def stats_of(rows: Sequence[tuple[str, str, int]], ready: int, oldest: int | None) -> QueueStats:
    """Return the stats of rows of queue, status and count; ``counts`` has every status."""
    counts = {str(status): 0 for status in Status}
    queues: dict[str, dict[str, int]] = {}
    for queue, status, count in rows:
        counts[status] = counts.get(status, 0) + count
        of_queue = queues.setdefault(queue, {})
        of_queue[status] = of_queue.get(status, 0) + count
    return QueueStats(counts=counts, ready=ready, oldest=oldest, queues=queues)


def holds_objects(backend: Backend) -> bool:
    """Whether params and results may be any Python objects: only in memory."""
    return bool(getattr(backend, "objects", False))
