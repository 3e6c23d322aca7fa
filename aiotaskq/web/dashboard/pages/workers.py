"""The workers: what each is, what it runs now, and what it is asked for, which is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.operations.workers import worker_view
from aiotaskq.operations.workers import workers as operations
from aiotaskq.web.dashboard.past import deploys
from aiotaskq.web.dashboard.rows import elapsed, timeout_of, types_told
from aiotaskq.web.dashboard.view import View, action, action_on_many, operated_on, page
from aiotaskq.web.dashboard.words import marked

ROWS, MOST_LISTED, VERSIONS = 50, 8, 3
"""Workers of a page, tasks listed of each in the table, and versions of the application, the latest first."""


def _row(view: View, info: WorkerInfo, tasks: Sequence[Task]) -> dict[str, Any]:
    """Return a worker as it was at its last heartbeat, with tasks that it runs."""
    runs = [
        {
            "task_id": task.task_id,
            "type": task.type,
            "began_at": to_iso(task.began_at),
            "elapsed": elapsed(task, view.now),
            "timeout": timeout_of(view.handlers, task),
        }
        for task in tasks
    ]
    about = {"types": types_told(info.types), "alive": info.lease_until > view.now, "runs": runs}
    return msgspec.structs.asdict(worker_view(info)) | about


@page("workers", marked("Workers"), "start")
async def workers(view: View) -> dict[str, Any]:
    """Read one page of the registry, and what its workers run."""
    start, registry = view.whole("start", 0, 1_000_000), view.tq.queue.backend.workers is not None
    found = await view.tq.workers.list() if registry else []
    shown = found[start : start + ROWS]
    busy = [each.owner for each in shown if each.busy]
    tasks = await view.tq.workers.tasks_of(busy, MOST_LISTED + 1) if busy else {}
    started = await view.keep("deploys", lambda: deploys(view.tq, 0))
    return {
        "workers": [_row(view, each, tasks.get(each.owner, ())) for each in shown],
        "versions": [{"at": at, "version": version} for at, version in started[: -VERSIONS - 1 : -1]],
        "total": len(found),
        "start": start,
        "registry": registry,
        "here": view.tq.worker is not None,
        "most": MOST_LISTED,
    }


@page("worker", marked("Worker"), "id", section="workers")
async def worker(view: View) -> dict[str, Any]:
    """Read one worker and all that it runs. Raises NotFound, and NotSupported where there is no registry."""
    found = await view.tq.workers.get(view.needed("id"))
    tasks = await view.tq.workers.tasks_of([found.owner], 1_000)
    return {
        "worker": _row(view, found, tasks[found.owner]),
        "changes": await operated_on(view, found.owner, ("workers",)),
    }


action(operations["quiet"], marked("The worker {worker_id} is asked to claim nothing more."))
action(operations["wake"], marked("The worker {worker_id} is asked to claim again."))
action(operations["resize"], marked("The worker {worker_id} is asked for another number of slots."))
action_on_many(operations["quiet"], lambda _view: "workers", marked("Workers asked to claim nothing more: {count}."))
action_on_many(
    operations["wake"], lambda _view: "workers", marked("Workers asked to claim again: {count}."), asks=False
)
