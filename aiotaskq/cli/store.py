"""``aiotaskq store``: lists, reads, sets and deletes public values."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, group, option
from aiotaskq.cli.output import echo, echo_error, echo_json
from aiotaskq.cli.store_access import read_json, with_tq
from aiotaskq.log import printable

app = group()
Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]


@app.command("list", cls=Command, help=tr("List the keys of all values that have not expired."))
def list_keys(db: Db = DEFAULT_DB, json: Json = False) -> None:
    keys = with_tq(db, lambda tq: tq.store.list_keys())
    if json:
        echo_json(keys)
        return
    for key in keys:
        echo(printable(key, 1_000))


@app.command("get", cls=Command, help=tr("Print a value as JSON. The exit code is 1 if there is none."))
def get(key: Key, db: Db = DEFAULT_DB, json: Json = False) -> None:
    async def work(tq: TaskQ) -> tuple[bool, object, float | None]:
        value = await tq.store.get_public(key)
        return value is not None or key in await tq.store.list_keys(), value, await tq.store.get_ttl(key)

    found, value, ttl = with_tq(db, work)
    if not found:
        _no_value(key)
    echo_json({"key": key, "value": value, "ttl": ttl} if json else value)


@app.command("set", cls=Command, help=tr("Store a value."))
def set_(
    key: Key,
    value: Annotated[
        str,
        typer.Argument(
            metavar="JSON", help=tr("The value as JSON; - reads it from standard input."), show_default=False
        ),
    ],
    db: Db = DEFAULT_DB,
    ttl: Annotated[
        float | None,
        option(min=0.0, metavar="SECONDS", help=tr("Time to live; default: a value that is there keeps its own.")),
    ] = None,
    forever: Annotated[bool, option("--forever", help=tr("No time to live."))] = False,
    json: Json = False,
) -> None:
    given = read_json("value", value)
    if forever and ttl is not None:
        raise typer.BadParameter(tr("--ttl, --forever: give one of the two"))
    if forever or ttl is not None:
        with_tq(db, lambda tq: tq.store.set_public(key, given, ttl))
    else:
        with_tq(db, lambda tq: tq.store.edit_public(key, given))
    echo_json({"key": key, "stored": True}) if json else echo(tr("stored {key}", key=printable(key)))


@app.command("delete", cls=Command, help=tr("Delete a value. The exit code is 1 if there is none."))
def delete(key: Key, db: Db = DEFAULT_DB, json: Json = False) -> None:
    deleted = with_tq(db, lambda tq: tq.store.delete_public(key))
    if json:
        echo_json({"key": key, "deleted": deleted})
    elif deleted:
        echo(tr("deleted {key}", key=printable(key)))
    if not deleted:
        _no_value(key)


def _no_value(key: str) -> None:
    echo_error(tr("there is no value {key}", key=printable(key)))
    raise typer.Exit(1)
