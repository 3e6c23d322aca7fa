"""Debounced and throttled pushes: the key of a call, and what a waiting task becomes when a newer call arrives.

A debounced task holds its key, as its unique key, until a call finds it running: then it gives the key up, and the call
becomes the next task. A newer call that finds it waiting changes it, and raises its fence, so that of two calls at the
same time the second one is decided again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import replace

from aiotaskq.core.errors import TaskConflict, ValidationError
from aiotaskq.core.gate import Flow
from aiotaskq.core.parking import parked
from aiotaskq.core.task import PENDING, SECOND, Task, run_options
from aiotaskq.core.validation import check_key

Merge: TypeAlias = Literal["last", "list"]
MERGES: tuple[Merge, ...] = get_args(Merge)


class Debounce(msgspec.Struct, frozen=True):
    """How a call is debounced; ``delay`` and ``max_wait`` in microseconds."""

    delay: int
    max_wait: int | None = None
    """The longest time from the first call until the task is due; None for no limit."""
    merge: str = "last"
    """``last``: the params of the newest call; ``list``: params that are lists are joined in the order of the calls."""
    flow: Callable[[dict[str, Any]], Flow | None] | None = None
    """Returns the gates of joined params; None where no call has gates."""


def after_call(row: Task, call: Task, rule: Debounce, now: int, begun: bool = False) -> Task:
    """Return what the task that holds the key becomes when it is called again; ``now`` in microseconds UTC.

    A waiting one becomes the newer call, but keeps its id, its place in time and what is known of its runs. A running
    one gives up its key, and so does one that has ``begun``: it has steps, and goes on with them. Raises TaskConflict
    if it is a task of another type, or cannot be read.
    """
    if row.type != call.type:
        raise TaskConflict(f"key: task {row.task_id!r}, which has it, is of type {row.type!r}; use another key")
    if row.undecodable is not None:
        raise TaskConflict(f"key: task {row.task_id!r}, which has it, cannot be read ({row.undecodable}); cancel it")
    if row.status is not PENDING or begun:
        return replace(row, unique_key=None)
    due = now + rule.delay
    if rule.max_wait is not None:
        latest = _first(row) + rule.max_wait
        # A retry is not brought forward by a stream of calls.
        retry = row.due_at if row.parked and row.due_at is not None else row.run_at
        due = min(due, max(latest, retry if row.attempts else now))
    params = call.params if rule.merge == "last" else joined(row.params, call.params)
    flow = call.flow if rule.merge == "last" or rule.flow is None else rule.flow(params)
    after = replace(
        row,
        params=params,
        extra=call.extra,
        **run_options(call),
        expires_at=call.expires_at,
        on_success=call.on_success,
        on_failure=call.on_failure,
        run_at=due,
        due_at=None,
        flow=flow,
        gate=None,
        fence=row.fence + 1,
        coded=None,
    )
    return after if flow is None else parked(after, due)  # it holds no slot while it waits for a time to come


def _first(row: Task) -> int:
    """Return the instant of the first push: its push stamp, unless that was ahead of the clock."""
    return row.seq if row.seq // SECOND == row.created_at else row.created_at * SECOND


def joined(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Return the later params, but of params that are lists both lists, the earlier one first."""
    lists = {name: value for name, value in earlier.items() if isinstance(value, list)}
    found = {**lists, **later}
    for name, value in lists.items():
        if name in later and isinstance(later[name], list):
            found[name] = value + later[name]
    return found


def check_joinable(params: dict[str, Any]) -> None:
    """Raise ValidationError if no param is a list."""
    if not any(isinstance(value, list) for value in params.values()):
        raise ValidationError("merge: 'list' joins params that are lists, and none is; pass one, or use merge='last'")


def call_key(type: str, key: Any, params: Any, *, whole: bool = False) -> str:
    """Return the stored key of a call: of ``key``, a string or what returns a value for the params.

    Where that is None, it is made of the params, or with ``whole`` of the type alone. Raises ValidationError.
    """
    if key is not None:
        value = key(params) if callable(key) else key
        return check_key("key", f"{type}:{value if isinstance(value, str) else _json('key', value).decode()}")
    if whole:
        return check_key("key", f"{type}:")
    return check_key("key", f"{type}:{hashlib.sha256(_json('params', params)).hexdigest()}")


def throttle_key(key: str, period: int, now: int) -> str:
    """Return the idempotency key of the calls with this key in the present bucket of ``period`` microseconds."""
    return check_key("key", f"throttle:{period}:{now // period}:{key}")


def _json(field: str, value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"{field}: {error}; give a 'key' that is a string") from None
