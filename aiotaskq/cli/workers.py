"""``aiotaskq workers``: how workers are shown."""

from __future__ import annotations

from collections.abc import Sequence

from aiotaskq.cli.door import command, command_on_several
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import Column, columns_of
from aiotaskq.cli.options import group
from aiotaskq.cli.output import echo, echo_table
from aiotaskq.cli.times import ago, duration
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.instants import from_iso
from aiotaskq.log import printable
from aiotaskq.operations.workers import Steered, WorkerDetail, WorkerList, WorkerView, workers

app = group()
HOST, PID, TASKS, SLOTS, OLDEST, TYPES, LEASE, OWNER, STATE, TASK, TYPE, SINCE = map(
    marked,
    ("HOST", "PID", "TASKS", "SLOTS", "OLDEST", "TYPES", "LEASE", "OWNER", "STATE", "TASK", "TYPE", "SINCE"),
)


def _show_all(found: WorkerList) -> None:
    if found.workers:
        echo_table(_columns(found.workers))
    else:
        echo(tr("no workers and no running tasks"))


def _show(worker: WorkerDetail) -> None:
    echo_table(_columns([worker]))
    if worker.running:
        echo("")
        rows = [[run.task_id, run.type, ago(run.began_at)] for run in worker.running]
        echo_table(columns_of([TASK, TYPE, SINCE], rows))


def _say(asked: Steered) -> str:
    return tr("asked to be quiet") if asked.quiet else tr("asked to claim again")


def _resized(worker: WorkerView) -> None:
    count = worker.wanted_concurrency
    echo(printable(tr("{owner}: {count} slots, with its next heartbeat at the latest", owner=worker.id, count=count)))


command(app, workers["list"], _show_all)
command(app, workers["get"], _show)
command_on_several(app, workers["quiet"], _say, done=marked("asked to be quiet: {count}"))
command_on_several(app, workers["wake"], _say, done=marked("asked to claim again: {count}"))
command(app, workers["resize"], _resized, arguments=["concurrency"])


def _columns(found: Sequence[WorkerView]) -> list[Column]:
    return [
        Column(header=HOST, cells=[worker.host or worker.id or "-" for worker in found], least=12),
        Column(header=PID, cells=["" if worker.pid is None else str(worker.pid) for worker in found]),
        Column(header=TASKS, cells=[worker.tasks for worker in found]),
        Column(header=SLOTS, cells=[_slots(worker) for worker in found]),
        Column(header=STATE, cells=[tr("quiet") if worker.quiet else None for worker in found], rank=1),
        Column(header=OLDEST, cells=[ago(worker.oldest) for worker in found]),
        Column(header=LEASE, cells=[_lease(worker.lease_until) for worker in found], style=_style),
        Column(header=TYPES, cells=[", ".join(worker.task_types) for worker in found], rank=1, least=16),
        Column(header=OWNER, cells=[worker.id for worker in found], rank=2),
    ]


def _slots(worker: WorkerView) -> str:
    if worker.wanted_concurrency in (None, worker.concurrency):
        return "" if worker.concurrency is None else str(worker.concurrency)
    return f"{worker.concurrency} → {worker.wanted_concurrency}"


def _lease(until: str | None) -> str:
    if until is None:
        return "-"
    left = from_iso(until) - SystemClock().now()
    return tr("over for {time}", time=duration(-left)) if left <= 0 else duration(left)


def _style(lease: object) -> str:
    return "bold red" if str(lease).startswith(tr("over for {time}", time="").rstrip()) else ""
