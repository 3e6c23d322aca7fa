"""The table of commands: what ``aiotaskq --help`` lists.

Each command is in the file, or the folder, of its name, except those of ``FILES``: that declares its options and does
the work.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from typing import Annotated

import typer

from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import Command, apps, group, option

HELP = tr("aiotaskq: a task queue and scheduler inside your asyncio application; no broker needed.")
COMMANDS = {
    "demo": tr("Run a demonstration on the files of a folder."),
    "init": tr("Write a starter application."),
    "run": tr("Run workers and the scheduler of your application."),
    "push": tr("Push one task."),
    "stats": tr("Count tasks by queue and status."),
    "top": tr("Watch queues, tasks and workers live."),
    "scale": tr("Tell how many workers are needed."),
    "history": tr("Show what workers did, in counts and percentiles."),
    "failures": tr("Group failed tasks by type and error."),
    "audit": tr("Show what operators have changed."),
    "web": tr("Serve the dashboard and the operations API."),
    "mcp": tr("Serve a store to an AI assistant."),
    "check": tr("Check that tasks and schedules are processed."),
    "doctor": tr("Print versions, store and settings for a bug report."),
    "docs": tr("Show the manual."),
    "bench": tr("Run the benchmarks; needs a checkout of aiotaskq."),
    "completion": tr("Print the shell completion script."),
}
ANSWERS = "audit", "events", "failures", "groups", "history", "limits", "queues", "scale", "stats", "values", "workers"
OTHERS = {"push": "tasks", "check": "doctor", "mcp": "web", "completion": "tools", "bench": "tools"}
FILES = OTHERS | dict.fromkeys(ANSWERS, "answers")
GROUPS = {
    "tasks": tr("List, get, retry, rerun, cancel and delete tasks."),
    "schedules": tr("List, get, add, pause, resume, fire and delete schedules."),
    "workers": tr("List, get, quiet, wake and resize workers."),
    "values": tr("List, get, set and delete public values."),
    "events": tr("List, get and emit events, for which tasks wait."),
    "queues": tr("List, pause and resume queues."),
    "limits": tr("List, set, pause and resume limits, rates and fair shares."),
    "groups": tr("List, get, cancel and retry groups, chains and workflows."),
    "db": tr("Create, check and print the tables; copy a store."),
}


def app_for(words: Collection[str] | None) -> typer.Typer:
    """Return the command line, with the files of the commands that these words name imported; None imports all.

    The other commands are listed with their help, and have no options: ``--help`` does not wait for what they import.
    """
    app = group(HELP)
    app.callback()(_options)
    for name, help in COMMANDS.items():
        if words is None or name in words:
            (command,) = _imported(name).registered_commands
            command.short_help = help
            app.registered_commands.append(command)
        else:
            app.command(name, cls=Command, help=help)(lambda: None)
    for name, help in GROUPS.items():
        app.add_typer(_group(name) if words is None or name in words else group(), name=name, help=help)
    return app


def _imported(name: str) -> typer.Typer:
    importlib.import_module(f"aiotaskq.cli.{FILES.get(name, name)}")
    return apps[name]


def _group(name: str) -> typer.Typer:
    from aiotaskq.cli.door import add_others

    app = _imported(name)
    add_others(app, name)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        # Taken where the interpreter keeps it: nothing in the package imports its root.
        print(f"aiotaskq {sys.modules['aiotaskq'].__version__}")
        raise typer.Exit


def _options(
    version: Annotated[bool, option("Print the version.", "--version", callback=_version, is_eager=True)] = False,
) -> None:
    from aiotaskq.log import output

    output(None)  # commands print their errors themselves; `run` shows the log
