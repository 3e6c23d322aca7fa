"""The workers: what each is, what it runs now, and what it is asked for, which is changed here."""

from __future__ import annotations

import msgspec

from aiotaskq.core.instants import to_iso
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.web.dashboard.fields import whole
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.rows import elapsed, timeout_of, types_told
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, View, actions, done, link, operated_on, pages
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


class WorkerRow(msgspec.Struct, kw_only=True):
    """One worker, as it was at its last heartbeat. Instants are RFC 3339."""

    id: str
    host: str
    pid: int
    version: str
    queues: list[str] | None
    """None for every queue."""
    concurrency: int
    busy: int
    started_at: str | None
    seen_at: str | None
    lease_until: str | None
    alive: bool
    """Whether its lease holds."""
    quiet: bool
    wanted: int | None
    """The number of slots that it is asked to have, where it has not got them yet."""
    runs: list[Runs]
    types: list[str] | None
    """What it can run; None where that is not known."""


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
    wanted = info.wanted_concurrency
    return WorkerRow(
        id=info.owner,
        host=info.host,
        pid=info.pid,
        version=info.version,
        queues=None if info.queues is None else list(info.queues),
        concurrency=info.concurrency,
        busy=info.busy,
        started_at=to_iso(info.started_at),
        seen_at=to_iso(info.seen_at),
        lease_until=to_iso(info.lease_until),
        alive=info.lease_until > now,
        quiet=info.quiet,
        wanted=None if wanted == info.concurrency else wanted,
        runs=[],
        types=types_told(info.types),
    )


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
    return WorkerPage(row, await operated_on(view, found.owner, ("worker",)))


@actions("quiet-worker")
async def quiet(change: Change) -> Done:
    """Let a worker claim nothing more."""
    worker = change.needed("id")
    await change.tq.workers.quiet(worker)
    return done(marked("The worker {worker} is asked to claim nothing more."), link("worker", id=worker), worker=worker)


@actions("wake-worker")
async def wake(change: Change) -> Done:
    """Let a quiet worker claim again."""
    worker = change.needed("id")
    await change.tq.workers.wake(worker)
    return done(marked("The worker {worker} is asked to claim again."), link("worker", id=worker), worker=worker)


@actions("resize-worker")
async def resize(change: Change) -> Done:
    """Let a worker have another number of slots."""
    worker = change.needed("id")
    await change.tq.workers.resize(worker, whole("slots", change.needed("slots"), 6))
    return done(
        marked("The worker {worker} is asked for another number of slots."), link("worker", id=worker), worker=worker
    )


@actions("quiet-workers")
async def quiet_all(change: Change) -> Question | Done:
    """Let all workers claim nothing more."""
    if not change.sure:
        count = len(await change.tq.workers.list())
        text = marked("Quiet all workers ({count})? No task starts until they are woken; tasks that run go on.")
        return Question(text, {"count": count}, marked("Quiet all workers"), "workers")
    asked = await change.tq.workers.quiet()
    return Done(Message(marked("Workers asked to claim nothing more: {count}."), {"count": asked}), "workers", ("*",))


@actions("wake-workers")
async def wake_all(change: Change) -> Done:
    """Let all workers claim again."""
    asked = await change.tq.workers.wake()
    return Done(Message(marked("Workers asked to claim again: {count}."), {"count": asked}), "workers", ("*",))
