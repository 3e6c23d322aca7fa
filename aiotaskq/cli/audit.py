"""``aiotaskq audit``: how changes by operators are shown."""

from __future__ import annotations

import typer

from aiotaskq.cli.door import command
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.output import echo, echo_table
from aiotaskq.cli.times import shown
from aiotaskq.log import printable
from aiotaskq.operations.audit import AuditList, audit

app = typer.Typer()
SHOWN = 3
"""Targets of a change that are printed."""


def _show(found: AuditList, utc: bool) -> None:
    if not found.entries:
        echo(tr("no changes"))
        return
    rows = []
    for each in found.entries:
        targets = ", ".join(each.targets[:SHOWN])
        if each.count > SHOWN:
            targets += " " + tr("and {count} more", count=f"{each.count - SHOWN:,}")
        change = each.action if each.undecodable is None else tr("an entry that cannot be read")
        rows.append([shown(each.at, utc), *map(printable, (change, targets, each.actor or "-", each.door))])
    headers = [marked("AT"), marked("CHANGE"), marked("TARGETS"), marked("ACTOR"), marked("BY")]
    echo_table(columns_of(headers, rows, change=12, targets=16))


command(app, audit["list"], _show, name="audit", arguments=["target"], utc=True)
