"""The attempts of a task: what is kept of each run.

A task holds the runs that did not complete. The present run and the completed one are read from the task's own fields,
so that a task that completes at its first attempt needs no write for them.
"""

from __future__ import annotations

from msgspec.structs import replace

from aiotaskq.core.task import COMPLETED, RUNNING, SECOND, Attempt, Task
from aiotaskq.core.validation import clip

MAX_ATTEMPTS = 20
"""Runs that are kept of a task, the newest ones."""
MAX_ERROR = 1024  # bytes of the error text of one attempt
_TRACEBACK = "\n\nTraceback (most recent call last):\n"


def noted(task: Task, outcome: str, error: str, now: int) -> Task:
    """Return the running task with this run among its attempts; it ended at ``now``, in microseconds UTC."""
    if task.undecodable is not None:
        return task  # its stored attempts may be what cannot be decoded: they stay as they are
    kept = task.attempts[-(MAX_ATTEMPTS - 1) :]
    return replace(task, attempts=(*kept, _last(task, now, outcome, clip(error.partition(_TRACEBACK)[0], MAX_ERROR))))


def attempts_of(task: Task) -> tuple[Attempt, ...]:
    """Return the attempts of a task in their order, the present or completed run included: at most MAX_ATTEMPTS + 1."""
    if task.status is RUNNING:
        return (*task.attempts, _last(task, None))
    if task.status is COMPLETED:
        ended = task.ended_at
        if ended is None and task.completed_at is not None:  # another program completed it
            ended = task.completed_at * SECOND
        return (*task.attempts, _last(task, ended, "completed"))
    return task.attempts


def run_time(task: Task) -> float | None:
    """Return the seconds that the latest attempt took; None while it runs, before the first, and where unknown."""
    attempts = attempts_of(task)
    return attempts[-1].seconds if attempts else None


def _last(task: Task, ended: int | None, outcome: str | None = None, error: str | None = None) -> Attempt:
    number = task.attempts[-1].number + 1 if task.attempts else 1
    began = task.began_at
    if began is None and task.started_at is not None:
        began = task.started_at * SECOND
    if ended is not None and began is not None:
        ended = max(began, ended)  # the clock may have been set back
    return Attempt(number=number, began_at=began, ended_at=ended, outcome=outcome, error=error)
