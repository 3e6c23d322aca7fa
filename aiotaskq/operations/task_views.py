"""Tasks as operations answer them: in lists, alone with their attempts, what they wait for, and their steps."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from msgspec import UNSET, Struct

from aiotaskq.core.coded import problem_of
from aiotaskq.core.conversion import error_type
from aiotaskq.core.instants import to_iso
from aiotaskq.core.masking import without_passwords
from aiotaskq.core.outcome import attempts_of, run_time
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.core.task import SECOND, Attempt, Task, is_unread
from aiotaskq.operations.fields import Time, about, view_of
from aiotaskq.operations.hidden import plain, visible_progress
from aiotaskq.operations.limits import LimitView
from aiotaskq.runtime.waiting import Reason, Waiting


class AttemptView(Struct):
    """One run of a task; without ``ended_at`` and ``outcome`` while it runs."""

    number: Annotated[int, about("From 1; older attempts than the first one here were dropped")]
    began_at: Time | None
    ended_at: Time | None
    run_time: Annotated[float, about("Seconds")] | None
    outcome: Annotated[str, about("completed, failed, timed_out, lost, cancelled or released")] | None
    error: str | None
    worker: Annotated[str | None, about("The id of the worker that ran it; null of a completed run")] = None
    host: Annotated[str | None, about("The host of the worker")] = None
    version: Annotated[str | None, about("Of the application that the worker ran")] = None
    fence: int | None = None


class TaskView(Struct, kw_only=True):
    """A task. Params, result and the caller's own keys are there only if they were asked for and may be shown."""

    task_id: str
    type: str
    status: Status
    queue: str
    priority: int
    aged_from: Annotated[int, about("What its priority was before it had waited for the `age` of its handler")] | None
    retry_count: int
    max_retries: int
    crashes: int
    created_at: Time | None
    run_at: Time | None
    started_at: Time | None
    completed_at: Time | None
    run_time: Annotated[float, about("Seconds of the latest attempt, once it has ended")] | None
    cancel_requested: bool
    error: Annotated[str, about("All of it of one task, its first line in a list; its kind where hidden")] | None
    fence: Annotated[int, about("Rises with every claim and change")]
    waits: Annotated[int, about("For how many tasks it waits that have to end before it")]
    limit: Annotated[str, about("The limit at which it waits")] | None
    group: Annotated[str, about("The group whose member it is")] | None
    scheduler_task_id: str | None
    unique_key: str | None
    idempotency_key: str | None
    timeout: float | None
    expires_at: Time | None
    lease_owner: str | None
    lease_until: Time | None
    progress: Annotated[dict[str, Any], about("Its numbers; with its message where params are shown")] | None
    usage: Annotated[dict[str, float] | None, about("What its runs have used up, by name")]
    tags: Annotated[dict[str, str], about("By which it is found; shown also where params are not")]
    params: Any = UNSET
    result: Any = UNSET
    extra: Any = UNSET


class ParentView(Struct):
    """A task that has to end before."""

    task_id: str
    name: str
    status: str | None


class WaitingView(Struct):
    """What a pending task waits for.

    ``reason``: paused (its queue), delayed or retry (until ``until``), sleeping (its handler, until ``until``), event
    (the ``event`` of this key has not come), unknown_type (no worker has its handler, or the ``version`` of it that
    began the task), parents (tasks before it in a workflow), budget (that of its ``group`` is used up), limit_paused,
    full or rate (see ``limit``), passing (about to be ready), ready (a free worker: see ``workers``, ``slots``,
    ``busy``, ``ahead``).
    """

    reason: Reason
    until: Annotated[Time | None, about("When it may go on at the earliest, where that is known")]
    version: int | None
    event: str | None
    group: str | None
    limit: LimitView | None
    parents: list[ParentView]
    behind: Annotated[int, about("How many tasks hold it up")]
    ahead: Annotated[int | None, about("How many tasks of its queue are pending, itself included")]
    workers: Annotated[int | None, about("How many workers claim from its queue")]
    slots: int | None
    busy: int | None


class TaskDetail(TaskView, kw_only=True):
    """A task, its attempts, and what it waits for; null if it is not pending."""

    attempts: list[AttemptView]
    waiting: WaitingView | None
    on_success: Any = None
    on_failure: Any = None


class StepView(Struct, omit_defaults=True):
    """What a handler has done, slept or waited for."""

    kind: str
    name: str
    number: int
    at: Time
    until: Time | None = None
    timed_out: bool = False
    version: int = 1
    undecodable: Annotated[str | None, about("The error of the codec, where it cannot be decoded")] = None
    value: Any = UNSET


V = TypeVar("V", bound=TaskView)


def task_view(task: Task, *, errors: bool, params: bool) -> TaskView:
    """Return the view of a task in a list, with the first line of its error if ``errors`` may be shown."""
    error = problem_of(task)
    shown = first_line(_text(error)) if errors else error_type(error)
    return _view(TaskView, task, errors, params, error=shown)


def task_detail(task: Task, waiting: Waiting | None, *, errors: bool, params: bool) -> TaskDetail:
    """Return the view of one task, with its whole error if ``errors`` may be shown."""
    error = _text(task.error_message) if errors else error_type(task.error_message)
    return _view(
        TaskDetail,
        task,
        errors,
        params,
        error=error or problem_of(task),
        attempts=[attempt_view(attempt, errors) for attempt in attempts_of(task)],
        waiting=waiting_view(waiting),
        on_success=plain(task.on_success),
        on_failure=plain(task.on_failure),
    )


def _view(kind: type[V], task: Task, errors: bool, params: bool, **known: Any) -> V:
    for coarse, fine in (("started_at", "began_at"), ("completed_at", "ended_at")):
        seconds, exact = getattr(task, coarse), getattr(task, fine)
        known[coarse] = to_iso(seconds * SECOND if exact is None and seconds is not None else exact)
    left = (task.coded or ()) if is_unread(task) else ()  # what is in blobs is read with the task alone
    for name in ("params", "result", "extra"):
        known[name] = plain(getattr(task, name)) if params and name not in left else UNSET
    return view_of(
        kind,
        task,
        created_at=to_iso(task.created_at * SECOND),
        run_at=to_iso(task.due_us),
        run_time=run_time(task),
        progress=visible_progress(task.progress, errors),
        limit=task.gate if task.parked and not task.waits else None,
        group=None if task.flow is None else task.flow.group,
        **known,
    )


def _text(error: str | None) -> str | None:
    return None if error is None else without_passwords(error)


def first_line(error: str | None) -> str | None:
    return next(iter((error or "").strip().splitlines()), None)


MAX_LINE = 300
"""Characters of an error by which it is told from others."""
_VARIES = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?<![a-z0-9])(?=[a-z]*\d[a-z]*\d)[a-z0-9]{8,}"  # an id or a digest: letters and at least two digits
    r"|\d+(?:[.,:]\d+)*",
    re.ASCII | re.IGNORECASE,
)


def error_line(error: str | None, show: bool) -> str:
    """Return what errors of one cause have in common: the first line, with ``#`` for each number and id.

    Where messages are hidden, it is the type alone.
    """
    if not show:
        return error_type(error) or ""
    kind, colon, message = without_passwords((first_line(error) or "")[: 10 * MAX_LINE]).partition(":")
    if not (kind.isascii() and kind.isidentifier()):
        kind, colon, message = "", "", kind + colon + message
    return f"{kind}{colon}{_VARIES.sub('#', message)}"[:MAX_LINE]


def attempt_view(attempt: Attempt, errors: bool) -> AttemptView:
    """Return the view of an attempt, with the whole of its error if ``errors`` may be shown."""
    # Why a task was released or lost is a text of the library, which holds no params.
    whole = errors or attempt.outcome in ("released", "lost")
    error = _text(attempt.error) if whole else error_type(attempt.error)
    return view_of(AttemptView, attempt, run_time=attempt.seconds, error=error)


def waiting_view(found: Waiting | None) -> WaitingView | None:
    """Return the view; None for a task that is not pending."""
    if found is None:
        return None
    limit = None if found.limit is None else view_of(LimitView, found.limit)
    return view_of(WaitingView, found, limit=limit, parents=[view_of(ParentView, each) for each in found.parents])


def step_view(step: Step, show: bool) -> StepView:
    view = view_of(StepView, step, until=None, value=UNSET)
    if step.undecodable is not None:
        return view
    if step.kind in ("sleep", "wait"):
        view.until = None if step.until >= NEVER else to_iso(step.until)
    elif show and step.kind != "wake":
        view.value = plain(step.value)
    return view
