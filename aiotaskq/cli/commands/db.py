"""The commands under ``db``."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.cli.commands.options import DEFAULT_DB, GROUPS, Command, Db, Json, group, option
from aiotaskq.cli.i18n import tr

app = group(GROUPS["db"])


@app.command("upgrade", cls=Command, help=tr("Make the tables, or bring them to this version; harmless when repeated."))
def db_upgrade(db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.tables import upgrade

    upgrade(db, as_json=json)


@app.command(
    "check",
    cls=Command,
    help=tr("Tell the tables' version, and which rows do not mean what their columns say; changes nothing."),
)
def db_check(db: Db = DEFAULT_DB, json: Json = False) -> None:
    from aiotaskq.cli.tables import check

    check(db, as_json=json)


@app.command(
    "sql",
    cls=Command,
    help=tr("Print the SQL that makes the tables in such a database, for who may not let a program do it."),
)
def db_sql(db: Db = DEFAULT_DB) -> None:
    from aiotaskq.cli.tables import sql

    sql(db)


@app.command(
    "copy",
    cls=Command,
    help=tr(
        "Copy tasks, schedules and paused queues from one store to another. Stopped at any point, it goes on when it "
        "is run again, and repeating it is harmless. FROM is not changed; stop its workers first. Public values are "
        "not copied."
    ),
    short_help=tr("Copy tasks and schedules to another store."),
)
def db_copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help=tr("The URL of a store."), show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TO", help=tr("The URL of another one."), show_default=False)],
    running: Annotated[
        bool,
        option(
            "--running-as-pending",
            help=tr("Copy running tasks, too, as pending: they will run again. Without it they are refused."),
        ),
    ] = False,
    json: Json = False,
) -> None:
    from aiotaskq.cli.copy import copy

    raise typer.Exit(copy(source, target, running=running, as_json=json))
