"""``aiotaskq queues``: lists, pauses and resumes queues."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import names
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, group
from aiotaskq.cli.output import echo, echo_json, echo_table
from aiotaskq.cli.store_access import noted, with_tq
from aiotaskq.log import printable

app = group()
Name = Annotated[str, typer.Argument(metavar="QUEUE", show_default=True, autocompletion=names.queues)]


@app.command("list", cls=Command, help=tr("List queues that have tasks or are paused."))
def list_queues(db: Db = DEFAULT_DB, json: Json = False) -> None:
    found = with_tq(db, lambda tq: tq.stats())
    queues = [
        {
            "queue": name,
            "paused": name in found.paused,
            "pending": found.queues.get(name, {}).get("pending", 0),
            "running": found.queues.get(name, {}).get("running", 0),
        }
        for name in sorted({*found.queues, *found.paused})
    ]
    if json:
        echo_json(queues)
        return
    if not queues:
        echo(tr("no queues"))
        return
    rows = [
        [queue["queue"], tr("paused") if queue["paused"] else tr("open"), queue["pending"], queue["running"]]
        for queue in queues
    ]
    echo_table(columns_of([marked("QUEUE"), marked("STATE"), "PENDING", "RUNNING"], rows, queue=10))


@app.command("pause", cls=Command, help=tr("Pause a queue: no worker claims its tasks. They can still be pushed."))
def pause(queue: Name = "default", db: Db = DEFAULT_DB, json: Json = False) -> None:
    async def work(tq: TaskQ) -> None:
        await tq.pause(queue)
        await noted(tq, "pause-queue", queue)

    with_tq(db, work)
    if json:
        echo_json({"queue": queue, "paused": True})
    else:
        echo(tr("queue {queue} is paused", queue=printable(queue)))


@app.command("resume", cls=Command, help=tr("Resume a paused queue."))
def resume(queue: Name = "default", db: Db = DEFAULT_DB, json: Json = False) -> None:
    async def work(tq: TaskQ) -> None:
        await tq.resume(queue)
        await noted(tq, "resume-queue", queue)

    with_tq(db, work)
    if json:
        echo_json({"queue": queue, "paused": False})
    else:
        echo(tr("queue {queue} is open", queue=printable(queue)))
