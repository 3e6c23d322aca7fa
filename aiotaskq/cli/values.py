"""``aiotaskq values``: how public values are shown."""

from __future__ import annotations

from aiotaskq.cli.door import command
from aiotaskq.cli.i18n import tr
from aiotaskq.cli.options import group
from aiotaskq.cli.output import echo, echo_json
from aiotaskq.log import printable
from aiotaskq.operations.values import KeyPage, ValueName, values

app = group()


def _show_all(page: KeyPage) -> None:
    if not page.keys:
        echo(tr("no values"))
    for key in page.keys:
        echo(printable(key, 1_000))


def _show_stored(found: ValueName) -> None:
    echo(tr("stored {key}", key=printable(found.key)))


def _show_deleted(found: ValueName) -> None:
    echo(tr("deleted {key}", key=printable(found.key)))


command(app, values["list"], _show_all)
command(app, values["get"], lambda found: echo_json(found.value))
command(app, values["set"], _show_stored, arguments=["value"])
command(app, values["delete"], _show_deleted)
