"""``aiotaskq events``: lists, shows and emits events, for which tasks wait."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import columns_of
from aiotaskq.cli.options import DEFAULT_DB, Command, Db, Json, group, option
from aiotaskq.cli.output import echo, echo_error, echo_json, echo_table
from aiotaskq.cli.store_access import instant, read_json, with_tq
from aiotaskq.cli.times import Utc, local
from aiotaskq.core.steps import EventValue
from aiotaskq.log import printable
from aiotaskq.runtime.step_verbs import EVENT_AGE

app = group()
Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]


@app.command("list", cls=Command, help=tr("List the events that were emitted and have not expired; no values."))
def list_events(
    db: Db = DEFAULT_DB,
    prefix: Annotated[str, option(metavar="TEXT", help=tr("Only keys that begin so."))] = "",
    limit: Annotated[int, option(min=1, max=100_000, metavar="N", help=tr("Maximum number of events."))] = 1_000,
    utc: Utc = False,
    json: Json = False,
) -> None:
    found = with_tq(db, lambda tq: tq.list_events(prefix, limit))
    if json:
        echo_json([_as_dict(each) for each in found])
        return
    if not found:
        echo(tr("no events"))
        return
    headers = [marked("KEY"), marked("AT"), marked("EXPIRES")]
    rows = [
        [printable(each.key), local(each.at, utc, short=True), local(each.expires_at, utc, short=True) or ""]
        for each in found
    ]
    echo_table(columns_of(headers, rows, key=16))


@app.command("show", cls=Command, help=tr("Print the value of an event as JSON. The exit code is 1 if there is none."))
def show(key: Key, db: Db = DEFAULT_DB, json: Json = False) -> None:
    event = with_tq(db, lambda tq: tq.get_event(key))
    if event is None:
        echo_error(tr("there is no event {key}", key=printable(key)))
        raise typer.Exit(1)
    echo_json(_as_dict(event) | {"value": event.value} if json else event.value)


@app.command("emit", cls=Command, help=tr("Emit an event. The exit code is 1 if there is one of this key already."))
def emit(
    key: Key,
    value: Annotated[
        str,
        typer.Argument(
            metavar="JSON", help=tr("The value as JSON; - reads it from standard input."), show_default=False
        ),
    ] = "null",
    db: Db = DEFAULT_DB,
    expires: Annotated[
        float, option(min=0.001, metavar="SECONDS", help=tr("Seconds until it is deleted; default 30 days."))
    ] = EVENT_AGE,
    json: Json = False,
) -> None:
    given = read_json("value", value)

    async def work(tq: TaskQ) -> bool:
        return await tq.emit(key, given, expires=expires)

    emitted = with_tq(db, work)
    if json:
        echo_json({"key": key, "emitted": emitted})
    elif emitted:
        echo(tr("emitted {key}", key=printable(key)))
    if not emitted:
        echo_error(tr("there is an event {key} already; its value stays", key=printable(key)))
        raise typer.Exit(1)


def _as_dict(event: EventValue) -> dict[str, Any]:
    known = {"key": event.key, "at": instant(event.at), "expires_at": instant(event.expires_at)}
    return known if event.undecodable is None else known | {"undecodable": event.undecodable}
