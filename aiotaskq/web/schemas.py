"""What goes in and what comes out as JSON: request bodies, query parameters, and views of tasks and schedules.

Times come out as RFC 3339 text in UTC, durations are seconds. A view has params, results and stored values only if
they were asked for and may be shown.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.task import MAX_ID, MAX_KEY, MAX_NAME, SECOND, Status, Task

MAX_PAGE = 1_000
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Key = Annotated[str, Meta(min_length=1, max_length=MAX_KEY)]
Seconds = Annotated[float, Meta(ge=0, description="Seconds")]
Time = Annotated[str, Meta(description="RFC 3339, UTC")]
Instant = Annotated[
    float | Annotated[datetime, Meta(tz=True)], Meta(description="Epoch seconds, or RFC 3339 with an offset")
]
Lifetime = Annotated[
    float | Annotated[datetime, Meta(tz=True)], Meta(description="Seconds from its time on, or RFC 3339 with an offset")
]
Count = Annotated[int, Meta(ge=0)]
Kind = Literal["interval", "cron", "once"]
Misfire = Literal["fire_once", "skip", "fire_all"]
Overlap = Literal["allow", "skip", "buffer_one"]

# ---- in: bodies -----------------------------------------------------------------------------------------------------


class PushBody(Struct, forbid_unknown_fields=True):
    """A task to be pushed. What is left out is the handler's default."""

    type: Name
    params: dict[str, Any] = {}
    delay: Seconds | None = None
    at: Instant | None = None
    priority: int | None = None
    queue: Name | None = None
    timeout: Annotated[float, Meta(gt=0, description="Seconds")] | None = None
    max_retries: Count | None = None
    expires: Lifetime | None = None
    unique_key: Key | None = None
    idempotency_key: Key | None = None
    task_id: Id | None = None
    rerun: Annotated[bool, Meta(description="Run the task_id again if it has ended")] = False
    on_success: Name | None = None
    on_failure: Name | None = None


class ScheduleBody(Struct, forbid_unknown_fields=True):
    """A schedule to be made."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    task_type: Name
    schedule_type: Kind
    params: dict[str, Any] | None = None
    interval_seconds: Annotated[int, Meta(ge=1)] | None = None
    cron_expression: str | None = None
    execute_at: Instant | None = None
    max_runs: Count = 0
    description: str | None = None
    timezone: Annotated[str, Meta(description="IANA name")] | None = None
    misfire: Misfire = "fire_once"
    overlap: Overlap = "allow"
    catch_up: Annotated[int, Meta(ge=1, description="Seconds")] | None = None
    priority: int = 0
    queue: Name = "default"
    max_retries: Count = 3
    timeout: Annotated[float, Meta(gt=0, description="Seconds")] | None = None
    task_id: Id | None = None
    start_at: Instant | None = None


class ScheduleChanges(Struct, forbid_unknown_fields=True):
    """What to change of a schedule; what is left out stays."""

    name: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET
    task_type: Name | UnsetType = UNSET
    schedule_type: Kind | UnsetType = UNSET
    params: dict[str, Any] | UnsetType = UNSET
    interval_seconds: Annotated[int, Meta(ge=1)] | UnsetType | None = UNSET
    cron_expression: str | UnsetType | None = UNSET
    execute_at: Instant | UnsetType | None = UNSET
    max_runs: Count | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    timezone: str | UnsetType | None = UNSET
    misfire: Misfire | UnsetType = UNSET
    overlap: Overlap | UnsetType = UNSET
    catch_up: Annotated[int, Meta(ge=1)] | UnsetType | None = UNSET
    priority: int | UnsetType = UNSET
    queue: Name | UnsetType = UNSET
    max_retries: Count | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0)] | UnsetType | None = UNSET


class ValueBody(Struct, forbid_unknown_fields=True):
    """A public value to be stored."""

    value: Any
    ttl: Annotated[float, Meta(gt=0, description="Seconds; left out: for ever")] | None = None


# ---- in: query parameters -------------------------------------------------------------------------------------------

Limit = Annotated[int, Meta(ge=1, description=f"Of one page; more than {MAX_PAGE} are {MAX_PAGE}")]
Cursor = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, description="`next` of the page before")]
Show = Annotated[list[Literal["params"]], Meta(description="Also params and results, where that is allowed")]


class TaskQuery(Struct):
    """Which tasks are listed."""

    status: list[Status] | None = None
    type: Name | None = None
    queue: Name | None = None
    schedule: Id | None = None
    limit: Limit = 100
    cursor: Cursor | None = None
    show: Show = []


class ScheduleQuery(Struct):
    """Which schedules are listed."""

    enabled: bool = False
    limit: Limit = 100
    cursor: Cursor | None = None
    show: Show = []


class PageQuery(Struct):
    """Which page of a list is wanted."""

    limit: Limit = 100
    cursor: Cursor | None = None


class NextQuery(Struct):
    """How many of the next times of a schedule are wanted."""

    count: Annotated[int, Meta(ge=1, le=100)] = 5


class PreviewQuery(Struct):
    """A schedule that need not exist: exactly one of cron, interval and at."""

    cron: Annotated[str, Meta(max_length=255)] | None = None
    interval: Annotated[int, Meta(ge=1, description="Seconds")] | None = None
    at: Instant | None = None
    timezone: Annotated[str, Meta(description="IANA name; default the server's")] | None = None
    after: Annotated[datetime, Meta(tz=True)] | None = None
    count: Annotated[int, Meta(ge=1, le=100)] = 5


# ---- out ------------------------------------------------------------------------------------------------------------


class TaskView(Struct):
    """A task. Params, result and the caller's own keys are there only if they were asked for and may be shown."""

    task_id: str
    type: str
    status: Status
    queue: str
    priority: int
    retry_count: int
    max_retries: int
    crashes: int
    created_at: Time | None
    run_at: Time | None
    started_at: Time | None
    completed_at: Time | None
    cancel_requested: bool
    error: Annotated[str, Meta(description="Of a list only the kind of error; of one task all of it")] | None
    scheduler_task_id: str | None
    unique_key: str | None
    idempotency_key: str | None
    timeout: float | None
    expires_at: Time | None
    lease_owner: str | None
    lease_until: Time | None
    progress: dict[str, Any] | None
    params: Any = UNSET
    result: Any = UNSET
    extra: Any = UNSET


class TaskPage(Struct):
    """One page of tasks, the newest first; ``next`` is the cursor of the page behind, null on the last one."""

    tasks: list[TaskView]
    next: str | None


class Pushed(Struct):
    """``created`` is false if a key or the id named a task that stood already: this is that one."""

    task_id: str
    created: bool


class TaskState(Struct):
    """What became of a task."""

    task_id: str
    status: Status
    cancel_requested: bool


class ScheduleView(Struct):
    """A schedule. Params are there only if they were asked for and may be shown."""

    task_id: str
    name: str
    task_type: str
    schedule_type: str
    interval_seconds: int | None
    cron_expression: str | None
    execute_at: Time | None
    timezone: str | None
    enabled: bool
    next_run_at: Time | None
    last_run_at: Time | None
    run_count: int
    max_runs: int
    misfire: str
    overlap: str
    catch_up: int | None
    priority: int
    queue: str
    max_retries: int
    timeout: float | None
    description: str | None
    declared: bool
    created_at: Time | None
    updated_at: Time | None
    params: Any = UNSET


class SchedulePage(Struct):
    """One page of schedules, in the order in which they were made."""

    schedules: list[ScheduleView]
    next: str | None


class Fired(Struct):
    """The task that a schedule has made."""

    task_id: str


class Times(Struct):
    """The next instants of a schedule, in its time zone."""

    times: list[Annotated[str, Meta(description="RFC 3339")]]


class KeyPage(Struct):
    """One page of the keys of the public store, sorted."""

    keys: list[str]
    next: str | None


class Value(Struct):
    """A public value."""

    key: str
    value: Any


class QueueState(Struct):
    """Whether a queue is paused."""

    queue: str
    paused: bool


class StatsView(Struct):
    """What the queue holds: counts by status, in all and by queue, and what is ready to be claimed now."""

    counts: dict[str, int]
    ready: int
    oldest_age: Annotated[float, Meta(description="Seconds that the oldest ready task has waited")] | None
    queues: dict[str, dict[str, int]]
    paused: list[str]


class Health(Struct):
    """Whether this process can do its work, and which part of it cannot."""

    status: Literal["ok", "failing"]
    parts: dict[str, Literal["ok", "failing"]]


# ---- from ours to these ---------------------------------------------------------------------------------------------


def task_view(task: Task, *, one: bool, show: bool) -> TaskView:
    """Return a task as it is shown: ``one`` by itself or in a list, ``show`` with its params and result."""
    error = task.error_message or task.undecodable
    if error is not None and not one:
        error = error.partition(":")[0].partition("\n")[0][:100]  # the text may hold anything, also secrets
    view = TaskView(
        task_id=task.task_id,
        type=task.type,
        status=task.status,
        queue=task.queue,
        priority=task.priority,
        retry_count=task.retry_count,
        max_retries=task.max_retries,
        crashes=task.crashes,
        created_at=_seconds(task.created_at),
        run_at=_time(task.run_at),
        started_at=_seconds(task.started_at),
        completed_at=_seconds(task.completed_at),
        cancel_requested=task.cancel_requested,
        error=error,
        scheduler_task_id=task.scheduler_task_id,
        unique_key=task.unique_key,
        idempotency_key=task.idempotency_key,
        timeout=task.timeout,
        expires_at=_time(task.expires_at),
        lease_owner=task.lease_owner,
        lease_until=_time(task.lease_until),
        progress=task.progress,
    )
    if show:
        view.params, view.result, view.extra = plain(task.params), plain(task.result), plain(task.extra)
    return view


def schedule_view(columns: dict[str, Any], *, show: bool) -> ScheduleView:
    """Return a schedule, given as its columns, as it is shown; ``show`` with its params."""
    known = {name: columns[name] for name in ScheduleView.__struct_fields__ if name in columns and name != "params"}
    due = columns["next_run_at"]
    known["next_run_at"] = None if due is None else _time(due * SECOND + columns["next_run_us"])
    for name in ("execute_at", "last_run_at", "created_at", "updated_at"):
        known[name] = _seconds(columns[name])
    view = ScheduleView(**known)
    if show:
        view.params = plain(columns["params"])
    return view


def plain(value: Any) -> Any:
    """Return a value as JSON has it: what a queue in memory holds may be anything, and is then named by its type."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return f"<{type(value).__name__}>"


def body_options(body: Struct) -> dict[str, Any]:
    """Return the fields that a body sets."""
    values = {name: getattr(body, name) for name in body.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}


def _seconds(seconds: int | None) -> str | None:
    return None if seconds is None else _time(seconds * SECOND)


def _time(microseconds: int | None) -> str | None:
    if microseconds is None:
        return None
    seconds, rest = divmod(microseconds, SECOND)
    try:
        time = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest)
    except (ValueError, OverflowError, OSError):  # a stored number may be anything
        return None
    return time.isoformat(timespec="microseconds" if rest else "seconds").replace("+00:00", "Z")
