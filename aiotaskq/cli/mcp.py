"""``aiotaskq mcp``: an assistant's access to a store, by the Model Context Protocol on stdin and stdout."""

from __future__ import annotations

from typing import Annotated

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import DEFAULT_DB, Db, SchedulesUrl, ShowArgs, command, option
from aiotaskq.cli.store_access import with_tq


@command(
    "mcp",
    tr(
        "Serve a store to an AI assistant, by the Model Context Protocol on stdin and stdout: list and show tasks, why "
        "they wait, workers, schedules and limits. Needs the extra mcp."
    ),
)
def mcp(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    write: Annotated[
        bool,
        option(
            tr(
                "Also let it change what it shows: push, edit and delete tasks, schedules and values, emit events, "
                "steer groups, queues, limits and workers."
            ),
            "--write",
        ),
    ] = False,
    show_args: ShowArgs = False,
) -> None:
    from aiotaskq.integrations.mcp import mcp_server

    async def main(tq: TaskQ) -> None:
        await mcp_server(tq, write=write, show_args=show_args).run_stdio_async()

    with_tq(db, main, schedules)
