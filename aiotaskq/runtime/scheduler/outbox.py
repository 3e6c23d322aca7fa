"""Pushes the tasks of fired schedules into a queue of another store, where no transaction covers both.

A schedule is written together with the tasks it has fired, in its outbox. Then the tasks are pushed, and only then are
they removed from the outbox. If the scheduler dies in between, another one pushes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends.change import ScheduleChange
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import QueueFull
from aiotaskq.log import log

if TYPE_CHECKING:
    from aiotaskq.backends.base import Schedules
    from aiotaskq.runtime.queue.queue import Queue

LIMIT = 1_000  # schedules whose outboxes are read at a time
RECOVERY = 5  # seconds after which a scheduler that has not pushed what it fired counts as dead


async def add_with_room(queue: Queue, tasks: Sequence[Task]) -> tuple[Sequence[Task], QueueFull | None]:
    """Push tasks; those for which there is no room stop no others. Return what was pushed, and why the rest was not."""
    try:
        await queue.add(tasks)
        return tasks, None
    except QueueFull as error:
        full = error
    pushed = []
    for task in tasks if len(tasks) > 1 else ():
        try:
            await queue.add([task])
            pushed.append(task)
        except QueueFull as error:
            full = error
    return pushed, full


class Outbox:
    """The outboxes of the schedules of one store."""

    def __init__(self, schedules: Schedules, queue: Queue, clock: Clock) -> None:
        self._schedules = schedules
        self._queue = queue
        self._clock = clock
        self._next_recovery = 0  # ticks

    async def write(self, changes: Sequence[ScheduleChange]) -> Sequence[bool]:
        """Write schedules with the tasks that they fired, and push these; return which of the changes held."""
        written = [
            ScheduleChange(each.before, each.after.replace(outbox=each.before.outbox + each.tasks)) for each in changes
        ]
        held = await self._schedules.change(written)
        done = [each for each, ok in zip(written, held, strict=True) if ok]
        stored = [each.after.replace(version=each.before.version + 1) for each in done]
        # Not the other tasks in the outboxes: another scheduler may be pushing them.
        fired_here = [task for each, ok in zip(changes, held, strict=True) if ok for task in each.tasks]
        await self.deliver(stored, fired_here)
        return held

    async def deliver(self, schedules: Sequence[Schedule], tasks: Sequence[Task]) -> None:
        """Push tasks that are in the outboxes of these schedules, then remove them there."""
        if not tasks:
            return
        pushed, full = await add_with_room(self._queue, [self._queue.gated(task) for task in tasks])
        sent = {task.task_id for task in pushed}
        left = [schedule for schedule in schedules if any(task.task_id in sent for task in schedule.outbox)]
        while left:
            rest = [tuple(task for task in schedule.outbox if task.task_id not in sent) for schedule in left]
            emptied = [ScheduleChange(s, s.replace(outbox=out)) for s, out in zip(left, rest, strict=True)]
            held = await self._schedules.change(emptied)
            # Those whose row was changed in between are tried again.
            again = await self._schedules.get([s.task_id for s, ok in zip(left, held, strict=True) if not ok])
            left = [s for s in again if s is not None and any(task.task_id in sent for task in s.outbox)]
        if full is not None:  # what it refused stays in the outboxes
            log.warning("scheduler: {}; next try in {} s", full, RECOVERY)

    @staticmethod
    def waits(schedule: Schedule, now: int) -> bool:
        """Return whether tasks of a schedule found no room for a while: it fires no others then."""
        return bool(schedule.outbox) and _is_late(schedule.outbox[0], now)

    async def recover(self, now: int) -> None:
        """Push tasks that another scheduler has fired, and not pushed before it died; looks every RECOVERY seconds."""
        if self._clock.ticks() < self._next_recovery:
            return
        self._next_recovery = self._clock.ticks() + RECOVERY * SECOND
        left = [schedule for schedule in await self._schedules.undelivered(LIMIT) if schedule.outbox]
        await self.deliver(left, [task for s in left for task in s.outbox if _is_late(task, now)])


def _is_late(task: Task, now: int) -> bool:
    return task.created_at <= now // SECOND - RECOVERY
