"""``aiotaskq schedules``: lists, shows, adds, pauses, resumes, fires, deletes and previews schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import typer

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.application import is_handled, load_quietly, warn_of_unknown
from aiotaskq.cli.i18n import Message, marked, tr
from aiotaskq.cli.ids import schedule_id_of, short_schedule_ids
from aiotaskq.cli.layout import Column, width_of_output
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
from aiotaskq.cli.store_access import each, hidden, instant, read_params, read_time, with_tq
from aiotaskq.cli.times import Utc, duration, local
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.preview import preview as next_times
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.log import printable

app = group()

ScheduleIds = Annotated[
    list[str],
    typer.Argument(
        metavar="SCHEDULE",
        help=tr("One or more schedules: an id, a name, or the beginning of an id."),
        show_default=False,
    ),
]
Zone = Annotated[str | None, option("--timezone", help=tr("Time zone, as Europe/Berlin; default the system's."))]
ScheduleZone = Annotated[
    str | None,
    option("--timezone", help=tr("Time zone, as Europe/Berlin; default that of the TaskQ (--app), then the system's.")),
]
LISTED = tuple(map(marked, ("SCHEDULE_ID", "NAME", "TYPE", "WHEN", "NEXT", "RUNS", "STATE")))


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
    found = with_tq(db, lambda tq: tq.scheduler.list(), schedules)
    shown = [schedule for schedule in found if schedule.enabled or not enabled]
    if json:
        echo_json([_as_dict(schedule, params) for schedule in shown])
    elif shown:
        ids = {} if width_of_output() is None else short_schedule_ids(found)
        echo_table(_columns(shown, ids, params, utc))
    else:
        echo(tr("no schedules"))


def _columns(found: Sequence[Schedule], ids: Mapping[str, str], params: bool, utc: bool) -> list[Column]:
    columns = [
        Column(header=LISTED[0], cells=[ids.get(each.task_id, each.task_id) for each in found], rank=1),
        Column(header=LISTED[1], cells=[each.name for each in found], least=12, good=24),
        Column(header=LISTED[2], cells=[each.task_type for each in found], rank=4, least=10, good=16),
        Column(header=LISTED[3], cells=[_when(each, utc) for each in found], least=15, good=28),
        Column(header=LISTED[4], cells=[local(each.due, utc, short=True) or "-" for each in found]),
        Column(header=LISTED[5], cells=[_runs(each) for each in found], rank=3),
        Column(header=LISTED[6], cells=[_state(each) for each in found], style=_style),
    ]
    if params:
        columns.append(Column(header=marked("PARAMS"), cells=[json_text(each.params) for each in found], least=20))
    return columns


def _runs(schedule: Schedule) -> str:
    return f"{schedule.run_count:,}" + (f"/{schedule.max_runs:,}" if schedule.max_runs else "")


def _state(schedule: Schedule) -> str:
    if schedule.enabled:
        return tr("enabled")
    return tr("finished") if schedule.due is None else tr("paused")


def _style(state: object) -> str:
    return {tr("enabled"): "green", tr("paused"): "yellow"}.get(str(state), "")


@app.command("show", cls=Command, help=tr("Show one schedule; its params only with --params."))
def show(
    name: Annotated[
        str,
        typer.Argument(metavar="SCHEDULE", help=tr("An id, a name, or the beginning of an id."), show_default=False),
    ],
    db: Db = DEFAULT_DB,
    schedules: SchedulesUrl = None,
    params: Params = False,
    utc: Utc = False,
    json: Json = False,
) -> None:
    async def work(tq: TaskQ) -> Schedule:
        return await tq.scheduler.get(await schedule_id_of(tq, name))

    schedule = with_tq(db, work, schedules)
    values = _as_dict(schedule, params)
    if json:
        echo_json(values)
        return
    values.update({field: local(_in_seconds(getattr(schedule, field)), utc) for field in SECONDS})
    values["next_run_at"] = local(schedule.due, utc)
    values["params"] = json_text(schedule.params) if params else hidden(schedule.params) if schedule.params else None
    width = max(map(len, values))
    for field, value in values.items():
        if value not in (None, False):
            echo(f"{field:<{width}}  {printable(value, 20_000)}".rstrip())


SECONDS = ("execute_at", "last_run_at", "created_at", "updated_at")


def _when(schedule: Schedule, utc: bool) -> str:
    match schedule.schedule_type:
        case "cron":
            return f"{schedule.cron_expression} {schedule.timezone or ''}".strip()
        case "interval":
            return tr("every {time}", time=duration((schedule.interval_seconds or 0) * SECOND))
        case "once" if schedule.due is not None:
            return tr("once")  # the next time is in the table
        case "once":
            return tr("once, {time}", time=local(_in_seconds(schedule.execute_at), utc, short=True))
        case other:  # an adopted row may say anything
            return str(other)


def _in_seconds(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * SECOND


def _as_dict(schedule: Schedule, params: bool) -> dict[str, Any]:
    values = msgspec.structs.asdict(schedule)
    for name in SECONDS:
        values[name] = instant(_in_seconds(values[name]))
    values["next_run_at"] = instant(schedule.due)
    for name in ("next_run_us", "outbox", "version") if params else ("next_run_us", "outbox", "version", "params"):
        del values[name]
    return values


@app.command("add", cls=Command, help=tr("Add a schedule by --cron, --interval or --at; prints its id."))
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    task_type: Annotated[
        str, typer.Argument(metavar="TYPE", help=tr("The type of the tasks that it fires."), show_default=False)
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
    queue: Annotated[str, option(help=tr("The queue of its tasks."))] = "default",
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
        schedule = await tq.scheduler.add_scheduler_task(
            name,
            task_type,
            given[0],
            values,
            interval,
            cron,
            time,
            timezone=timezone,
            max_runs=max_runs,
            misfire=misfire,
            overlap=overlap,
            queue=queue,
            priority=priority,
            max_retries=max_retries,
            task_id=schedule_id,
        )
        if not known:
            await warn_of_unknown(tq, task_type)
        return await tq.scheduler.get(schedule)

    found = with_tq(url, work, schedules, application)
    echo_json(_as_dict(found, False)) if json else echo(printable(found.task_id))


@app.command("pause", cls=Command, help=tr("Pause schedules: they do not fire until they are resumed."))
def pause(ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    raise typer.Exit(each(db, ids, _pause, schedule_id_of, key="schedule_id", schedules=schedules, as_json=json))


async def _pause(tq: TaskQ, schedule_id: str) -> Message:
    await tq.scheduler.pause_task(schedule_id)
    return Message(marked("paused"))


@app.command("resume", cls=Command, help=tr("Resume schedules. Due times that have passed follow the misfire policy."))
def resume(
    ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, utc: Utc = False, json: Json = False
) -> None:
    async def resumed(tq: TaskQ, schedule_id: str) -> Message:
        await tq.scheduler.resume_task(schedule_id)
        due = (await tq.scheduler.get(schedule_id)).due
        return Message(marked("next {time}"), time=instant(due) if json else local(due, utc))

    raise typer.Exit(each(db, ids, resumed, schedule_id_of, key="schedule_id", schedules=schedules, as_json=json))


@app.command("run", cls=Command, help=tr("Fire schedules once, now. Their next due time does not change."))
def run(ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, json: Json = False) -> None:
    raise typer.Exit(each(db, ids, _run, schedule_id_of, key="schedule_id", schedules=schedules, as_json=json))


async def _run(tq: TaskQ, schedule_id: str) -> Message:
    return Message(marked("fired {task_id}"), task_id=await tq.scheduler.run_now(schedule_id))


@app.command("delete", cls=Command, help=tr("Delete schedules. The tasks that they fired are kept."))
def delete(
    ids: ScheduleIds, db: Db = DEFAULT_DB, schedules: SchedulesUrl = None, yes: Yes = False, json: Json = False
) -> None:
    confirm(tr("Schedules to delete: {count}. Continue?", count=len(ids)), yes, json)
    raise typer.Exit(each(db, ids, _delete, schedule_id_of, key="schedule_id", schedules=schedules, as_json=json))


async def _delete(tq: TaskQ, schedule_id: str) -> Message:
    if not await tq.scheduler.delete_task(schedule_id):
        raise NotFound(f"there is no schedule {printable(schedule_id)}")
    return Message(marked("deleted"))


@app.command(
    "preview",
    cls=Command,
    short_help=tr("Print the next times of a cron expression."),
    help=tr('Print the next times of a cron expression, quoted as "0 2 * * *".'),
)
def preview(
    expression: Annotated[
        str, typer.Argument(metavar="EXPR", help=tr("Cron: 5 fields, or 6 with the seconds first."), show_default=False)
    ],
    timezone: Zone = None,
    count: Annotated[int, option(min=1, max=1_000, help=tr("Number of times."))] = 5,
    after: Annotated[
        str | None,
        option(
            metavar="TIME",
            help=tr("Start after this time, as 2026-03-28T12:00; without an offset it is in --timezone."),
        ),
    ] = None,
    json: Json = False,
) -> None:
    start = None if after is None else read_time("after", after, timezone)
    now = SystemClock().now()
    times = next_times(cron=expression, timezone=timezone, after=start, count=count, now=now)
    if json:
        echo_json([time.isoformat() for time in times])
        return
    for time in times:
        echo(f"{tr(f'{time:%a}')} {time.isoformat(sep=' ')}")


DAYS = tuple(map(marked, ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")))
