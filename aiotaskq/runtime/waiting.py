"""Why a pending task does not run: what it waits for, read from the store in the order in which it is passed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol

import msgspec

from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.steps import NEVER
from aiotaskq.core.task import PENDING, SECOND, Status, Task
from aiotaskq.core.validation import TEN_YEARS
from aiotaskq.errors import NotFound, ValidationError
from aiotaskq.runtime.limits import Limits, LimitState

ENDLESS = TEN_YEARS * SECOND // 2
"""Microseconds: a gate that is closed for longer is closed until it is opened."""

Reason = Literal[
    "paused",
    "delayed",
    "retry",
    "sleeping",
    "event",
    "unknown_type",
    "parents",
    "closed",
    "full",
    "rate",
    "passing",
    "ready",
]


class Store(Protocol):
    """What is asked: the queue of a TaskQ."""

    backend: Backend
    clock: Clock

    @property
    def limits(self) -> Limits:
        """The gates of its store."""


class Parent(msgspec.Struct, frozen=True):
    """A task that has to end before the one that waits."""

    task_id: str
    name: str
    status: Status | None
    """None where its row is gone."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """What a pending task waits for. Instants are microseconds UTC."""

    reason: Reason
    """``paused``: its queue. ``delayed``: its time has not come; ``retry``: nor that of its next attempt.
    ``sleeping``, ``event``: its handler sleeps, or waits for an event.
    ``unknown_type``: no worker that saw it has a handler of its type. ``parents``: tasks before it in its workflow.
    ``closed``, ``full``, ``rate``: its gate. ``passing``: its gate is about to let it pass. ``ready``: a
    free worker."""
    until: int | None = None
    """When it may go on at the earliest; None where that is not known, or depends on an operator or another task."""
    event: str | None = None
    """The key of the event."""
    gate: LimitState | None = None
    parents: tuple[Parent, ...] = ()
    """Those that have not ended."""
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


async def waiting(store: Store, task: Task, counted: Counted | None = None) -> Waiting | None:
    """Return what a task waits for; None if it is not pending. Without ``counted`` the store counts its tasks."""
    now = store.clock.now()
    if task.status is not PENDING:
        return None
    if task.queue in await store.backend.paused():
        return Waiting(reason="paused")
    if task.parked:
        found = await _at_a_gate(store, task, now)
        if found is not None:
            return found
    if task.due_at is not None and not task.parked:  # put off by a worker that could not run it
        return Waiting(reason="unknown_type", until=task.run_at)
    if task.due > now:
        suspended = await _suspended(store, task)
        return suspended or Waiting(reason="retry" if task.retry_count else "delayed", until=task.due)
    if task.parked:
        return Waiting(reason="passing")
    return await _ready(store, task, now, counted)


async def _suspended(store: Store, task: Task) -> Waiting | None:
    """Return for what the handler of a task has left it; None if it has not begun, or has failed since."""
    if store.backend.steps is None or not task.attempts or task.attempts[-1].outcome != "released":
        return None
    for step in reversed(await store.backend.steps.read(task.task_id, task.seq)):
        if step.kind in ("sleep", "wait") and step.until == task.due:
            until = None if step.until >= NEVER else step.until
            if step.kind == "wait":
                return Waiting(reason="event", until=until, event=step.name)
            return Waiting(reason="sleeping", until=until)
    return None


async def _at_a_gate(store: Store, task: Task, now: int) -> Waiting | None:
    """Return what a parked task waits for; None where it is only delayed or about to pass."""
    if task.waits and task.flow is not None:
        ids = [task_id for task_id, _ in task.flow.parents]
        rows = await store.backend.get(ids)
        named = zip(task.flow.parents, rows, strict=True)
        parents = [Parent(task_id, name, None if row is None else row.status) for (task_id, name), row in named]
        unended = [each for each, row in zip(parents, rows, strict=True) if row is None or not row.final]
        return Waiting(reason="parents", parents=tuple(unended))
    if task.due > now:
        return None
    try:
        state = await store.limits.get(task.gate or "")
    except (NotFound, ValidationError):
        return None
    if state.closed_until is not None and state.closed_until > now:
        until = None if state.closed_until - now > ENDLESS else state.closed_until
        return Waiting(reason="closed", until=until, gate=state)
    if any(most is not None and state.held >= most for most in (state.cap, state.window)):
        return Waiting(reason="full", gate=state)
    if state.next_at is not None and state.next_at > now:
        return Waiting(reason="rate", until=state.next_at, gate=state)
    return Waiting(reason="passing", gate=state)


async def _ready(store: Store, task: Task, now: int, counted: Counted | None) -> Waiting:
    registry = store.backend.workers
    queues = (await store.backend.stats(now)).queues if counted is None else await counted()
    ahead = queues.get(task.queue, {}).get(str(PENDING))
    if registry is None:
        return Waiting(reason="ready", ahead=ahead)
    alive = [each for each in await registry.all() if each.lease_until > now]
    awake = [each for each in alive if not each.quiet]
    workers = [each for each in awake if each.queues is None or task.queue in each.queues]
    return Waiting(
        reason="ready",
        ahead=ahead,
        workers=len(workers),
        slots=sum(each.concurrency for each in workers),
        busy=sum(each.busy for each in workers),
    )
