"""The rehearsal backend: memory that goes by the rules of a durable, shared store, for tests of an application.

What a database would refuse is refused here, leases run out here, and nobody shares an object with the store. Only
nothing survives the process, and nothing waits for a disk. Schedules are kept beside the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from aiotaskq.backends.base import READY, Backend, Change, Room, ScheduleChange, Schedules, holds
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND, Task, same_push

KEEP = 1_000_000  # ended tasks; a test that makes more has other worries


class RehearsalBackend(MemoryBackend):
    """A task queue's store for one test."""

    name: ClassVar[str] = "rehearsal"
    durable: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    steady: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(keep=KEEP)
        self.schedules: RehearsalSchedules = RehearsalSchedules(self)
        self.on_commit: Callable[[Task], object] = lambda task: None
        """Called with each task of a ``push_with`` when it is stored, in the thread that commits."""

    def another(self) -> Backend:
        return self

    async def push(self, tasks: Sequence[Task], room: Room | None = None) -> list[Task]:
        _check(tasks)
        return await super().push(tasks, room)

    async def push_with(
        self,
        session: Any,
        tasks: Sequence[Task],
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> list[Task]:
        """As where the session's database holds the tasks: they are stored when it commits, and not if it does not."""
        from aiotaskq.backends.sql.caller_session import at_commit

        _check(tasks)
        if room is not None:
            with self._lock:
                self._reads.check_room(tasks, room)
        stored = self._would_stand(tasks)

        def store() -> None:
            with self._lock:
                for change in () if room is None else room.instead:
                    row = self._tasks.get(change.before.task_id)
                    if row is not None and holds(row, change):
                        self._leave(row)
                        self._enter(change.after.replace(params=row.params))
                new = [task for task in tasks if self._insert(task) is task]
            for task in new:
                self.on_commit(task)
            self.hints.tell(READY)
            committed()

        await at_commit(session, store)
        return stored

    def _would_stand(self, tasks: Sequence[Task]) -> list[Task]:
        """What stands for each of these tasks if they are pushed now."""
        with self._lock:
            rows = [self._tasks.get(task.task_id) or self._tasks.get(self._keys.holder(task) or "") for task in tasks]
        return [task if row is None or same_push(row, task) else row for task, row in zip(tasks, rows, strict=True)]

    def _insert(self, task: Task) -> Task:
        row = _copy(task)
        stored = super()._insert(row)
        return task if stored is row else stored

    async def claim(
        self, owner: str, now: int, limit: int, *, queues: Sequence[str] | None = None, lease_until: int | None = None
    ) -> list[Task]:
        tasks = await super().claim(owner, now, limit, queues=queues, lease_until=lease_until)
        return [_copy(task) for task in tasks]  # a handler that changes its params changes no row

    async def update(self, changes: Sequence[Change]) -> list[bool]:
        _check([task for change in changes for task in change.then])
        return await super().update(changes)

    def _update(self, changes: Sequence[Change]) -> list[bool]:
        held = []
        for change in changes:  # each sees what the one before has written
            held += super()._update([self._without_params(change)])
        return held

    def _without_params(self, change: Change) -> Change:
        row = self._tasks.get(change.before.task_id)
        if row is None or change.after.params is not change.before.params:
            return change
        return msgspec.structs.replace(change, after=change.after.replace(params=row.params))


def _copy(task: Task) -> Task:
    """The task with params of its own, as they come out of a database. Raises TypeError where one would."""
    return task.replace(params=msgspec.json.decode(msgspec.json.encode(task.params))) if task.params else task


def _check(tasks: Sequence[Task]) -> None:
    """All or none: what cannot be stored is found before anything is. Raises TypeError."""
    for task in tasks:
        _copy(task)


class RehearsalSchedules(Schedules):
    """Schedules of a rehearsal. Like the tasks, every verb runs without suspending."""

    def __init__(self, backend: RehearsalBackend) -> None:
        self._backend = backend
        self._rows: dict[str, Schedule] = {}

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        return [self._rows.setdefault(schedule.task_id, schedule) for schedule in schedules]

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        _check([task for change in changes for task in change.tasks])
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

    async def written_after(self, now: int) -> list[Schedule]:
        second = now // SECOND
        rows = [self._rows[schedule_id] for due, schedule_id in self._dues() if due // SECOND > second]
        return [row for row in rows if row.updated_at > second]

    async def undelivered(self, limit: int) -> list[Schedule]:
        return [row for _, row in sorted(self._rows.items()) if row.outbox][:limit]

    async def next_due(self) -> int | None:
        return min((due for due, _ in self._dues()), default=None)

    async def delete(self, ids: Sequence[str]) -> list[bool]:
        return [self._rows.pop(schedule_id, None) is not None for schedule_id in ids]
