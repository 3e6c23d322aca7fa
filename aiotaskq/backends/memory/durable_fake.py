"""The durable fake: a store in memory that behaves as a durable, shared one, for the tests of an application.

It refuses what a database refuses, its leases run out, and it shares no object with its callers. But nothing survives
the process, and nothing waits for a disk. It has schedules, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import msgspec

from aiotaskq.backends.base import Change, Room, ScheduleChange, Schedules, has_moved, holds
from aiotaskq.backends.flow import steps as flow
from aiotaskq.backends.flow.gates import push
from aiotaskq.backends.flow.groups import parents_first, push_plan
from aiotaskq.backends.flow.transaction import Beside
from aiotaskq.backends.groups import Groups
from aiotaskq.backends.listeners import READY
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.backends.memory.groups import MemoryGroupReads
from aiotaskq.backends.memory.transactions import MemoryTransactions
from aiotaskq.backends.memory.uncommitted import AtCommit, conflicting, makes_group, seen_in, write_at_commit
from aiotaskq.backends.memory.workers import MemoryWorkers
from aiotaskq.backends.side_rows import STEP, SideRows
from aiotaskq.backends.steps import Steps
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import decoded, encoded
from aiotaskq.core.groups import Plan
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.steps import EventValue, NewStep, Step
from aiotaskq.core.task import RUNNING, Task, same_push

KEEP = 1_000_000  # ended tasks: more than a test makes


class DurableFake(MemoryBackend):
    """The store of one test."""

    durable: ClassVar[bool] = True
    shared: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(keep=KEEP)
        self._keep_groups(DurableFakeGroups(self, MemoryGroupReads(self._tx, self._lock)))
        self.steps = DurableFakeSteps(self.transactions, self.side)
        self.schedules: DurableFakeSchedules = DurableFakeSchedules(self)
        self.workers: MemoryWorkers = MemoryWorkers(self._tasks, self._running, self._lock)
        self.on_commit: Callable[[Task], object] = lambda task: None
        """Called with each task of a ``push_with`` when it is stored, in the thread that commits."""

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        self.check(tasks)
        return await super().push(tasks, room)

    def insert(self, task: Task) -> Task:
        self.check([task])
        with self._lock:
            (stored,) = push(self._tx, [task])
            self._tx.end()
        self.listeners.notify(READY)
        return stored

    async def keeps_ended(self) -> bool:
        return True  # a test that lets a month pass still reads what came of its tasks

    async def push_with(
        self,
        session: Any,
        tasks: Sequence[Task],
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> list[Task]:
        """Store the tasks when the session commits, as if they were in its database."""
        self.check(tasks)
        if room is not None:
            with self._lock:
                self._reads.check_room(tasks, room)
        seen, entered, stored = seen_in(session, self), dict[str, Task](), list[Task]()
        with self._lock:
            for task in tasks:
                row = conflicting(seen | entered, task, self._reads.conflicting(task))
                if row is None:
                    entered[task.task_id] = task
                stored.append(task if row is None or same_push(row, task) else row)

        def store() -> None:
            new = list(entered.values())
            with self._lock:
                self._update(() if room is None else room.instead)
                new = [task for task, row in zip(new, push(self._tx, new), strict=True) if row is task]
                self._tx.end()
            for task in new:
                self.on_commit(task)
            self.listeners.notify(READY)
            committed()

        await write_at_commit(session, AtCommit(self, entered, store))
        return stored

    async def update_with(
        self, session: Any, changes: Sequence[Change], committed: Callable[[], None] = lambda: None
    ) -> list[bool]:
        """Write the changes when the session commits; one whose task is changed by others until then is not written."""
        self.check([task for change in changes for task in change.then])
        seen, held = seen_in(session, self), list[bool]()
        with self._lock:
            for change in changes:
                after = change.after
                row = seen.get(after.task_id) or self._tasks.get(after.task_id)
                guard = row is not None and holds(row, change) and not has_moved(row, change)
                others = {task_id: task for task_id, task in seen.items() if task_id != after.task_id}
                held.append(guard and (after.final or conflicting(others, after, self._reads.holder(after)) is None))
                if held[-1]:
                    seen[after.task_id] = after
        written = [change for change, ok in zip(changes, held, strict=True) if ok]

        def store() -> None:
            with self._lock:
                done = parents_first(written, self._update)
                self._tx.end()
            self.notify_updated(written, done)
            committed()

        rows = {change.after.task_id: change.after for change in written}
        await write_at_commit(session, AtCommit(self, rows, store))
        return held

    def _insert(self, task: Task) -> Task:
        row = self._copy(task)
        stored = super()._insert(row)
        return task if stored is row else stored

    async def claim(
        self, owner: str, now: int, limit: int, *, queues: Sequence[str] | None = None, lease_until: int | None = None
    ) -> list[Task]:
        tasks = await super().claim(owner, now, limit, queues=queues, lease_until=lease_until)
        return [self._copy(task) for task in tasks]  # a handler that changes its params must not change the row

    async def overdue(self, now: int, limit: int) -> list[Task]:
        with self._lock:
            return (self.workers.orphans() + await super().overdue(now, limit))[:limit]

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        self.check([task for change in changes for task in change.then])
        return await super().update(changes)

    def _update(self, changes: Iterable[Change]) -> list[bool]:
        # One at a time: a change depends on what the one before has written.
        return super()._update(self._without_params(change) for change in changes)

    def _copy(self, task: Task) -> Task:
        """Return the task with params of its own, as a database returns them. Raises TypeError for what is not JSON.

        Rows are kept as plain values. A codec is used here, so that one that loses a value is found by a test.
        """
        if not task.params:
            return task
        if self.codec is not None:
            return decoded(encoded(task, self.codec), self.codec)
        return task.replace(params=msgspec.json.decode(msgspec.json.encode(task.params)))

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise TypeError for params that are not JSON, before anything is stored."""
        for task in tasks:
            self._copy(task)

    def check_room(self, tasks: Sequence[Task], room: Room) -> None:
        """Raise QueueFull if there is no room for tasks."""
        with self._lock:
            self._reads.check_room(tasks, room)

    def coded_by(self, codec: Codec | None) -> Self:
        super().coded_by(codec)
        self.groups.codec = None  # as for tasks: a codec is for what leaves the process
        return self

    def _without_params(self, change: Change) -> Change:
        row = self._tasks.get(change.before.task_id)
        if row is None or change.after.params is not change.before.params:
            return change
        return msgspec.structs.replace(change, after=change.after.replace(params=row.params))


class DurableFakeGroups(Groups):
    """The groups of a durable fake: one of the transaction of a session is written when that commits.

    A codec is used where tasks are inserted.
    """

    def __init__(self, backend: DurableFake, reads: MemoryGroupReads) -> None:
        super().__init__(backend.transactions, reads)
        self._backend = backend

    async def push(
        self,
        plan: Plan,
        session: Any = None,
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> bool:
        backend, group_id = self._backend, plan.groups[0].group_id
        backend.check(plan.tasks)
        if session is None:
            return await super().push(plan, None, committed, room)
        if makes_group(session, backend, group_id) or (await self.get([group_id]))[0] is not None:
            return False
        if room is not None:
            backend.check_room(plan.entering, room)

        def write(at: Beside) -> bool:
            at.update(() if room is None else room.instead)
            return push_plan(at, plan, None)

        def store() -> None:
            for task in plan.tasks if backend.transactions.run(write) else ():
                backend.on_commit(task)
            committed()

        await write_at_commit(session, AtCommit(backend, {}, store, group_id))
        return True


class DurableFakeSteps(Steps):
    """The steps of a durable fake: in the transaction of a session they are stored when that commits."""

    def __init__(self, transactions: MemoryTransactions, side: SideRows) -> None:
        super().__init__(transactions, side)
        self._transactions = transactions

    async def add_with(self, session: Any, new: NewStep) -> Step | None:
        rows, holder = self._rows([new]), (new.fence, new.seq)
        runs, text = self._transactions.run(
            lambda tx: (tx.runs([new.task_id]), tx.side.lock(STEP, [rows[0].name], new.task_id).get(rows[0].name))
        )
        run = runs.get(new.task_id)
        if run is None or run.status is not RUNNING or (run.fence, run.seq) != holder:
            return None

        def store() -> None:
            self._transactions.run(lambda tx: tx.add_held(STEP, rows, [holder]))

        if text is None:
            await write_at_commit(session, store)
        return self._there([new], rows, [text or rows[0].text])[0]

    async def emit_with(
        self, session: Any, event: EventValue, committed: Callable[[], None] = lambda: None
    ) -> EventValue:
        def store() -> None:
            stored = [self._stored_event(event)]
            self._transactions.run(lambda tx: flow.emit(tx, stored, self._stored))
            committed()

        if (there := await self.event(event.key, event.at)) is None:
            await write_at_commit(session, store)
        return there or event


class DurableFakeSchedules(Schedules):
    """The schedules of a durable fake. Every verb runs without suspending, as those for tasks do."""

    def __init__(self, backend: DurableFake) -> None:
        self._backend = backend
        self._rows: dict[str, Schedule] = {}

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        return [self._rows.setdefault(schedule.task_id, schedule) for schedule in schedules]

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        self._backend.check([task for change in changes for task in change.tasks])
        return [await self._change(change) for change in changes]

    async def _change(self, change: ScheduleChange) -> bool:
        before, row = change.before, self._rows.get(change.before.task_id)
        if row is None or (row.version, row.next_run_at, row.next_run_us, row.enabled, row.run_count) != (
            before.version,
            before.next_run_at,
            before.next_run_us,
            before.enabled,
            before.run_count,
        ):
            return False
        self._rows[before.task_id] = change.after.replace(version=before.version + 1)
        if change.tasks:
            await self._backend.push(change.tasks)
        return True

    async def get(self, ids: Sequence[str]) -> list[Schedule | None]:
        return [self._rows.get(schedule_id) for schedule_id in ids]

    async def all(self, enabled_only: bool = False) -> list[Schedule]:
        rows = [row for row in self._rows.values() if row.enabled or not enabled_only]
        return sorted(rows, key=lambda row: (row.created_at, row.task_id))

    def _dues(self) -> list[tuple[int, str]]:
        dues = ((row.due, row.task_id) for row in self._rows.values() if row.enabled)
        return [(due, schedule_id) for due, schedule_id in dues if due is not None]

    async def due(self, now: int, limit: int) -> list[Schedule]:
        return [self._rows[schedule_id] for due, schedule_id in sorted(self._dues())[:limit] if due <= now]

    async def undelivered(self, limit: int) -> list[Schedule]:
        return [row for _, row in sorted(self._rows.items()) if row.outbox][:limit]

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        return [self._rows.pop(schedule_id, None) is not None for schedule_id in ids]
