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
from aiotaskq.cli.options import Json, Port, argument, command, option


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
        argument(
            tr("The folder whose files are hashed; default the current one."), "FOLDER", exists=True, file_okay=False
        ),
    ] = Path(),
    db: Annotated[
        str | None,
        option(
            tr("The database; default a SQLite file in your cache folder, one for each FOLDER."), "--db", metavar="URL"
        ),
    ] = None,
    max_files: Annotated[int, option(tr("Maximum number of files."), min=1, max=50_000)] = 2_000,
    max_mb: Annotated[int, option(tr("Maximum size of all files, in megabytes."), min=1)] = 512,
    concurrency: Annotated[int, option(tr("Number of tasks that run concurrently."), min=1, max=1_000)] = 32,
    pause: Annotated[
        float, option(tr("Extra seconds for each file, as time to press Ctrl-C."), min=0.0, max=60.0)
    ] = 0.0,
    fresh: Annotated[bool, option(tr("Start anew instead of continuing a stopped run."), "--fresh")] = False,
    web: Annotated[
        bool, option(tr("At the end leave the demo running with its dashboard, until Ctrl-C."), "--web")
    ] = False,
    port: Port = 8765,
    json: Json = False,
) -> None:
    process = Demo(folder, url=db, concurrency=concurrency, pause=pause, fresh=fresh, as_json=json)
    if web:
        process.show_dashboard(port)
    raise typer.Exit(asyncio.run(process.run(max_files, max_mb * 1_000_000)))
