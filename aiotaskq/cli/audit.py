"""``aiotaskq audit``: what operators have changed."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, option
from aiotaskq.cli.output import echo, echo_json, echo_table
from aiotaskq.cli.store_access import instant, with_tq
from aiotaskq.cli.times import Utc, local
from aiotaskq.core.audit import MAX_ENTRIES
from aiotaskq.log import printable
from aiotaskq.runtime.audit import audited

app = typer.Typer()
SHOWN = 3
"""Targets of a change that are printed."""


@app.command("audit", cls=Command, help=tr("Show what operators have changed, by every way and in every process."))
def show(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help=tr("Only changes of this task, queue, limit, schedule, group or worker; also the beginning of an id."),
            show_default=False,
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    limit: Annotated[int, option(min=1, max=MAX_ENTRIES, metavar="N", help=tr("Maximum number of changes."))] = 50,
    utc: Utc = False,
    json: Json = False,
) -> None:
    found = with_tq(db, lambda tq: audited(tq.queue.backend, limit, target, shortened=True))
    if json:
        echo_json([msgspec.to_builtins(each) | {"at": instant(each.at)} for each in found])
        return
    if not found:
        echo(tr("no changes"))
        return
    rows = []
    for each in found:
        targets = ", ".join(each.targets[:SHOWN])
        if each.count > SHOWN:
            targets += " " + tr("and {count} more", count=f"{each.count - SHOWN:,}")
        change = each.action if each.undecodable is None else tr("an entry that cannot be read")
        cells = (change, targets, each.actor or "-", each.door)
        rows.append([local(each.at, utc, short=True) or "", *map(printable, cells)])
    headers = [marked("AT"), marked("CHANGE"), marked("TARGETS"), marked("ACTOR"), marked("BY")]
    echo_table(columns_of(headers, rows, change=12, targets=16))
