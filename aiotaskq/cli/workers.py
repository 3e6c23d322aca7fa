"""``aiotaskq workers``: which workers there are, and what runs where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.ids import worker_id_of
from aiotaskq.cli.layout import Column
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, group, option
from aiotaskq.cli.output import echo, echo_json, echo_table
from aiotaskq.cli.store_access import instant, noted, with_tq
from aiotaskq.cli.times import duration
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.outcome import owner_of
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.errors import ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.owner import read_owner

app = group()
PAGE = 1_000  # running tasks read at a time
HOST, PID, TASKS, SLOTS, OLDEST, TYPES, LEASE, OWNER, STATE, TASK, TYPE, SINCE = map(
    marked,
    ("HOST", "PID", "TASKS", "SLOTS", "OLDEST", "TYPES", "LEASE", "OWNER", "STATE", "TASK", "TYPE", "SINCE"),
)
Id = Annotated[str, typer.Argument(metavar="OWNER", show_default=False)]
AnyId = Annotated[str | None, typer.Argument(metavar="OWNER", show_default=False)]
All = Annotated[bool, option("--all", help=tr("All workers that are there now."))]


@dataclass(kw_only=True)
class Worker:
    """A worker of the registry, or another owner of running tasks, whose id may say its ``host`` and ``pid``."""

    owner: str
    kind: str | None
    host: str | None
    pid: int | None
    tasks: int = 0
    types: list[str] = field(default_factory=list)
    oldest: int | None = None
    """When the run of its oldest task began, in microseconds UTC."""
    lease_until: int | None = None
    """When its lease ends, or the first of the leases of popped tasks, in microseconds UTC."""
    concurrency: int | None = None
    """These are None for an owner that is not in the registry."""
    queues: list[str] | None = None
    version: str | None = None
    started_at: int | None = None
    seen_at: int | None = None
    quiet: bool | None = None
    wanted_concurrency: int | None = None


@app.command(
    "list",
    cls=Command,
    help=tr(
        "List the workers, and who else has running tasks: consumers that pop by hand, and workers that were taken for "
        "dead, whose tasks are about to be taken back."
    ),
    short_help=tr("List the workers, and what runs where."),
)
def list_workers(db: Db = DEFAULT_DB, json: Json = False) -> None:
    found = with_tq(db, workers_of)
    if json:
        echo_json([_as_dict(worker) for worker in found])
    elif found:
        echo_table(_columns(found, SystemClock().now()))
    else:
        echo(tr("no workers and no running tasks"))


@app.command("show", cls=Command, help=tr("Show a worker, and what it runs. OWNER may be the beginning of its id."))
def show(owner: Id, db: Db = DEFAULT_DB, json: Json = False) -> None:
    async def read(tq: TaskQ) -> tuple[WorkerInfo, Sequence[Task]]:
        known = await worker_id_of(tq, owner)
        return await tq.workers.get(known), await tq.workers.tasks(known)

    info, tasks = with_tq(db, read)
    one = _registered(info)
    for task in tasks:
        _add({info.owner: one}, task)
    if json:
        runs = [{"task_id": task.task_id, "type": task.type, "since": instant(task.began_at)} for task in tasks]
        echo_json({**_as_dict(one), "running": runs})
        return
    now = SystemClock().now()
    echo_table(_columns([one], now))
    if tasks:
        echo("")
        since = [_ago(task.began_at, now) for task in tasks]
        columns = (TASK, [task.task_id for task in tasks]), (TYPE, [task.type for task in tasks]), (SINCE, since)
        echo_table([Column(header=header, cells=cells) for header, cells in columns])


@app.command(
    "quiet", cls=Command, help=tr("Let a worker claim nothing more. It goes on with what it runs, and stays alive.")
)
def quiet(owner: AnyId = None, every: All = False, db: Db = DEFAULT_DB, json: Json = False) -> None:
    _steer(owner, every, db, json, quiet=True)


@app.command("wake", cls=Command, help=tr("Let a quiet worker claim again."))
def wake(owner: AnyId = None, every: All = False, db: Db = DEFAULT_DB, json: Json = False) -> None:
    _steer(owner, every, db, json, quiet=False)


def _steer(owner: str | None, every: bool, db: str, as_json: bool, *, quiet: bool) -> None:
    if (owner is None) is not every:
        raise ValidationError(tr("name one worker, or --all"))

    async def ask(tq: TaskQ) -> int:
        known = None if owner is None else await worker_id_of(tq, owner)
        count = await (tq.workers.quiet if quiet else tq.workers.wake)(known)
        await noted(tq, f"{'quiet' if quiet else 'wake'}-worker{'s' if known is None else ''}", known or "*")
        return count

    count = with_tq(db, ask)
    if as_json:
        echo_json({"workers": count, "quiet": quiet})
    elif quiet:
        echo(tr("asked to be quiet: {count}", count=count))
    else:
        echo(tr("asked to claim again: {count}", count=count))


@app.command("resize", cls=Command, help=tr("Let a worker have N slots until it ends. What runs goes on."))
def resize(
    owner: Id,
    slots: Annotated[int, typer.Argument(metavar="N", min=1, max=10_000, show_default=False)],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    async def ask(tq: TaskQ) -> WorkerInfo:
        info = await tq.workers.resize(await worker_id_of(tq, owner), slots)
        await noted(tq, "resize-worker", info.owner)
        return info

    info = with_tq(db, ask)
    if json:
        echo_json(_as_dict(_registered(info)))
    else:
        echo(
            printable(
                tr("{owner}: {count} slots, with its next heartbeat at the latest", owner=info.owner, count=slots)
            )
        )


async def workers_of(tq: TaskQ) -> list[Worker]:
    """Return the workers and the other owners of running tasks, the one with the oldest run first, idle ones last."""
    registry = tq.queue.backend.workers
    found = {info.owner: _registered(info) for info in ([] if registry is None else await registry.all())}
    after = None
    while tasks := await tq.find(status=Status.RUNNING, limit=PAGE, after=after):
        for task in tasks:
            _add(found, task)
        if len(tasks) < PAGE:
            break
        after = tasks[-1].task_id
    return sorted(found.values(), key=lambda worker: (worker.tasks == 0, worker.oldest or 0, worker.owner))


def _registered(info: WorkerInfo) -> Worker:
    return Worker(
        owner=info.owner,
        kind="worker",
        host=info.host,
        pid=info.pid,
        lease_until=info.lease_until,
        concurrency=info.concurrency,
        queues=None if info.queues is None else list(info.queues),
        version=info.version,
        started_at=info.started_at,
        seen_at=info.seen_at,
        quiet=info.quiet,
        wanted_concurrency=info.wanted_concurrency,
    )


def _add(found: dict[str, Worker], task: Task) -> None:
    name = owner_of(task)
    began = task.began_at if task.began_at is not None or task.started_at is None else task.started_at * SECOND
    if (worker := found.get(name)) is None:
        owner = read_owner(name)
        worker = found[name] = Worker(owner=name, kind=owner.kind, host=owner.host, pid=owner.pid)
    worker.tasks += 1
    if task.type not in worker.types:
        worker.types.append(task.type)
    worker.oldest = _earlier(worker.oldest, began)
    worker.lease_until = _earlier(worker.lease_until, task.lease_until)


def _earlier(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _columns(found: list[Worker], now: int) -> list[Column]:
    return [
        Column(header=HOST, cells=[worker.host or worker.owner or "-" for worker in found], least=12),
        Column(header=PID, cells=["" if worker.pid is None else str(worker.pid) for worker in found]),
        Column(header=TASKS, cells=[worker.tasks for worker in found]),
        Column(header=SLOTS, cells=[_slots(worker) for worker in found]),
        Column(header=STATE, cells=[tr("quiet") if worker.quiet else None for worker in found], rank=1),
        Column(header=OLDEST, cells=[_ago(worker.oldest, now) for worker in found]),
        Column(header=LEASE, cells=[_lease(worker.lease_until, now) for worker in found], style=_style),
        Column(header=TYPES, cells=[", ".join(sorted(worker.types)) for worker in found], rank=1, least=16),
        Column(header=OWNER, cells=[worker.owner for worker in found], rank=2),
    ]


def _slots(worker: Worker) -> str:
    if worker.wanted_concurrency in (None, worker.concurrency):
        return "" if worker.concurrency is None else str(worker.concurrency)
    return f"{worker.concurrency} → {worker.wanted_concurrency}"


def _ago(instant: int | None, now: int) -> str:
    return "" if instant is None else duration(now - instant)


def _lease(until: int | None, now: int) -> str:
    if until is None:
        return "-"
    return tr("over for {time}", time=duration(now - until)) if until <= now else duration(until - now)


def _style(lease: object) -> str:
    return "bold red" if str(lease).startswith(tr("over for {time}", time="").rstrip()) else ""


def _as_dict(worker: Worker) -> dict[str, Any]:
    times = ("oldest", "lease_until", "started_at", "seen_at")
    return {**asdict(worker), **{name: instant(getattr(worker, name)) for name in times}}
