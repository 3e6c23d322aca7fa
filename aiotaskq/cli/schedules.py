"""``aiotaskq schedules``: lists, adds, pauses, resumes, fires, deletes and previews schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from aiotaskq.app.taskq import TaskQ
from aiotaskq.cli.application import knows, load_quietly
from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.output import say, say_json, say_table
from aiotaskq.cli.store_access import each, instant, read_params, read_time, with_tq
from aiotaskq.cli.tasks import warn_of_unknown
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.preview import preview as next_times
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.log import printable

LISTED = tuple(map(marked, ("SCHEDULE_ID", "NAME", "TYPE", "WHEN", "NEXT", "RUNS", "STATE")))


def list_schedules(url: str, place: str | None, *, enabled_only: bool, params: bool, as_json: bool) -> None:
    """Print the schedules."""
    found = with_tq(url, lambda tq: tq.scheduler.list(enabled_only), place)
    if as_json:
        say_json([_as_dict(schedule, params) for schedule in found])
        return
    if not found:
        say(tr("no schedules"))
        return
    say_table(LISTED, [_row(schedule) for schedule in found])


def _row(schedule: Schedule) -> list[Any]:
    runs = f"{schedule.run_count:,}" + (f"/{schedule.max_runs:,}" if schedule.max_runs else "")
    if schedule.enabled:
        state = tr("enabled")
    else:
        state = tr("finished") if schedule.due is None else tr("paused")
    return [
        schedule.task_id,
        schedule.name,
        schedule.task_type,
        _when(schedule),
        instant(_in_seconds(schedule.next_run_at)) or "-",  # to the second: a terminal is narrow
        runs,
        state,
    ]


def _when(schedule: Schedule) -> str:
    match schedule.schedule_type:
        case "cron":
            return f"{schedule.cron_expression} {schedule.timezone or ''}".strip()
        case "interval":
            return tr("every {seconds} s", seconds=schedule.interval_seconds)
        case "once":
            return tr("once, {time}", time=instant(_in_seconds(schedule.execute_at)))
        case other:  # an adopted row may say anything
            return str(other)


def _in_seconds(seconds: int | None) -> int | None:
    return None if seconds is None else seconds * SECOND


def _as_dict(schedule: Schedule, params: bool) -> dict[str, Any]:
    values = msgspec.structs.asdict(schedule)
    for name in ("execute_at", "last_run_at", "created_at", "updated_at"):
        values[name] = instant(_in_seconds(values[name]))
    values["next_run_at"] = instant(schedule.due)
    for name in ("next_run_us", "outbox", "version") if params else ("next_run_us", "outbox", "version", "params"):
        del values[name]
    return values


def add_schedule(
    url: str | None,
    place: str | None,
    name: str,
    task_type: str,
    params: str,
    *,
    cron: str | None,
    interval: int | None,
    at: str | None,
    timezone: str | None,
    target: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Add a schedule and print its id; ``target`` and ``url`` as in ``push_task``."""
    kinds = {"cron": cron, "interval": interval, "once": at}
    given = [kind for kind, value in kinds.items() if value is not None]
    if len(given) != 1:
        raise ValidationError(tr("schedule: exactly one of --cron, --interval and --at is needed"))
    values = read_params(params)
    time = None if at is None else read_time("at", at, timezone)
    app = None if target is None else load_quietly(target)

    async def work(tq: TaskQ) -> Schedule:
        known = knows(tq, task_type, values)
        schedule_id = await tq.scheduler.add_scheduler_task(
            name, task_type, given[0], values, interval, cron, time, timezone=timezone, **options
        )
        if not known:
            await warn_of_unknown(tq, task_type)
        return await tq.scheduler.get(schedule_id)

    found = with_tq(url, work, place, app)
    say_json(_as_dict(found, False)) if as_json else say(printable(found.task_id))


def pause(url: str, place: str | None, ids: Sequence[str], *, as_json: bool) -> int:
    """Disable schedules; return the exit code."""

    async def verb(tq: TaskQ, schedule_id: str) -> str:
        await tq.scheduler.pause_task(schedule_id)
        return "paused" if as_json else tr("paused")

    return each(url, ids, verb, key="schedule_id", schedules=place, as_json=as_json)


def resume(url: str, place: str | None, ids: Sequence[str], *, as_json: bool) -> int:
    """Enable schedules; return the exit code."""

    async def verb(tq: TaskQ, schedule_id: str) -> str:
        await tq.scheduler.resume_task(schedule_id)
        at = instant((await tq.scheduler.get(schedule_id)).due)
        return f"next {at}" if as_json else tr("next {time}", time=at)

    return each(url, ids, verb, key="schedule_id", schedules=place, as_json=as_json)


def run_now(url: str, place: str | None, ids: Sequence[str], *, as_json: bool) -> int:
    """Fire schedules once more; return the exit code."""

    async def verb(tq: TaskQ, schedule_id: str) -> str:
        task_id = await tq.scheduler.run_now(schedule_id)
        return f"fired {task_id}" if as_json else tr("fired {task_id}", task_id=task_id)

    return each(url, ids, verb, key="schedule_id", schedules=place, as_json=as_json)


def delete(url: str, place: str | None, ids: Sequence[str], *, as_json: bool) -> int:
    """Delete schedules; return the exit code."""

    async def verb(tq: TaskQ, schedule_id: str) -> str:
        if not await tq.scheduler.delete_task(schedule_id):
            raise NotFound(f"there is no schedule {printable(schedule_id)}")
        return "deleted" if as_json else tr("deleted")

    return each(url, ids, verb, key="schedule_id", schedules=place, as_json=as_json)


def preview(expression: str, *, timezone: str | None, count: int, after: str | None, as_json: bool) -> None:
    """Print the next times of a cron expression."""
    start = None if after is None else read_time("after", after, timezone)
    now = SystemClock().now()
    times = next_times(cron=expression, timezone=timezone, after=start, count=count, now=now)
    if as_json:
        say_json([time.isoformat() for time in times])
        return
    for time in times:
        say(f"{tr(f'{time:%a}')} {time.isoformat(sep=' ')}")


DAYS = tuple(map(marked, ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")))
