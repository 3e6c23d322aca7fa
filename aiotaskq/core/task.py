"""What a task is: a frozen record with a status, how one is made from a push, and in which order tasks are claimed.

A task is never changed in place. ``core.outcome`` says what it becomes next; a backend writes that, under a guard, so
that a write based on an outdated task changes nothing.

Documented fields keep epoch **seconds**; every added time is integer **microseconds** UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

import msgspec

from aiotaskq.core.errors import (
    INT32,
    MAX_ID,
    MAX_NAME,
    check_hashable,
    check_int,
    check_key,
    check_params,
    check_seconds,
)
from aiotaskq.core.gate import PARKED, Flow
from aiotaskq.core.ids import new_id, next_seq, second_of
from aiotaskq.core.instants import to_datetime, utc, utc_or_none
from aiotaskq.core.masking import Redacted
from aiotaskq.core.status import FINAL, PENDING, Status, StatusName
from aiotaskq.core.tags import MAX_TAGS, tags_of, with_tags
from aiotaskq.core.worker_info import read_owner

SECOND = 1_000_000  # microseconds
UNREAD = "in a blob, which was not read"
"""The end of ``undecodable`` where nothing else is wrong with a task."""
TRACE = ("traceparent", "tracestate")
"""The keys in a task's ``extra`` of the span that has pushed it: https://www.w3.org/TR/trace-context/."""
SPAN = "span"
"""The key in a task's ``extra`` of the span of its last run, as ``traceparent``, where others have waited for it."""
HIGHEST = -INT32
"""The priority that is claimed before all others."""
AGED_FROM = "aged_from"
"""The key in ``extra`` of the priority that a task had before its wait made it the highest."""


class Attempt(Redacted, frozen=True, kw_only=True, omit_defaults=True):
    """One run of a task: when it began and ended, how, and where it ran."""

    number: int
    """From 1; the first one kept tells by it how many older ones were dropped."""
    began_at: int | None = None
    """When it was claimed, in microseconds UTC; None where that is not known."""
    ended_at: int | None = None
    """Microseconds UTC, never before ``began_at``; None while it runs."""
    outcome: str | None = None
    """``completed``, ``failed``, ``timed_out``, ``lost``, ``cancelled`` or ``released``; None while it runs."""
    error: str | None = None
    """Why it did not complete, without a traceback, at most 1 KB."""
    worker: str | None = None
    """The id of the worker that ran it, or of the consumer that popped it; None of a completed run: that is not kept.
    """
    version: str | None = None
    """The version of the worker's application, ``TaskQ(version=…)``; None where it is not known."""
    fence: int | None = None
    """That of the task during this run."""
    snoozes: int = 0
    """How often the task has snoozed since its latest failure, with this run; 0 in an attempt that failed."""

    @property
    def host(self) -> str | None:
        """The name of the host on which it ran, at most 48 characters of it; None where it is not known."""
        return None if self.worker is None else read_owner(self.worker).host

    began = utc_or_none("began_at")
    ended = utc_or_none("ended_at")

    @property
    def seconds(self) -> float | None:
        """How long it ran; None while it runs, and where its beginning is not known."""
        if self.began_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.began_at) / SECOND


class Task(Redacted, frozen=True, kw_only=True, gc=False):
    """One unit of work, as it is stored."""

    # Not tracked by the garbage collector, which would visit each field of each row again and again: a value of JSON
    # is in no cycle. A task that may have other values is a `TaskOfObjects`.

    task_id: str
    type: str
    """The name of the handler that runs it."""
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    """The keyword arguments of the handler."""
    status: Status = Status.PENDING
    priority: int = 0
    """The smaller number is claimed first."""
    retry_count: int = 0
    max_retries: int = 3
    created_at: int = 0
    """Epoch seconds."""
    started_at: int | None = None
    """Epoch seconds at which the latest run was claimed."""
    completed_at: int | None = None
    """Epoch seconds of the end, whatever the final status."""
    began_at: int | None = None
    """``started_at`` in microseconds UTC."""
    ended_at: int | None = None
    """``completed_at`` in microseconds UTC."""
    error_message: str | None = None
    """``Type: message`` of the latest failure, then its traceback."""
    scheduler_task_id: str | None = None
    """The schedule that fired it."""
    queue: str = "default"
    run_at: int = 0
    """Not to be claimed before this instant, in microseconds UTC. A delay and a retry are this one number."""
    due_at: int | None = None
    """The due time of a task that waits at a limit, or that was put off because no worker could run it."""
    seq: int = 0
    """The push order: rises within a process, and goes by the clock across processes."""
    expires_at: int | None = None
    """Not to be claimed from this instant on, in microseconds UTC."""
    timeout: float | None = None
    """Seconds for one run; None takes the handler's own."""
    fence: int = 0
    """Rises with every claim; a write that carries an older one changes nothing."""
    crashes: int = 0
    """Leases that ended because the worker's process died."""
    lease_owner: str | None = None
    lease_until: int | None = None
    """When the lease of a pop by hand ends, in microseconds UTC; None for a worker's task: the worker has a lease."""
    unique_key: str | None = None
    """At most one pending or running task has it."""
    idempotency_key: str | None = None
    """At most one task has it, for as long as its row is kept."""
    result: Any = None
    progress: dict[str, Any] | None = None
    usage: dict[str, int | float] | None = None
    """What its runs have used up, in all, by name: see ``current_task().usage()``."""
    cancel_requested: bool = False
    on_success: Any = None
    on_failure: Any = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keys of a documented task dict that aiotaskq does not know; every backend keeps them."""
    flow: Flow | None = None
    """What it passes and waits for before it can be claimed."""
    gate: str | None = None
    """The key of the limit at which it waits; of the last one that it has passed if it does not."""
    waits: int = 0
    """The number of its parents for whose end it waits, at no limit."""
    attempts: tuple[Attempt, ...] = ()
    """The newest runs that ended without completing; ``core.attempts.attempts_of`` returns the last run as well."""
    coded: dict[str, str] | None = None
    """Stored texts of a codec, by column: of a row that cannot be decoded, and between a backend and its store."""
    undecodable: str | None = None
    """Why the stored row cannot be read. Never stored; the row stays as it is."""

    @property
    def final(self) -> bool:
        """Whether the task has ended."""
        return self.status in FINAL

    @property
    def parked(self) -> bool:
        """Whether it waits at a limit, or for its parents."""
        return self.run_at == PARKED and self.status is PENDING

    @property
    def due_us(self) -> int:
        """When it is due, in microseconds UTC: its ``run_at``, or its ``due_at`` while it waits at a limit."""
        return self.run_at if self.run_at != PARKED or self.due_at is None else self.due_at

    created = utc(seconds="created_at")
    started = utc_or_none(
        "began_at",
        "started_at",
        "When the latest run was claimed, as an aware datetime in UTC; None before the first.",
    )
    ended = utc_or_none(
        "ended_at",
        "completed_at",
        "When it ended, whatever the final status, as an aware datetime in UTC; None before that.",
    )

    @property
    def due(self) -> datetime | None:
        """From when on it may be claimed, as an aware datetime in UTC; None where only other tasks decide that."""
        return None if self.due_us >= PARKED else to_datetime(self.due_us)

    @property
    def aged_from(self) -> int | None:
        """The priority that it had before its wait made it the highest; None where that has not happened."""
        return self.extra.get(AGED_FROM) if self.priority == HIGHEST else None

    @property
    def tags(self) -> dict[str, str]:
        """What it can be found by: values by name; empty for none."""
        return tags_of(self.extra)

    def replace(self, **changes: Any) -> Task:
        """Return a copy with these fields changed."""
        return msgspec.structs.replace(self, **changes)


class TaskOfObjects(Task, frozen=True, kw_only=True, gc=True):
    """A task in memory whose id, params, result or follow-ups may be any objects.

    Such an object may refer to the queue that has the task, so the garbage collector tracks the task.
    """


def of_objects(task: Task) -> Task:
    """Return the task as a ``TaskOfObjects``."""
    return task if isinstance(task, TaskOfObjects) else TaskOfObjects(**msgspec.structs.asdict(task))


RUN_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "queue": lambda value: check_key("queue", value, MAX_NAME),
    "priority": lambda value: check_int("priority", value),
    "max_retries": lambda value: check_int("max_retries", value, 0),
    "timeout": lambda value: None if value is None else check_seconds("timeout", value, zero=False),
}
"""The fields that say how a task runs, and what checks each: a handler declares them, a push and an edit set them."""


def run_options(task: Task) -> dict[str, Any]:
    """Return these fields of a task."""
    return {name: getattr(task, name) for name in RUN_OPTIONS}


class Filters(TypedDict, total=False):
    """The filters of the verbs on many tasks, but for their status; see ``TaskQ.find``."""

    type: str | None
    queue: str | None
    scheduler_task_id: str | None
    since: float | datetime | None
    error: str | None
    error_type: str | None
    tags: Mapping[str, str] | None


class Where(Filters, total=False):
    """The filters, and the status of the tasks."""

    status: StatusName | Iterable[StatusName] | None


EQUAL = ("type", "queue", "scheduler_task_id")
"""The fields of a filter whose value a task has to have."""


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks are meant; a field that is not set does not restrict. An empty ``error`` is in every error."""

    status: tuple[Status, ...] = ()
    type: str | None = None
    queue: str | None = None
    scheduler_task_id: str | None = None
    completed_before: int | None = None
    """Epoch seconds."""
    created_since: int | None = None
    """Epoch seconds: only tasks that were created then or later."""
    error: str | None = None
    """A text that the error message contains; upper and lower case differ."""
    error_type: str | None = None
    """A text with which the error message begins; see ``check_error_type``."""
    tags: Mapping[str, str] = {}
    """What it has of these names, all of them."""
    after: str | None = None
    """A task id: only tasks that are listed behind it, the newest first."""
    newest: int | None = None
    """Only so many tasks of each wanted status, the newest first, need be looked at; more may be.

    Pending and running may count as one status.
    """

    @property
    def equal(self) -> dict[str, str]:
        """The fields of ``EQUAL`` that are set."""
        return {name: value for name in EQUAL if (value := getattr(self, name)) is not None}

    @property
    def restricted(self) -> bool:
        """Whether it leaves out tasks of a wanted status."""
        return self != TaskFilter(status=self.status, after=self.after)


def is_unread(task: Task) -> bool:
    """Whether nothing is wrong with a task but that blobs were not read."""
    return (problem := task.undecodable) is not None and problem.endswith(UNREAD)


def claim_order(task: Task) -> tuple[int, int, int]:
    """Return the sort key of a claim: the smaller priority first, then the earlier ``run_at``, then the push order."""
    return (task.priority, task.run_at, task.seq)


def aged(task: Task, age: int | None, now: int) -> Task | None:
    """Return a pending task with the highest priority if it has been due for ``age`` microseconds, else None.

    ``now`` in microseconds UTC; an age of None is never reached. It keeps that priority until it has been claimed.
    While it waits for other tasks it is not aged; that time counts afterwards.
    """
    since = task.run_at if task.due_at is None else task.due_at
    stays = task.status is not PENDING or task.waits or task.priority <= HIGHEST or task.undecodable
    if age is None or stays or now - since < age:
        return None
    return task.replace(priority=HIGHEST, extra={**task.extra, AGED_FROM: task.priority})


def not_aged(task: Task) -> Task:
    """Return the task with the priority that it had before its wait made it the highest."""
    if task.aged_from is None:
        return task
    extra = {name: value for name, value in task.extra.items() if name != AGED_FROM}
    return task.replace(priority=task.aged_from, extra=extra)


def not_ahead(task: Task, now: int) -> Task:
    """Return a running task as due by ``now``, in microseconds UTC: the clock may have been set back since its claim.

    What hosts' clocks differ by is left: it keeps its place in the order of claims.
    """
    return task.replace(run_at=now) if task.status is Status.RUNNING and task.run_at > now + SECOND else task


def with_default_tags(task: Task, tags: Mapping[str, str]) -> Task:
    """Return a task with those of these tags that it does not have by name."""
    own = task.tags
    more = [each for each in tags.items() if each[0] not in own]
    merged = {**dict(more[: MAX_TAGS - len(own)]), **own}
    return task if merged == task.tags else task.replace(extra=with_tags(task.extra, merged))


def any_tags(tasks: Iterable[Task]) -> bool:
    """Return whether a task has tags. Most have none."""
    return any(task.extra and task.tags for task in tasks)


def new_task(
    type: object,
    params: object = None,
    *,
    now: int,
    task_id: object = None,
    retry_count: object = 0,
    run_at: int | None = None,
    expires_at: int | None = None,
    unique_key: object = None,
    idempotency_key: object = None,
    scheduler_task_id: str | None = None,
    on_success: Any = None,
    on_failure: Any = None,
    extra: dict[str, Any] | None = None,
    any_id: bool = False,
    kind: type[Task] = Task,
    **options: object,
) -> Task:
    """Return a pending task made from unchecked input; ``now`` and ``run_at`` in microseconds.

    ``options`` are of ``RUN_OPTIONS``; ``timeout`` in seconds. The task is of this ``kind``, or a TaskOfObjects if a
    follow-up is a function, or the id is no text: with ``any_id`` that may be any hashable value, as in memory. Raises
    ValidationError naming the field. That params are JSON is checked by durable queues, not here.
    """
    if task_id is None:
        known_id = new_id()
    else:
        known_id = check_hashable("task_id", task_id) if any_id else check_key("task_id", task_id, MAX_ID)
    if callable(on_success) or callable(on_failure) or not isinstance(known_id, str):
        kind = TaskOfObjects
    return kind(
        task_id=known_id,
        type=check_key("type", type, MAX_NAME),
        params=check_params(params),
        retry_count=check_int("retry_count", retry_count, 0),
        created_at=second_of(now),
        run_at=now if run_at is None else run_at,
        seq=next_seq(now),
        expires_at=expires_at,
        unique_key=None if unique_key is None else check_key("unique_key", unique_key),
        idempotency_key=None if idempotency_key is None else check_key("idempotency_key", idempotency_key),
        scheduler_task_id=scheduler_task_id,
        on_success=on_success,
        on_failure=on_failure,
        extra=extra or {},
        **{name: RUN_OPTIONS[name](value) for name, value in options.items()},
    )


_CONTENT = ("type", "params", "retry_count", "scheduler_task_id", "extra", *RUN_OPTIONS)


def same_content(a: Task, b: Task) -> bool:
    """Whether a push of ``b`` would change nothing about ``a``."""
    a = not_aged(a)
    return all(getattr(a, name) == getattr(b, name) for name in _CONTENT)


def trace_of(task: Task) -> dict[str, Any]:
    """Return what a task's ``extra`` has of the span that has pushed it."""
    return {key: value for key, value in task.extra.items() if key in TRACE}


def same_push(row: Task, task: Task) -> bool:
    """Whether the row was inserted by a push of this task: they have the id and the push stamp in common."""
    return (row.task_id, row.seq) == (task.task_id, task.seq)


def is_late_holder(row: Task, task: Task, now: int) -> bool:
    """Whether a row conflicts with a new task by its unique key only, and has expired."""
    return (
        row is not task
        and row.status is PENDING
        and row.task_id != task.task_id
        and (task.idempotency_key is None or row.idempotency_key != task.idempotency_key)
        and task.unique_key is not None
        and row.unique_key == task.unique_key
        and row.expires_at is not None
        and row.expires_at <= now
    )
