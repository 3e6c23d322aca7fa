"""``aiotaskq schedules``: lists, shows, adds, pauses, resumes, fires, deletes and previews schedules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli import names
from aiotaskq.cli.application import is_handled, load_quietly, warn_of_unknown
from aiotaskq.cli.i18n import Message, marked, tr
from aiotaskq.cli.ids import schedule_id_of, short_schedule_ids
from aiotaskq.cli.layout import width_of_output
from aiotaskq.cli.options import (
    DEFAULT_DB,
    App,
    Command,
    Db,
    Json,
    Params,
    SchedulesUrl,
    Yes,
    confirm,
    group,
    option,
    store_of,
)
from aiotaskq.cli.output import echo, echo_json, echo_table, json_text
from aiotaskq.cli.schedules_table import SECONDS, as_dict, columns, history_columns, in_seconds, record_dict
from aiotaskq.cli.store_access import each, hidden, instant, noted, read_params, read_time, with_tq
from aiotaskq.cli.times import Utc, local
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.backfill import LIMIT, MAX_LIMIT
from aiotaskq.core.instants import instant as of_time
from aiotaskq.core.instants import to_datetime, to_iso
from aiotaskq.core.preview import preview as next_times
from aiotaskq.core.preview import upcoming, zone_of
from aiotaskq.core.schedule import Schedule
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.log import printable

app = group()

ScheduleIds = Annotated[
    list[str],
    typer.Argument(
        metavar="SCHEDULE",
        help=tr("One or more schedules: an id, a name, or the beginning of an id."),
        show_default=False,
        autocompletion=names.schedules,
    ),
]
Zone = Annotated[str | None, option("--timezone", help=tr("Time zone, as Europe/Berlin; default the system's."))]
ScheduleZone = Annotated[
    str | None,
    option("--timezone", help=tr("Time zone, as Europe/Berlin; default that of the TaskQ (--app), then the system's.")),
]
ScheduleName = Annotated[
    str,
    typer.Argument(
        metavar="SCHEDULE",
        help=tr("An id, a name, or the beginning of an id."),
        show_default=False,
        autocompletion=names.schedules,
    ),
]
CalendarName = Annotated[
    str | None, option("--calendar", help=tr("Calendar of holidays: a country or a part of one, as DE or DE-BY."))
]
CalendarRule = Annotated[
    str, option(help=tr("What the calendar leaves out: skip_holidays, or working_days for all but working days."))
]
Blackout = Annotated[
    list[str] | None,
    option(
        "--blackout",
        metavar="WINDOW",
        help=tr("A window without starts, as 22:00-06:00, 2026-12-24 or 2026-12-24/2027-01-02; repeat it for more."),
    ),
]
BlackoutPolicy = Annotated[str, option(help=tr("What is due in a window: skip, or delay until its end."))]


@app.command("list", cls=Command, help=tr("List schedules in the order in which they were added."))
def list_schedules(
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    enabled: Annotated[
        bool, option("--enabled", help=tr("Only schedules that are neither paused nor finished."))
    ] = False,
    params: Params = False,
    utc: Utc = False,
    json: Json = False,
) -> None:
    found = with_tq(db, lambda tq: tq.schedules.list(), schedules)
    shown = [schedule for schedule in found if schedule.enabled or not enabled]
    if json:
        echo_json([as_dict(schedule, params) for schedule in shown])
    elif shown:
        ids = {} if width_of_output() is None else short_schedule_ids(found)
        echo_table(columns(shown, ids, params, utc))
    else:
        echo(tr("no schedules"))


@app.command("show", cls=Command, help=tr("Show one schedule; its params only with --params."))
def show(
    name: ScheduleName,
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    params: Params = False,
    utc: Utc = False,
    json: Json = False,
) -> None:
    schedule = _stored(db, schedules, name)
    values = as_dict(schedule, params)
    if json:
        echo_json(values)
        return
    values.update({field: local(in_seconds(getattr(schedule, field)), utc) for field in SECONDS})
    values["next_run_at"] = local(schedule.due, utc)
    values["blackout"] = ", ".join(schedule.blackout) or None
    values["params"] = json_text(schedule.params) if params else hidden(schedule.params) if schedule.params else None
    width = max(map(len, values))
    for field, value in values.items():
        if value not in (None, False) and not (field == "jitter" and value == 0):
            echo(f"{field:<{width}}  {printable(value, 20_000)}".rstrip())


@app.command("add", cls=Command, help=tr("Add a schedule by --cron, --interval or --at; prints its id."))
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    task_type: Annotated[
        str,
        typer.Argument(
            metavar="TYPE",
            help=tr("The type of the tasks that it fires."),
            show_default=False,
            autocompletion=names.types,
        ),
    ],
    params: Annotated[
        str,
        typer.Argument(
            metavar="JSON",
            help=tr("Their params as a JSON object; - reads them from standard input."),
            show_default=False,
        ),
    ] = "{}",
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    target: App = None,
    cron: Annotated[str | None, option(metavar="EXPR", help=tr("Cron: 5 fields, or 6 with the seconds first."))] = None,
    interval: Annotated[int | None, option(min=1, metavar="SECONDS", help=tr("Interval in seconds."))] = None,
    at: Annotated[
        str | None,
        option(
            metavar="TIME", help=tr("Time of a single run, as 2026-03-28T12:00; without an offset it is in --timezone.")
        ),
    ] = None,
    timezone: ScheduleZone = None,
    max_runs: Annotated[int, option(min=0, help=tr("Maximum number of runs; 0 is no limit."))] = 0,
    misfire: Annotated[
        str, option(help=tr("Misfire policy, for due times that have passed: fire_once, skip or fire_all."))
    ] = "fire_once",
    overlap: Annotated[
        str, option(help=tr("Overlap policy, while earlier tasks have not ended: allow, skip or buffer_one."))
    ] = "allow",
    catch_up: Annotated[
        int | None, option(min=1, metavar="SECONDS", help=tr("Skip what is later than this."), show_default=False)
    ] = None,
    jitter: Annotated[
        int, option(min=0, metavar="SECONDS", help=tr("Start each task later by a part of these seconds."))
    ] = 0,
    calendar: CalendarName = None,
    calendar_rule: CalendarRule = "skip_holidays",
    blackout: Blackout = None,
    blackout_policy: BlackoutPolicy = "skip",
    queue: Annotated[str, option(help=tr("The queue of its tasks."), autocompletion=names.queues)] = "default",
    priority: Annotated[int, option(help=tr("The priority of its tasks; smaller numbers run first."))] = 0,
    max_retries: Annotated[int, option(min=0, help=tr("Maximum number of retries of its tasks."))] = 3,
    schedule_id: Annotated[
        str | None,
        option("--id", help=tr("Its id; an existing schedule with this id is left as it is."), show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    kinds = {"cron": cron, "interval": interval, "once": at}
    given = [kind for kind, value in kinds.items() if value is not None]
    if len(given) != 1:
        raise ValidationError(tr("schedule: exactly one of --cron, --interval and --at is needed"))
    values = read_params(params)
    time = None if at is None else read_time("at", at, timezone)
    url = store_of(context, db, target)
    application = None if target is None else load_quietly(target)

    async def work(tq: TaskQ) -> Schedule:
        known = is_handled(tq, task_type, values)
        there = schedule_id is not None and await tq.scheduler.schedules.get([schedule_id]) != [None]
        options: Any = {
            "timezone": timezone,
            "max_runs": max_runs,
            "misfire": misfire,
            "overlap": overlap,
            "catch_up": catch_up,
            "jitter": jitter,
            "calendar": calendar,
            "calendar_rule": calendar_rule,
            "blackout": blackout or (),
            "blackout_policy": blackout_policy,
            "queue": queue,
            "priority": priority,
            "max_retries": max_retries,
        }
        made = await tq.schedules.add(
            name,
            task_type,
            cron=cron,
            interval=interval,
            at=time,
            params=values,
            schedule_id=schedule_id,
            **options,
        )
        schedule = made.task_id
        if not there:
            await noted(tq, "add-schedule", schedule)
        if not known:
            await warn_of_unknown(tq, task_type, queue)
        return made

    found = with_tq(url, work, schedules, application, adds=True)
    echo_json(as_dict(found, False)) if json else echo(printable(found.task_id))


@app.command("pause", cls=Command, help=tr("Pause schedules: they do not fire until they are resumed."))
def pause(ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    raise typer.Exit(each(db, ids, _pause, schedule_id_of, key="schedule_id", schedules=schedules, as_json=json))


async def _pause(tq: TaskQ, schedule_id: str) -> Message:
    await tq.schedules.pause(schedule_id)
    await noted(tq, "pause-schedule", schedule_id)
    return Message(marked("paused"))


@app.command("resume", cls=Command, help=tr("Resume schedules. Due times that have passed follow the misfire policy."))
def resume(
    ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, utc: Utc = False, json: Json = False
) -> None:
    async def resumed(tq: TaskQ, schedule_id: str) -> Message:
        await tq.schedules.resume(schedule_id)
        await noted(tq, "resume-schedule", schedule_id)
        due = (await tq.schedules.get(schedule_id)).due
        return Message(marked("next {time}"), time=instant(due) if json else local(due, utc))

    raise typer.Exit(each(db, ids, resumed, schedule_id_of, key="schedule_id", schedules=schedules, as_json=json))


@app.command("run", cls=Command, help=tr("Fire schedules once, now. Their next due time does not change."))
def run(ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    raise typer.Exit(each(db, ids, _run, schedule_id_of, key="schedule_id", schedules=schedules, as_json=json))


async def _run(tq: TaskQ, schedule_id: str) -> Message:
    task_id = await tq.scheduler.run_now(schedule_id)
    await noted(tq, "run-schedule", schedule_id, task_id)
    return Message(marked("fired {task_id}"), task_id=task_id)


@app.command("delete", cls=Command, help=tr("Delete schedules. The tasks that they fired are kept."))
def delete(
    ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, yes: Yes = False, json: Json = False
) -> None:
    confirm(tr("Schedules to delete: {count}. Continue?", count=len(ids)), yes, json)
    raise typer.Exit(each(db, ids, _delete, schedule_id_of, key="schedule_id", schedules=schedules, as_json=json))


async def _delete(tq: TaskQ, schedule_id: str) -> Message:
    if not await tq.scheduler.delete(schedule_id):
        raise NotFound(f"there is no schedule {printable(schedule_id)}")
    await noted(tq, "delete-schedule", schedule_id)
    return Message(marked("deleted"))


@app.command("history", cls=Command, help=tr("Show what a schedule fired and skipped, and why; the newest first."))
def history(
    name: ScheduleName, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, utc: Utc = False, json: Json = False
) -> None:
    schedule = _stored(db, schedules, name)
    records = schedule.history[::-1]
    if json:
        echo_json([record_dict(schedule, each) for each in records])
    elif records:
        echo_table(history_columns(records, utc))
    else:
        echo(tr("nothing was due yet"))


@app.command(
    "backfill",
    cls=Command,
    short_help=tr("Push a task for each due time of a past span that has fired none."),
    help=tr("Push a task for each due time of a past span that has fired none. A second call pushes nothing twice."),
)
def backfill(
    name: ScheduleName,
    since: Annotated[
        str,
        option(
            metavar="TIME",
            help=tr("The first time, as 2026-03-28T12:00; without an offset in the zone of the schedule."),
            show_default=False,
        ),
    ],
    until: Annotated[
        str | None, option(metavar="TIME", help=tr("The time before which it ends; default now."), show_default=False)
    ] = None,
    limit: Annotated[
        int, option(min=1, max=MAX_LIMIT, help=tr("The most tasks; more due times are an error."))
    ] = LIMIT,
    dry_run: Annotated[bool, option("--dry-run", help=tr("Only print the due times."))] = False,
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    utc: Utc = False,
    json: Json = False,
) -> None:
    async def work(tq: TaskQ) -> Sequence[datetime]:
        schedule = await tq.schedules.get(await schedule_id_of(tq, name))
        begin = read_time("since", since, schedule.timezone)
        end = None if until is None else read_time("until", until, schedule.timezone)
        times = await tq.schedules.backfill(schedule.task_id, begin, end, limit=limit, dry_run=dry_run)
        if times and not dry_run:
            await noted(tq, "backfill-schedule", schedule.task_id, f"count: {len(times)}")
        return times

    found = with_tq(db, work, schedules)
    if json:
        echo_json(
            {"due_times": [to_iso(of_time("due", time)) for time in found], "pushed": 0 if dry_run else len(found)}
        )
        return
    for time in found:
        echo(local(of_time("due", time), utc) or "")
    text = tr("{count} tasks would be pushed") if dry_run else tr("{count} tasks pushed")
    echo(text.format(count=f"{len(found):,}"))


@app.command(
    "preview",
    cls=Command,
    short_help=tr("Print the next times of a cron expression, or of a schedule."),
    help=tr('Print the next times of a cron expression, quoted as "0 2 * * *", or of a schedule, with --schedule.'),
)
def preview(
    expression: Annotated[
        str | None,
        typer.Argument(metavar="EXPR", help=tr("Cron: 5 fields, or 6 with the seconds first."), show_default=False),
    ] = None,
    name: Annotated[
        str | None,
        option(
            "--schedule",
            metavar="SCHEDULE",
            help=tr("A stored schedule instead: its next due times, when their tasks start, and which are skipped."),
            autocompletion=names.schedules,
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    timezone: Zone = None,
    count: Annotated[int, option(min=1, max=1_000, help=tr("Number of times."))] = 5,
    after: Annotated[
        str | None,
        option(
            metavar="TIME",
            help=tr("Start after this time, as 2026-03-28T12:00; without an offset it is in --timezone."),
        ),
    ] = None,
    calendar: CalendarName = None,
    calendar_rule: CalendarRule = "skip_holidays",
    blackout: Blackout = None,
    blackout_policy: BlackoutPolicy = "skip",
    json: Json = False,
) -> None:
    if (expression is None) == (name is None):
        raise ValidationError(tr("preview: exactly one of a cron expression and --schedule is needed"))
    if name is not None:
        _preview_stored(db, schedules, name, count, json)
        return
    start = None if after is None else read_time("after", after, timezone)
    times = next_times(
        cron=expression,
        timezone=timezone,
        after=start,
        count=count,
        calendar=calendar,
        calendar_rule=calendar_rule,
        blackout=blackout or (),
        blackout_policy=blackout_policy,
        now=SystemClock().now(),
    )
    if json:
        echo_json([time.isoformat() for time in times])
        return
    for time in times:
        echo(_shown(time))


def _stored(db: str, schedules: str | None, name: str) -> Schedule:
    async def work(tq: TaskQ) -> Schedule:
        return await tq.schedules.get(await schedule_id_of(tq, name))

    return with_tq(db, work, schedules)


def _preview_stored(db: str, schedules: str | None, name: str, count: int, json: bool) -> None:
    schedule = _stored(db, schedules, name)
    zone = zone_of(schedule)
    runs = upcoming(schedule, count)
    if json:
        echo_json(
            [
                {
                    "due": to_datetime(run.due, zone).isoformat(),
                    "start": to_datetime(run.start, zone).isoformat(),
                    "skipped": run.skipped,
                }
                for run in runs
            ]
        )
        return
    for run in runs:
        line = _shown(to_datetime(run.due, zone))
        if run.skipped is not None:
            line += "  " + tr("skipped: {reason}", reason=tr(run.skipped))
        elif run.start != run.due:
            line += "  " + tr("starts {time}", time=to_datetime(run.start, zone).isoformat(sep=" ", timespec="seconds"))
        echo(line)
    if not runs:
        echo(tr("it is finished and will not run again"))


def _shown(time: datetime) -> str:
    return f"{tr(f'{time:%a}')} {time.isoformat(sep=' ')}"


DAYS = tuple(map(marked, ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")))
