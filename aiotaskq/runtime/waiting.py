"""Why a pending task does not run: what it waits for, read from the store in the order in which it is passed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from aiotaskq.core.groups import GroupState, as_parent, callback_id, live_parents
from aiotaskq.core.status import PENDING, Status
from aiotaskq.core.steps import NEVER, Step, left_at
from aiotaskq.core.task import Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.runtime.limits import Limits, LimitState

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.runtime.queue.pushes import Pushes

Reason = Literal[
    "paused",
    "delayed",
    "retry",
    "sleeping",
    "event",
    "unknown_type",
    "parents",
    "budget",
    "limit_paused",
    "full",
    "rate",
    "passing",
    "ready",
]


class Parent(msgspec.Struct, frozen=True):
    """A task that has to end before the one that waits; one that did not complete, and failed it, has to be retried."""

    task_id: str
    name: str
    status: Status | None
    """None where its row is gone."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """What a pending task waits for. Instants are microseconds UTC."""

    reason: Reason
    """``paused``: its queue. ``delayed``: its time has not come; ``retry``: nor that of its next attempt.
    ``sleeping``, ``event``: its handler sleeps, or waits for an event.
    ``unknown_type``: no worker that claims from its queue has a handler of its type, or the ``version`` of it that
    began the task. ``parents``: tasks that have to end before it. ``budget``: that of its ``group`` is
    used up. ``limit_paused``, ``full``, ``rate``: its limit.
    ``passing``: its limit is about to let it pass. ``ready``: a free worker."""
    until: int | None = None
    """When it may go on at the earliest; None where that is not known, or depends on an operator or another task."""
    event: str | None = None
    """The key of the event."""
    group: str | None = None
    """The id of the group whose budget is used up: its own, or one around it."""
    version: int | None = None
    """The version of the handler that began the task, and that no worker has; None where it has no steps."""
    limit: LimitState | None = None
    parents: tuple[Parent, ...] = ()
    """Those that hold it up."""
    behind: int = 0
    """How many of these there are."""
    ahead: int | None = None
    """How many tasks of its queue are pending, itself included; of a ready task only."""
    workers: int | None = None
    """How many workers claim from its queue, without quiet ones; of a ready task only.

    None where the store has no registry."""
    slots: int | None = None
    """How many tasks these run at a time."""
    busy: int | None = None
    """How many they ran at their last heartbeats."""


Counted = Callable[[], Awaitable[Mapping[str, Mapping[str, int]]]]
"""Returns the tasks by queue and status."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of a store, to say why some of its tasks wait."""

    paused: Collection[str]
    workers: Sequence[WorkerInfo] | None = None
    """Those that claim tasks; None where the store has no registry, or no task is due."""
    limits: Mapping[str, LimitState] = {}
    steps: Mapping[str, Sequence[Step]] = {}
    """By the ids of the tasks whose handlers have left them."""
    read_at: int = 0
    """When the limits had been read, in microseconds UTC."""

    def of_queue(self, queue: str) -> list[WorkerInfo]:
        """Return the workers that claim from a queue."""
        return [each for each in self.workers or () if each.claims_from(queue)]


async def awake(backend: Backend, now: int) -> list[WorkerInfo] | None:
    """Return the workers that claim tasks at ``now``: not those that are quiet; None where there is no registry."""
    if backend.workers is None:
        return None
    return [each for each in await backend.workers.all() if each.claims(now)]


async def look(
    store: Pushes,
    tasks: Sequence[Task],
    now: int,
    paused: Collection[str] | None = None,
    workers: Callable[[], Awaitable[Sequence[WorkerInfo] | None]] | None = None,
) -> Seen:
    """Read what ``why`` needs to know for these tasks: a few reads, however many tasks there are.

    Args:
        store: the queue.
        tasks: of any status.
        now: microseconds UTC.
        paused: the paused queues, where they are known.
        workers: returns the workers that claim, where another one than ``awake`` does that.
    """
    backend = store.backend
    names = await backend.paused() if paused is None else paused
    pending = [task for task in tasks if task.status is PENDING and task.queue not in names]
    keys = {task.gate for task in pending if task.parked and not task.waits and task.due_us <= now and task.gate}
    limits = await Limits(backend, store.clock, {}).some(sorted(keys)) if keys else []
    read_at = store.clock.now()
    ready = bool(keys) or any(not task.parked and (task.due_us <= now or task.due_at is not None) for task in pending)
    found = None if not ready else await (awake(backend, now) if workers is None else workers())
    ran = [task for task in pending if task.attempts]
    left = [task for task in ran if _put_off(task) or (task.due_us > now and task.attempts[-1].outcome == "released")]
    steps = await backend.steps.read_many(left) if left else []
    return Seen(
        paused=names,
        workers=found,
        limits={state.key: state for state in limits},
        steps={task.task_id: each for task, each in zip(left, steps, strict=False)},
        read_at=read_at,
    )


def why(task: Task, seen: Seen, now: int) -> Waiting | None:
    """Return what a task waits for, by what was read; None if it is not pending. ``now`` in microseconds UTC."""
    if task.status is not PENDING:
        return None
    if task.queue in seen.paused:
        return Waiting(reason="paused")
    if task.parked and task.waits:
        return Waiting(reason="parents", behind=task.waits)
    if task.parked and task.due_us <= now:
        found = at_limit(seen.limits.get(task.gate or ""), max(now, seen.read_at))
        # Workers let it pass, and claim it: without one it is not about to.
        unseen = found.reason == "passing" and seen.workers is not None and not seen.of_queue(task.queue)
        return Waiting(reason="ready", limit=found.limit, workers=0, slots=0, busy=0) if unseen else found
    if _put_off(task):
        steps = seen.steps.get(task.task_id)
        version = steps[0].version if steps else None
        if any(each.types is not None and each.knows(task.type, version) for each in seen.of_queue(task.queue)):
            return Waiting(reason="delayed", until=task.run_at)
        return Waiting(reason="unknown_type", until=task.run_at, version=version)
    if task.due_us > now:
        if (step := left_at(task, seen.steps.get(task.task_id, ()))) is not None:
            until = None if step.until >= NEVER else step.until
            waits = step.kind == "wait"
            return Waiting(reason="event" if waits else "sleeping", until=until, event=step.name if waits else None)
        return Waiting(reason="retry" if task.retry_count else "delayed", until=task.due_us)
    workers = seen.of_queue(task.queue)
    if workers and not any(each.knows(task.type) for each in workers):
        return Waiting(reason="unknown_type")
    if seen.workers is None:
        return Waiting(reason="ready")
    slots, busy = sum(each.concurrency for each in workers), sum(each.busy for each in workers)
    return Waiting(reason="ready", workers=len(workers), slots=slots, busy=busy)


async def waiting(store: Pushes, task: Task, counted: Counted | None = None) -> Waiting | None:
    """Return what a task waits for; None if it is not pending. Without ``counted`` the store counts its tasks."""
    now = store.clock.now()
    if task.status is not PENDING:
        return None
    found = why(task, await look(store, [task], now), now)
    if found is not None and found.reason == "parents" and task.flow is not None:
        return replace(found, parents=await _parents(store, task, task.flow.parents))
    if found is not None and found.reason == "ready":
        queues = (await store.backend.stats(now)).queues if counted is None else await counted()
        return replace(found, ahead=queues.get(task.queue, {}).get(str(PENDING)))
    return found


async def unserved(store: Pushes, task: Task) -> str:
    """Return the end of an error about a pending task: that nothing will run it as things are; else an empty text."""
    now = store.clock.now()
    found = why(task, await look(store, [task], now), now)
    if found is None:
        return ""
    if found.reason == "ready" and found.workers == 0:
        return f"; no worker claims from queue {task.queue!r}: 'async with tq.running()' or 'aiotaskq run' starts some"
    # Where the store has no registry, all workers are in this process.
    here = any(worker.queues is None or task.queue in worker.queues for worker in store.local_workers)
    if found.reason == "ready" and found.workers is None and not here:
        return f"; no worker claims from queue {task.queue!r}: 'async with tq.running()' starts some"
    if found.reason == "unknown_type":
        return "; no worker has a handler of this type"
    return f"; queue {task.queue!r} is paused" if found.reason == "paused" else ""


def _put_off(task: Task) -> bool:
    """Return whether a worker that could not run the task has put it off."""
    return task.due_at is not None and not task.parked


async def _parents(store: Pushes, child: Task, named: Sequence[tuple[str, str]]) -> tuple[Parent, ...]:
    """Return those of these parents that hold up the child."""
    rows = await parents_of(store.backend, [task_id for task_id, _ in named])
    tasks = [as_parent(row) if isinstance(row, GroupState) else row for row in rows]
    return tuple(
        Parent(task_id, name, None if row is None else row.status)
        for (task_id, name), row in zip(named, tasks, strict=True)
        if row is None or live_parents(child, [row.replace(task_id=task_id)])
    )


async def parents_of(backend: Backend, ids: Sequence[str]) -> list[Task | GroupState | None]:
    """Read what a task waits for: tasks, and groups; for a group that has completed the task of its ``then``."""
    found: list[Task | GroupState | None] = list(await backend.get(ids))
    missing = [place for place, row in enumerate(found) if row is None]
    if missing:
        groups = dict(zip(missing, await backend.groups.get([ids[place] for place in missing]), strict=True))
        ended = {at: group for at, group in groups.items() if group is not None and group.status is Status.COMPLETED}
        callbacks = {at: callback_id(group, "then") for at, group in ended.items() if group.then is not None}
        pushed = await backend.get(list(callbacks.values())) if callbacks else []
        for place, row in (groups | dict(zip(callbacks, pushed, strict=True))).items():
            found[place] = row
    return found


def at_limit(state: LimitState | None, now: int) -> Waiting:
    """Return what a task at a limit waits for; ``now`` in microseconds UTC."""
    if state is None:
        return Waiting(reason="passing")
    if state.state == "used_up":
        return Waiting(reason="budget", group=state.budget_of, limit=state)
    if state.state == "paused" and (state.paused_until is None or state.paused_until > now):
        return Waiting(reason="limit_paused", until=state.paused_until, limit=state)
    if any(most is not None and state.held >= most for most in (state.cap, state.window)):
        return Waiting(reason="full", limit=state)
    if state.next_at is not None and state.next_at > now:
        return Waiting(reason="rate", until=state.next_at, limit=state)
    return Waiting(reason="passing", limit=state)
