"""Verbs for many tasks: their filter, count, and in small transactions cancel, retry, purge; ids by a beginning."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from msgspec.structs import replace

from aiotaskq.backends.change import Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.conversion import check_error_type
from aiotaskq.core.errors import check_seconds, instant
from aiotaskq.core.groups import GroupState, around, group_of, kept_by, outermost, stays
from aiotaskq.core.outcome import RETRYABLE, Cancelled, Requeued, settle
from aiotaskq.core.status import FINAL, PENDING, Status
from aiotaskq.core.steps import awakened, left_at
from aiotaskq.core.tags import check_tags
from aiotaskq.core.task import EQUAL, SECOND, Task, TaskFilter, Where
from aiotaskq.errors import TaskConflict, ValidationError
from aiotaskq.log import log, printable
from aiotaskq.runtime.waiting import look, why

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.runtime.queue.pushes import Pushes

PURGE_CHUNK = 1_000  # rows deleted in one transaction
ENDED = tuple(status for status in Status if status in FINAL)
RETRY_CHUNK = 500  # tasks put back, or cancelled, in one transaction


def statuses(names: str | Iterable[str] | None, known: Sequence[Status] = tuple(Status)) -> tuple[Status, ...]:
    """Return the statuses of these names, none for None. Raises ValidationError for one that is not ``known``."""
    if names is None:
        return ()
    try:
        found = [names] if isinstance(names, str) else list(names)
    except TypeError:
        raise ValidationError(f"status: names are needed (got {type(names).__name__})") from None
    if not found:
        raise ValidationError("status: an empty list names none; leave it out to mean every status")
    for name in found:
        if name not in known:
            raise ValidationError(f"status: {name!r:.40} is unknown; use {', '.join(known)}")
    return tuple(map(Status, found))


def task_filter(
    *,
    status: str | Iterable[str] | None = None,
    since: float | datetime | None = None,
    error: str | None = None,
    error_type: str | None = None,
    before: int | None = None,
    tags: Mapping[str, str] | None = None,
    **equal: str | None,
) -> TaskFilter:
    """Return the filter of a verb; ``before`` in epoch seconds, ``equal`` of ``EQUAL``. Raises ValidationError."""
    if wrong := equal.keys() - EQUAL:
        raise TypeError(f"unknown filter {min(wrong)!r}; use {', '.join(Where.__annotations__)}")
    for name, value in equal.items():
        if value is not None and not isinstance(value, str):  # nothing would be equal to it, such as a task function
            raise ValidationError(f"{name}: a string is needed (got {value.__class__.__name__})")
    if error is not None:
        if not isinstance(error, str):
            raise ValidationError(f"error: a text is needed (got {error.__class__.__name__})")
        if not error or "\0" in error:
            raise ValidationError("error: a text of at least one character is needed, without the character NUL")
    if error_type is not None:
        check_error_type("error_type", error_type)
    # A task has its time of creation in whole seconds: one of the same second is not left out.
    after = None if since is None else instant("since", since) // SECOND
    return TaskFilter(
        status=statuses(status),
        completed_before=before,
        created_since=after,
        error=error,
        error_type=error_type,
        tags=check_tags(tags),
        **equal,  # type: ignore[arg-type]  # the names of three texts
    )


async def pages(backend: Backend, where: TaskFilter, size: int) -> AsyncIterator[list[Task]]:
    """Yield pages of the tasks that match, the newest first.

    The next page is read behind the rows of the last one, which may have changed meanwhile, but not their place.
    """
    while tasks := await backend.find(where, size):
        yield tasks
        if len(tasks) < size:
            return
        where = replace(where, after=tasks[-1].task_id)


async def cancel_one(operated: Pushes, task: Task | None) -> bool:
    """Cancel a task that was just read, or ask it to stop; return False if it has ended, or is gone."""
    while task is not None and not task.final:
        if task.status is Status.RUNNING:
            (flagged,) = await operated.backend.request_cancel([task.task_id])
            if flagged:
                log.task("cancel", task)
                return True
        elif (after := await operated.settle(task, Cancelled())) is not None:
            log.task("cancel", after)
            operated.hooks.call("cancelled", operated.clock.now(), after)
            return True
        task = await operated.read(task.task_id)
    return False


async def cancel_page(operated: Pushes, tasks: Sequence[Task]) -> int:
    """Cancel those of these tasks that are pending, and ask the running ones to stop; return how many."""
    now = operated.clock.now()
    waiting = [task for task in tasks if task.status is Status.PENDING]
    running = [task.task_id for task in tasks if task.status is Status.RUNNING]
    ends = [(task, settle(task, Cancelled(), now)) for task in waiting]
    changes = [Change(task, after, operated.told(after)) for task, after in ends]
    # First what waits: what runs hands its slots on when it ends.
    held = await operated.backend.update(changes) if changes else []
    done = await operated.backend.request_cancel(running) if running else []
    left = [task_id for task_id, flagged in zip(running, done, strict=True) if not flagged]
    count = sum(done)
    for change, ok in zip(changes, held, strict=True):
        if ok:
            count += 1
            log.task("cancel", change.after)
            operated.hooks.call("cancelled", now, change.after)
        else:
            left.append(change.before.task_id)
    for task_id in left:  # claimed, released or ended since it was read
        count += await cancel_one(operated, await operated.read(task_id))
    return count


async def count_all(backend: Backend, clock: Clock, where: TaskFilter) -> int:
    """Count the tasks that match; by reading them if more than status and queue restricts them."""
    if not replace(where, queue=None).restricted:
        found = await backend.stats(clock.now())
        counted = found.counts if where.queue is None else found.queues.get(where.queue, {})
        return sum(counted.get(str(status), 0) for status in set(where.status or Status))
    return sum([len(tasks) async for tasks in pages(backend, where, PURGE_CHUNK)])


async def count_purged(backend: Backend, clock: Clock, where: TaskFilter) -> int:
    """Count the tasks that a purge would delete now."""
    where = of_ended(where)
    if not await backend.groups.find(1):
        return await count_all(backend, clock, where)
    total = 0
    dead = Counter[str]()  # dead letters that would be deleted, by the outermost group that they keep
    kept = Counter[str]()  # what only dead letters keep
    needed: dict[str, int] = {}
    async for tasks in pages(backend, where, PURGE_CHUNK):
        found: dict[str, GroupState] = {}
        level = sorted({group_id for task in tasks if (group_id := group_of(task)) is not None})
        while level:
            rows = zip(level, await backend.groups.get(level), strict=True)
            found |= (these := {group_id: group for group_id, group in rows if group is not None})
            level = around(these, found)
        top = outermost(found)
        for task in tasks:
            group = top.get(group_of(task) or "")
            goes = not (kept_by(task) is not None and stays(task, group, where.completed_before))
            total += goes
            if group is not None and goes and task.status is Status.FAILED:
                dead[group.group_id] += 1
            elif (
                group is not None and not goes and not stays(task, replace(group, needed_by=0), where.completed_before)
            ):
                kept[group.group_id] += 1
                needed[group.group_id] = group.needed_by
    return total + sum(count for group_id, count in kept.items() if dead[group_id] >= needed[group_id])


async def retry_all(
    backend: Backend,
    clock: Clock,
    where: TaskFilter,
    limit: int | None,
    progress: Callable[[int], None] | None = None,
    chosen: Callable[[Task], bool] = lambda _task: True,
) -> int:
    """Retry ended tasks that match, the newest first, at most ``limit``; return how many are pending now.

    Only tasks that are ``chosen``. ``progress`` is called after each page with how many so far, even if nothing on it
    was chosen. A task whose unique key a newer task holds stays as it is. Raises ValidationError for a status that is
    not retried.
    """
    if wrong := set(where.status) - RETRYABLE:
        raise ValidationError(f"status: {', '.join(sorted(wrong))} tasks are not retried; use {', '.join(RETRYABLE)}")
    total = 0
    async for page in pages(backend, where, RETRY_CHUNK if limit is None else min(limit, RETRY_CHUNK)):
        now, tasks = clock.now(), list(filter(chosen, page))[:limit]
        if tasks:
            total += sum(await backend.update([Change(task, settle(task, Requeued(), now)) for task in tasks]))
        if progress is not None:
            progress(total)
        if limit is not None and (limit := limit - len(tasks)) <= 0:
            break
    log.debug("retry_many: {} tasks", total)
    return total


def of_ended(where: TaskFilter) -> TaskFilter:
    """Return the filter of a purge, which is for tasks that have ended. Raises ValidationError for other statuses."""
    for wrong in where.status:
        if wrong not in FINAL:
            raise ValidationError(f"status: only ended tasks are purged, not {wrong}; cancel them first")
    return where if where.status else replace(where, status=ENDED)


def ended_before(seconds: float | timedelta | None, clock: Clock) -> int | None:
    """Return the epoch second before which a task that is older than ``seconds`` has ended. Raises ValidationError."""
    return None if seconds is None else (clock.now() - int(check_seconds("older_than", seconds) * SECOND)) // SECOND


async def ids_named(backend: Backend, text: str, most: int = 2) -> list[str]:
    """Return the ids that a text can mean: itself where a task has this id, else up to ``most`` that begin with it.

    An empty text means none.
    """
    if not text:
        return []
    if (await backend.get([text]))[0] is not None:
        return [text]
    (found,) = await backend.ids_with_prefix([text], most)
    return found


async def run_now(operated: Pushes, task: Task) -> Task:
    """Make a pending task due that was just read, and is delayed, waits for its next attempt, or sleeps in its handler.

    A sleep ends as if its time had come. Return what the task is now. Raises TaskConflict if it is not pending, has
    changed meanwhile, is due, or waits for an event: its handler goes on with that.
    """
    now = operated.clock.now()
    if task.status is not PENDING:
        raise TaskConflict(f"task {printable(task.task_id)} is {task.status}; only a pending one can be made due")
    seen = await look(operated, [task], now, paused=())
    found = why(task, seen, now)
    if found is not None and found.reason == "event":
        raise TaskConflict(f"task {printable(task.task_id)} waits for an event in its handler; emit the event")
    if found is not None and task.due_us <= now:
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
            await operated.backend.steps.put([awakened(task, sleep, steps, now)])
    return await operated.edit_task(task, {"delay": 0})
