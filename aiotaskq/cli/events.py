"""``aiotaskq events``: how events are shown."""

from __future__ import annotations

from aiotaskq.cli.door import command
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import group
from aiotaskq.cli.output import echo, echo_error, echo_json, echo_table
from aiotaskq.cli.times import shown
from aiotaskq.log import printable
from aiotaskq.operations.events import Emitted, EventPage, EventView, events

app = group()


def _show_all(page: EventPage, utc: bool) -> None:
    if not page.events:
        echo(tr("no events"))
        return
    rows = [[each.key, shown(each.at, utc), shown(each.expires_at, utc)] for each in page.events]
    echo_table(columns_of([marked("KEY"), marked("AT"), marked("EXPIRES")], rows, key=16))


def _show(event: EventView) -> None:
    if event.undecodable is not None:
        echo_error(event.undecodable)
    else:
        echo_json(event.value)


def _show_emitted(found: Emitted) -> None:
    if found.emitted:
        echo(tr("emitted {key}", key=printable(found.key)))
    else:
        echo_error(tr("there is an event {key} already; its value stays", key=printable(found.key)))


command(app, events["list"], _show_all, utc=True)
command(app, events["get"], _show, code=lambda event: int(event.undecodable is not None))
command(app, events["emit"], _show_emitted, arguments=["value"], code=lambda found: int(not found.emitted))
