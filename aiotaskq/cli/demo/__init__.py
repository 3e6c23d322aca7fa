"""``aiotaskq demo``: shows on the files of a folder what the package does, and checks every claim.

``files`` finds the files and has the handlers, ``runner`` runs them and checks, ``report`` prints.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from aiotaskq.cli.demo.runner import Demo, DemoOptions
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import Json, argument
from aiotaskq.cli.parameters import given_to, keyword, options_from, register

_HELP = tr("The folder whose files are hashed; default the current one.")
Folder = Annotated[Path, argument(_HELP, "FOLDER", exists=True, file_okay=False)]


def _demo(folder: Path, json: bool, **given: Any) -> None:
    raise typer.Exit(asyncio.run(Demo(folder, given_to(DemoOptions, given), as_json=json).run()))


register(
    "demo",
    _demo,
    [keyword("folder", Folder, Path()), *options_from(DemoOptions, environment=["port"]), keyword("json", Json, False)],
    "Run a demonstration: one task per file of a folder, schedules, retries and a dead letter. At the "
    "end every claim is checked.\n\nThe files are read and hashed, never changed. Hidden files and "
    "folders are left out, symbolic links are not followed. Stop the demo with Ctrl-C and run it "
    "again: it continues where it stopped.",
)
