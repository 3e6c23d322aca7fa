"""The workers: what each is, what it runs now, and what it is asked for, which is changed here."""

from __future__ import annotations

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.operations.workers import WorkerView, worker_view
from aiotaskq.operations.workers import workers as operations
from aiotaskq.web.dashboard.door import Texts, action, action_on_many
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.rows import elapsed, timeout_of, types_told
from aiotaskq.web.dashboard.view import Change, View, link, operated_on, pages
from aiotaskq.web.dashboard.words import marked

ROWS, MOST_LISTED = 50, 8
"""Workers of a page, and tasks listed of each in the table."""


class Runs(msgspec.Struct):
    """A task that a worker runs."""

    task_id: str
    type: str
    began_at: str | None
    """RFC 3339."""
    elapsed: float | None
    """Whole seconds for which it has run."""
    timeout: float | None
    """Seconds for one run; None where it has none, or the handler is not registered here."""


class WorkerRow(WorkerView, kw_only=True):
    """One worker, as it was at its last heartbeat."""

    alive: bool
    """Whether its lease holds."""
    runs: list[Runs] = msgspec.field(default_factory=list)


class WorkerRows(msgspec.Struct, kw_only=True):
    """The data of the page."""

    workers: list[WorkerRow]
    total: int
    start: int
    registry: bool
    """Whether the store has a registry of workers."""
    here: bool
    """Whether a worker runs in this process."""
    most: int = MOST_LISTED


class WorkerPage(msgspec.Struct):
    """The data of one worker's page."""

    worker: WorkerRow
    changes: list[Operated]
    """What operators did with it, the latest first."""


def _row(info: WorkerInfo, now: int) -> WorkerRow:
    view = worker_view(info)
    view.types = types_told(view.types)
    return WorkerRow(**msgspec.structs.asdict(view), alive=info.lease_until > now)


async def _read_runs(view: View, rows: list[WorkerRow], most: int) -> None:
    """Write into these rows up to so many of the tasks that each worker runs."""
    tasks = await view.tq.workers.tasks_of([row.id for row in rows], most)
    for row in rows:
        row.runs = [_run(view, task) for task in tasks[row.id]]


def _run(view: View, task: Task) -> Runs:
    timeout = timeout_of(view.tq, task)
    return Runs(task.task_id, task.type, to_iso(task.began_at), elapsed(task, view.now), timeout)


@pages("workers", marked("Workers"), "start")
async def workers(view: View) -> WorkerRows:
    """Read one page of the registry, and what its workers run."""
    here, start = view.tq.worker is not None, view.whole("start", 0, 1_000_000)
    if view.tq.queue.backend.workers is None:
        return WorkerRows(workers=[], total=0, start=0, registry=False, here=here)
    found = await view.tq.workers.list()
    rows = [_row(each, view.now) for each in found[start : start + ROWS]]
    await _read_runs(view, [row for row in rows if row.busy], MOST_LISTED + 1)
    return WorkerRows(
        workers=rows,
        total=len(found),
        start=start,
        registry=True,
        here=here,
    )


@pages("worker", marked("Worker"), "id", section="workers")
async def worker(view: View) -> WorkerPage:
    """Read one worker and all that it runs. Raises NotFound, and NotSupported where there is no registry."""
    found = await view.tq.workers.get(view.needed("id"))
    row = _row(found, view.now)
    await _read_runs(view, [row], 1_000)
    return WorkerPage(row, await operated_on(view, found.owner, ("workers",)))


def _page(_change: Change, worker_id: str) -> str:
    return link("worker", id=worker_id)


action(operations["quiet"], _page, marked("The worker {worker_id} is asked to claim nothing more."))
action(operations["wake"], _page, marked("The worker {worker_id} is asked to claim again."))
action(operations["resize"], _page, marked("The worker {worker_id} is asked for another number of slots."))
action_on_many(
    operations["quiet"],
    Texts(
        ask_all=marked("Quiet all workers ({count})? No task starts until they are woken; tasks that run go on."),
        button=marked("Quiet all workers"),
        done=marked("Workers asked to claim nothing more: {count}."),
    ),
    lambda _change: "workers",
)
action_on_many(
    operations["wake"], Texts(done=marked("Workers asked to claim again: {count}.")), lambda _change: "workers"
)
