"""The commands and their options, each handed to the sibling that does it; the one folder that knows typer."""

from __future__ import annotations

from aiotaskq.cli.commands import db, queues, schedules, store, tasks
from aiotaskq.cli.commands.root import app

__all__ = ["app"]

for _name, _group in (
    ("tasks", tasks.app),
    ("schedules", schedules.app),
    ("store", store.app),
    ("queues", queues.app),
    ("db", db.app),
):
    app.add_typer(_group, name=_name)
