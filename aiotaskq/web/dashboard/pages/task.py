"""One task: its state and why it waits, attempts with their errors, and params where they may be shown; its actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aiotaskq.core.attempts import attempts_of
from aiotaskq.core.instants import from_iso, to_iso
from aiotaskq.core.outcome import RETRYABLE, owner_of
from aiotaskq.core.parking import budgets_of
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.core.task import SECOND, Attempt, Status, Task
from aiotaskq.core.validation import check_json
from aiotaskq.errors import TaskConflict
from aiotaskq.runtime.queue.bulk import ids_named, run_now
from aiotaskq.runtime.waiting import waiting
from aiotaskq.web.changes import EditBody, change_task
from aiotaskq.web.dashboard.fields import body_of, whole
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.rows import WaitingView, elapsed, json_text, timeout_of, waiting_view
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, Question, View, actions, done, link, operated_on, pages
from aiotaskq.web.dashboard.words import marked
from aiotaskq.web.problem_details import ProblemError
from aiotaskq.web.schemas.tasks import AttemptView, PushBody, TaskView
from aiotaskq.web.views import body_options, task_view

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

SHORTEST = 4  # characters of an id by which a task is looked for
NOTES = 200
"""Notes that are shown."""


class NoteView(msgspec.Struct):
    """A note of the task."""

    n: int
    at: str | None
    kind: str
    text: str
    attempt: int | None = None
    """The number of the attempt that wrote it; None where that is not known any more."""


class Run(msgspec.Struct):
    """A run of the task that has not ended."""

    elapsed: float | None
    """Whole seconds."""
    timeout: float | None
    """Seconds; None where it has none, or the handler is not registered here."""
    registered: bool
    """Whether the handler is registered here."""
    worker: str | None
    """The id of its worker; None where that is not in the registry."""
    name: str
    """Where the worker is: its host and process."""
    lease_until: str | None
    """RFC 3339."""


class TaskPage(msgspec.Struct, kw_only=True):
    """The data of the page."""

    task: TaskView
    waiting: WaitingView | None
    """Why it does not run; None if it is not pending."""
    limits: list[str]
    """The limits that it passes, in their order."""
    group: str | None
    """The group whose member it is."""
    source: str | None
    """The group whose end has pushed it."""
    parents: list[tuple[str, str]]
    """Ids and names of the tasks that end before it."""
    children: list[tuple[str, str]]
    """Ids of the tasks that wait for it, and what its failure means for each."""
    moments: list[Moment]
    """What has happened to it, the latest first."""
    ran: int
    """The number of the latest attempt; 0 if it has not run yet."""
    runs: Run | None
    """Where and how long it runs; None if it does not."""
    can_run_now: bool
    can_cancel: bool
    can_retry: bool
    can_edit: bool
    ended: bool
    params: str | None = None
    """As JSON text; None where it is not shown."""
    result: str | None = None
    """The same of a task that has completed."""
    notes: list[NoteView] | None = None
    """The newest lines of its log, and data that it has emitted; None where they are not shown."""
    older: bool = False
    """Whether there were notes before these."""


@pages("task", marked("Task"), "id", section="tasks")
async def task(view: View) -> TaskPage:
    """Read a task, by its id or by the beginning of it. Raises NotFound, and ProblemError if several begin so."""
    found = await _named(view, view.needed("id").strip())
    flow = found.flow

    async def counted() -> Mapping[str, Mapping[str, int]]:
        return (await view.counts.get()).stats.queues  # where counting takes long, not anew for each update

    waits = await waiting(view.tq.queue, found, counted)
    shown = task_view(found, one=True, show=view.show_args)
    steps = await _steps(view, found)
    attempts = shown.attempts or []
    changes = await operated_on(view, found.task_id, ("task", "tasks", "schedule"))
    page = TaskPage(
        task=shown,
        waiting=waiting_view(waits),
        moments=timeline(found, attempts, steps, view.show_args, changes),
        ran=attempts[-1].number if attempts else 0,
        runs=await _run(view, found),
        can_run_now=waits is not None and waits.reason in ("delayed", "retry", "sleeping") and not found.waits,
        limits=[] if flow is None else [key for key, _ in flow.gates],
        group=None if flow is None else flow.group,
        source=None if flow is None else flow.source,
        parents=[] if flow is None else list(flow.parents),
        children=[] if flow is None else list(flow.children),
        can_cancel=not found.final,
        can_retry=found.status in RETRYABLE,
        can_edit=found.status is Status.PENDING and not found.waits and found.undecodable is None,
        ended=found.final,
    )
    if view.show_args:
        page.params = json_text(found.params)
        notes = await view.tq.queue.backend.notes.last(found.task_id, NOTES)
        runs = attempts_of(found)
        page.notes = [NoteView(each.n, to_iso(each.at), each.kind, each.text, during(runs, each.at)) for each in notes]
        page.older = bool(notes) and notes[0].n > 1
        page.result = None if found.result is None else json_text(found.result)
    return page


def during(runs: Sequence[Attempt], at: int) -> int | None:
    """Return the number of the last of these runs that had begun at an instant."""
    return next((each.number for each in reversed(runs) if each.began_at is not None and each.began_at <= at), None)


async def _steps(view: View, task: Task) -> list[Step]:
    """Return what its handler has done step by step; a task that was never claimed has done nothing."""
    return await view.tq.queue.backend.steps.read(task.task_id, task.seq) if task.fence else []


async def _run(view: View, task: Task) -> Run | None:
    if task.status is not Status.RUNNING:
        return None
    registry = view.tq.queue.backend.workers
    info = None if registry is None else await registry.get(owner_of(task))
    return Run(
        elapsed=elapsed(task, view.now),
        timeout=timeout_of(view.tq, task),
        registered=task.type in view.tq.registered.handlers,
        worker=None if info is None else info.owner,
        name=owner_of(task) if info is None else f"{info.host} · {info.pid}",
        lease_until=to_iso(task.lease_until if info is None else info.lease_until),
    )


async def _named(view: View, wanted: str) -> Task:
    ids = await ids_named(view.tq.queue.backend, wanted) if len(wanted) >= SHORTEST else []
    if len(ids) > 1:
        raise ProblemError(404, "NotFound", marked("several task ids begin so; give more of the id"))
    return await view.tq.get(ids[0] if ids else wanted)


MOST = 200
"""Steps that are shown: the latest ones."""


KINDS = (marked("step"), marked("sleep"), marked("wake"), marked("wait"), marked("event"))
"""What a handler does, as words that are translated."""


class Moment(msgspec.Struct, kw_only=True):
    """Something that has happened to a task. Instants are RFC 3339."""

    kind: str
    """``pushed``, ``attempt``, ``operated``, or one of ``KINDS``."""
    at: str | None
    attempt: AttemptView | None = None
    name: str = ""
    """Of a step, with its number where it is a later one of its name; the key of an event."""
    until: str | None = None
    """When a sleep, or the time for an event, ends or has ended; None without an end."""
    timed_out: bool = False
    """Whether an event did not come in time."""
    now: bool = False
    """Whether the task sleeps or waits so at present."""
    change: Operated | None = None
    """What an operator has done to it."""
    value: str | None = None
    """What a step returned, or the value of an event, as JSON; None where it is not shown."""


def timeline(
    task: Task,
    attempts: Sequence[AttemptView],
    steps: Sequence[Step],
    show: bool,
    changes: Sequence[Operated] = (),
) -> list[Moment]:
    """Return what has happened to a task, the latest first; with ``show`` the values of steps, too."""
    found = [(task.created_at * SECOND, 0, Moment(kind="pushed", at=to_iso(task.created_at * SECOND)))]
    found += [(_instant(each.began_at), 1, Moment(kind="attempt", at=each.began_at, attempt=each)) for each in attempts]
    found += [(each.at, 1 + MOST, Moment(kind="operated", at=each.time, change=each)) for each in changes]
    came = {(step.name, step.number) for step in steps if step.kind == "event"}
    for step in steps[-MOST:]:
        until = None if step.kind not in ("sleep", "wait") or step.until >= NEVER else to_iso(step.until)
        waits = step.kind == "sleep" or (step.kind == "wait" and (step.name, step.number) not in came)
        moment = Moment(
            kind=step.kind,
            at=to_iso(step.at),
            name=step.label,
            until=until,
            timed_out=step.timed_out,
            now=waits and not task.final and step.until == task.due_us,
            value=step.text or None if show and step.kind in ("step", "event") else None,
        )
        found.append((step.at, 1 + step.n, moment))
    return [moment for _, _, moment in sorted(found, key=lambda each: each[:2], reverse=True)]


def _instant(text: str | None) -> int:
    return 0 if text is None else from_iso(text)


_FIELDS = (
    *("type", "queue", "priority", "delay", "at", "max_retries", "timeout", "unique_key", "idempotency_key"),
    *("on_success", "on_failure"),
)
_KEPT = ("queue", "priority", "max_retries", "timeout", "on_success", "on_failure")
"""What the next run of an ended task has, too."""
_ONE_CALL: dict[str, Any] = dict.fromkeys(("debounce", "max_wait", "merge", "throttle", "key"))
"""Options of a type that are about its calls, and not about a task that is run again."""


def _check_readable(tq: TaskQ, task: Task) -> None:
    """Raise TaskConflict for a task that cannot be pushed again as it is."""
    if task.undecodable is not None:
        raise TaskConflict(f"task {task.task_id!r} cannot be read ({task.undecodable}); cancel it")
    gated = task.flow is not None and len(task.flow.gates) > len(budgets_of(task.flow))  # the copy is in no group
    if gated and task.type not in tq.registered.handlers:
        raise TaskConflict(
            f"task {task.task_id!r} has limits, and its type {task.type!r} is not registered here, so they would be "
            "lost; run the dashboard in the application"
        )


@actions("add-task", form="task-form")
async def add(change: Change) -> Done:
    """Push a task; without params of its own it has those of the task that it is a copy of."""
    body = body_of(change, PushBody, _FIELDS)
    source = None
    if (copied := change.text("from")) is not None:
        source = await change.tq.get(copied)
        _check_readable(change.tq, source)
    options = {name: value for name, value in body_options(body).items() if value is not None}
    kind, params = options.pop("type"), options.pop("params")
    if source is not None and change.text("params") is None:
        params = source.params
    else:
        check_json("params", params)
    handle = await change.tq.push(kind, params, **options)
    if handle.created:
        return done(marked("Task {id} is pushed."), link("task", id=handle.task_id), id=handle.task_id)
    said = Message(
        marked("A key names task {id}, which exists already; none was pushed."), {"id": handle.task_id}, True
    )
    return Done(said, link("task", id=handle.task_id), (handle.task_id,))


@actions("edit-task", form="task-form")
async def edit(change: Change) -> Done:
    """Change a pending task that has not changed since the form was opened; params that are left empty stay."""
    task_id, fence = change.needed("id"), whole("fence", change.needed("fence"))
    body = body_of(change, EditBody, _FIELDS)
    if change.text("timeout") is None:
        body.timeout = None
    await change_task(change.tq, task_id, body, fence)
    return done(marked("Task {id} is changed."), link("task", id=task_id), id=task_id)


@actions("run-task")
async def run_at_once(change: Change) -> Done:
    """Make a task due that is delayed, waits for its next attempt, or sleeps."""
    task_id = change.needed("id")
    await run_now(change.tq.queue, await change.tq.get(task_id))
    return done(marked("Task {id} is due now."), link("task", id=task_id), id=task_id)


@actions("rerun-task")
async def rerun(change: Change) -> Question | Done:
    """Run an ended task again, under its id."""
    task_id = change.needed("id")
    task = await change.tq.get(task_id)
    if not task.final:
        raise TaskConflict(f"task {task_id} is {task.status}; only ended tasks are run again")
    _check_readable(change.tq, task)
    if not change.sure:
        text = marked("Run task {id} again? Its result and its attempts are replaced by those of the new run.")
        return Question(text, {"id": task_id}, marked("Run again"), link("task", id=task_id))
    kept: dict[str, Any] = {name: getattr(task, name) for name in _KEPT if getattr(task, name) is not None}
    await change.tq.push(task.type, task.params, task_id=task_id, rerun=True, **kept, **_ONE_CALL)
    return done(marked("Task {id} runs again."), link("task", id=task_id), id=task_id)


@actions("cancel-task")
async def cancel(change: Change) -> Question | Done:
    """Cancel a task, or ask a running one to stop."""
    task_id = change.needed("id")
    if not change.sure:
        text = marked("Cancel task {id}? A cancelled task can be retried; what its run has done so far stays done.")
        return Question(text, {"id": task_id}, marked("Cancel the task"), link("task", id=task_id))
    if not await change.tq.cancel(task_id):
        ended = Message(marked("Task {id} has ended already."), {"id": task_id}, problem=True)
        return Done(ended, link("task", id=task_id), (task_id,))
    stopped = (await change.tq.get(task_id)).status is Status.CANCELLED
    return done(
        marked("Task {id} is cancelled.") if stopped else marked("Task {id} was asked to stop."),
        link("task", id=task_id),
        id=task_id,
    )


@actions("retry-task")
async def retry(change: Change) -> Done:
    """Put a failed, cancelled or expired task back."""
    task_id = change.needed("id")
    await change.tq.retry(task_id)
    return done(marked("Task {id} is pending again."), link("task", id=task_id), id=task_id)


@actions("delete-task")
async def delete(change: Change) -> Question | Done:
    """Delete an ended task."""
    task_id = change.needed("id")
    if not change.sure:
        text = marked("Delete task {id}, with its result and its attempts? This cannot be undone.")
        return Question(text, {"id": task_id}, marked("Delete the task"), link("task", id=task_id))
    await change.tq.delete(task_id)
    return done(marked("Task {id} is deleted."), "tasks", id=task_id)


class TaskForm(msgspec.Struct, kw_only=True):
    """The data of the form."""

    task: TaskView | None
    """The task that is edited or copied; None for a new one."""
    edited: bool
    fence: int
    """That of the task: an edit holds only while it is the same."""
    params: str | None
    """As JSON text; None where there are some that are not shown."""
    on_success: str
    on_failure: str
    types: list[str]
    """The registered types, for suggestions."""


@pages("task-form", marked("New task"), "id", "from", section="tasks")
async def task_form(view: View) -> TaskForm:
    """Read what the form is filled with. Raises NotFound."""
    types = sorted(view.tq.registered.handlers)
    wanted = view.text("id") or view.text("from")
    if wanted is None:
        return TaskForm(task=None, edited=False, fence=0, params="", on_success="", on_failure="", types=types)
    found = await view.tq.get(wanted)
    return TaskForm(
        task=task_view(found, one=False, show=False),
        edited=view.text("id") is not None,
        fence=found.fence,
        params=json_text(found.params) if view.show_args else None,
        on_success=found.on_success if isinstance(found.on_success, str) else "",
        on_failure=found.on_failure if isinstance(found.on_failure, str) else "",
        types=types,
    )
