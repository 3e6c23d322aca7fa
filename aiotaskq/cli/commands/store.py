"""The commands under ``store``."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.cli.commands.options import DEFAULT_DB, GROUPS, Command, Db, Json, group, option
from aiotaskq.cli.i18n import tr

app = group(GROUPS["store"])
Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]


@app.command("list", cls=Command, help=tr("List the keys; what has expired is gone."))
def store_list(db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.values import list_keys

    list_keys(db, as_json=json)


@app.command("get", cls=Command, help=tr("Print a value as JSON; 1 if there is none."))
def store_get(key: Key, db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.values import get

    raise typer.Exit(get(db, key, as_json=json))


@app.command("set", cls=Command, help=tr("Store a value."))
def store_set(
    key: Key,
    value: Annotated[
        str, typer.Argument(metavar="JSON", help=tr("The value as JSON; - reads it."), show_default=False)
    ],
    db: Db = DEFAULT_DB,
    ttl: Annotated[float | None, option(min=0.0, metavar="SECONDS", help=tr("Forget it then; default never."))] = None,
    json: Json = False,
) -> None:
    from aiotaskq.cli.values import put

    put(db, key, value, ttl=ttl, as_json=json)


@app.command("delete", cls=Command, help=tr("Delete a value; 1 if there is none."))
def store_delete(key: Key, db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.values import delete

    raise typer.Exit(delete(db, key, as_json=json))
