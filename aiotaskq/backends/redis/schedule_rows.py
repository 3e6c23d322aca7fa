"""Schedules to rows in Redis and back.

A row is a head and JSON. The head has, each before a blank, what the guard of a change compares: version, due time in
microseconds or ``-``, 1 if it is enabled, else 0, and the number of runs. The JSON has all fields; coded params and a
coded outbox are texts there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import from_stored, is_coded, to_stored
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError

HEAD = 4  # words
CODED = ("params", "outbox")

Row = tuple[str, str, int | None, bool]
"""The id of a schedule, its row, when it is due if it is enabled, and whether its outbox has tasks."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_schedule = msgspec.json.Decoder(Schedule).decode
_DAMAGED = (msgspec.DecodeError, ValueError, TypeError, RecursionError)
_TYPES = {field.name: field.type for field in msgspec.structs.fields(Schedule)}
_LOST: dict[str, Any] = {"name": "", "task_type": "", "schedule_type": "", "created_at": 0, "updated_at": 0}


def guard_of(schedule: Schedule) -> str:
    """Return the beginning of the row that has this version, due time, ``enabled`` and number of runs."""
    due = "-" if schedule.due is None else schedule.due
    return f"{schedule.version} {due} {int(schedule.enabled)} {schedule.run_count} "


def guard_of_damaged(row: bytes) -> str:
    """Return the row as a guard; where it is no text, the beginning that is."""
    try:
        return row.decode()
    except UnicodeDecodeError as error:
        return row[: error.start].decode()


def is_enabled(row: bytes) -> bool:
    """Whether the head of a row says that the schedule is enabled and due."""
    words = row.split(b" ", HEAD)
    return len(words) > HEAD and words[1] != b"-" and words[2] == b"1"


def row_words(schedule: Schedule, codec: Codec | None) -> Row:
    """Return a new row.

    Raises ValidationError for a schedule that no row can hold.
    """
    return _words(schedule, guard_of(schedule) + _json(schedule, codec))


def changed_words(before: bytes, after: Schedule, codec: Codec | None) -> Row:
    """Return a row that becomes ``after`` and could not be decoded: what cannot be read of it is kept."""
    json = before.split(b" ", HEAD)[-1]
    texts = _object(json)
    if texts is None:
        return _words(after, guard_of(after) + json.decode(errors="replace"))
    new = _object(_json(after, codec).encode()) or {}
    kept = {name: texts[name] for name in CODED if not getattr(after, name) and name in texts}
    return _words(after, guard_of(after) + _encode({**new, **kept}).decode())


def _words(schedule: Schedule, row: str) -> Row:
    due, enabled = schedule.due, schedule.enabled
    return (
        schedule.task_id,
        row,
        due if enabled else None,
        bool(schedule.outbox),
    )


def _json(schedule: Schedule, codec: Codec | None) -> str:
    try:
        if codec is not None:
            stored = {name: to_stored(_encode(value), codec) for name in CODED if (value := getattr(schedule, name))}
            texts: dict[str, Any] = {name: text.decode() for name, text in stored.items() if is_coded(text)}
            schedule = schedule.replace(**texts) if texts else schedule
        return _encode(schedule).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"schedule: {error}") from None


def to_schedule(task_id: bytes, row: bytes, codec: Codec | None) -> Schedule:
    """Return the schedule of a row; one that cannot be decoded is not enabled, and lacks what cannot be read."""
    try:
        return _decode_schedule(row.split(b" ", HEAD)[HEAD])
    except (*_DAMAGED, IndexError):
        return _with_coded(task_id, row, codec)


def _with_coded(task_id: bytes, row: bytes, codec: Codec | None) -> Schedule:
    """Read a row part by part: it is coded, or damaged."""
    fields: dict[str, Any] = {}
    found, head = _object(row.split(b" ", HEAD)[-1]), _head(row)
    lost = found is None or head is None
    for name, value in (found or {}).items():
        if name not in _TYPES:
            continue  # of a newer version
        try:
            decoded = _decode(from_stored(value, codec)) if name in CODED and is_coded(value) else value
            fields[name] = msgspec.convert(decoded, _TYPES[name])
        except Exception:  # the codec is the application's, and may raise anything
            lost = True
    fields = {**_LOST, **(head or {}), **fields, "task_id": task_id.decode(errors="backslashreplace")}
    if lost or any(name not in (found or {}) for name in _LOST):
        return UndecodableSchedule(**{**fields, "enabled": False})
    return Schedule(**fields)


def _head(row: bytes) -> dict[str, Any] | None:
    """Return the fields in the head; None if it cannot be read."""
    try:
        version, due, _, runs = row.split(b" ", HEAD)[:HEAD]
        known: dict[str, Any] = {"version": int(version), "run_count": int(runs)}
        if due != b"-":
            known["next_run_at"], known["next_run_us"] = divmod(int(due), SECOND)
    except ValueError:
        return None
    return known


def _object(json: bytes) -> dict[str, Any] | None:
    try:
        found = _decode(json)
    except _DAMAGED:
        return None
    return found if type(found) is dict else None
