"""Schedules to rows in Redis and back.

A row is JSON of all fields; coded params and a coded outbox are texts there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aiotaskq.core.codec import Codec
from aiotaskq.core.coded import from_stored, is_coded, to_stored
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.errors import ValidationError

CODED = ("params", "outbox")

Row = tuple[str, str | None, int | None, bool]
"""The id of a schedule, its row if it is written, when it is due if it is enabled, and whether its outbox has tasks."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_schedule = msgspec.json.Decoder(Schedule).decode
_DAMAGED = (msgspec.DecodeError, ValueError, TypeError, RecursionError)
_TYPES = {field.name: field.type for field in msgspec.structs.fields(Schedule)}
_LOST: dict[str, Any] = {"name": "", "task_type": "", "schedule_type": "", "created_at": 0, "updated_at": 0}


def guard_of(schedule: Schedule) -> tuple[int, int | None, bool, int]:
    """Return what the guard of a change compares."""
    return schedule.version, schedule.due, schedule.enabled, schedule.run_count


def row_words(schedule: Schedule, codec: Codec | None) -> Row:
    """Return a new row.

    Raises ValidationError for a schedule that no row can hold.
    """
    return _words(schedule, text_of(schedule, codec))


def changed_words(before: bytes, after: Schedule, codec: Codec | None) -> Row:
    """Return a row that becomes ``after`` and could not be decoded: what cannot be read of it is kept."""
    texts = _object(before)
    if texts is None:
        return after.task_id, None, None, False  # it stays, and nothing looks for it
    new = _object(text_of(after, codec).encode()) or {}
    kept = {name: texts[name] for name in CODED if not getattr(after, name) and name in texts}
    return _words(after, _encode({**new, **kept}).decode())


def _words(schedule: Schedule, row: str) -> Row:
    due, enabled = schedule.due, schedule.enabled
    return (
        schedule.task_id,
        row,
        due if enabled else None,
        bool(schedule.outbox),
    )


def text_of(schedule: Schedule, codec: Codec | None) -> str:
    """Return the row of a schedule. Raises ValidationError for one that no row can hold."""
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
        return _decode_schedule(row)
    except _DAMAGED:
        return _with_coded(task_id, row, codec)


def _with_coded(task_id: bytes, row: bytes, codec: Codec | None) -> Schedule:
    """Read a row part by part: it is coded, or damaged."""
    fields: dict[str, Any] = {}
    found = _object(row)
    lost = found is None
    for name, value in (found or {}).items():
        if name not in _TYPES:
            continue  # of a newer version
        try:
            decoded = _decode(from_stored(value, codec)) if name in CODED and is_coded(value) else value
            fields[name] = msgspec.convert(decoded, _TYPES[name])
        except Exception:  # the codec is the application's, and may raise anything
            lost = True
    fields = {**_LOST, **fields, "task_id": task_id.decode(errors="backslashreplace")}
    if lost or any(name not in (found or {}) for name in _LOST):
        return UndecodableSchedule(**{**fields, "enabled": False})
    return Schedule(**fields)


def _object(json: bytes) -> dict[str, Any] | None:
    try:
        found = _decode(json)
    except _DAMAGED:
        return None
    return found if type(found) is dict else None
