"""The table of tasks: filtered by indexed columns, in pages, the newest first; and actions on many of them.

The actions, retry, cancel and delete, are on those that are selected, or on all that match the filter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from aiotaskq.app.taskq import internal
from aiotaskq.core.outcome import RETRYABLE
from aiotaskq.core.task import FINAL, Status, Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.operations.task_views import TaskView, WaitingView, task_view, waiting_view
from aiotaskq.operations.tasks import tasks as operations
from aiotaskq.runtime.queue.bulk import task_filter
from aiotaskq.runtime.waiting import awake, look, why
from aiotaskq.web.dashboard.door import Texts, action_on_many
from aiotaskq.web.dashboard.matching import FILTERS, filters_of, is_pattern, like, params_like
from aiotaskq.web.dashboard.rows import elapsed, queue_row, types_told
from aiotaskq.web.dashboard.view import Change, View, link, pages
from aiotaskq.web.dashboard.words import marked

ROWS = 50
WINDOW = 10_000
"""Tasks of each status that are looked at for a filter without an index, the newest first."""
SEARCHED = 1_000
"""The newest tasks that are searched where no store can: by params, and by a part of the name of a type."""
KEEP = 5.0
"""Seconds for which an open page does not read the workers anew."""
NOT_COUNTED = [name for name in FILTERS if name not in ("status", "queue")]
"""Filters that the counts are not of."""
SUGGESTED = 200
"""Types that are suggested for the filter."""


def _row(task: Task, now: int) -> TaskView:
    row = task_view(task, errors=False, params=False)
    if (seconds := elapsed(task, now)) is not None:
        row.run_time = seconds
    return row


@pages("tasks", marked("Tasks"), *FILTERS, "after", "params")
async def tasks(view: View) -> dict[str, Any]:
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
    return {
        "tasks": [_row(each, view.now) for each in found[:ROWS]],
        "waits": await _waits(view, found[:ROWS], stats.paused),
        "filters": {name: view.text(name) or "" for name in FILTERS},
        "filtered": any(map(view.text, FILTERS)) or params is not None,
        "more": found[ROWS - 1].task_id if len(found) > ROWS and not tests else None,
        "window": None if len(found) > ROWS else window,
        "params": params or "",
        "searched": searched,
        "matches": len(found),
        "counts": stats.counts if queue is None else queue_row(stats, queue).counts,
        # Whether these are of more tasks than the other filters select.
        "counts_more": params is not None
        or any(view.text(name) for name in FILTERS if name not in ("status", "queue")),
        "approximate": counted.approximate,
        "queues": sorted(stats.queues),
        "types": [] if view.update else await _types(view, found[:ROWS]),  # an update does not change the form
    }


async def _types(view: View, tasks: list[Task]) -> list[str]:
    """Return the types that are registered here, known to workers, or in the table."""
    told = [types_told(each.types) or () for each in await awake(view.tq.queue.backend, view.now) or ()]
    here = internal(view.tq).registered.handlers
    names = {*here, *(task.type for task in tasks), *itertools.chain.from_iterable(told)}
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


def _page(change: Change) -> str:
    return link("tasks", **{name: change.text(name) for name in FILTERS})


def _where(statuses: Collection[Status]) -> Callable[[Change], dict[str, Any] | None]:
    """Return what reads the filters of the form; they match tasks of these statuses alone."""

    def read(change: Change) -> dict[str, Any] | None:
        given = {name: text for name in FILTERS if (text := change.text(name)) is not None}
        status = given.pop("status", None)
        wanted = [str(each) for each in Status if each in statuses and status in (None, each)]
        return given | {"status": wanted} if wanted else None

    return read


action_on_many(
    operations["retry"],
    Texts(
        button=marked("Retry"),
        ask_selected=marked(
            "Retry the selected tasks? {count} are selected; those that completed, or have not ended, stay as they are."
        ),
        ask_all=marked("Retry all failed, cancelled and expired tasks that match the filter? There are {count}."),
        ask_uncounted=marked("Retry all failed, cancelled and expired tasks that match the filter? They are many."),
        done=marked("Tasks that are pending again: {count}."),
        left=marked("Tasks that are pending again: {count}. The time of one request is over; repeat it for the rest."),
    ),
    _page,
    _where(RETRYABLE),
)
action_on_many(
    operations["cancel"],
    Texts(
        button=marked("Cancel these tasks"),
        ask_selected=marked("Cancel the selected tasks? {count} are selected; running ones are asked to stop."),
        ask_all=marked("Cancel all tasks that match the filter? There are {count}; running ones are asked to stop."),
        ask_uncounted=marked("Cancel all tasks that match the filter? They are many; running ones are asked to stop."),
        done=marked("Tasks that were cancelled or asked to stop: {count}."),
        left=marked(
            "Tasks that were cancelled or asked to stop: {count}. The time of one request is over; repeat it for the "
            "rest."
        ),
    ),
    _page,
    _where(frozenset(Status) - FINAL),
)
action_on_many(
    operations["delete"],
    Texts(
        button=marked("Delete"),
        ask_selected=marked("Delete the selected tasks that have ended? {count} are selected. This cannot be undone."),
        ask_all=marked("Delete all ended tasks that match the filter? There are {count}. This cannot be undone."),
        ask_uncounted=marked("Delete all ended tasks that match the filter? They are many. This cannot be undone."),
        done=marked("Tasks that were deleted: {count}."),
        left=marked("Tasks that were deleted: {count}. The time of one request is over; repeat it for the rest."),
    ),
    _page,
    _where(FINAL),
)
