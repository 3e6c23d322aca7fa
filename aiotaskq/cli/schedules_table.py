"""How schedules and their histories are shown: tables, and JSON with ISO times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aiotaskq.cli.i18n import marked, tr
from aiotaskq.cli.layout import Column
from aiotaskq.cli.output import json_text
from aiotaskq.cli.store_access import instant
from aiotaskq.cli.times import duration, local
from aiotaskq.core.firing import derived_id
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.preview import next_start
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError

LISTED = tuple(map(marked, ("SCHEDULE_ID", "NAME", "TYPE", "WHEN", "NEXT", "RUNS", "STATE")))


def columns(found: Sequence[Schedule], ids: Mapping[str, str], params: bool, utc: bool) -> list[Column]:
    """Return the table of schedules."""
    columns = [
        Column(header=LISTED[0], cells=[ids.get(each.task_id, each.task_id) for each in found], rank=1),
        Column(header=LISTED[1], cells=[each.name for each in found], least=12, good=24),
        Column(header=LISTED[2], cells=[each.task_type for each in found], rank=4, least=10, good=16),
        Column(header=LISTED[3], cells=[_when(each, utc) for each in found], least=15, good=28),
        Column(header=LISTED[4], cells=[local(_next(each), utc, short=True) or "-" for each in found]),
        Column(header=LISTED[5], cells=[_runs(each) for each in found], rank=3),
        Column(header=LISTED[6], cells=[_state(each) for each in found], style=_style),
    ]
    if params:
        columns.append(Column(header=marked("PARAMS"), cells=[json_text(each.params) for each in found], least=20))
    return columns


def _next(schedule: Schedule) -> int | None:
    try:
        return next_start(schedule)
    except AiotaskqError:  # the scheduler says what is wrong; here the due time is known
        return schedule.due


def _runs(schedule: Schedule) -> str:
    return f"{schedule.run_count:,}" + (f"/{schedule.max_runs:,}" if schedule.max_runs else "")


def _state(schedule: Schedule) -> str:
    if schedule.enabled:
        return tr("enabled")
    return tr("finished") if schedule.due is None else tr("paused")


def _style(state: object) -> str:
    return {tr("enabled"): "green", tr("paused"): "yellow"}.get(str(state), "")


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
            return tr("once, {time}", time=local(in_seconds(schedule.execute_at), utc, short=True))
        case other:  # an adopted row may say anything
            return str(other)


def in_seconds(seconds: int | None) -> int | None:
    """Return the microseconds of seconds."""
    return None if seconds is None else seconds * SECOND


def as_dict(schedule: Schedule, params: bool) -> dict[str, Any]:
    """Return a schedule as JSON, with ISO times."""
    values = msgspec.structs.asdict(schedule)
    for name in SECONDS:
        values[name] = instant(in_seconds(values[name]))
    values["next_run_at"] = instant(schedule.due)
    for name in ("next_run_us", "outbox", "version", "history"):
        del values[name]
    if not params:
        del values["params"]
    return values


def _dues(record: FiringRecord, utc: bool) -> str:
    due = local(record.due, utc, short=True) or ""
    return due if record.until is None else f"{due} – {local(record.until, utc, short=True)}"


def _outcome(record: FiringRecord) -> str:
    return tr(record.outcome) if record.reason is None else f"{tr(record.outcome)}: {tr(record.reason)}"


def _outcome_style(text: object) -> str:
    return "yellow" if str(text).startswith(tr("skipped")) else ""


def record_dict(schedule: Schedule, record: FiringRecord) -> dict[str, Any]:
    """Return a record of a history as JSON, with ISO times."""
    one = record.due is not None and record.count == 1 and record.outcome in ("fired", "backfilled")
    return {
        "at": instant(record.at),
        "outcome": record.outcome,
        "due": instant(record.due),
        "until": instant(record.until),
        "count": record.count,
        "reason": record.reason,
        "start": instant(record.start),
        "task_id": derived_id(schedule.task_id, record.due or 0) if one else record.task_id,
    }


OUTCOMES = tuple(map(marked, ("fired", "skipped", "run_now", "backfilled", "paused", "resumed", "changed")))
REASONS = tuple(map(marked, ("misfire", "catch_up", "overlap", "max_runs", "holiday", "weekend", "blackout", "paused")))


def history_columns(records: Sequence[FiringRecord], utc: bool) -> list[Column]:
    """Return the table of a history."""
    dues = [_dues(each, utc) for each in records]
    starts = [local(each.start, utc, short=True) or "" for each in records]
    return [
        Column(header=marked("AT"), cells=[local(each.at, utc, short=True) for each in records]),
        Column(header=marked("WHAT"), cells=[_outcome(each) for each in records], style=_outcome_style),
        Column(header=marked("DUE"), cells=dues, least=16),
        Column(header=marked("TIMES"), cells=[f"{each.count:,}" if each.due else "" for each in records], rank=2),
        Column(header=marked("STARTS"), cells=starts, rank=1),
    ]
