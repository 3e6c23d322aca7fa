"""Schedules in memory: they end with the process, as the tasks do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from aiotaskq.backends.base import Backend, Schedules
from aiotaskq.backends.schedules import Decide
from aiotaskq.core.schedule import Schedule

T = TypeVar("T")


class MemorySchedules(Schedules):
    """Schedules in a dict. Every verb runs without suspending, as those for tasks do."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._rows: dict[str, Schedule] = {}

    async def _write(self, ids: Sequence[str], decide: Decide[T], whole: bool = True) -> T:
        decision = decide({schedule_id: self._rows[schedule_id] for schedule_id in ids if schedule_id in self._rows})
        if decision.fired:
            await self._backend.push(decision.fired)  # where it is refused, nothing is written
        self._rows |= {each.schedule.task_id: each.schedule for each in decision.written}
        for schedule_id in decision.deleted:
            del self._rows[schedule_id]
        return decision.answer

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
