"""The commands under ``queues``."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.cli.commands.options import DEFAULT_DB, GROUPS, Command, Db, Json, group
from aiotaskq.cli.i18n import tr

app = group(GROUPS["queues"])
Name = Annotated[str, typer.Argument(metavar="[QUEUE]", show_default=True)]


@app.command("list", cls=Command, help=tr("List queues that have tasks or are paused."))
def queues_list(db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.stats import list_queues

    list_queues(db, as_json=json)


@app.command("pause", cls=Command, help=tr("Hand out no more tasks of a queue, in every process; pushes go on."))
def queues_pause(queue: Name = "default", db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.stats import set_paused

    set_paused(db, queue, True, as_json=json)


@app.command("resume", cls=Command, help=tr("Hand out tasks of a paused queue again."))
def queues_resume(queue: Name = "default", db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.stats import set_paused

    set_paused(db, queue, False, as_json=json)
