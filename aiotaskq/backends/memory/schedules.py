"""Schedules in memory: they end with the process, as the tasks do."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.backends.base import Backend, ScheduleChange, Schedules
from aiotaskq.core.schedule import Schedule


class MemorySchedules(Schedules):
    """Schedules in a dict. Every verb runs without suspending, as those for tasks do."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._rows: dict[str, Schedule] = {}

    async def add(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        return [self._rows.setdefault(schedule.task_id, schedule) for schedule in schedules]

    async def change(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        rows: dict[str, Schedule] = {}
        held = []
        for change in changes:
            schedule_id = change.before.task_id
            held.append(change.holds(rows.get(schedule_id) or self._rows.get(schedule_id)))
            if held[-1]:
                rows[schedule_id] = change.after.replace(version=change.before.version + 1)
        if tasks := [task for change, ok in zip(changes, held, strict=True) if ok for task in change.tasks]:
            await self._backend.push(tasks)  # where it is refused, nothing is written
        self._rows |= rows
        return held

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
