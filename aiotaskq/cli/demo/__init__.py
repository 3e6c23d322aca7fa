"""``aiotaskq demo``: shows on the files of a folder what the package does, and checks every claim.

``files`` finds the files, ``tasks`` has the handlers, ``runner`` runs them and checks, ``report`` prints.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from aiotaskq.cli.demo.runner import Demo
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import Json, Port, command, option


@command(
    "demo",
    tr(
        "Run a demonstration: one task per file of a folder, schedules, retries and a dead letter. At the "
        "end every claim is checked.\n\nThe files are read and hashed, never changed. Hidden files and "
        "folders are left out, symbolic links are not followed. Stop the demo with Ctrl-C and run it "
        "again: it continues where it stopped."
    ),
)
def demo(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True,
            file_okay=False,
            metavar="FOLDER",
            help=tr("The folder whose files are hashed; default the current one."),
            show_default=False,
        ),
    ] = Path(),
    db: Annotated[
        str | None,
        option(
            "--db",
            metavar="URL",
            help=tr("The database; default a SQLite file in your cache folder, one for each FOLDER."),
        ),
    ] = None,
    max_files: Annotated[int, option(min=1, max=50_000, help=tr("Maximum number of files."))] = 2_000,
    max_mb: Annotated[int, option(min=1, help=tr("Maximum size of all files, in megabytes."))] = 512,
    concurrency: Annotated[int, option(min=1, max=1_000, help=tr("Number of tasks that run concurrently."))] = 32,
    pause: Annotated[
        float, option(min=0.0, max=60.0, help=tr("Extra seconds for each file, as time to press Ctrl-C."))
    ] = 0.0,
    fresh: Annotated[bool, option("--fresh", help=tr("Start anew instead of continuing a stopped run."))] = False,
    web: Annotated[
        bool, option("--web", help=tr("At the end leave the demo running with its dashboard, until Ctrl-C."))
    ] = False,
    port: Port = 8765,
    json: Json = False,
) -> None:
    process = Demo(folder, url=db, concurrency=concurrency, pause=pause, fresh=fresh, as_json=json)
    if web:
        process.show_dashboard(port)
    raise typer.Exit(asyncio.run(process.run(max_files, max_mb * 1_000_000)))
