"""The commands and their options, each handed to the sibling that does it; the one folder that knows typer."""

from __future__ import annotations

import importlib
from collections.abc import Collection

import typer

from aiotaskq.cli.commands import root
from aiotaskq.cli.commands.options import GROUPS, group

__all__ = ["app_for"]


def app_for(words: Collection[str] | None) -> typer.Typer:
    """Return the command line with the groups that these words name filled in, or all of them for None.

    To make the options of thirty commands takes longer than to run one.
    """
    app = group(root.HELP)
    app.registered_callback = root.app.registered_callback
    app.registered_commands = root.app.registered_commands
    for name, help in GROUPS.items():
        filled = words is None or name in words
        app.add_typer(importlib.import_module(f"{__name__}.{name}").app if filled else group(help), name=name)
    return app
