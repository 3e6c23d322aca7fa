"""The commands under ``schedules``."""

from __future__ import annotations

from typing import Annotated

import typer

from aiotaskq.cli.commands.options import (
    DEFAULT_DB,
    GROUPS,
    App,
    Command,
    Db,
    Json,
    Params,
    SchedulesUrl,
    Yes,
    ask,
    group,
    option,
    store_of,
)
from aiotaskq.cli.i18n import tr

app = group(GROUPS["schedules"])

ScheduleIds = Annotated[
    list[str], typer.Argument(metavar="SCHEDULE_ID...", help=tr("One or more schedule ids."), show_default=False)
]
Zone = Annotated[str | None, option("--timezone", help=tr("IANA name, as Europe/Berlin; default the system's."))]


@app.command("list", cls=Command, help=tr("List schedules in the order in which they were added."))
def schedules_list(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    enabled: Annotated[bool, option("--enabled", help=tr("Only those that are not paused or finished."))] = False,
    params: Params = False,
    json: Json = False,
) -> None:
    from aiotaskq.cli.schedules import list_schedules

    list_schedules(db, schedules, enabled_only=enabled, params=params, as_json=json)


@app.command("add", cls=Command, help=tr("Add a schedule by --cron, --interval or --at; prints its id."))
def schedules_add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    task_type: Annotated[
        str, typer.Argument(metavar="TYPE", help=tr("The type of the tasks that it makes."), show_default=False)
    ],
    params: Annotated[
        str,
        typer.Argument(metavar="[JSON]", help=tr("Their params as a JSON object; - reads them."), show_default=False),
    ] = "{}",
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    target: App = None,
    cron: Annotated[str | None, option(metavar="EXPR", help=tr("Cron: 5 fields, or 6 with the seconds first."))] = None,
    interval: Annotated[int | None, option(min=1, metavar="SECONDS", help=tr("Once in so many seconds."))] = None,
    at: Annotated[
        str | None, option(metavar="TIME", help=tr("Once, as 2026-03-28T12:00; without an offset in that zone."))
    ] = None,
    timezone: Zone = None,
    max_runs: Annotated[int, option(min=0, help=tr("End after so many; 0 is no limit."))] = 0,
    misfire: Annotated[
        str, option(help=tr("What becomes of overdue runs: fire_once, skip or fire_all."))
    ] = "fire_once",
    overlap: Annotated[
        str, option(help=tr("While earlier tasks are unfinished: allow, skip or buffer_one."))
    ] = "allow",
    queue: Annotated[str, option(help=tr("The queue of its tasks."))] = "default",
    priority: Annotated[int, option(help=tr("The priority of its tasks; smaller numbers go first."))] = 0,
    max_retries: Annotated[int, option(min=0, help=tr("The retries of its tasks."))] = 3,
    schedule_id: Annotated[
        str | None,
        option("--id", help=tr("Its id; one that is there already is left as it is."), show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    from aiotaskq.cli.schedules import add_schedule

    add_schedule(
        store_of(context, db, target),
        schedules,
        name,
        task_type,
        params,
        target=target,
        cron=cron,
        interval=interval,
        at=at,
        timezone=timezone,
        as_json=json,
        max_runs=max_runs,
        misfire=misfire,
        overlap=overlap,
        queue=queue,
        priority=priority,
        max_retries=max_retries,
        task_id=schedule_id,
    )


@app.command("pause", cls=Command, help=tr("Fire no more, until it is resumed."))
def schedules_pause(ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    from aiotaskq.cli.schedules import pause

    raise typer.Exit(pause(db, schedules, ids, as_json=json))


@app.command("resume", cls=Command, help=tr("Fire again; what became due meanwhile follows its misfire policy."))
def schedules_resume(ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    from aiotaskq.cli.schedules import resume

    raise typer.Exit(resume(db, schedules, ids, as_json=json))


@app.command("run", cls=Command, help=tr("Fire once more, now; the next due time stays."))
def schedules_run(ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    from aiotaskq.cli.schedules import run_now

    raise typer.Exit(run_now(db, schedules, ids, as_json=json))


@app.command("delete", cls=Command, help=tr("Delete schedules; the tasks that they fired stay."))
def schedules_delete(
    ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, yes: Yes = False, json: Json = False
) -> None:
    ask(tr("Schedules to delete for good: {count}. Go on?", count=len(ids)), yes, json)
    from aiotaskq.cli.schedules import delete

    raise typer.Exit(delete(db, schedules, ids, as_json=json))


@app.command(
    "preview",
    cls=Command,
    short_help=tr("Print the next times of a cron expression."),
    help=tr('Print the next times of a cron expression, quoted as "0 2 * * *".'),
)
def schedules_preview(
    expression: Annotated[
        str, typer.Argument(metavar="EXPR", help=tr("Cron: 5 fields, or 6 with the seconds first."), show_default=False)
    ],
    timezone: Zone = None,
    count: Annotated[int, option(min=1, max=1_000, help=tr("How many."))] = 5,
    after: Annotated[
        str | None,
        option(metavar="TIME", help=tr("Start there, as 2026-03-28T12:00; without an offset in that zone.")),
    ] = None,
    json: Json = False,
) -> None:
    from aiotaskq.cli.schedules import preview

    preview(expression, timezone=timezone, count=count, after=after, as_json=json)
