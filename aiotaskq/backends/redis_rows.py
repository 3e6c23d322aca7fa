"""Between rows in Redis and values: the only place that knows which field of a hash holds what, and how.

A row is a hash of named fields; one that has its default is not there, so that a row is small. Numbers are decimal
text, since the numbers of Lua are exact up to 2**53 only; JSON is never looked into by a script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from aiotaskq.backends.base import Change
from aiotaskq.errors import ValidationError
from aiotaskq.log import logger
from aiotaskq.task import Status, Task, TaskFilter

Row = Sequence[bytes]
"""What a script answers for a row: field, value, field, value …, and at last its id. A later value counts."""

_encode = msgspec.json.encode
_decode = msgspec.json.decode
pack = msgspec.msgpack.encode
"""How lists reach a script: as one argument each, of which a server takes more than it takes numbers of them."""


def _json(value: Any) -> str:
    return _encode(value).decode()  # scripts cannot unpack the bytes of MessagePack, but its text is bytes to them


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"a string is needed (got {type(value).__name__})")
    return value


def _number(value: Any) -> str:
    if type(value) is not int:
        raise TypeError(f"an int is needed (got {type(value).__name__})")
    return str(value)


def _float(value: float) -> str:
    return repr(float(value))


def _flag(value: bool) -> str:
    return "1" if value else "0"


def _read_text(value: bytes) -> str:
    return value.decode()


def _read_flag(value: bytes) -> bool:
    return value == b"1"


def _read_object(value: bytes) -> dict[str, Any]:
    found = _decode(value)
    if not isinstance(found, dict):
        raise TypeError(f"not a JSON object but {type(found).__name__}")
    return found


Kind = tuple[Callable[[Any], str], Callable[[bytes], Any]]
TEXT: Kind = (_text, _read_text)
STATUS: Kind = (str, _read_text)
NUMBER: Kind = (_number, int)
FLOAT: Kind = (_float, float)
FLAG: Kind = (_flag, _read_flag)
OBJECT: Kind = (_json, _read_object)
JSON: Kind = (_json, _decode)

_KINDS: dict[str, Kind] = {
    "type": TEXT,
    "params": OBJECT,
    "status": STATUS,
    "priority": NUMBER,
    "retry_count": NUMBER,
    "max_retries": NUMBER,
    "created_at": NUMBER,
    "started_at": NUMBER,
    "completed_at": NUMBER,
    "error_message": TEXT,
    "scheduler_task_id": TEXT,
    "queue": TEXT,
    "run_at": NUMBER,
    "seq": NUMBER,
    "expires_at": NUMBER,
    "timeout": FLOAT,
    "fence": NUMBER,
    "crashes": NUMBER,
    "lease_owner": TEXT,
    "lease_until": NUMBER,
    "unique_key": TEXT,
    "idempotency_key": TEXT,
    "result": JSON,
    "progress": OBJECT,
    "cancel_requested": FLAG,
    "on_success": TEXT,
    "on_failure": TEXT,
    "extra": OBJECT,
}
_READERS = {name.encode(): (name, kind[1]) for name, kind in _KINDS.items()}
_ALWAYS = frozenset({"type", "status", "queue", "run_at", "seq"})
_DEFAULTS = {
    field.name: {} if field.default_factory is dict else field.default for field in msgspec.structs.fields(Task)
}
_CONTENT = ("type", "params", "extra")
_STATE = (
    *("status", "priority", "retry_count", "max_retries", "started_at", "completed_at", "error_message", "queue"),
    *("run_at", "seq", "expires_at", "crashes", "lease_owner", "lease_until", "result", "cancel_requested"),
)
_STATUSES = {str(status): status for status in Status}
_DAMAGED = (msgspec.DecodeError, ValueError, TypeError, RecursionError)


def _pairs(task: Task, names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        value = getattr(task, name)
        if name in _ALWAYS or value != _DEFAULTS[name]:
            try:
                found += (name, _KINDS[name][0](value))
            except (TypeError, ValueError) as error:
                raise ValidationError(f"{name}: {error}") from None
    return found


def new_row(task: Task) -> list[str]:
    """Return the id and all fields of a task. Raises ValidationError for what no row can hold."""
    return [_text(task.task_id), *_pairs(task, tuple(_KINDS))]


def change_row(change: Change) -> bytes:
    """Return what the script needs for one guarded write. Raises ValidationError."""
    before, after = change.before, change.after
    handed_back = not (after.params is before.params and after.extra is before.extra)
    names = (*_STATE, *_CONTENT) if handed_back else _STATE
    pairs = _pairs(after, names)
    return pack(
        {
            "id": _text(before.task_id),
            "status": str(before.status),
            "fence": str(before.fence),
            "lease": None if not change.lease_over else _or_none(before.lease_until),
            "cancel": None if after.final else _flag(before.cancel_requested),
            "revived": before.final and not after.final,
            "gone": sorted(set(names).difference(pairs[::2])),
            "row": pairs,
            "follow": [new_row(task) for task in change.then],
        }
    )


def _or_none(number: int | None) -> str:
    return "none" if number is None else str(number)


def filter_of(where: TaskFilter) -> bytes:
    """Return what a script compares a row with, but for the status."""
    return pack(
        {
            "type": where.type,
            "queue": where.queue,
            "scheduler_task_id": where.scheduler_task_id,
            "before": None if where.completed_before is None else str(where.completed_before),
        }
    )


def to_task(row: Row) -> Task:
    """Return the task of a row; what cannot be read is said in ``undecodable``, and has its default."""
    fields: dict[str, Any] = {}
    problem = None
    for field, value in dict(zip(row[:-1:2], row[1::2], strict=True)).items():
        name, read = _READERS.get(field, (None, None))
        if name is None or read is None:
            continue  # of a newer version
        try:
            fields[name] = read(value)
        except _DAMAGED as error:
            problem = f"{name} cannot be read: {error}"
    fields["status"] = _STATUSES.get(fields.get("status", ""), fields.get("status", Status.PENDING))
    if "type" not in fields:
        problem = problem or "type is missing"
        fields["type"] = ""
    return Task(task_id=row[-1].decode(errors="backslashreplace"), undecodable=problem, **fields)


def number(score: bytes | None) -> int | None:
    """Return the instant that a sorted set's score is; exact until the year 2255."""
    return None if score is None else int(float(score))


def value_bytes(value: Any) -> bytes:
    """Return a public value as JSON."""
    return _encode(value)


def read_value(key: str, stored: bytes | None) -> tuple[Any] | None:
    """Return a public value in a 1-tuple, None where there is none, or none that can be read."""
    if stored is None:
        return None
    try:
        return (_decode(stored),)
    except _DAMAGED:
        logger.warning("public value {!r} is not JSON; it is kept and not readable", key)
        return None
