"""Operations on workers: list, get, stack, quiet, wake, resize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Struct, structs

from aiotaskq.core.instants import from_iso, to_iso
from aiotaskq.core.outcome import owner_of
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.worker_info import WorkerInfo, read_owner
from aiotaskq.errors import NotSupported, ResultTimeout
from aiotaskq.operations.fields import Count, Name, Time, about, view_of
from aiotaskq.operations.table import Access, DryRun, Operations, only
from aiotaskq.runtime.queue.bulk import pages, task_filter

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

PAGE = 1_000  # running tasks read at a time


async def find(tq: TaskQ, text: str) -> str:
    """Return the id of the worker that has this id, or of the only one whose id begins so."""
    ids = [worker.owner for worker in await tq.workers.list()]
    return text if text in ids else only(text, [each for each in ids if each.startswith(text)])


workers = Operations("workers", find)


class RunView(Struct):
    """A task that a worker runs."""

    task_id: str
    type: str
    began_at: Time | None


class WorkerView(Struct, kw_only=True):
    """A worker as it was at its last heartbeat, what it is asked for, and what it runs now.

    Another owner of running tasks, which is not in the registry, has no more than its id and these.
    """

    id: str
    kind: Annotated[str | None, about("worker, or pop for a consumer by hand; null where it is not known")]
    host: str | None
    pid: int | None
    aiotaskq: Annotated[str | None, about("The version of aiotaskq")] = None
    version: Annotated[str | None, about("Of the application: TaskQ(version=…)")] = None
    started_at: Time | None = None
    seen_at: Time | None = None
    lease_until: Annotated[Time | None, about("Of its tasks; of a consumer, the first of its leases")] = None
    queues: list[str] | None = None
    concurrency: int | None = None
    busy: Annotated[int | None, about("Slots that were busy at its last heartbeat")] = None
    quiet: bool = False
    wanted_concurrency: int | None = None
    types: Annotated[list[str] | None, about("What it can run; null where that is not known")] = None
    limits: Annotated[list[str] | None, about("What its handlers declare; null where not known")] = None
    tasks: Annotated[int, about("How many it runs now, or has claimed to run next", ge=0)] = 0
    task_types: list[str] = []
    oldest: Annotated[Time | None, about("When the run of the oldest of these began")] = None


class WorkerList(Struct):
    """Workers and other owners of running tasks, the one with the oldest run first, idle ones last."""

    workers: list[WorkerView]


class WorkerDetail(WorkerView):
    """A worker, and the tasks that it runs."""

    running: list[RunView] = []


class StackView(RunView):
    """Where the handler of a running task stands."""

    attempt: Annotated[int, about("From 1")]
    executor: Annotated[str, about("loop, thread, process or interpreter")]
    lines: Annotated[list[str], about("`file:line function`, the latest call last; empty where it runs elsewhere")]
    pids: Annotated[list[int], about("The child processes of which one runs it")]


class StackList(Struct):
    """Where the handlers of a worker stood, the earliest start first."""

    id: str
    at: Time
    runs: list[StackView]
    left_off: Annotated[Count, about("How many more tasks run")]


class Steered(Struct):
    """How many workers were asked."""

    workers: Count
    quiet: bool


WorkerId = Annotated[Name, about("The id of a worker")]


def worker_view(info: WorkerInfo) -> WorkerView:
    return view_of(WorkerView, info, id=info.owner, kind="worker")


def _add(found: dict[str, WorkerView], task: Task) -> None:
    name = owner_of(task)
    began = task.began_at if task.began_at is not None or task.started_at is None else task.started_at * SECOND
    if (view := found.get(name)) is None:
        owner = read_owner(name)
        view = found[name] = WorkerView(id=name, kind=owner.kind, host=owner.host, pid=owner.pid)
    view.tasks += 1
    if task.type not in view.task_types:
        view.task_types = sorted([*view.task_types, task.type])
    view.oldest = _earlier(view.oldest, to_iso(began))
    if task.lease_until is not None:
        view.lease_until = _earlier(view.lease_until, to_iso(task.lease_until))


def _place(view: WorkerView) -> tuple[bool, int, str]:
    return view.tasks == 0, 0 if view.oldest is None else from_iso(view.oldest), view.id


def _earlier(one: str | None, other: str | None) -> str | None:
    return other if one is None else one if other is None else min(one, other, key=from_iso)


@workers()
async def list_(access: Access) -> WorkerList:
    """List the workers, and the other owners of running tasks.

    These are consumers that pop by hand, and dead workers whose tasks are about to be taken back.
    """
    registry = access.tq.queue.backend.workers
    found = {info.owner: worker_view(info) for info in ([] if registry is None else await registry.all())}
    async for tasks in pages(access.tq.queue.backend, task_filter(status=Status.RUNNING), PAGE):
        for task in tasks:
            _add(found, task)
    return WorkerList(sorted(found.values(), key=_place))


@workers(thing="worker_id", raises=(NotSupported,))
async def get(access: Access, worker_id: WorkerId) -> WorkerDetail:
    """Show one worker, and the tasks that it runs, or has claimed to run next."""
    info = await access.tq.workers.get(worker_id)
    tasks = await access.tq.workers.tasks(info.owner)
    view = worker_view(info)
    for task in tasks:
        _add({info.owner: view}, task)
    return WorkerDetail(**structs.asdict(view), running=[view_of(RunView, task) for task in tasks])


@workers(thing="worker_id", raises=(NotSupported, ResultTimeout))
async def stack(
    access: Access,
    worker_id: WorkerId,
    within: Annotated[float, about("Seconds until it has to answer", gt=0, le=60)] = 10.0,
) -> StackList:
    """Ask a worker where its handlers stand now: places in the code, without values.

    It answers also while its event loop stands still. A task that it has claimed and not begun is not there.
    """
    found = await access.tq.workers.stack(worker_id, within)
    return view_of(StackList, found, id=worker_id, runs=[view_of(StackView, run) for run in found.runs])


@workers(changes=True, thing="worker_id", raises=(NotSupported,))
async def quiet(access: Access, worker_id: WorkerId) -> Steered:
    """Let a worker claim nothing more. It goes on with what it runs, and stays alive."""
    return Steered(await access.tq.workers.quiet(worker_id), True)


@workers.many("quiet")
async def _quiet_all(access: Access, dry_run: DryRun = False) -> int:
    """Let all workers claim nothing more, and go on with what they run."""
    return len(await access.tq.workers.list()) if dry_run else await access.tq.workers.quiet()


@workers(changes=True, thing="worker_id", raises=(NotSupported,))
async def wake(access: Access, worker_id: WorkerId) -> Steered:
    """Let a quiet worker claim again."""
    return Steered(await access.tq.workers.wake(worker_id), False)


@workers.many("wake")
async def _wake_all(access: Access, dry_run: DryRun = False) -> int:
    """Let all workers claim again."""
    return len(await access.tq.workers.list()) if dry_run else await access.tq.workers.wake()


@workers(changes=True, thing="worker_id", raises=(NotSupported,))
async def resize(
    access: Access, worker_id: WorkerId, concurrency: Annotated[int, about("The number of slots", ge=1, le=10_000)]
) -> WorkerView:
    """Let a worker have so many slots until it ends; tasks that run go on, also where they are more."""
    return worker_view(await access.tq.workers.resize(worker_id, concurrency))
