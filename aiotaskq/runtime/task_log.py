"""The log lines about tasks: a push and every good end at DEBUG, a retry at WARNING, a failure at ERROR."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.core.outcome import UNSETTLED, Cancelled, Failed, LeaseExpired, Outcome, Released, TimedOut, was_popped
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.log import gate, log, named, printable


def log_pushed(tasks: Sequence[Task], stored: Sequence[Task]) -> None:
    """Log a push at DEBUG. ``stored`` has for each task the same object, or the row that it conflicted with."""
    for task, row in zip(tasks, stored, strict=True):
        if row is task:
            log.task("push", task)
        elif row.task_id != task.task_id:  # a row with the same id may still be pushed again
            log.debug("push {}: {} is there already", printable(task.type), printable(row.task_id))


def log_not_started(task: Task) -> None:
    """Log a task that ended since one that it waited for did not complete."""
    if task.status is Status.FAILED:
        log.error("failed {}: {}", named(task), printable((task.error_message or "").partition("\n")[0]))
    else:
        log.task("cancelled", task)


def log_completed(task: Task) -> None:
    """Log a completed task at INFO, for a process that only runs tasks."""
    log.info("completed {}", named(task))


def log_lost(task: Task) -> None:
    """Log that a task was taken over by another worker."""
    log.warning("lost {}: its lease was over, and another worker has taken it", named(task))


def log_outcome(task: Task, outcome: Outcome, after: Task | None, now: int) -> None:
    """Log the outcome of a task. ``after`` is its state as it was written, None if the task was taken over."""
    if after is None:
        log_lost(task)
        return
    if after.status is Status.PENDING and not isinstance(outcome, Released):
        if isinstance(outcome, LeaseExpired):
            log.warning("lost {}: {}; it is run again", named(after), _reason(outcome, task, after))
        else:
            attempt = f"attempt {after.retry_count} of {after.max_retries + 1}"
            wait = f"next in {max(0, after.due_us - now) / SECOND:.3g} s"
            why = f"{_reason(outcome, task, after)}; {attempt}, {wait}"
            log.warning("retried {}: {}", named(after), why, cause=_cause(outcome))
    elif after.status is Status.FAILED:
        log.error("failed {}: {}", named(after), _reason(outcome, task, after), cause=_cause(outcome))
    elif after.status is Status.EXPIRED:
        log.warning("expired {}: it was not claimed in time", named(after))
    elif gate.open:
        if isinstance(outcome, Released):
            log.debug("released {}: {}", named(after), outcome.reason)
        else:
            log.task("cancelled" if isinstance(outcome, Cancelled) else str(after.status), after)


def _cause(outcome: Outcome) -> BaseException | None:
    return outcome.cause if isinstance(outcome, Failed) else None


def _reason(outcome: Outcome, task: Task, after: Task) -> str:
    if isinstance(outcome, TimedOut):
        return f"timed out after {outcome.seconds:g} s"
    if isinstance(outcome, LeaseExpired):
        if was_popped(task):
            return UNSETTLED
        return f"its lease was over, the worker died or stood still ({after.crashes} times)"
    if isinstance(outcome, Failed) and outcome.told is not None:
        return printable(outcome.told)
    first = (after.error_message or "no reason").splitlines()[0]
    if log.tracebacks and _cause(outcome) is not None:
        return printable(first)
    # The rest of the line may be what the handler was given.
    return printable(first.partition(":")[0])
