"""``aiotaskq schedules``: how schedules, their histories and their next times are shown."""

from __future__ import annotations

from datetime import datetime

from msgspec import to_builtins

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.door import command_of, command_of_several, listed, params_of, show_fields, time_of
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.output import Column, echo, json_text, say, width_of_output
from aiotaskq.cli.store_access import short_schedule_ids, warn_of_unknown
from aiotaskq.cli.times import duration, local_time, shown
from aiotaskq.core.tags import labels
from aiotaskq.core.task import SECOND
from aiotaskq.log import printable
from aiotaskq.operations.schedules import Backfilled, FiringView, PlannedTimes, SchedulePage, ScheduleView


async def _ids(_tq: TaskQ, page: SchedulePage) -> dict[str, str]:
    return {} if width_of_output() is None else short_schedule_ids(page.schedules)


def _runs(schedule: ScheduleView) -> str:
    return f"{schedule.run_count:,}" + (f"/{schedule.max_runs:,}" if schedule.max_runs else "")


def _when(schedule: ScheduleView) -> str:
    match schedule.schedule_type:
        case "cron":
            return f"{schedule.cron_expression} {schedule.timezone or ''}".strip()
        case "interval":
            return tr("every {time}", time=duration((schedule.interval_seconds or 0) * SECOND))
        case "once" if schedule.next_run_at is not None:
            return tr("once")  # the next time is in the table
        case "once":
            return tr("once, {time}", time=shown(schedule.execute_at))
        case other:  # an adopted row may say anything
            return other


def _show(schedule: ScheduleView) -> None:
    values = to_builtins(schedule)
    values |= {name: local_time(text) for name, text in values.items() if name.endswith("_at") and text}
    values["blackout"] = ", ".join(schedule.blackout)
    values["tags"] = " ".join(labels(schedule.tags))
    if "params" in values:
        values["params"] = json_text(values["params"])
    show_fields({name: value or None for name, value in values.items()})


def _say_state(schedule: ScheduleView) -> str:
    return tr("next {time}", time=shown(schedule.next_run_at)) if schedule.enabled else tr(schedule.state)


def _dues(record: FiringView) -> str:
    due = shown(record.due)
    return due if record.until is None else f"{due} – {shown(record.until)}"


def _outcome(record: FiringView) -> str:
    return tr(record.outcome) if record.reason is None else f"{tr(record.outcome)}: {tr(record.reason)}"


def _show_backfilled(found: Backfilled) -> None:
    for time in found.times:
        echo(shown(time))
    pushed = found.pushed or not found.times
    said = marked("tasks pushed: {count}") if pushed else marked("tasks that would be pushed: {count}")
    say(said, count=len(found.times))


def _show_planned(found: PlannedTimes) -> None:
    for run in found.planned:
        time = datetime.fromisoformat(run.due)
        line = f"{tr(f'{time:%a}')} {time.isoformat(sep=' ')}"
        if run.skipped is not None:
            line += "  " + tr("skipped: {reason}", reason=tr(run.skipped))
        elif run.start != run.due:
            line += "  " + tr("starts {time}", time=datetime.fromisoformat(run.start).isoformat(" ", "seconds"))
        echo(line)
    if not found.planned:
        say("it is finished and will not run again")


DAYS = tuple(map(marked, ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")))


async def _unknown(tq: TaskQ, made: ScheduleView) -> None:
    if not internal(tq).registered.handlers:
        await warn_of_unknown(tq, made.task_type, made.queue)


def _show_id(made: ScheduleView, _warned: None = None) -> None:
    echo(printable(made.task_id))


def _style(state: object) -> str:
    return next((style for name, style in STYLES.items() if tr(name) == state), "")


STYLES = {marked("active"): "green", marked("paused"): "yellow", marked("disabled"): "red", marked("finished"): ""}
COLUMNS = (
    Column("SCHEDULE_ID", "task_id", rank=1),
    Column("NAME", "name", least=12, good=24),
    Column("TYPE", "task_type", rank=4, least=10, good=16),
    Column("WHEN", _when, least=15, good=28),
    Column("NEXT", lambda each: shown(each.next_run_at) or "-"),
    Column("RUNS", _runs, rank=3),
    Column("STATE", lambda each: tr(each.state), style=_style),
    Column("PARAMS", params_of, least=20, plain=("",)),
)
HISTORY = (
    Column("AT", time_of("at")),
    Column("WHAT", _outcome, style=lambda text: "yellow" if str(text).startswith(tr("skipped")) else ""),
    Column("DUE", _dues, least=16),
    Column("TIMES", lambda each: f"{each.count:,}" if each.due else "", rank=2),
    Column("STARTS", time_of("start"), rank=1),
)
command_of("schedules.list", listed("no schedules", *COLUMNS), beside=_ids, utc=True)
command_of("schedules.get", _show, utc=True)
command_of("schedules.add", _show_id, arguments=["name", "type", "params"], beside=_unknown, with_app=True)
command_of("schedules.update", _show_id, with_app=True)
command_of_several("schedules.pause", _say_state)
command_of_several("schedules.resume", _say_state)
command_of_several("schedules.run_now", lambda fired: tr("fired {task_id}", task_id=fired.task_id))
asked = marked("Schedules to delete: {count}. Continue?")
command_of_several("schedules.delete", lambda _: tr("deleted"), ask=asked)
command_of("schedules.history", listed("nothing was due yet", *HISTORY), utc=True)
command_of("schedules.backfill", _show_backfilled, utc=True)
command_of("schedules.preview", _show_planned, arguments=["schedule"], pure=lambda given: "schedule" not in given)
