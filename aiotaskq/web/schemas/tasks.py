"""The JSON schemas of tasks and queues."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.task import Status
from aiotaskq.operations.fields import NO_NUL, Count, Cursor, Id, Instant, Key, Limit, Name, Seconds, Show, Time

Lifetime = Annotated[
    float | Annotated[datetime, Meta(tz=True)], Meta(description="Seconds from its time on, or RFC 3339 with an offset")
]


class PushBody(Struct, forbid_unknown_fields=True):
    """A task to be pushed. Fields left out have the handler's defaults."""

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
    debounce: (
        Annotated[float, Meta(ge=0, description="Seconds after the last call; each changes the task that waits")] | None
    ) = None
    max_wait: Annotated[float, Meta(ge=0, description="Seconds after the first call, with `debounce`")] | None = None
    merge: (
        Annotated[Literal["last", "list"], Meta(description="The params of the last call, or joined lists")] | None
    ) = None
    throttle: Annotated[float, Meta(gt=0, description="Seconds of a period in which one call makes a task")] | None = (
        None
    )
    key: Annotated[Key, Meta(description="What tells the calls of `debounce` or `throttle` apart")] | None = None
    task_id: Id | None = None
    rerun: Annotated[bool, Meta(description="Run the task_id again if it has ended")] = False
    on_success: Name | None = None
    on_failure: Name | None = None


Since = Annotated[
    float | Annotated[datetime, Meta(tz=True)],
    Meta(description="Only tasks created then or later: epoch seconds, or RFC 3339 with an offset"),
]
ErrorPart = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1_000,
        pattern=NO_NUL,
        description="Only tasks whose error contains this text; where params are hidden, whose error's type begins so",
    ),
]
DryRun = Annotated[bool, Meta(description="Only count the tasks that match")]


class TaskWhere(Struct):
    """The filters of tasks, but for their status."""

    type: Name | None = None
    queue: Name | None = None
    since: Since | None = None
    error: ErrorPart | None = None


class RetryBody(TaskWhere, forbid_unknown_fields=True):
    """Which ended tasks are retried; at least one of status, type, queue, since and error."""

    status: list[Literal["failed", "cancelled", "expired"]] | None = None
    dry_run: DryRun = False


class PurgeBody(TaskWhere, forbid_unknown_fields=True):
    """Which ended tasks are deleted; at least one of status, type, queue, since, error and older_than."""

    status: list[Literal["completed", "failed", "cancelled", "expired"]] | None = None
    older_than: Annotated[float, Meta(ge=0, description="Only tasks that ended so many seconds ago")] | None = None
    dry_run: DryRun = False


class TaskQuery(TaskWhere):
    """Which tasks are listed."""

    status: list[Status] | None = None
    schedule: Id | None = None
    limit: Limit = 100
    cursor: Cursor | None = None
    show: Show = []


class AttemptView(Struct):
    """One run of a task; without ``ended_at`` and ``outcome`` while it runs."""

    number: Annotated[int, Meta(description="From 1; older attempts than the first one here were dropped")]
    began_at: Time | None
    ended_at: Time | None
    run_time: Annotated[float, Meta(description="Seconds")] | None
    outcome: Annotated[str, Meta(description="completed, failed, timed_out, lost, cancelled or released")] | None
    error: str | None


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
    run_time: Annotated[float, Meta(description="Seconds of the latest attempt, once it has ended")] | None
    cancel_requested: bool
    error: Annotated[str, Meta(description="All of it of one task, where params are shown; else its kind")] | None
    scheduler_task_id: str | None
    unique_key: str | None
    idempotency_key: str | None
    timeout: float | None
    expires_at: Time | None
    lease_owner: str | None
    lease_until: Time | None
    progress: Annotated[dict[str, Any], Meta(description="Its numbers; with its message where params are shown")] | None
    usage: Annotated[dict[str, float] | None, Meta(description="What its runs have used up, by name")]
    attempts: Annotated[list[AttemptView], Meta(description="Of one task; not in a list")] | UnsetType = UNSET
    params: Any = UNSET
    result: Any = UNSET
    extra: Any = UNSET


class TaskPage(Struct):
    """One page of tasks, the newest first; ``next`` is the cursor of the page behind, null on the last one."""

    tasks: list[TaskView]
    next: str | None


class Pushed(Struct):
    """``created`` is false if a key or the id names a task that existed already; this is its id."""

    task_id: str
    created: bool


class TaskState(Struct):
    """The state of a task after a change."""

    task_id: str
    status: Status
    cancel_requested: bool
