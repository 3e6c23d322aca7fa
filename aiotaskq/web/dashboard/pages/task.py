"""One task: its state and why it waits, attempts with their errors, and params where they may be shown; its actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aiotaskq.app.taskq import internal
from aiotaskq.core.instants import from_iso, to_iso
from aiotaskq.core.outcome import RETRYABLE, attempts_of, owner_of
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.core.task import SECOND, Attempt, Status, Task
from aiotaskq.operations.table import Access, Operation, perform, read
from aiotaskq.operations.task_views import AttemptView, task_detail, task_view
from aiotaskq.operations.tasks import Copied, Pushed, find
from aiotaskq.operations.tasks import tasks as operations
from aiotaskq.runtime.waiting import waiting
from aiotaskq.web.dashboard.door import action, by_name
from aiotaskq.web.dashboard.operated import Operated
from aiotaskq.web.dashboard.rows import elapsed, json_text, timeout_of
from aiotaskq.web.dashboard.session import Message
from aiotaskq.web.dashboard.view import Change, Done, View, actions, done, link, operated_on, pages
from aiotaskq.web.dashboard.words import marked

SHORTEST = 4  # characters of an id by which a task is looked for
NOTES = 200
"""Notes that are shown."""


@pages("task", marked("Task"), "id", section="tasks")
async def task(view: View) -> dict[str, Any]:
    """Read a task, by its id or by the beginning of it. Raises NotFound, and ProblemError if several begin so."""
    found = await _named(view, view.needed("id").strip())
    flow = found.flow

    async def counted() -> Mapping[str, Mapping[str, int]]:
        return (await view.counts.get()).stats.queues  # where counting takes long, not anew for each update

    waits = await waiting(view.tq.queue, found, counted)
    shown = task_detail(found, waits, errors=view.show_args, params=False)
    steps = await _steps(view, found)
    attempts = shown.attempts
    changes = await operated_on(view, found.task_id, ("tasks", "schedule", "schedules"))
    hidden = {"params": None, "result": None, "notes": None, "older": False}
    return {
        "task": shown,
        "moments": timeline(found, attempts, steps, view.show_args, changes),
        "ran": attempts[-1].number if attempts else 0,
        "runs": await _run(view, found),
        "can_run_now": waits is not None and waits.reason in ("delayed", "retry", "sleeping") and not found.waits,
        "limits": [] if flow is None else [key for key, _ in flow.gates],
        "group": None if flow is None else flow.group,
        "source": None if flow is None else flow.source,  # the group whose end has pushed it
        "parents": [] if flow is None else flow.parents,
        "children": [] if flow is None else flow.children,
        "can_cancel": not found.final,
        "can_retry": found.status in RETRYABLE,
        "can_edit": found.status is Status.PENDING and not found.waits and found.undecodable is None,
        "ended": found.final,
    } | (await _args(view, found) if view.show_args else hidden)


async def _args(view: View, task: Task) -> dict[str, Any]:
    """Return what is not shown to all: params, result, and the newest lines of its log with data that it streamed."""
    notes = await view.tq.queue.backend.notes.last(task.task_id, NOTES)
    runs = attempts_of(task)
    return {
        "params": json_text(task.params),
        "result": None if task.result is None else json_text(task.result),
        "notes": [
            {
                "n": each.n,
                "at": to_iso(each.at),
                "kind": each.kind,
                "text": each.text,
                "attempt": during(runs, each.at),
            }
            for each in notes
        ],
        "older": bool(notes) and notes[0].n > 1,
    }


def during(runs: Sequence[Attempt], at: int) -> int | None:
    """Return the number of the last of these runs that had begun at an instant."""
    return next((each.number for each in reversed(runs) if each.began_at is not None and each.began_at <= at), None)


async def _steps(view: View, task: Task) -> list[Step]:
    """Return what its handler has done step by step; a task that was never claimed has done nothing."""
    return await view.tq.queue.backend.steps.read(task.task_id, task.seq) if task.fence else []


async def _run(view: View, task: Task) -> dict[str, Any] | None:
    """Return where and for how long a task runs; None if it does not."""
    if task.status is not Status.RUNNING:
        return None
    registry = view.tq.queue.backend.workers
    info = None if registry is None else await registry.get(owner_of(task))
    return {
        "elapsed": elapsed(task, view.now),
        "timeout": timeout_of(view.tq, task),
        "registered": task.type in internal(view.tq).registered.handlers,
        "worker": None if info is None else info.owner,
        "name": owner_of(task) if info is None else f"{info.host} · {info.pid}",
        "lease_until": to_iso(task.lease_until if info is None else info.lease_until),
    }


async def _named(view: View, wanted: str) -> Task:
    return await view.tq.get(await find(view.tq, wanted) if len(wanted) >= SHORTEST else wanted)


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


def _page(_change: Change, task_id: str) -> str:
    return link("task", id=task_id)


async def _pushed(change: Change, operation: Operation) -> Done:
    """Push what the form says."""
    given = read(operation, by_name(operation, change), strict=False)
    access = Access(change.tq, change.show_args)
    answer: Pushed | Copied = await perform(operation, access, given, "dashboard", change.actor)
    if answer.created:
        return done(marked("Task {task_id} is pushed."), _page(change, answer.task_id), task_id=answer.task_id)
    said = marked("A key names task {task_id}, which exists already; none was pushed.")
    return Done(Message(said, {"task_id": answer.task_id}, True), _page(change, answer.task_id))


@actions(operations["push"], form="task-form")
async def push(change: Change) -> Done:
    """Push a task."""
    return await _pushed(change, operations["push"])


@actions(operations["rerun"], form="task-form")
async def rerun(change: Change) -> Done:
    """Push a copy of an ended task; params that are left empty are those of the ended one."""
    return await _pushed(change, operations["rerun"])


def _edited(change: Change) -> dict[str, Any]:
    """Return the changes of a form: params that are left empty stay, an empty timeout is that of the handler."""
    return {"timeout": None} | by_name(operations["edit"], change)


action(operations["edit"], _page, marked("Task {task_id} is changed."), form="task-form", values=_edited)
action(operations["run_now"], _page, marked("Task {task_id} is due now."))
action(operations["retry"], _page, marked("Task {task_id} is pending again."))
action(
    operations["cancel"],
    _page,
    lambda task: (
        marked("Task {task_id} is cancelled.")
        if task.status is Status.CANCELLED
        else marked("Task {task_id} was asked to stop.")
    ),
    question=marked("Cancel task {task_id}? A cancelled task can be retried; what its run has done so far stays done."),
    button=marked("Cancel the task"),
)
action(
    operations["delete"],
    lambda change, task_id: "tasks" if change.sure else _page(change, task_id),
    marked("Task {task_id} is deleted."),
    question=marked("Delete task {task_id}, with its result and its attempts? This cannot be undone."),
    button=marked("Delete the task"),
)


@pages("task-form", marked("New task"), "task_id", section="tasks")
async def task_form(view: View) -> dict[str, Any]:
    """Read what the form is filled with. Raises NotFound."""
    types = sorted(internal(view.tq).registered.handlers)
    wanted = view.text("task_id")
    if wanted is None:
        return {"task": None, "ended": False, "params": "", "types": types}
    found = await view.tq.get(wanted)
    return {
        "task": task_view(found, errors=False, params=False),
        "ended": found.final,
        "params": json_text(found.params) if view.show_args else None,
        "types": types,
    }
