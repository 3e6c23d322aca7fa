"""The table of tasks: filtered by indexed columns, in pages, the newest first; and actions on many of them.

The actions, retry, cancel and delete, are on those that are selected, or on all that match the filter.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.outcome import RETRYABLE
from aiotaskq.core.task import FINAL, SECOND, Status, Task, TaskFilter
from aiotaskq.core.worker_info import WorkerInfo
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
from aiotaskq.runtime.waiting import awake, look, why
from aiotaskq.web.dashboard.matching import FILTERS, filters_of, is_pattern, like, params_like
from aiotaskq.web.dashboard.rows import WaitingView, elapsed, queue_row, types_told, waiting_view
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, StoppedError, View, actions, link, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.schemas.tasks import TaskView
from aiotaskq.web.views import task_view

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

ROWS = 50
WINDOW = 10_000
"""Tasks of each status that are looked at for a filter without an index, the newest first."""
SEARCHED = 1_000
"""The newest tasks that are searched where no store can: by params, and by a part of the name of a type."""
KEEP = 5.0
"""Seconds for which an open page does not read the workers anew."""
SUGGESTED = 200
"""Types that are suggested for the filter."""


class TaskRows(msgspec.Struct, kw_only=True):
    """The data of the page."""

    tasks: list[TaskView]
    waits: dict[str, WaitingView]
    """Why each of them waits that is pending, by their ids."""
    filters: dict[str, str]
    """Each filter; empty where it is not set."""
    filtered: bool
    more: str | None
    """The id of the last task where there are more behind it."""
    window: int | None
    """How many tasks of each status were looked at, the newest first; None where all were."""
    counts: dict[str, int]
    """Tasks by status: of the queue that is filtered by, else of every queue."""
    counts_more: bool
    """Whether the counts are of more tasks than the other filters select."""
    approximate: bool
    """Whether the counts may have changed since they were read."""
    queues: list[str]
    types: list[str]
    """Known types, for suggestions; none for an update, which does not change the form."""
    params: str
    """What is searched in the params."""
    searched: int | None
    """How many tasks were searched by params or a part of a name; None where none was."""
    matches: int
    """How many of these match."""


def _row(task: Task, now: int) -> TaskView:
    row = task_view(task, one=False, show=False)
    if (seconds := elapsed(task, now)) is not None:
        row.run_time = seconds
    return row


@pages("tasks", marked("Tasks"), *FILTERS, "after", "params")
async def tasks(view: View) -> TaskRows:
    """Read one page of tasks."""
    where = filters_of(view)
    counted = await view.counts.get()
    stats = counted.stats
    params = view.text("params") if view.show_args else None
    tests = [] if params is None else [params_like(params)]
    if is_pattern(pattern := where.get("type", "")):
        del where["type"]
        tests.append(lambda task: like(pattern, task.type))
    found, window = await _find(view, where, SEARCHED if tests else ROWS + 1)
    searched = len(found) if tests else None
    found = [each for each in found if all(test(each) for test in tests)]
    queue = view.text("queue")
    return TaskRows(
        tasks=[_row(each, view.now) for each in found[:ROWS]],
        waits=await _waits(view, found[:ROWS], stats.paused),
        filters={name: view.text(name) or "" for name in FILTERS},
        filtered=any(map(view.text, FILTERS)) or params is not None,
        more=found[ROWS - 1].task_id if len(found) > ROWS and not tests else None,
        window=None if len(found) > ROWS else window,
        params=params or "",
        searched=searched,
        matches=len(found),
        counts=stats.counts if queue is None else queue_row(stats, queue).counts,
        counts_more=params is not None or any(view.text(name) for name in FILTERS if name not in ("status", "queue")),
        approximate=counted.approximate,
        queues=sorted(stats.queues),
        types=[] if view.update else await _types(view, found[:ROWS]),
    )


async def _types(view: View, tasks: list[Task]) -> list[str]:
    """Return the types that are registered here, known to workers, or in the table."""
    told = [types_told(each.types) or () for each in await awake(view.tq.queue.backend, view.now) or ()]
    names = {*view.tq.registered.handlers, *(task.type for task in tasks), *itertools.chain.from_iterable(told)}
    return sorted(names)[:SUGGESTED]


async def _waits(view: View, tasks: list[Task], paused: Collection[str]) -> dict[str, WaitingView]:
    """Return why these tasks wait: at most three statements, however many there are."""

    async def workers() -> Sequence[WorkerInfo] | None:
        return await view.keep("awake", KEEP, lambda: awake(view.tq.queue.backend, view.now))

    seen = await look(view.tq.queue, tasks, view.now, paused, workers)
    found = {task.task_id: waiting_view(why(task, seen, view.now)) for task in tasks}
    return {task_id: each for task_id, each in found.items() if each is not None}


async def _find(view: View, given: dict[str, Any], limit: int) -> tuple[list[Task], int | None]:
    """Return up to so many tasks, and how many of each status were looked at, None for all."""
    after = view.text("after")
    if "scheduler_task_id" in given or given.keys() <= {"status"}:  # there is an index
        return await view.tq.find(**given, limit=limit, after=after), None
    if after is not None:
        await view.tq.get(after)  # a page behind a task that is gone would be the first page again
    where = msgspec.structs.replace(task_filter(**given), after=after, newest=WINDOW)
    return await view.tq.queue.backend.find(where, limit), WINDOW


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
        total += await cancel_page(tq.queue, tasks)
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
    where = task_filter(status=sorted(wanted), **known)
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
