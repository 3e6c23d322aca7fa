"""Rows of ``scheduler_task`` and the schedules they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from aiotaskq.backends.base import ScheduleChange
from aiotaskq.backends.sql.rows import json_text, read_object, read_tuple
from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import from_stored, is_coded, to_stored
from aiotaskq.core.firing_record import FiringRecord
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.core.task import Task
from aiotaskq.models import SchedulerTask

SCHEDULES: Any = SchedulerTask.__table__
_tasks = msgspec.json.Decoder(tuple[Task, ...]).decode
_NAMES = tuple(column.name for column in SCHEDULES.columns)
_FIELDS = tuple(name for name in _NAMES if name not in ("task_id", "version"))
SCHEDULE_FIELDS = Schedule.__struct_fields__
_PARAMS = SCHEDULE_FIELDS.index("params")
_LISTS = ("outbox", "blackout", "history")  # NULL where they are empty
_LIST_INDEXES = tuple(map(SCHEDULE_FIELDS.index, _LISTS))
_windows = msgspec.json.Decoder(tuple[str, ...]).decode
_history = msgspec.json.Decoder(tuple[FiringRecord, ...]).decode


def schedule_row(schedule: Schedule) -> tuple[Any, ...]:
    """Return all columns of a schedule, in the order of ``SCHEDULE_FIELDS``."""
    row = list(msgspec.structs.astuple(schedule))
    row[_PARAMS] = json_text(schedule.params)
    for index in _LIST_INDEXES:
        row[index] = json_text(row[index]) if row[index] else None
    return tuple(row)


SCHEDULE_GUARD: Final = ("version", "next_run_at", "next_run_us", "enabled", "run_count")
"""The columns of a schedule by which a write knows that it is as it was read.

The version rises with each write of this package; the other columns show the writes of other programs.
"""


def schedule_changes(changes: Iterable[ScheduleChange]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Return what to write, by columns, with the id as ``b_id`` at the end.

    Only what is changed: another program may have changed the rest without a new version.
    """
    rows: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for item in changes:
        row = _changed_columns(item.before, item.after) | {"version": item.before.version + 1}
        row["b_id"] = item.before.task_id
        rows[tuple(row)].append(row)
    return rows


def _changed_columns(before: Schedule, after: Schedule) -> dict[str, Any]:
    """Return the columns of a schedule that differ."""
    row = {name: new for name in _FIELDS if (new := getattr(after, name)) != getattr(before, name)}
    row["enabled"] = after.enabled  # a row that cannot be decoded was read as a disabled one
    if "params" in row:
        row["params"] = json_text(after.params)
    for name in _LISTS:
        if name in row:
            row[name] = json_text(row[name]) if row[name] else None
    return row


_DEFAULTS = (("run_count", 0), ("max_runs", 0), ("misfire", "fire_once"), ("overlap", "allow"))


def coded_schedule(schedule: Schedule, codec: Codec, before: Schedule | None = None) -> Schedule:
    """Return the schedule with its params and its outbox as a codec makes them, where they differ from ``before``."""
    texts = {}
    for name in ("params", "outbox"):
        value = getattr(schedule, name)
        if value and (before is None or value != getattr(before, name)):
            texts[name] = msgspec.Raw(to_stored(msgspec.json.encode(value), codec))
    return schedule.replace(**texts) if texts else schedule


def to_schedule(row: Sequence[Any], codec: Codec | None = None) -> Schedule:
    """Return the schedule of a full row of ``scheduler_task``; one that cannot be decoded is not enabled."""
    values = dict(zip(_NAMES, row, strict=True))
    lost = False
    for name in ("params", "outbox"):
        if is_coded(values[name]):
            try:
                values[name] = from_stored(values[name], codec).decode()
            except Exception:  # the codec is the application's, and may raise anything
                values[name], lost = None, True
    values["params"], problem = read_object("params", values["params"])
    values["outbox"] = _tasks(values["outbox"]) if values["outbox"] else ()
    values["history"], _ = read_tuple("history", values["history"], _history)  # without it the schedule still works
    values["blackout"], unread = read_tuple("blackout", values["blackout"], _windows)
    problem = problem or unread
    values["enabled"] = bool(values["enabled"]) and problem is None and not lost
    for name, default in _DEFAULTS:
        if values[name] is None:
            values[name] = default
    return UndecodableSchedule(**values) if lost or problem is not None else Schedule(**values)
