"""What a task is: a frozen record, how one is made from user input, and in which order tasks are claimed.

Documented columns keep epoch **seconds**; every added time is integer **microseconds** UTC.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from aiotaskq.core.errors import ValidationError

SECOND = 1_000_000  # microseconds
MAX_PAYLOAD = 256 * 1024  # bytes of JSON
MAX_ID = 36  # characters, the documented VARCHAR(36)
MAX_NAME = 100  # characters of a type or queue name, the documented VARCHAR(100)
MAX_KEY = 255  # characters of a unique, idempotency or public key
MAX_DEPTH = 64  # nested lists and dicts in params
INT32 = 2**31 - 1
INT64 = 2**63 - 1
TEN_YEARS = 315_360_000  # seconds; no delay, timeout or ttl above this is meant seriously


class Status(StrEnum):
    """Where a task stands. Delayed and waiting-for-retry tasks are ``pending`` with a later ``run_at``."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    __hash__ = str.__hash__  # Enum's own is a Python function, and sets of these are asked about each task


# As names of their own, for what each task comes by: Python 3.11 makes a call of `Status.PENDING`, which takes 60 ns.
PENDING, RUNNING, COMPLETED, FAILED = Status.PENDING, Status.RUNNING, Status.COMPLETED, Status.FAILED

HIDDEN = frozenset({"params", "result", "progress", "extra", "error_message", "error", "cause"})
"""Fields that may hold secrets of the application: a repr, which ends up in logs and reports, says only that they are
set. Who wants to see them asks for them by name."""


class _Unseen:
    def __repr__(self) -> str:
        return "…"


class Discreet(msgspec.Struct, frozen=True):
    """A value whose repr shows no params, results or texts of errors, nor fields that are as by default."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown: list[tuple[str, Any]] = []
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if field.name in HIDDEN:
                # Not compared: whatever a handler has returned, its == may say anything.
                if value is not None and not (type(value) is dict and not value):
                    shown.append((field.name, _Unseen()))
            elif field.required or value != field.default:
                shown.append((field.name, value))
        return shown


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})


class Task(Discreet, frozen=True, kw_only=True):
    """One unit of work as it is stored. Frozen: every change is a new value, written under a guard."""

    task_id: str
    type: str
    params: dict[str, Any] = {}
    status: Status = Status.PENDING
    priority: int = 0
    retry_count: int = 0
    max_retries: int = 3
    created_at: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    error_message: str | None = None
    scheduler_task_id: str | None = None
    queue: str = "default"
    run_at: int = 0
    """Not before this instant, in microseconds UTC: delay, retry time and visibility are all this one number."""
    due_at: int | None = None
    """When a pending task was due that has been put off since, in microseconds UTC; None where ``run_at`` says it."""
    seq: int = 0
    """Push order: strictly rising within a process, by wall clock across processes."""
    expires_at: int | None = None
    timeout: float | None = None
    fence: int = 0
    """Rises with every delivery; a write that carries an older one changes nothing."""
    crashes: int = 0
    lease_owner: str | None = None
    lease_until: int | None = None
    unique_key: str | None = None
    idempotency_key: str | None = None
    result: Any = None
    progress: dict[str, Any] | None = None
    cancel_requested: bool = False
    on_success: Any = None
    on_failure: Any = None
    extra: dict[str, Any] = {}
    """The caller's own keys of a documented task dict; they survive the trip on every backend."""
    undecodable: str | None = None
    """Why the stored row cannot be read; the row is kept as it is. Never stored itself."""

    @property
    def final(self) -> bool:
        """Whether the task has ended for good."""
        return self.status in FINAL

    def replace(self, **changes: Any) -> Task:
        """Return a copy with these fields changed."""
        return msgspec.structs.replace(self, **changes)


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks an operator means; unset fields do not restrict."""

    status: tuple[Status, ...] = ()
    type: str | None = None
    queue: str | None = None
    scheduler_task_id: str | None = None
    completed_before: int | None = None
    """Epoch seconds."""
    after: str | None = None
    """A task id: rows listed after it (newest first), for paging."""


def claim_order(task: Task) -> tuple[int, int, int]:
    """Smaller priority first, then the earlier ``run_at``, then push order."""
    return (task.priority, task.run_at, task.seq)


# ---- ids and stamps -----------------------------------------------------------------------------------------------

_head = 0, ""  # the latest millisecond, and the part of an id that says it
_stamp = 0


def new_id() -> str:
    """Return a new UUID (version 7, RFC 9562): time-ordered, so that index inserts stay at the right end."""
    global _head
    millisecond, head = _head
    if (now := time.time_ns() // 1_000_000) != millisecond:
        head = f"{now >> 16:08x}-{now & 0xFFFF:04x}-7"
        _head = now, head
    tail = os.urandom(9).hex()
    return f"{head}{tail[:3]}-a{tail[3:6]}-{tail[6:]}"


def next_seq(now: int) -> int:
    """Return a strictly rising push stamp near ``now`` (microseconds)."""
    global _stamp
    # A race of two threads costs at worst an equal stamp, and equal stamps are ordered by the store.
    _stamp = now if now > _stamp else _stamp + 1
    return _stamp


# ---- input --------------------------------------------------------------------------------------------------------


def check_text(field: str, value: object, limit: int) -> str:
    """Return ``value`` if it is a non-empty string of at most ``limit`` characters that every store can hold.

    Raises ValidationError for another type, an empty text, NUL, or a lone surrogate.
    """
    if not isinstance(value, str):
        raise ValidationError(f"{field}: a string is needed (got {type(value).__name__})")
    if not value or value.isspace():
        raise ValidationError(f"{field}: must not be empty")
    if len(value) > limit:
        raise ValidationError(f"{field}: {len(value)} characters are more than {limit} (starts with {value[:20]!r})")
    _check_chars(field, value)
    return value


def check_key(field: str, value: object, limit: int = MAX_KEY) -> str:
    """Like :func:`check_text`, also refusing other control characters, which no key means."""
    text = check_text(field, value, limit)
    # What is printable has no control characters; not everything else has.
    if not text.isprintable() and any(char < " " or char == "\x7f" for char in text):
        raise ValidationError(f"{field}: control characters are not allowed (got {text[:40]!r})")
    return text


def check_hashable(field: str, value: Any) -> Any:
    """Return ``value`` if it can be the key of a dict, as an id or key in memory must be; raises ValidationError."""
    try:
        hash(value)
    except TypeError:
        raise ValidationError(f"{field}: {type(value).__name__} is not hashable, so it cannot be a key") from None
    return value


def shown(value: object) -> str:
    """Return a short text of a value for a message, whatever the value."""
    try:
        return f"{value!r:.40}"
    except Exception:  # Python refuses to print an int of more than 4,300 digits, and a __repr__ may raise anything
        return f"a huge or odd {type(value).__name__}"


def check_int(field: str, value: object, low: int = -INT32, high: int = INT32) -> int:
    """Return ``value`` if it is an int (not a bool) in ``low..high``; raises ValidationError."""
    if type(value) is not int:
        raise ValidationError(f"{field}: an int is needed (got {type(value).__name__} {shown(value)})")
    if not low <= value <= high:
        number = value if value.bit_length() < 200 else f"an int of {value.bit_length()} bits"
        raise ValidationError(f"{field}: {number} is not in {low}..{high}")
    return value


def check_seconds(field: str, value: object, *, zero: bool = True) -> float:
    """Return ``value`` as seconds: a finite number from 0 (or just above) to ten years; raises ValidationError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = type(value).__name__
        raise ValidationError(f"{field}: seconds as int or float are needed (got {kind} {shown(value)})")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValidationError(f"{field}: {value} is not a number of seconds")
    if value < 0 or (value == 0 and not zero):
        raise ValidationError(f"{field}: must be {'at least' if zero else 'more than'} 0 seconds (got {shown(value)})")
    if value > TEN_YEARS:
        raise ValidationError(f"{field}: {shown(value)} seconds is more than ten years")
    return float(value)


def check_params(params: object) -> dict[str, Any]:
    """Return ``params`` if it is a dict (None means empty); raises ValidationError."""
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise ValidationError(f"params: a dict is needed (got {type(params).__name__})")
    return params


def check_json(field: str, value: object, limit: int = MAX_PAYLOAD) -> bytes:
    """Return ``value`` as JSON bytes, if the round trip gives an equal value on every durable store.

    Raises ValidationError with the path to what is not JSON (``params.items[3]: set is not JSON``), and for NaN,
    infinities, ints over 64 bits, NUL, lone surrogates, more than 64 levels, or more than ``limit`` bytes.
    """
    _walk(field, value, 0)
    encoded = msgspec.json.encode(value)
    if len(encoded) > limit:
        raise ValidationError(
            f"{field}: {len(encoded):,} bytes of JSON are more than {limit:,}; store a reference instead"
        )
    return encoded


_HINTS = {
    "tuple": "; use a list",
    "bytes": "; encode it as text",
    "datetime": "; use .isoformat()",
    "date": "; use .isoformat()",
    "set": "; use a list",
    "UUID": "; use str()",
    "Decimal": "; use str()",
}


def _walk(path: str, value: object, depth: int) -> None:
    kind = type(value)
    if kind is str:
        _check_chars(path, value)  # type: ignore[arg-type]
    elif kind is bool or value is None:
        pass
    elif kind is int:
        if not -INT64 - 1 <= value <= INT64:  # type: ignore[operator]
            raise ValidationError(f"{path}: an int over 64 bits is not portable JSON; use a string")
    elif kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise ValidationError(f"{path}: {value} is not JSON")
    elif kind is dict or kind is list:
        if depth >= MAX_DEPTH:
            raise ValidationError(f"{path[:80]}…: nested deeper than {MAX_DEPTH} levels (or in a cycle)")
        if kind is dict:
            for key, item in value.items():  # type: ignore[attr-defined]
                if type(key) is not str:
                    raise ValidationError(f"{path}: key {shown(key)} is {type(key).__name__}; JSON keys are strings")
                _check_chars(f"{path} key", key)
                _walk(f"{path}.{key}", item, depth + 1)
        else:
            for index, item in enumerate(value):  # type: ignore[arg-type]
                _walk(f"{path}[{index}]", item, depth + 1)
    else:
        raise ValidationError(f"{path}: {kind.__name__} is not JSON{_HINTS.get(kind.__name__, '')}")


def _check_chars(field: str, text: str) -> None:
    if text.isascii():
        if "\x00" in text:
            raise ValidationError(f"{field}: NUL characters are not portable text")
        return
    if "\x00" in text:
        raise ValidationError(f"{field}: NUL characters are not portable text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(f"{field}: a lone surrogate at position {error.start} is not text") from None


def new_task(
    type: object,
    params: object = None,
    *,
    now: int,
    task_id: object = None,
    priority: object = 0,
    queue: object = "default",
    retry_count: object = 0,
    max_retries: object = 3,
    run_at: int | None = None,
    timeout: object = None,
    expires_at: int | None = None,
    unique_key: object = None,
    idempotency_key: object = None,
    scheduler_task_id: str | None = None,
    on_success: Any = None,
    on_failure: Any = None,
    extra: dict[str, Any] | None = None,
    any_id: bool = False,
) -> Task:
    """Make a pending task from unchecked input; ``now`` and ``run_at`` in microseconds, ``timeout`` in seconds.

    With ``any_id`` the id may be any hashable value, as in memory. Raises ValidationError naming the field. Whether
    params are JSON is asked by durable queues only.
    """
    if task_id is None:
        known_id = new_id()
    else:
        known_id = check_hashable("task_id", task_id) if any_id else check_key("task_id", task_id, MAX_ID)
    return Task(
        task_id=known_id,
        type=check_key("type", type, MAX_NAME),
        params=check_params(params),
        priority=check_int("priority", priority),
        retry_count=check_int("retry_count", retry_count, 0),
        max_retries=check_int("max_retries", max_retries, 0),
        created_at=now // SECOND,
        queue="default" if queue == "default" else check_key("queue", queue, MAX_NAME),
        run_at=now if run_at is None else run_at,
        seq=next_seq(now),
        timeout=None if timeout is None else check_seconds("timeout", timeout, zero=False),
        expires_at=expires_at,
        unique_key=None if unique_key is None else check_key("unique_key", unique_key),
        idempotency_key=None if idempotency_key is None else check_key("idempotency_key", idempotency_key),
        scheduler_task_id=scheduler_task_id,
        on_success=on_success,
        on_failure=on_failure,
        extra=extra or {},
    )


# ---- the documented dict ------------------------------------------------------------------------------------------

_TAKEN = (
    "task_id",
    "type",
    "params",
    "priority",
    "retry_count",
    "max_retries",
    "queue",
    "scheduler_task_id",
    "timeout",
)
_SYSTEM = frozenset(_TAKEN) | {"created_at"}


def task_from_dict(source: Mapping[str, Any], priority: object, now: int, *, any_id: bool = False) -> Task:
    """Make a task from the documented dict, which is never changed; keys of the caller's own go to ``extra``.

    A ``priority`` other than 0 wins over the dict's own, so that a popped task pushed again keeps its priority.
    ``any_id`` as for ``new_task``.
    """
    if type(source) is dict and len(source) == 2 and type(priority) is int:
        # Nearly every task: a type and params. What is odd about one is found, and told, by the long way.
        kind, params = source.get("type"), source.get("params")
        odd = type(kind) is not str or not kind.isprintable() or not kind.strip() or len(kind) > MAX_NAME
        if not odd and type(params) is dict and -INT32 <= priority <= INT32:
            return Task(
                task_id=new_id(),
                type=kind,  # type: ignore[arg-type]  # `odd` has looked
                params=params,
                priority=priority,
                created_at=now // SECOND,
                run_at=now,
                seq=next_seq(now),
            )
    if not isinstance(source, Mapping):
        raise ValidationError(f"task: a dict is needed (got {type(source).__name__})")
    if "type" not in source:
        raise ValidationError("type: missing; a task is a dict with at least 'type' (a non-empty string)")
    known = {name: source[name] for name in _TAKEN if name in source and name != "params"}
    if priority != 0 or isinstance(priority, bool):
        known["priority"] = priority
    extra: dict[str, Any] = {}
    for key, value in source.items():
        if not isinstance(key, str):
            raise ValidationError(f"task: key {shown(key)} is {type(key).__name__}; keys are strings")
        if key not in _SYSTEM:
            extra[key] = value
    scheduler_task_id = known.pop("scheduler_task_id", None)
    if scheduler_task_id is not None:
        check_key("scheduler_task_id", scheduler_task_id, MAX_ID)
    return new_task(
        known.pop("type"),
        source.get("params"),
        now=now,
        scheduler_task_id=scheduler_task_id,
        extra=extra,
        any_id=any_id,
        **known,
    )


def task_to_dict(task: Task) -> dict[str, Any]:
    """Return the documented dict of a popped task: fresh, with the caller's own keys in it."""
    known: dict[str, Any] = {
        "task_id": task.task_id,
        "type": task.type,
        "params": task.params,
        "priority": task.priority,
        "retry_count": task.retry_count,
        "max_retries": task.max_retries,
        "created_at": task.created_at,
    }
    if task.scheduler_task_id is not None:
        known["scheduler_task_id"] = task.scheduler_task_id
    if task.queue != "default":
        known["queue"] = task.queue
    if task.timeout is not None:
        known["timeout"] = task.timeout
    return {**task.extra, **known} if task.extra else known


def same_content(a: Task, b: Task) -> bool:
    """Whether pushing ``b`` says nothing new about ``a``: then a repeated push is the same push."""
    return (
        a.type == b.type
        and a.params == b.params
        and a.priority == b.priority
        and a.retry_count == b.retry_count
        and a.max_retries == b.max_retries
        and a.queue == b.queue
        and a.timeout == b.timeout
        and a.scheduler_task_id == b.scheduler_task_id
        and a.extra == b.extra
    )


def same_push(row: Task, task: Task) -> bool:
    """Whether the row was inserted by a push of this very task; id and push stamp tell it from another's."""
    return (row.task_id, row.seq) == (task.task_id, task.seq)
