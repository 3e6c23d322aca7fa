"""Tasks: their table, filtered by indexed columns; one task with its state, attempts and log; its form; the actions.

The actions on many, retry, cancel and delete, are on those that are selected, or on all that match the filter.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from aiotaskq.core.instants import from_iso, to_iso
from aiotaskq.core.outcome import RETRYABLE, attempts_of, due_since, is_poison, owner_of
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.steps import NEVER, Step
from aiotaskq.core.tags import labels, read_labels, split_labels
from aiotaskq.core.task import EQUAL, SECOND, Attempt, Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.operations.audit import AuditView
from aiotaskq.operations.hidden import error_filter, plain
from aiotaskq.operations.table import Operation
from aiotaskq.operations.task_views import AttemptView, WaitingView, task_detail, task_view, waiting_view
from aiotaskq.operations.tasks import Copied, Pushed, find
from aiotaskq.operations.tasks import tasks as operations
from aiotaskq.runtime.queue.bulk import task_filter
from aiotaskq.runtime.waiting import awake, look, parents_of, waiting, why
from aiotaskq.web.dashboard.matching import like, params_like
from aiotaskq.web.dashboard.rows import debounced, elapsed, json_text, queue_row, timeout_of, types_told
from aiotaskq.web.dashboard.view import (
    Done,
    View,
    action,
    action_on_many,
    by_name,
    check_type,
    link,
    operated_on,
    page,
    page_of,
    register,
)
from aiotaskq.web.dashboard.words import marked

ROWS = 50
WINDOW = 10_000
"""Tasks of each status that are looked at for a filter without an index, the newest first."""
SEARCHED = 1_000
"""The newest tasks that are searched where no store can: by params, and by a part of the name of a type."""
EQUAL_TO = {"schedule" if name == "scheduler_task_id" else name: name for name in EQUAL}
"""The filters of an address that are fields of a task, and these."""
FILTERS = ("status", *EQUAL_TO, "error", "tag")
SEARCHES = ("params", "reason", "sort")
"""What an address has beside these: filters that no store has, and the order."""
NOT_COUNTED = [name for name in FILTERS if name not in ("status", "queue")]
"""Filters that the counts are not of."""
SUGGESTED = 200
"""Types that are suggested for the filter."""
REASONS: dict[str, Collection[str]] = {
    "ready": ("ready",),
    "delayed": ("delayed",),
    "retry": ("retry",),
    "limit": ("limit_paused", "full", "rate", "passing", "budget"),
    "parents": ("parents",),
    "sleeping": ("sleeping",),
    "event": ("event",),
    "unknown_type": ("unknown_type",),
    "paused": ("paused",),
}
"""Why tasks wait, by what the filter calls it."""
ARGS = 120
"""Characters of the params in a row."""


def _filters(view: View) -> dict[str, Any]:
    """Return the filter of an address as arguments of ``TaskQ.find``; an unknown status is left out."""
    found: dict[str, Any] = {name: text for label, name in EQUAL_TO.items() if (text := view.text(label))}
    found |= error_filter(view.text("error"), view.show_args)
    if (status := view.text("status")) in set(map(str, Status)):
        found["status"] = status
    if (tag := view.text("tag")) is not None:
        found["tags"] = read_labels(split_labels(tag))
    return found


def row_of(task: Task, view: View) -> dict[str, Any]:
    """Return the row of a task: its view; seconds ``waited`` from its due time to its latest start; whether it was
    failed as ``poison``; and as ``args`` the beginning of its params, empty where they are not shown.
    """
    shown = msgspec.to_builtins(task_view(task, errors=view.show_args, params=False))
    if (seconds := elapsed(task, view.now)) is not None:
        shown["run_time"] = seconds
    waited = None if task.began_at is None else max(0, task.began_at - due_since(task)) / SECOND
    args = _args_line(task) if view.show_args else ""
    return {**shown, "waited": waited, "poison": is_poison(task), "args": args, "chips": chips(task.tags)}


def chips(tags: Mapping[str, str]) -> list[tuple[str, bool]]:
    """Return each tag as a text, and whether the filter takes it so."""
    return [(label, split_labels(label) == [label]) for label in labels(tags)]


def _args_line(task: Task) -> str:
    """Return the beginning of the params: their names with texts as they are, and other values as JSON."""
    parts, room = list[str](), ARGS
    for name, value in task.params.items():
        text = value if isinstance(value, str) else msgspec.json.encode(plain(value)).decode()
        parts.append(f"{name}={text[:room]}")
        if (room := room - len(parts[-1])) <= 0:
            break
    whole = ", ".join(parts)
    return whole if len(whole) <= ARGS else f"{whole[:ARGS]}…"


@page("tasks", marked("Tasks"), *FILTERS, *SEARCHES, "after")
async def tasks(view: View) -> dict[str, Any]:
    """Read one page of tasks."""
    where = _filters(view)
    counted = await view.shared.counts.get()
    stats = counted.stats
    params = view.text("params") if view.show_args else None
    tests = [] if params is None else [params_like(params)]
    if "*" in (pattern := where.get("type", "")):
        del where["type"]
        tests.append(lambda task: like(pattern, task.type))
    reason = view.text("reason") if where.get("status") == Status.PENDING else None
    reason = reason if reason in REASONS else None
    searches = bool(tests) or reason is not None
    # The store has the order of the ends of all tasks in a state, and of no other choice.
    sorts = not searches and where.keys() == {"status"} and where["status"] in FINAL
    by_end = sorts and view.text("sort") == "ended"
    if by_end:
        backend, status = view.tq.queue.backend, Status(where["status"])
        last = await backend.get(await backend.last_ended(status, ROWS + 1))
        found, window = [each for each in last if each is not None and each.status == status], None
    else:
        found, window = await _find(view, where, SEARCHED if searches else ROWS + 1)
    searched = len(found) if searches else None
    found = [each for each in found if all(test(each) for test in tests)]
    waits = await _waits(view, found if reason else found[:ROWS], stats.paused)
    if reason is not None:
        found = [each for each in found if each.task_id in waits and waits[each.task_id].reason in REASONS[reason]]
    queue = view.text("queue")
    return {
        "tasks": [row_of(each, view) for each in found[:ROWS]],
        "waits": {each.task_id: waits[each.task_id] for each in found[:ROWS] if each.task_id in waits},
        "filters": {name: view.text(name) or "" for name in FILTERS},
        "filtered": any(map(view.text, FILTERS)) or params is not None,
        "more": found[ROWS - 1].task_id if len(found) > ROWS and not searches and not by_end else None,
        "window": window if len(found) <= ROWS and window and max(stats.counts.values()) > window else None,
        "params": params or "",
        "reason": reason or "",
        "sorts": sorts,
        "by_end": by_end,
        "searched": searched,
        "matches": len(found),
        "counts": stats.counts if queue is None else queue_row(stats, queue).counts,
        # Whether these are of more tasks than the other filters select.
        "counts_more": params is not None or reason is not None or any(map(view.text, NOT_COUNTED)),
        "approximate": counted.approximate,
        "queues": sorted(stats.queues),
        "types": [] if view.update else await _types(view, found[:ROWS]),  # an update does not change the form
    }


async def _types(view: View, tasks: list[Task]) -> list[str]:
    """Return the types that are registered here, known to workers, or in the table."""
    told = [types_told(each.types) or () for each in await awake(view.tq.queue.backend, view.now) or ()]
    names = {*view.handlers, *(task.type for task in tasks), *itertools.chain.from_iterable(told)}
    return sorted(names)[:SUGGESTED]


async def _waits(view: View, tasks: list[Task], paused: Collection[str]) -> dict[str, WaitingView]:
    """Return why these tasks wait: at most three statements, however many there are."""

    async def workers() -> Sequence[WorkerInfo] | None:
        return await view.keep("awake", lambda: awake(view.tq.queue.backend, view.now))

    seen = await look(view.tq.queue, tasks, view.now, paused, workers)
    found = {task.task_id: waiting_view(why(task, seen, view.now)) for task in tasks}
    return {task_id: each for task_id, each in found.items() if each is not None}


async def _find(view: View, given: dict[str, Any], limit: int) -> tuple[list[Task], int | None]:
    """Return up to so many tasks, and how many of each status were looked at, None for all."""
    if (after := view.text("after")) is not None:
        await view.tq.get(after)  # a page behind a task that is gone would be the first page again
    has_index = not given.keys().isdisjoint(("scheduler_task_id", "tags")) or given.keys() <= {"status"}
    where = msgspec.structs.replace(task_filter(**given), after=after, newest=None if has_index else WINDOW)
    return await view.tq.queue.backend.find(where, limit), where.newest


def _table(view: View) -> str:
    if view.text("same_error") is not None:
        return link("failures", queue=view.text("queue"))
    return link("tasks", **{name: view.text(name) for name in (*FILTERS, *SEARCHES)})


def _where(statuses: Collection[Status], view: View) -> dict[str, Any] | None:
    """Return the filters of the form; None where they match no task of these statuses."""
    given: dict[str, Any] = {name: text for name in (*FILTERS, "same_error") if (text := view.text(name)) is not None}
    status = given.pop("status", None)
    if "tag" in given:
        given["tag"] = split_labels(given["tag"])
    wanted = [str(each) for each in Status if each in statuses and status in (None, each)]
    return given | {"status": wanted} if wanted else None


for verb, said, statuses in (
    ("retry", marked("Tasks that are pending again: {count}."), RETRYABLE),
    ("cancel", marked("Tasks that were cancelled or asked to stop: {count}."), frozenset(Status) - FINAL),
    ("delete", marked("Tasks that were deleted: {count}."), FINAL),
):
    action_on_many(operations[verb], _table, said, selects=True, where=functools.partial(_where, statuses))


# ---- one task ----

SHORTEST = 4  # characters of an id by which a task is looked for
NOTES = 200
"""Notes that are shown."""


@page("task", marked("Task"), "id", section="tasks")
async def task(view: View) -> dict[str, Any]:
    """Read a task, by its id or by the beginning of it. Raises NotFound, and ProblemError if several begin so."""
    wanted = view.needed("id").strip()
    found = await view.tq.get(await find(view.tq, wanted) if len(wanted) >= SHORTEST else wanted)
    flow = found.flow

    async def counted() -> Mapping[str, Mapping[str, int]]:
        return (await view.shared.counts.get()).stats.queues  # where counting takes long, not anew for each update

    waits = await waiting(view.tq.queue, found, counted)
    shown = task_detail(found, waits, errors=view.show_args, params=False)
    # A task that was never claimed has done nothing.
    steps = await view.tq.queue.backend.steps.read(found.task_id, found.seq) if found.fence else []
    attempts = shown.attempts
    changes = await operated_on(view, found.task_id, ("tasks", "schedule", "schedules"))
    hidden = {"params": None, "result": None, "notes": None, "older": False}
    return {
        "list": _came_from(view),
        "task": shown,
        "chips": chips(found.tags),
        "moments": timeline(found, attempts, steps, view.show_args, changes),
        "scale": to_scale(found, view.now),
        "ran": attempts[-1].number if attempts else 0,
        "runs": await _run(view, found),
        "debounced": debounced(view.handlers, found),
        "can_run_now": waits is not None and waits.reason in ("delayed", "retry", "sleeping") and not found.waits,
        "limits": [] if flow is None else [key for key, _ in flow.gates],
        "group": None if flow is None else flow.group,
        "source": None if flow is None else flow.source,  # the group whose end has pushed it
        "parents": [] if flow is None else flow.parents,
        "groups_before": await _groups_before(view, found),
        "children": [] if flow is None else [child for child, _ in flow.children],
        "later": [] if found.final else await view.tq.queue.backend.after.children(found.task_id),
        "can_cancel": not found.final,
        "can_retry": found.status in RETRYABLE,
        "can_edit": found.status is Status.PENDING and not found.waits and found.undecodable is None,
        "ended": found.final,
    } | (await _args(view, found) if view.show_args else hidden)


async def _groups_before(view: View, task: Task) -> set[str]:
    """Return the ids of those parents of a task that are groups."""
    ids = [] if task.flow is None else [task_id for task_id, _ in task.flow.parents]
    rows = await parents_of(view.tq.queue.backend, ids) if ids else []
    return {key for key, row in zip(ids, rows, strict=True) if row is not None and getattr(row, "task_id", "") != key}


def _came_from(view: View) -> str:
    """Return the address of the table as the visitor has left it, with its filters."""
    path, _, query = view.request.headers.get("referer", "").partition("?")
    known = dict(parse_qsl(query)) if path.rpartition("/")[2] == tasks.name else {}
    return link(tasks.name, **{name: known.get(name) for name in tasks.parameters})


async def _args(view: View, task: Task) -> dict[str, Any]:
    """Return what is not shown to all: params, result, and the newest lines of its log with data that it streamed."""
    notes = await view.tq.queue.backend.notes.last(task.task_id, NOTES)
    runs = attempts_of(task)
    return {
        "params": json_text(task.params),
        "result": None if task.result is None else json_text(task.result),
        "notes": [
            {"n": each.n, "at": to_iso(each.at), "kind": each.kind, "text": each.text, "attempt": during(runs, each.at)}
            for each in notes
        ],
        "older": bool(notes) and notes[0].n > 1,
    }


def during(runs: Sequence[Attempt], at: int) -> int | None:
    """Return the number of the last of these runs that had begun at an instant."""
    return next((each.number for each in reversed(runs) if each.began_at is not None and each.began_at <= at), None)


async def _run(view: View, task: Task) -> dict[str, Any] | None:
    """Return where and for how long a task runs; None if it does not."""
    if task.status is not Status.RUNNING:
        return None
    registry = view.tq.queue.backend.workers
    info = None if registry is None else await registry.get(owner_of(task))
    return {
        "elapsed": elapsed(task, view.now),
        "timeout": timeout_of(view.handlers, task),
        "registered": task.type in view.handlers,
        "worker": None if info is None else info.owner,
        "version": None if info is None else info.version,
        "name": owner_of(task) if info is None else f"{info.host} · {info.pid}",
        "lease_until": to_iso(task.lease_until if info is None else info.lease_until),
    }


MOST = 200
"""Steps that are shown: the latest ones."""


KINDS = (marked("step"), marked("sleep"), marked("wake"), marked("wait"), marked("event"))
"""What a handler does, as words that are translated."""


def _moment(kind: str, at: str | None, **more: Any) -> dict[str, Any]:
    """Return something that has happened to a task; ``kind`` is pushed, attempt, operated, or one of ``KINDS``.

    ``name`` is that of a step or the key of an event, ``until`` when a sleep or the time for an event ends, ``now``
    whether the task sleeps or waits so at present, ``value`` that of a step or an event as JSON, where it is shown.
    """
    unset = dict.fromkeys(("attempt", "until", "change", "value"))
    return {"kind": kind, "at": at, "name": "", "timed_out": False, "now": False} | unset | more


def timeline(
    task: Task,
    attempts: Sequence[AttemptView],
    steps: Sequence[Step],
    show: bool,
    changes: Sequence[AuditView] = (),
) -> list[dict[str, Any]]:
    """Return what has happened to a task, the latest first; with ``show`` the values of steps, too."""
    found = [(task.created_at * SECOND, 0, _moment("pushed", to_iso(task.created_at * SECOND)))]
    found += [(_instant(each.began_at), 1, _moment("attempt", each.began_at, attempt=each)) for each in attempts]
    found += [(_instant(each.at), 1 + MOST, _moment("operated", each.at, change=each)) for each in changes]
    came = {(step.name, step.number) for step in steps if step.kind == "event"}
    for step in steps[-MOST:]:
        until = None if step.kind not in ("sleep", "wait") or step.until >= NEVER else to_iso(step.until)
        waits = step.kind == "sleep" or (step.kind == "wait" and (step.name, step.number) not in came)
        moment = _moment(
            step.kind,
            to_iso(step.at),
            name=step.label,
            until=until,
            timed_out=step.timed_out,
            now=waits and not task.final and step.until == task.due_us,
            value=step.text or None if show and step.kind in ("step", "event") else None,
        )
        found.append((step.at, 1 + step.n, moment))
    return [moment for _, _, moment in sorted(found, key=lambda each: each[:2], reverse=True)]


NARROWEST = 4.0
"""Thousandths of the axis that a run takes at least."""


def to_scale(task: Task, now: int) -> dict[str, Any] | None:
    """Return the runs of a task on one axis, from its push to its end, or until now; None before the first run.

    Each run has its place and its width in thousandths. ``ran`` and ``waited`` are seconds in all; where the oldest
    attempts were dropped, the axis begins with the first one that is known.
    """
    runs = [(each.began_at, each) for each in attempts_of(task) if each.began_at is not None]
    if not runs:
        return None
    (begin, first), (_, last) = runs[0], runs[-1]
    if first.number == 1:  # its push is stored in whole seconds, its place in the order in microseconds
        pushed = task.created_at * SECOND
        begin = min(begin, max(pushed, min(task.seq, pushed + SECOND - 1)))
    end = max(last.ended_at if task.final and last.ended_at is not None else now, begin + 1)
    stops = [at for at, _ in runs[1:]] + [end]
    found, ran = list[dict[str, Any]](), 0.0
    for (at, each), stop in zip(runs, stops, strict=True):
        seconds = max(0, (stop if each.ended_at is None else each.ended_at) - at) / SECOND
        width = max(NARROWEST, 1_000 * seconds * SECOND / (end - begin))
        place = min(1_000 * (at - begin) / (end - begin), 1_000 - width)
        outcome = each.outcome or "running"
        found.append({"number": each.number, "outcome": outcome, "place": place, "width": width, "seconds": seconds})
        ran += seconds
    return {"runs": found, "ran": ran, "waited": max(0.0, (end - begin) / SECOND - ran)}


def _instant(text: str | None) -> int:
    return from_iso(text) if text else 0


async def _pushed(operation: Operation, view: View) -> Done:
    """Push the task of the form; a type that no worker knows needs a second yes."""
    await check_type(view)
    answer: Pushed | Copied = await view.perform(operation, by_name(operation, view))
    page = page_of("tasks", answer.task_id)
    if answer.created:
        return Done(marked("Task {task_id} is pushed."), {"task_id": answer.task_id}, page=page)
    said = marked("A key names task {task_id}, which exists already; none was pushed.")
    return Done(said, {"task_id": answer.task_id}, True, page=page)


# Params that are left empty in a rerun are those of the ended task.
for each in (operations["push"], operations["rerun"]):
    register(each, functools.partial(_pushed, each), "task-form")


action(
    operations["edit"],
    marked("Task {task_id} is changed."),
    form="task-form",
    # Params that are left empty stay; an empty timeout is that of the handler.
    values=lambda view: {"timeout": None} | by_name(operations["edit"], view),
)
action(operations["run_now"], marked("Task {task_id} is due now."))
action(operations["retry"], marked("Task {task_id} is pending again."))
action(
    operations["cancel"],
    lambda task: (
        marked("Task {task_id} is cancelled.")
        if task.status is Status.CANCELLED
        else marked("Task {task_id} was asked to stop.")
    ),
    asks=True,
)
action(operations["delete"], marked("Task {task_id} is deleted."), asks=True)


@page("task-form", marked("New task"), "task_id", section="tasks")
async def task_form(view: View) -> dict[str, Any]:
    """Read what the form is filled with. Raises NotFound."""
    types = sorted(view.handlers)
    wanted = view.text("task_id")
    if wanted is None:
        return {"task": None, "ended": False, "params": "", "types": types}
    found = await view.tq.get(wanted)
    return {
        "task": task_view(found, errors=False, params=False),
        "ended": found.final and view.path != operations["edit"].name,  # an edit that came too late keeps its form
        "params": json_text(found.params) if view.show_args else None,
        "types": types,
    }
