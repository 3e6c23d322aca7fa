"""The table of commands: what ``aiotaskq --help`` lists.

Each command is in the file, or the folder, of its name, except those of ``FILES``: that declares its options and does
the work.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from aiotaskq.cli.i18n import tr, translated
from aiotaskq.cli.options import Command, apps, group, option
from aiotaskq.errors import ValidationError

HELP = tr("aiotaskq: a task queue and scheduler inside your asyncio application; no broker needed.")
COMMANDS = {
    "demo": tr("Run a demonstration on the files of a folder."),
    "init": tr("Write a starter application."),
    "run": tr("Run workers and the scheduler of your application."),
    "push": tr("Push one task."),
    "stats": tr("Count tasks by queue and status."),
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
ANSWERS = ("audit", "events", "failures", "groups", "history", "limits", "queues", "stats", "values", "workers")
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
    version: Annotated[bool, option(tr("Print the version."), "--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


# ---- defaults of options ---------------------------------------------------------------------------------------------

FILE = "pyproject.toml"
STORES = {"database_url": "db", "schedules_url": "schedules"}
RUN = (
    *("app", "concurrency", "queues", "drain", "grace", "processes", "log_level"),
    *("web", "host", "port", "token_env", "token_file", "read_only"),
)


def defaults(app: Any, folder: Path = Path()) -> dict[str, Any]:
    """Return what typer takes as ``default_map``: for each command its options' defaults, from ``pyproject.toml``.

    A flag has precedence over the environment (``AIOTASKQ_…``), and the environment over this file. ``[tool.aiotaskq]``
    has ``database_url`` and ``schedules_url``, for commands that open a store. ``[tool.aiotaskq.run]`` has ``app``
    (``MODULE:TQ``), also for ``push`` and ``schedules add``, and the options of ``run``, an underscore for each dash.

    Raises ValidationError for a file that cannot be read, an unknown key, or a value of a wrong type.
    """
    path = folder / FILE
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ValidationError(tr("{path} cannot be read: {why}", path=FILE, why=translated(error.strerror))) from None
    if b"aiotaskq" not in raw:
        return {}  # without a table for aiotaskq the file need not be valid
    table = _table(raw)
    run = table.pop("run", {})
    if not isinstance(run, dict):
        raise ValidationError(tr("{path}: [tool.aiotaskq.run] is not a table", path=FILE))
    _check("tool.aiotaskq", table, (*STORES, "run"))
    _check("tool.aiotaskq.run", run, RUN)
    if not (table or run):
        return {}
    values = {STORES[name]: value for name, value in table.items()}
    if "app" in run:
        values["target"] = run["target"] = run.pop("app")
    if isinstance(run.get("queues"), list):
        run["queues"] = ",".join(map(str, run["queues"]))
    found = _for_each(typer.main.get_command(app), values)
    found.setdefault("run", {}).update(run)
    return found


def _table(raw: bytes) -> dict[str, Any]:
    import tomllib

    try:
        found: Any = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeError) as error:
        raise ValidationError(f"{FILE}: {error}") from None
    for name in ("tool", "aiotaskq"):
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return dict(found) if isinstance(found, dict) else {}


def _check(where: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
    for name, value in table.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            said = tr("{path}: [{table}] has an unknown key {name}", path=FILE, table=where, name=repr(name))
            guess = tr("did you mean {name}?", name=close[0]) if close else tr("use {names}", names=", ".join(known))
            raise ValidationError(said + tr("; ") + guess)
        if isinstance(value, dict) or (isinstance(value, list) and name != "queues"):
            said = tr("{path}: [{table}] {name}: a single value is needed", path=FILE, table=where, name=name)
            raise ValidationError(said)


def _for_each(command: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return, for each command below this one, the values of the options that it has."""
    names = {parameter.name for parameter in command.params}
    found = {name: value for name, value in values.items() if name in names}
    for name, below in getattr(command, "commands", {}).items():
        if inside := _for_each(below, values):
            found[name] = inside
    return found
