"""The JSON schemas of the API: request bodies, query parameters, and responses.

Times in responses are RFC 3339 text in UTC, durations are seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from aiotaskq.core.task import Status
from aiotaskq.core.validation import INT32, MAX_ID, MAX_KEY, MAX_NAME

MAX_PAGE = 1_000
NO_NUL = "^[^\\u0000]*$"
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

# ---- request bodies -------------------------------------------------------------------------------------------------


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
    str, Meta(min_length=1, max_length=1_000, pattern=NO_NUL, description="Only tasks whose error contains this text")
]
DryRun = Annotated[bool, Meta(description="Only count the tasks that match")]


class LimitBody(Struct, forbid_unknown_fields=True):
    """Bounds to be set; what is left out stays, null takes a bound away."""

    cap: Annotated[int, Meta(ge=0, le=INT32)] | UnsetType | None = UNSET
    window: Annotated[int, Meta(ge=1, le=INT32)] | UnsetType | None = UNSET
    max_waiting: Annotated[int, Meta(ge=0, le=INT32)] | UnsetType | None = UNSET
    rate: Annotated[int, Meta(ge=1, le=INT32, description="Tokens in `per` seconds")] | UnsetType | None = UNSET
    per: Annotated[float, Meta(gt=0, description="Seconds")] | UnsetType = UNSET
    burst: Annotated[int, Meta(ge=1, le=INT32)] | UnsetType = UNSET


class CloseBody(Struct, forbid_unknown_fields=True):
    """For how long a limit is closed; null until it is opened."""

    seconds: Seconds | None = None


class LimitQuery(Struct):
    """How many limits to list."""

    limit: Limit = 100


class RetryBody(Struct, forbid_unknown_fields=True):
    """Which ended tasks are retried; at least one of status, type, queue, since and error."""

    status: list[Literal["failed", "cancelled", "expired"]] | None = None
    type: Name | None = None
    queue: Name | None = None
    since: Since | None = None
    error: ErrorPart | None = None
    dry_run: DryRun = False


class PurgeBody(Struct, forbid_unknown_fields=True):
    """Which ended tasks are deleted; at least one of status, type, queue, since, error and older_than."""

    status: list[Literal["completed", "failed", "cancelled", "expired"]] | None = None
    type: Name | None = None
    queue: Name | None = None
    since: Since | None = None
    error: ErrorPart | None = None
    older_than: Annotated[float, Meta(ge=0, description="Only tasks that ended so many seconds ago")] | None = None
    dry_run: DryRun = False


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
    """Changes of a schedule; fields left out stay."""

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


# ---- query parameters -----------------------------------------------------------------------------------------------

Limit = Annotated[int, Meta(ge=1, description=f"Of one page; more than {MAX_PAGE} are {MAX_PAGE}")]
Cursor = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, description="`next` of the page before")]
Show = Annotated[list[Literal["params"]], Meta(description="Also params and results, where that is allowed")]


class TaskQuery(Struct):
    """Which tasks are listed."""

    status: list[Status] | None = None
    type: Name | None = None
    queue: Name | None = None
    schedule: Id | None = None
    since: Since | None = None
    error: ErrorPart | None = None
    limit: Limit = 100
    cursor: Cursor | None = None
    show: Show = []


GroupStatus = Literal["running", "completed", "failed", "cancelled"]


class GroupQuery(Struct):
    """Which groups are listed."""

    status: list[GroupStatus] | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


class MembersQuery(Struct):
    """Which members of a group are shown."""

    limit: Limit = MAX_PAGE
    cursor: Annotated[int, Meta(ge=0, le=INT32, description="`next` of the page before")] = 0


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
    """The timing of a schedule that need not exist: exactly one of cron, interval and at."""

    cron: Annotated[str, Meta(max_length=255)] | None = None
    interval: Annotated[int, Meta(ge=1, description="Seconds")] | None = None
    at: Instant | None = None
    timezone: Annotated[str, Meta(description="IANA name; default the server's")] | None = None
    after: Annotated[datetime, Meta(tz=True)] | None = None
    count: Annotated[int, Meta(ge=1, le=100)] = 5


# ---- responses ------------------------------------------------------------------------------------------------------


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
    error: Annotated[str, Meta(description="Of a list only the kind of error; of one task all of it")] | None
    scheduler_task_id: str | None
    unique_key: str | None
    idempotency_key: str | None
    timeout: float | None
    expires_at: Time | None
    lease_owner: str | None
    lease_until: Time | None
    progress: dict[str, Any] | None
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


class Counted(Struct):
    """How many tasks were changed, or, in a dry run, match."""

    count: int
    dry_run: bool


class TaskState(Struct):
    """The state of a task after a change."""

    task_id: str
    status: Status
    cancel_requested: bool


class GroupView(Struct):
    """A group, chain or workflow, and how many of its members have ended."""

    group_id: str
    name: str | None
    status: Annotated[GroupStatus, Meta(description="running until the last member has ended")]
    total: int
    completed: int
    failed: int
    cancelled: Annotated[int, Meta(description="Also those that have expired, or were deleted before their end")]
    remaining: int
    generation: Annotated[int, Meta(description="How often it has ended, from 1, the present time included")]
    parent_id: Annotated[str, Meta(description="The group whose member it is")] | None
    cancel_requested: bool
    created_at: Time | None
    ended_at: Time | None


class GroupPage(Struct):
    """One page of groups, the newest first; ``next`` is the cursor of the page behind, null on the last one."""

    groups: list[GroupView]
    next: str | None


class EdgeView(Struct):
    """A task that waits for another one, and what becomes of it if that one does not complete."""

    task_id: str
    on_failure: Literal["cancel", "fail", "run"]


class MemberView(Struct):
    """A member of a group: a task, or a group with the type ``group``. Type and status are null once it was deleted."""

    task_id: Annotated[str, Meta(description="Of a group its group_id")]
    position: Annotated[int, Meta(description="From 0, in the order of the calls")]
    is_group: bool
    name: Annotated[str, Meta(description="Its name in a workflow, or that of the group")] | None
    type: str | None
    status: Status | None
    error: Annotated[str, Meta(description="The kind of error")] | None
    waits: Annotated[int, Meta(description="How many of its parents have not ended")]
    parents: Annotated[list[str], Meta(description="The tasks for whose end it waits, or has waited")]
    children: Annotated[list[EdgeView], Meta(description="The tasks that wait for its end")]
    started_at: Time | None
    ended_at: Time | None
    progress: Annotated[dict[str, Any], Meta(description="Of a group the numbers of its members")] | None


class GroupDetail(GroupView):
    """A group and one page of its members, in their order; ``next`` is the cursor of the page behind."""

    members: list[MemberView]
    next: int | None


class MembersRetried(Struct):
    """How many members of a group, and of the groups in it, are pending again."""

    group_id: str
    retried: int


class Mended(Struct):
    """How many counts were wrong."""

    mended: int


class LimitView(Struct):
    """A limit, a rate or a fair share, and the tasks at it. ``rate`` in tokens per second."""

    key: str
    cap: int | None
    window: int | None
    rate: float | None
    burst: int | None
    max_waiting: int | None
    held: int
    waiting: int
    fixed: Annotated[bool, Meta(description="Whether it was set by an operator")]
    closed_until: Time | None
    next_at: Time | None


class LimitPage(Struct):
    """Limits, sorted by their keys."""

    limits: list[LimitView]


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
