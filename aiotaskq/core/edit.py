"""What a pending task becomes by an edit or by a newer call of its key; and the copy of an ended one, for a rerun."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import replace

from aiotaskq.core.errors import TaskConflict, ValidationError, check_key
from aiotaskq.core.gate import Flow
from aiotaskq.core.parking import budgets_of, parked, regated
from aiotaskq.core.status import PENDING
from aiotaskq.core.tags import with_tags
from aiotaskq.core.task import RUN_OPTIONS, SECOND, Task, new_task, not_aged, run_options


def check_editable(task: Task) -> None:
    """Raise TaskConflict if the task is not pending, waits for other tasks, or cannot be read."""
    if task.status is not PENDING:
        raise TaskConflict(f"task {task.task_id!r} is {task.status}; only pending tasks are edited")
    if task.waits:
        raise TaskConflict(f"task {task.task_id!r} waits for the tasks before it; edit it when they have ended")
    if task.undecodable is not None:
        raise TaskConflict(f"task {task.task_id!r} cannot be read ({task.undecodable}); cancel it")


def edited(task: Task, edit: Mapping[str, Any], gated: Callable[[Task], Task]) -> Task:
    """Return the task with the new values, already checked: ``params``, ``due`` (microseconds UTC), ``RUN_OPTIONS``.

    What is absent stays. Its fence rises, so that of two edits of what was read one does not hold.

    ``gated`` returns a task without gates with those of its type. With a new due time, another queue or other gates a
    task parks at its first gate again, so that it holds no slot while it waits. Raises ValidationError for new params
    of a task whose gates are not those that its type declares here: nothing says which gates the new params have. The
    budgets of its groups are no matter of params: their gates stay.
    """
    task = not_aged(task) if "priority" in edit else task
    params = edit.get("params", task.params)
    flow = task.flow if params == task.params else _flow(task, params, gated)
    after = replace(
        task,
        params=dict(params),  # a new object, since the timeout is stored beside the params
        **{name: edit[name] for name in RUN_OPTIONS if name in edit},
        flow=flow,
        fence=task.fence + 1,
        coded=None,
    )
    due = edit.get("due", task.due_us)
    if flow is task.flow and (due, after.queue) == (task.due_us, task.queue):
        return after
    after = replace(after, run_at=due, due_at=None, gate=None)
    return after if flow is None else parked(after, due)


def _flow(task: Task, params: dict[str, Any], gated: Callable[[Task], Task]) -> Flow | None:
    """Return the flow of the task with new params: the gates of these, and else what it was."""
    bare = replace(task, flow=None, gate=None, run_at=task.due_us, due_at=None)
    if _keys(task.flow)[len(budgets_of(task.flow)) :] != _keys(gated(bare).flow):
        raise _not_known(task)
    return regated(task.flow, gated(replace(bare, params=params)).flow)


def _not_known(task: Task) -> ValidationError:
    return ValidationError(
        f"params: the limits of task {task.task_id!r} are not those that {task.type!r} declares here, so those of "
        "the new params are not known; push another task in its place"
    )


def _keys(flow: Flow | None) -> list[str]:
    return [] if flow is None else [key for key, _ in flow.gates]


def check_rerun(task: Task, params: bool) -> None:
    """Raise TaskConflict if the task has not ended, or cannot be read and is not given other ``params``."""
    if not task.final:
        raise TaskConflict(f"task {task.task_id!r} is {task.status}; only ended tasks are rerun")
    if task.undecodable is not None and not params:
        raise TaskConflict(f"task {task.task_id!r} cannot be read ({task.undecodable}); give it other params")


def copied(task: Task, params: dict[str, Any], now: int, gated: Callable[[Task], Task]) -> Task:
    """Return a new task that is a copy of an ended one with these params, as of ``now`` in microseconds UTC.

    It has the gates of the ended one. ``gated`` returns it with those of its type, as far as they are known here: that
    is done where the ended one has the same, or none. It is in no group, so it does not wait for the budget of one.

    Raises ValidationError for other params of a task whose gates are not those that its type declares here.
    """
    task = not_aged(task)
    kept = {name: getattr(task, name) for name in KEPT}
    new = new_task(task.type, params, now=now, kind=type(task), **kept)
    gates = () if task.flow is None else task.flow.gates[len(budgets_of(task.flow)) :]
    declared = gated(replace(new, params=task.params))
    if task.flow is None or not gates or [key for key, _ in gates] == _keys(declared.flow):
        return gated(new)
    if params != task.params:
        raise _not_known(task)
    flow = Flow(gates=gates, weight=task.flow.weight, weights=task.flow.weights)
    return parked(replace(new, flow=flow), now)


KEPT = ("queue", "priority", "max_retries", "timeout", "unique_key", "on_success", "on_failure", "extra")
"""What of an ended task its copy has, too."""


# ---- debounced and throttled pushes ---------------------------------------------------------------------------------

# A debounced task holds its key, as its unique key, until a call finds it running: then it gives the key up, and the
# call becomes the next task. A newer call that finds it waiting changes it, and raises its fence, so that of two calls
# at the same time the second one is decided again.

Merge: TypeAlias = Literal["last", "list", "first"]
MERGES: tuple[Merge, ...] = get_args(Merge)


MAX_UNIQUE = 100
"""Bytes of the params in a key; of longer ones it has a hash."""


class Debounce(msgspec.Struct, frozen=True):
    """How a call is debounced; ``delay`` and ``max_wait`` in microseconds."""

    delay: int
    max_wait: int | None = None
    """The longest time from the first call until the task is due; None for no limit."""
    merge: str = "last"
    """``last``: the params of the newest call; ``list``: params that are lists are joined in the order of the calls;
    ``first``: a newer call changes nothing."""
    flow: Callable[[dict[str, Any]], Flow | None] | None = None
    """Returns the gates of joined params; None where no call has gates."""


def after_call(row: Task, call: Task, rule: Debounce, now: int, begun: bool = False) -> Task:
    """Return what the task that holds the key becomes when it is called again; ``now`` in microseconds UTC.

    A waiting one becomes the newer call, but keeps its id, its tags, its place in time and what is known of its runs.
    A running one gives up its key, and so does one that has ``begun``: it has steps, and goes on with them. Raises
    TaskConflict if it is a task of another type, waits for other tasks, or cannot be read.
    """
    if row.type != call.type:
        raise TaskConflict(f"key: task {row.task_id!r}, which has it, is of type {row.type!r}; use another key")
    if row.undecodable is not None:
        raise TaskConflict(f"key: task {row.task_id!r}, which has it, cannot be read ({row.undecodable}); cancel it")
    if row.status is not PENDING or begun:
        return replace(row, unique_key=None)
    if rule.merge == "first":
        return row
    if row.waits:
        raise TaskConflict(f"key: task {row.task_id!r}, which has it, waits for the tasks before it; use another key")
    due = now + rule.delay
    if rule.max_wait is not None:
        first = first_push(row)
        # After the clock was set back nothing says for how long it has waited: it is put off no more.
        latest = row.due_us if first > now else first + rule.max_wait
        # A retry is not brought forward by a stream of calls.
        retry = row.due_at if row.parked and row.due_at is not None else row.run_at
        due = min(due, max(latest, retry if row.attempts else now))
    params = call.params if rule.merge == "last" else joined(row.params, call.params)
    flow = call.flow if rule.merge == "last" or rule.flow is None else rule.flow(params)
    if row.flow is not None and row.flow.parents:
        flow = regated(row.flow, flow)
    after = replace(
        row,
        params=params,
        extra=with_tags(call.extra, row.tags),
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


def first_push(row: Task) -> int:
    """Return the instant of the first push, in microseconds UTC: its push stamp, unless that was ahead of the clock."""
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


def is_declared_unique(options: Mapping[str, Any]) -> bool:
    """Whether these options of pushes are those of a handler that is registered with ``unique``."""
    return any(getattr(options.get(name), "func", None) is unique_text for name in ("key", "unique_key"))


def unique_text(names: Sequence[str] | None, params: dict[str, Any]) -> str:
    """Return what tells calls with these params apart by the params of these names, None for all of them."""
    text = _json("unique", params if names is None else [params.get(name) for name in names])
    return text.decode() if len(text) <= MAX_UNIQUE else hashlib.sha256(text).hexdigest()


def throttle_key(key: str, period: int, now: int) -> str:
    """Return the idempotency key of the calls with this key in the present bucket of ``period`` microseconds."""
    return check_key("key", f"throttle:{period}:{now // period}:{key}")


def _json(field: str, value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValidationError(f"{field}: {error}; give a 'key' that is a string") from None
