"""Actions on many tasks, those that are selected or all that match the filter: retry, cancel and delete."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.outcome import RETRYABLE
from aiotaskq.core.task import FINAL, SECOND, Status, TaskFilter
from aiotaskq.errors import NotFound, TaskConflict
from aiotaskq.runtime.queue.bulk import (
    cancel_page,
    count_all,
    count_purged,
    live_pages,
    purge_all,
    retry_all,
    task_filter,
)
from aiotaskq.web.dashboard.matching import FILTERS, WITHOUT_INDEX, filters_of
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, StoppedError, actions, link
from aiotaskq.web.dashboard.words import marked

SECONDS = 20.0
"""After which no further transaction is begun."""
COUNT_SECONDS = 10.0
MOST = 50_000
"""The largest number that is counted exactly."""

Progress = Callable[[int], None]


class _TimeOver(Exception):
    """The time of one request is over, between two transactions."""


class Verb(msgspec.Struct, frozen=True):
    """What is done with many tasks. The texts are sentences of the catalogue."""

    statuses: frozenset[Status]
    """Those of the tasks with which it can be done."""
    one: Callable[[TaskQ, str], Awaitable[object]]
    all: Callable[[TaskQ, TaskFilter, Progress], Awaitable[object]]
    """Both as many as match, in small transactions, after each of which the progress is told."""
    count: Callable[[Backend, Clock, TaskFilter, int], Awaitable[int]]
    """How many that would be, up to a number."""
    button: str
    ask_selected: str
    ask_all: str
    ask_more: str
    done: str
    left: str


async def _cancel_all(tq: TaskQ, where: TaskFilter, progress: Progress) -> None:
    total = 0
    async for tasks in live_pages(tq.queue.backend, where):
        total += await cancel_page(tq.queue, tasks, tq.cancel)
        progress(total)


async def _retry_all(tq: TaskQ, where: TaskFilter, progress: Progress) -> None:
    await retry_all(tq.queue.backend, tq.queue.clock, where, None, progress)


async def _purge_all(tq: TaskQ, where: TaskFilter, progress: Progress) -> None:
    await purge_all(tq.queue.backend, where, progress)


async def _cancel_one(tq: TaskQ, task_id: str) -> None:
    if not await tq.cancel(task_id):
        raise TaskConflict(f"task {task_id} has ended already")


RETRY = Verb(
    statuses=RETRYABLE,
    one=lambda tq, task_id: tq.retry(task_id),
    all=_retry_all,
    count=count_all,
    button=marked("Retry"),
    ask_selected=marked("Retry the selected tasks? {count} are selected; those that did not fail stay as they are."),
    ask_all=marked("Retry all failed, cancelled and expired tasks that match the filter? There are {count}."),
    ask_more=marked("Retry all failed, cancelled and expired tasks that match the filter, more than {count}?"),
    done=marked("Tasks that are pending again: {count}."),
    left=marked("Tasks that are pending again: {count}. The time of one request is over; repeat it for the rest."),
)
CANCEL = Verb(
    statuses=frozenset({Status.PENDING, Status.RUNNING}),
    one=_cancel_one,
    all=_cancel_all,
    count=count_all,
    button=marked("Cancel these tasks"),
    ask_selected=marked("Cancel the selected tasks? {count} are selected; running ones are asked to stop."),
    ask_all=marked("Cancel all tasks that match the filter? There are {count}; running ones are asked to stop."),
    ask_more=marked("Cancel all tasks that match the filter, more than {count}? Running ones are asked to stop."),
    done=marked("Tasks that were cancelled or asked to stop: {count}."),
    left=marked(
        "Tasks that were cancelled or asked to stop: {count}. The time of one request is over; repeat it for the rest."
    ),
)
DELETE = Verb(
    statuses=FINAL,
    one=lambda tq, task_id: tq.delete(task_id),
    all=_purge_all,
    count=count_purged,
    button=marked("Delete"),
    ask_selected=marked("Delete the selected tasks that have ended? {count} are selected. This cannot be undone."),
    ask_all=marked("Delete all ended tasks that match the filter? There are {count}. This cannot be undone."),
    ask_more=marked("Delete all ended tasks that match the filter, more than {count}? This cannot be undone."),
    done=marked("Tasks that were deleted: {count}."),
    left=marked("Tasks that were deleted: {count}. The time of one request is over; repeat it for the rest."),
)


@actions("retry-tasks")
async def retry(change: Change) -> Question | Done:
    """Put failed, cancelled and expired tasks back."""
    return await _many(change, RETRY)


@actions("cancel-tasks")
async def cancel(change: Change) -> Question | Done:
    """Cancel pending tasks, and ask running ones to stop."""
    return await _many(change, CANCEL)


@actions("delete-tasks")
async def delete(change: Change) -> Question | Done:
    """Delete ended tasks."""
    return await _many(change, DELETE)


async def _many(change: Change, verb: Verb) -> Question | Done:
    filters = {name: change.text(name) for name in FILTERS if change.text(name)}
    back = link("tasks", **filters)
    if change.text("which") == "all":
        return await _all(change, verb, filters, back)
    ids = list(dict.fromkeys(change.form.get("task", ())))
    if not ids:
        return Done(Message(marked("No task is selected."), problem=True), back)
    if not change.sure:
        return Question(verb.ask_selected, {"count": len(ids)}, verb.button, back)
    done: list[str] = []

    async def each(progress: Progress) -> None:
        for task_id in ids:
            with contextlib.suppress(NotFound, TaskConflict):  # it has changed since it was selected
                await verb.one(change.tq, task_id)
                done.append(task_id)
            progress(len(done))

    return await _carried_out(change.tq, verb, back, each, lambda _count: tuple(done))


async def _all(change: Change, verb: Verb, filters: dict[str, str | None], back: str) -> Question | Done:
    tq, known = change.tq, filters_of(change)
    wanted = verb.statuses & {Status(known.pop("status"))} if "status" in known else verb.statuses
    if not wanted:
        return Done(Message(marked("No task matches."), problem=True), back)
    schedule = known.pop("scheduler_task_id", None)
    where = task_filter(status=sorted(wanted), **{name: known.get(name) for name in WITHOUT_INDEX})
    where = msgspec.structs.replace(where, scheduler_task_id=schedule)
    if not change.sure:
        async with asyncio.timeout(COUNT_SECONDS):
            count = await verb.count(tq.queue.backend, tq.queue.clock, where, MOST + 1)
        if not count:
            return Done(Message(marked("No task matches."), problem=True), back)
        text = verb.ask_all if count <= MOST else verb.ask_more
        return Question(text, {"count": min(count, MOST)}, verb.button, back)
    words = " ".join(f"{name}={value}" for name, value in filters.items()) or "all"
    return await _carried_out(
        tq,
        verb,
        back,
        lambda progress: verb.all(tq, where, progress),
        lambda count: (f"filter: {words}", f"count: {count}"),
    )


async def _carried_out(
    tq: TaskQ,
    verb: Verb,
    back: str,
    work: Callable[[Progress], Awaitable[object]],
    targets: Callable[[int], tuple[str, ...]],
) -> Done:
    """Do the work until the time of one request is over. Raises StoppedError with what was done before an error."""
    end, count = tq.queue.clock.ticks() + int(SECONDS * SECOND), 0

    def progress(total: int) -> None:
        nonlocal count
        count = total
        if tq.queue.clock.ticks() >= end:
            raise _TimeOver

    def done(text: str) -> Done:
        return Done(Message(text, {"count": count}), back, targets(count))

    try:
        await work(progress)
    except _TimeOver:
        return done(verb.left)
    except BaseException as error:  # a cancelled request, too, has done what it has done
        raise StoppedError(done(verb.done)) from error
    return done(verb.done)
