"""Copies tasks, groups, gates, schedules and paused queues from one store to another; it can be stopped and repeated.

Ids and push stamps are kept, so that a copied task is recognised: it stays as it is in the target, even if it has run
there meanwhile. A different row with the same id or key is a conflict; all conflicts are found before anything is
written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from aiotaskq.backends.base import Backend
from aiotaskq.core.coded import decoded, lazy
from aiotaskq.core.errors import MAX_NAME, check_json, check_text
from aiotaskq.core.gate import Gate, GateChange
from aiotaskq.core.groups import GroupState, Member, Plan
from aiotaskq.core.outcome import Released, settle
from aiotaskq.core.schedule import Schedule, UndecodableSchedule
from aiotaskq.core.status import COMPLETED, FINAL, Status
from aiotaskq.core.steps import NewStep, left_at, open_steps, undecodable, woken
from aiotaskq.core.task import Task, TaskFilter, same_push
from aiotaskq.errors import ClosedError, DatabaseUnavailable, TaskConflict, ValidationError
from aiotaskq.log import printable

CHUNK = 200  # tasks read, and written in one transaction
SHOWN = 5  # ids in a message
MAX_STORED = 2**26  # bytes of JSON; a stored row may be larger than a push may be


class Uncopied(msgspec.Struct, frozen=True):
    """A row that could not be copied, and why. ``kind`` is ``task``, ``groups``, ``schedule`` or ``schedules``."""

    kind: str
    id: str
    problem: str


class Copied(msgspec.Struct):
    """The result of a copy. ``…_there`` were in the target before; ``released`` were running, and are pending there."""

    tasks: int = 0
    tasks_there: int = 0
    released: int = 0
    groups: int = 0
    groups_there: int = 0
    limits: int = 0
    schedules: int = 0
    schedules_there: int = 0
    queues_paused: int = 0
    uncopied: list[Uncopied] = []


async def copy(
    source: Backend,
    target: Backend,
    now: int,
    *,
    running: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Copied:
    """Copy all tasks, groups, gates, schedules and paused queues; both stores are open, and the source is not in use.

    A running task is refused, or copied as pending with ``running``, since its lease has no meaning in another store.
    ``progress`` is called with how many tasks were read, and of how many. ``now`` in microseconds.

    Raises:
        TaskConflict: there are running tasks, or the target has conflicting rows. Then nothing was
            written. DatabaseUnavailable: a store is unreachable; run it again.
    """
    stats = await source.stats(now)
    total = sum(stats.counts.values())
    if (count := stats.counts.get(str(Status.RUNNING), 0)) and not running:
        raise TaskConflict(
            f"running: tasks that still run: {count}; stop the workers of the source first, or have running tasks "
            "copied as pending: --running-as-pending (they will run again)"
        )
    schedules = await source.schedules.all()
    await _refuse_conflicts(source, target, schedules)
    done = Copied(uncopied=[])
    for queue in await source.paused():
        await target.set_paused(queue, True)
        done.queues_paused += 1
    gates = await close_gates(source, target, now)
    await _copy_groups(source, target, done)
    await _copy_events(source, target, now, done)
    looked, unread, seen = 0, set[str](), set[str]()
    async for tasks in _pages(source):
        new = {task.flow.group for task in tasks if task.flow is not None and task.flow.group is not None} - seen
        seen |= new
        if new and (found := await source.groups.unread(sorted(new))):
            unread |= found
            problem = "it cannot be read; the log has the error"
            done.uncopied += [Uncopied("groups", each, problem) for each in sorted(found)]
        await _copy_tasks(source, target, tasks, now, running, done, unread)
        looked += len(tasks)
        progress(looked, max(total, looked))
    await source.after.copy_to(target.store)
    await _copy_schedules(target, schedules, now, done)
    await open_gates(target, gates, now)
    done.limits = len(gates)
    return done


async def _copy_groups(source: Backend, target: Backend, done: Copied) -> None:
    """Copy all groups with their numbers and members."""
    async for group in _groups_of(source):
        members: list[Member] = []
        while page := await source.groups.members(group.group_id, PAGE, start=len(members)):
            members += page
        whole = await _with_callbacks(source, group)
        made = await target.groups.push(Plan(groups=(whole,), members=tuple(members), tasks=()))
        done.groups += made
        done.groups_there += not made


async def _with_callbacks(source: Backend, group: GroupState) -> GroupState:
    """Return a group whose callbacks the target can encode; one that cannot be decoded stays as it is stored."""
    stored = {name: task for name in ("then", "on_failure") if (task := getattr(group, name)) is not None}
    found = [decoded(task, lazy(source.codec)) for task in await source.whole([*stored.values()])]
    return replace(group, **{name: task for name, task in zip(stored, found, strict=True) if task.coded is None})


async def _pages(backend: Backend, **where: Any) -> AsyncIterator[list[Task]]:
    """Yield all tasks, the newest push first."""
    last: Task | None = None
    while True:
        found = await backend.find(TaskFilter(after=None if last is None else last.task_id, **where), CHUNK)
        if last is not None and found and (found[0].seq, found[0].task_id) >= (last.seq, last.task_id):
            # The row after which to continue is gone, so this is the first page again.
            raise TaskConflict("source: tasks are deleted from it meanwhile; stop what works on it, and run this again")
        if found:
            yield found
        if len(found) < CHUNK:
            return
        last = found[-1]


async def _refuse_conflicts(source: Backend, target: Backend, schedules: Sequence[Schedule]) -> None:
    """Raise TaskConflict if a row of the target conflicts with one of the source."""
    wrong: list[str] = []
    once: dict[str, str] = {}
    unique: dict[str, str] = {}
    async for tasks in _pages(source):
        for task, row in zip(tasks, await target.get([task.task_id for task in tasks]), strict=True):
            if row is not None and not same_push(row, task):
                wrong.append(f"task {printable(task.task_id)}")
            if task.idempotency_key is not None:
                once[task.idempotency_key] = task.task_id
            if task.unique_key is not None and task.status not in FINAL:
                unique[task.unique_key] = task.task_id
    if once or unique:
        async for tasks in _pages(target):
            for row in tasks:
                holds = once.get(row.idempotency_key or "", row.task_id) != row.task_id
                live = row.status not in FINAL and unique.get(row.unique_key or "", row.task_id) != row.task_id
                if holds or live:
                    wrong.append(f"the key of task {printable(row.task_id)}")
    rows = await target.schedules.get([schedule.task_id for schedule in schedules])
    for schedule, there in zip(schedules, rows, strict=True):
        if there is not None and not _same_schedule(schedule, there):
            wrong.append(f"schedule {printable(schedule.task_id)}")
    async for group in _groups_of(source):
        (known,) = await target.groups.get([group.group_id])
        if known is not None and (known.created_at, known.name) != (group.created_at, group.name):
            wrong.append(f"group {printable(group.group_id)}")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise TaskConflict(
            f"target: other rows are in the way: {', '.join(wrong[:SHOWN])}{more}; nothing was written. Delete them "
            "there, or copy into an empty store"
        )


def _same_schedule(one: Schedule, other: Schedule) -> bool:
    # It may have been fired, paused or edited since.
    return (one.created_at, one.name, one.task_type) == (other.created_at, other.name, other.task_type)


async def _copy_tasks(
    source: Backend | None,
    target: Backend,
    tasks: Sequence[Task],
    now: int,
    running: bool,
    done: Copied,
    unread: Collection[str] = (),
) -> None:
    wanted = []
    if source is not None:
        tasks = await source.whole(tasks)
    for task, row in zip(tasks, await target.get([task.task_id for task in tasks]), strict=True):
        if row is not None:
            done.tasks_there += 1
        elif (problem := _problem(task)) is not None or (problem := _ungrouped(task, unread)) is not None:
            done.uncopied.append(Uncopied("task", task.task_id, problem))
        elif task.status is not Status.RUNNING:
            wanted.append(task)
        elif running:
            wanted.append(settle(task, Released("copied", ran=True), now))
        else:
            done.uncopied.append(Uncopied("task", task.task_id, "it began to run meanwhile"))
    if source is not None:
        found = [await _with_steps(source, target, each, now, done) for each in wanted]
        wanted = [task for task in found if task is not None]
    began = {task.task_id for task in tasks if task.status is Status.RUNNING}
    left = {task.task_id for task in wanted}
    for task in await _write(target.push, wanted, "task", done):
        done.tasks += 1
        done.released += task.task_id in began
        left.discard(task.task_id)
    if left:
        await target.steps.drop(sorted(left))


async def _with_steps(source: Backend, target: Backend, task: Task, now: int, done: Copied) -> Task | None:
    """Copy the steps that a further run of a task would read; return the task as it is to be pushed.

    One that waits for an event becomes due: it waits again, there, for as long as it still has. None, and noted, if the
    steps cannot be copied.
    """
    if not task.fence or task.status is COMPLETED:
        return task
    try:
        steps = await source.steps.read(task.task_id, task.seq)
        for step in steps:
            if step.undecodable is not None:
                raise undecodable(f"step {step.label}", step.undecodable)
        if steps:
            await target.steps.put([NewStep(task.task_id, task.seq, task.fence, step) for step in steps])
    except ValidationError as error:
        done.uncopied.append(Uncopied("task", task.task_id, str(error)))
        return None
    waits = left_at(task, steps) is not None and any(step.kind == "wait" for step in open_steps(steps))
    return (woken(task, now) or task) if waits else task


async def _copy_schedules(target: Backend, schedules: Sequence[Schedule], now: int, done: Copied) -> None:
    for start in range(0, len(schedules), CHUNK):
        part = schedules[start : start + CHUNK]
        # Fired, and not pushed yet: where schedules and tasks share a store, nothing else would push them.
        await _copy_tasks(None, target, [task for schedule in part for task in schedule.outbox], now, False, done)
        there = await target.schedules.get([schedule.task_id for schedule in part])
        new: list[Schedule] = []
        for schedule, row in zip(part, there, strict=True):
            if row is None and isinstance(schedule, UndecodableSchedule):
                problem = "its params or its outbox cannot be decoded"
                done.uncopied.append(Uncopied("schedule", schedule.task_id, problem))
            elif row is None:
                new.append(schedule.replace(outbox=()))
        done.schedules_there += sum(row is not None for row in there)
        done.schedules += len(await _write(target.schedules.add, new, "schedule", done))


async def _write(verb: Callable[[Sequence[Any]], Any], rows: Sequence[Any], kind: str, done: Copied) -> list[Any]:
    """Write the rows and return those that were written; a row that the target cannot hold is noted as uncopied."""
    if not rows:
        return []
    try:
        stored = await verb(rows)
    except (DatabaseUnavailable, ClosedError, asyncio.CancelledError):
        raise
    except Exception as error:  # whatever a driver says of a value that it cannot take
        if len(rows) == 1:
            said = str(getattr(error, "orig", error)).splitlines() or [type(error).__name__]
            done.uncopied.append(Uncopied(kind, rows[0].task_id, f"the target refuses it: {said[0]:.200}"))
            return []
        half = len(rows) // 2
        return [*await _write(verb, rows[:half], kind, done), *await _write(verb, rows[half:], kind, done)]
    written = []
    for row, stands in zip(rows, stored, strict=True):
        if stands is row:
            written.append(row)
        else:
            done.uncopied.append(Uncopied(kind, row.task_id, f"{printable(stands.task_id)} is in its way there"))
    return written


def _ungrouped(task: Task, unread: Collection[str]) -> str | None:
    """Return why a task is not copied whose group was not; one that has ended is."""
    left = not task.final and task.flow is not None and task.flow.group in unread
    return "its group cannot be read" if left else None


def _problem(task: Task) -> str | None:
    """Return why no other store can hold this task, None if any can."""
    if task.undecodable is not None:
        return task.undecodable
    if not isinstance(task.status, Status):
        return f"status: {task.status!r:.40} is none"
    try:
        for name in ("params", "result", "progress", "extra"):
            if (value := getattr(task, name)) is not None:
                check_json(name, value, MAX_STORED)
        for name in ("type", "queue"):
            check_text(name, getattr(task, name), MAX_NAME)
        if task.error_message:
            check_text("error_message", task.error_message, MAX_STORED)
    except ValidationError as error:
        return str(error)
    return None


COPYING = 2**61
"""The ``closed_until`` of a gate whose tasks are being copied."""
MOST_GATES = 100_000
PAGE = 500


async def _groups_of(backend: Backend) -> AsyncIterator[GroupState]:
    """Yield all groups, the newest first."""
    last: str | None = None
    while page := await backend.groups.find(PAGE, after=last):
        for group in page:
            yield group
        last = page[-1].group_id


async def close_gates(source: Backend, target: Backend, now: int) -> list[Gate]:
    """Make the gates of the source in the target, closed; return those that ``open_gates`` gives their state.

    One that is in the target stays as it is.
    """
    gates = [found.gate for found in await source.gates.find(limit=MOST_GATES)]
    known = {found.gate.key: found.gate for found in await target.gates.find([gate.key for gate in gates], MOST_GATES)}
    closed = []
    for gate in gates:
        there = known.get(gate.key)
        if there is None:
            bounds = asdict(gate.bounds) | {"max_waiting": None}
            await target.gates.change(gate.key, GateChange(bounds=bounds, closed_until=COPYING), now)
        if there is None or there.closed_until == COPYING:
            closed.append(gate)
    return closed


async def open_gates(target: Backend, gates: list[Gate], now: int) -> None:
    """Give gates the state that they have in the source: bounds, tokens taken, and until when they are closed."""
    for gate in gates:
        interval = gate.bounds.interval
        charge = 0 if interval is None or gate.tat <= now else -(-(gate.tat - now) // interval)
        state = GateChange(bounds=asdict(gate.bounds), closed_until=gate.closed_until, charge=charge)
        await target.gates.change(gate.key, state, now)
        if not gate.fixed:
            await target.gates.change(gate.key, GateChange(declared=True), now)


async def _copy_events(source: Backend, target: Backend, now: int, done: Copied) -> None:
    """Copy the events that exist at ``now``; one that is there already stays."""
    last = None
    while page := await source.steps.events(now, PAGE, after=last):
        for event in page:
            if event.undecodable is None:
                await target.steps.emit([event])
            else:
                problem = str(undecodable(f"event {event.key}", event.undecodable))
                done.uncopied.append(Uncopied("event", event.key, problem))
        last = page[-1].key
