"""``aiotaskq schedules``: how schedules, their histories and their next times are shown."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, to_builtins

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.application import warn_of_unknown
from aiotaskq.cli.door import command, command_on_several
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.ids import short_schedule_ids
from aiotaskq.cli.layout import Column, width_of_output
from aiotaskq.cli.options import group
from aiotaskq.cli.output import echo, echo_table, json_text
from aiotaskq.cli.times import duration, local, shown
from aiotaskq.core.instants import from_iso
from aiotaskq.core.task import SECOND
from aiotaskq.log import printable
from aiotaskq.operations.schedule_views import (
    Backfilled,
    Fired,
    FiringHistory,
    FiringView,
    PlannedTimes,
    SchedulePage,
    ScheduleView,
)
from aiotaskq.operations.schedules import schedules

app = group()
ID, NAME, TYPE, WHEN, NEXT, RUNS, STATE, PARAMS = map(
    marked, ("SCHEDULE_ID", "NAME", "TYPE", "WHEN", "NEXT", "RUNS", "STATE", "PARAMS")
)


def _show_all(page: SchedulePage, utc: bool) -> None:
    found = page.schedules
    if not found:
        echo(tr("no schedules"))
        return
    ids = {} if width_of_output() is None else short_schedule_ids(found)
    columns = [
        Column(header=ID, cells=[ids.get(each.task_id, each.task_id) for each in found], rank=1),
        Column(header=NAME, cells=[each.name for each in found], least=12, good=24),
        Column(header=TYPE, cells=[each.task_type for each in found], rank=4, least=10, good=16),
        Column(header=WHEN, cells=[_when(each, utc) for each in found], least=15, good=28),
        Column(header=NEXT, cells=[shown(each.next_run_at, utc) or "-" for each in found]),
        Column(header=RUNS, cells=[_runs(each) for each in found], rank=3),
        Column(header=STATE, cells=[_state(each) for each in found], style=_style),
    ]
    if found[0].params is not UNSET:
        columns.append(Column(header=PARAMS, cells=[json_text(each.params) for each in found], least=20))
    echo_table(columns)


def _runs(schedule: ScheduleView) -> str:
    return f"{schedule.run_count:,}" + (f"/{schedule.max_runs:,}" if schedule.max_runs else "")


def _state(schedule: ScheduleView) -> str:
    if schedule.enabled:
        return tr("enabled")
    return tr("finished") if schedule.next_run_at is None else tr("paused")


def _style(state: object) -> str:
    return {tr("enabled"): "green", tr("paused"): "yellow"}.get(str(state), "")


def _when(schedule: ScheduleView, utc: bool) -> str:
    match schedule.schedule_type:
        case "cron":
            return f"{schedule.cron_expression} {schedule.timezone or ''}".strip()
        case "interval":
            return tr("every {time}", time=duration((schedule.interval_seconds or 0) * SECOND))
        case "once" if schedule.next_run_at is not None:
            return tr("once")  # the next time is in the table
        case "once":
            return tr("once, {time}", time=shown(schedule.execute_at, utc))
        case other:  # an adopted row may say anything
            return other


def _show(schedule: ScheduleView, utc: bool) -> None:
    values = to_builtins(schedule)
    values |= {name: local(from_iso(text), utc) for name, text in values.items() if name.endswith("_at") and text}
    values["blackout"] = ", ".join(schedule.blackout)
    if "params" in values:
        values["params"] = json_text(values["params"])
    width = max(map(len, values))
    for name, value in values.items():
        if value not in (None, False, "") and not (name == "jitter" and value == 0):
            echo(f"{name:<{width}}  {printable(value, 20_000)}".rstrip())


def _say_state(schedule: ScheduleView) -> str:
    return tr("next {time}", time=shown(schedule.next_run_at, False)) if schedule.enabled else tr("paused")


def _say_fired(fired: Fired) -> str:
    return tr("fired {task_id}", task_id=fired.task_id)


def _show_history(found: FiringHistory, utc: bool) -> None:
    records = found.history
    if not records:
        echo(tr("nothing was due yet"))
        return
    columns = [
        Column(header=marked("AT"), cells=[shown(each.at, utc) for each in records]),
        Column(header=marked("WHAT"), cells=[_outcome(each) for each in records], style=_outcome_style),
        Column(header=marked("DUE"), cells=[_dues(each, utc) for each in records], least=16),
        Column(header=marked("TIMES"), cells=[f"{each.count:,}" if each.due else "" for each in records], rank=2),
        Column(header=marked("STARTS"), cells=[shown(each.start, utc) for each in records], rank=1),
    ]
    echo_table(columns)


def _dues(record: FiringView, utc: bool) -> str:
    due = shown(record.due, utc)
    return due if record.until is None else f"{due} – {shown(record.until, utc)}"


def _outcome(record: FiringView) -> str:
    return tr(record.outcome) if record.reason is None else f"{tr(record.outcome)}: {tr(record.reason)}"


def _outcome_style(text: object) -> str:
    return "yellow" if str(text).startswith(tr("skipped")) else ""


def _show_backfilled(found: Backfilled, utc: bool) -> None:
    for time in found.times:
        echo(shown(time, utc))
    text = tr("tasks pushed: {count}") if found.pushed or not found.times else tr("tasks that would be pushed: {count}")
    echo(text.format(count=f"{len(found.times):,}"))


def _show_planned(found: PlannedTimes) -> None:
    for run in found.planned:
        line = _with_day(run.due)
        if run.skipped is not None:
            line += "  " + tr("skipped: {reason}", reason=tr(run.skipped))
        elif run.start != run.due:
            line += "  " + tr("starts {time}", time=datetime.fromisoformat(run.start).isoformat(" ", "seconds"))
        echo(line)
    if not found.planned:
        echo(tr("it is finished and will not run again"))


def _with_day(text: str) -> str:
    time = datetime.fromisoformat(text)
    return f"{tr(f'{time:%a}')} {time.isoformat(sep=' ')}"


DAYS = tuple(map(marked, ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")))


async def _unknown(tq: TaskQ, made: ScheduleView) -> None:
    if not tq._registered.handlers:
        await warn_of_unknown(tq, made.task_type, made.queue)


def _show_id(made: ScheduleView, _warned: None = None) -> None:
    echo(printable(made.task_id))


command(app, schedules["list"], _show_all, utc=True)
command(app, schedules["get"], _show, utc=True)
command(app, schedules["add"], _show_id, arguments=["name", "type", "params"], beside=_unknown, with_app=True)
command(app, schedules["update"], _show_id, with_app=True, some=True)
command_on_several(app, schedules["pause"], _say_state)
command_on_several(app, schedules["resume"], _say_state)
command_on_several(app, schedules["run_now"], _say_fired)
command_on_several(
    app, schedules["delete"], lambda _: tr("deleted"), ask=marked("Schedules to delete: {count}. Continue?")
)
command(app, schedules["history"], _show_history, utc=True)
command(app, schedules["backfill"], _show_backfilled, utc=True)
command(app, schedules["preview"], _show_planned, arguments=["schedule"], pure=lambda given: "schedule" not in given)
