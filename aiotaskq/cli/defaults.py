"""The defaults of options from ``pyproject.toml``."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import typer

from aiotaskq.cli.i18n import tr, translated
from aiotaskq.errors import ValidationError

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
