"""Copies the steps of tasks, and the events, to another store."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.backends.base import Backend
from aiotaskq.core.steps import NewStep, Step, left_at, open_steps, undecodable, woken
from aiotaskq.core.task import COMPLETED, Task

PAGE = 500


async def copy_events(source: Backend, target: Backend, now: int) -> list[tuple[str, str]]:
    """Copy the events that exist at ``now``; one that is there already stays.

    Return the keys of those that cannot be decoded, and so are not copied, and why.
    """
    if source.steps is None or target.steps is None:
        return []
    left, last = [], None
    while page := await source.steps.events(now, PAGE, after=last):
        for event in page:
            if event.undecodable is None:
                await target.steps.emit([event])
            else:
                left.append((event.key, str(undecodable(f"event {event.key}", event.undecodable))))
        last = page[-1].key
    return left


async def steps_of(source: Backend, task: Task) -> list[Step]:
    """Return the steps that a further run of a task would read. Raises ValidationError if one cannot be decoded."""
    if source.steps is None or not task.fence or task.status is COMPLETED:
        return []
    steps = await source.steps.read(task.task_id, task.seq)
    for step in steps:
        if step.undecodable is not None:
            raise undecodable(f"step {step.label}", step.undecodable)
    return steps


async def copy_steps(target: Backend, task: Task, steps: Sequence[Step], now: int) -> Task:
    """Copy the steps of a task; return it as it is to be pushed there.

    One that waits for an event becomes due: it waits again, there, for as long as it still has.
    """
    if not steps or target.steps is None:
        return task
    await target.steps.put([NewStep(task.task_id, task.seq, task.fence, step) for step in steps])
    waits = left_at(task, steps) is not None and any(step.kind == "wait" for step in open_steps(steps))
    return (woken(task, now) or task) if waits else task
