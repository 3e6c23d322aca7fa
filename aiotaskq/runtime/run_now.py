"""Letting a task that waits for its time run at once."""

from __future__ import annotations

from aiotaskq.core.steps import awakened, left_at
from aiotaskq.core.task import PENDING, Task
from aiotaskq.errors import TaskConflict
from aiotaskq.log import printable
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.waiting import look, why


async def run_now(queue: Queue, task: Task) -> Task:
    """Make a pending task due that was just read, and is delayed, waits for its next attempt, or sleeps in its handler.

    A sleep ends as if its time had come. Return what the task is now. Raises TaskConflict if it is not pending, has
    changed meanwhile, is due, or waits for an event: its handler goes on with that.
    """
    now = queue.clock.now()
    if task.status is not PENDING:
        raise TaskConflict(f"task {printable(task.task_id)} is {task.status}; only a pending one can be made due")
    seen = await look(queue, [task], now, paused=())
    found = why(task, seen, now)
    if found is not None and found.reason == "event":
        raise TaskConflict(f"task {printable(task.task_id)} waits for an event in its handler; emit the event")
    if found is not None and task.due <= now:
        if task.waits:
            raise TaskConflict(f"task {printable(task.task_id)} is due already; it waits for the tasks before it")
        if task.parked and task.gate is not None:
            raise TaskConflict(
                f"task {printable(task.task_id)} is due already; it waits at the limit {printable(task.gate)}"
            )
        raise TaskConflict(f"task {printable(task.task_id)} is due already")
    if found is not None and found.reason == "sleeping":
        steps = seen.steps[task.task_id]
        sleep = left_at(task, steps)
        # Before the task is due, or its handler would sleep again. If the edit fails, the sleep ends at its time.
        if sleep is not None:
            await queue.backend.steps.put([awakened(task, sleep, steps, now)])
    return await queue.edits.edit(task, {"delay": 0})
