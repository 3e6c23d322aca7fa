"""Letting a task that waits for its time run at once."""

from __future__ import annotations

from aiotaskq.core.task import Task
from aiotaskq.errors import TaskConflict
from aiotaskq.log import printable
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.waiting import look, why


async def run_now(queue: Queue, task: Task) -> Task:
    """Make a pending task due that was just read, and is delayed or waits for its next attempt; return what it is now.

    Raises TaskConflict if it is not pending, has changed meanwhile, or waits for something else: a handler that sleeps
    would sleep again, and one that waits for an event goes on with that.
    """
    now = queue.clock.now()
    found = why(task, await look(queue, [task], now), now)
    if found is not None and found.reason in ("sleeping", "event"):
        raise TaskConflict(f"task {printable(task.task_id)} sleeps, or waits for an event, in its handler")
    if found is not None and task.due <= now:
        raise TaskConflict(f"task {printable(task.task_id)} is due already")
    return await queue.edits.edit(task, {"delay": 0})
