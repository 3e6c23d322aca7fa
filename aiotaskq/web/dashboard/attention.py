"""What needs attention: each thing that keeps tasks from running, or that ends them, with its age and what mends it.

What a thing is stands elsewhere: whether a limit lets tasks pass in ``runtime.waiting``, which types no worker knows in
``runtime.health``, how long a run or a backlog may be in ``core.alerts``. Each read is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aiotaskq.app.internal import internal
from aiotaskq.core.alerts import ALERTS, WATCHED, grows, opened, runs_long, waits_long
from aiotaskq.core.audit import AuditEntry
from aiotaskq.core.history import MINUTE
from aiotaskq.core.instants import to_iso
from aiotaskq.core.outcome import is_poison
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.runtime.health import PENDING_LOOKED_AT, unknown_types
from aiotaskq.runtime.limits import LimitState
from aiotaskq.runtime.queue.operations import Stats, unclaimed_queues
from aiotaskq.runtime.waiting import at_limit

if TYPE_CHECKING:
    from aiotaskq.web.dashboard.view import View

MOST = 5
"""Notices of one kind; what is beyond is counted."""
MOST_QUEUES = 20
LIMITS_LOOKED_AT = 1_000
RUNS_LOOKED_AT = 1_000
"""Running tasks, those that were pushed last."""
WINDOW = 10_000
"""Tasks, the newest first, among which running ones are looked for in a store without an index of these."""
HOUR = 3_600  # seconds
LATE = 60 * SECOND
"""Microseconds after which a schedule that is due is late."""
SCHEDULES_KEPT = 10.0
"""Seconds for which the schedules are not read anew."""


class Notice(msgspec.Struct, frozen=True):
    """One thing that needs attention."""

    kind: str
    """By which the template has its icon, its sentence, the page that it leads to, and the button that mends it."""
    number: int = 1
    values: dict[str, Any] = {}
    since: int | None = None
    """When it began, in microseconds UTC; None where that is not known."""
    actor: str = ""
    """The operator that did it; empty where none did, or the audit log does not name one."""

    @property
    def at(self) -> str | None:
        """``since`` as RFC 3339, of what does not last."""
        return to_iso(self.since) if self.kind == "poison" else None


async def look(view: View, stats: Stats, failed: Sequence[Task], log: Sequence[AuditEntry]) -> list[Notice]:
    """Return what needs attention.

    Args:
        failed: the tasks that have failed last, the latest first.
        log: what operators have changed, the latest first.
    """
    tq, now = view.tq, view.now
    alerts = [
        Notice("alert", values={"rule": each.rule}, since=each.since)
        for each in opened(await tq.values.get_public(ALERTS))
    ]
    registry = tq.queue.backend.workers
    workers = [] if registry is None else await registry.all()
    unclaimed: list[Notice] = []
    if registry is not None and stats.counts.get("pending"):
        awake = [each for each in workers if each.claims(now)]
        alive = any(each.lease_until > now for each in workers)
        unclaimed = await _without_workers(view, stats, awake, alive) if stats.ready else []
        counted = await tq.queue.backend.pending_types(now, PENDING_LOOKED_AT)
        unclaimed += unknown_notices(unknown_types(counted, awake, stats.paused))
    return [
        *alerts,
        *unclaimed,
        *await _failures(view, failed),
        *dead_workers(workers, now),
        *(await _long_runs(view) if stats.counts.get("running") else []),
        *await _growing(view, stats, unclaimed),
        *paused_queues(stats, log),
        *stuck_limits(await tq.limits.list(LIMITS_LOOKED_AT), now, log),
        *await _schedules(view, log),
    ]


def paused_by(log: Sequence[AuditEntry], noun: str, name: str) -> tuple[int | None, str]:
    """Return the instant of the last pause of a thing, and its operator; ``log`` has the latest entry first.

    None and "" where the last entry is no pause.
    """
    for each in log:
        if name in each.targets and each.action in (f"{noun}.pause", f"{noun}.resume"):
            return (each.at, each.actor) if each.action == f"{noun}.pause" else (None, "")
    return None, ""


# ---- what no worker claims ----


async def _without_workers(view: View, stats: Stats, awake: Sequence[WorkerInfo], alive: bool) -> list[Notice]:
    """Return the queues with ready tasks that no worker claims; ``alive``: a worker runs, though it may be quiet."""
    if not awake and alive:
        return [Notice("all_quiet", stats.ready)]
    if not awake:
        return [Notice("no_worker", stats.ready)]
    names = await unclaimed_queues(view.tq.queue.backend, stats, awake, view.now, MOST_QUEUES)
    return [Notice("unclaimed", values={"queue": name}) for name in names]


def unknown_notices(waiting: Mapping[str, int]) -> list[Notice]:
    """Return a notice for each type that no worker knows, those with the most tasks first."""
    found = [
        Notice("unknown_type", count, {"type": name})
        for name, count in sorted(waiting.items(), key=lambda item: (-item[1], item[0]))
    ]
    return _first(found, "unknown_types")


# ---- what ends badly ----


async def _failures(view: View, failed: Sequence[Task]) -> list[Notice]:
    """Return what failed in the last hour. Workers write the history once a minute: before, the tasks tell."""
    begin = view.now // SECOND - HOUR
    recent = [each for each in failed if each.completed_at is not None and each.completed_at > begin]
    counts = (await view.shared.past.activity("1h")).total.counts
    poison = [each for each in recent if is_poison(each)]
    found = []
    if count := max(counts.get("failed", 0), len(recent)):
        found.append(Notice("failed", count))
    if poison:
        about = {"type": poison[0].type, "task_id": poison[0].task_id}
        found.append(Notice("poison", len(poison), about, (poison[0].completed_at or 0) * SECOND))
    if count := counts.get("lost", 0):
        found.append(Notice("lost", count))
    return found


def dead_workers(workers: Sequence[WorkerInfo], now: int) -> list[Notice]:
    """Return the workers whose lease is over, and that no other worker has removed yet."""
    dead = sorted((each for each in workers if each.lease_until <= now), key=lambda each: -each.seen_at)
    return [
        Notice("dead_worker", each.busy, {"worker": f"{each.host} · {each.pid}", "id": each.owner}, each.seen_at)
        for each in dead[:MOST]
    ]


# ---- what takes long ----


async def _long_runs(view: View) -> list[Notice]:
    """Return the tasks that run for much longer than those of their type do, the longest first."""
    where = TaskFilter(status=(Status.RUNNING,), newest=WINDOW)
    found = await view.tq.queue.backend.find(where, RUNS_LOOKED_AT)
    running = [((view.now - each.began_at) / SECOND, each) for each in found if each.began_at is not None]
    # Only those that would be long for the quickest type.
    slow = sorted(((age, each) for age, each in running if runs_long(age, 0.0)), key=lambda each: -each[0])
    usual = await view.shared.past.usual(dict.fromkeys(each.type for _, each in slow))
    long = [(task, usual.get(task.type)) for seconds, task in slow if runs_long(seconds, usual.get(task.type))]
    return [
        Notice("long", values={"type": task.type, "usual": p99, "task_id": task.task_id}, since=task.began_at)
        for task, p99 in long[:MOST]
    ]


async def _growing(view: View, stats: Stats, unclaimed: Sequence[Notice]) -> list[Notice]:
    """Return the queues in which tasks wait for minutes, and more become ready than end; not those that are unclaimed.

    Where the first in line has waited for all of these minutes, what became ready in them has not been claimed.
    """
    if any(each.kind in ("all_quiet", "no_worker") for each in unclaimed):
        return []
    backend, since = view.tq.queue.backend, view.now - WATCHED * MINUTE * SECOND
    apart = {*stats.paused, *(each.values.get("queue") for each in unclaimed)}
    names = [name for name, counts in stats.queues.items() if counts.get("pending") and name not in apart]
    names.sort(key=lambda name: (-stats.queues[name]["pending"], name))
    found = []
    for name in names[:MOST]:
        first = await backend.next_run_at(since, [name])
        if first is None or first > since:
            continue
        ready = await backend.count_ready(view.now, [name]) - await backend.count_ready(since, [name])
        hour = (await view.shared.past.queues()).get(name)
        ended = 0 if hour is None else hour.ended(WATCHED)
        if grows(ready, ended):
            about = {"queue": name, "ready": ready / WATCHED, "ended": ended / WATCHED}
            found.append(Notice("grows", values=about, since=first))
    return found


# ---- what is stopped ----


def paused_queues(stats: Stats, log: Sequence[AuditEntry]) -> list[Notice]:
    """Return the paused queues in which tasks wait."""
    return [
        Notice("paused_queue", count, {"queue": name}, *paused_by(log, "queues", name))
        for name in stats.paused
        if (count := stats.queues.get(name, {}).get("pending", 0))
    ]


def stuck_limits(states: Sequence[LimitState], now: int, log: Sequence[AuditEntry]) -> list[Notice]:
    """Return the limits at which tasks wait for long: paused ones first, then those with the most tasks."""
    found = []
    for state in sorted(states, key=lambda each: (-each.waiting, each.key)):
        reason = at_limit(state, now).reason if state.waiting else None
        about: dict[str, Any] = {"key": state.key}
        count = state.waiting
        if reason == "budget":
            found.append(Notice("used_up", count, {"group": state.budget_of}))
        elif reason == "limit_paused":
            found.append(Notice("paused_limit", count, about, *paused_by(log, "limits", state.key)))
        elif reason == "full":
            found.append(Notice("full_limit", count, about))
        elif reason == "rate" and state.rate and waits_long(count, state.rate):
            found.append(Notice("slow_rate", count, about | {"takes": count / state.rate}))
    found.sort(key=lambda each: each.kind in ("full_limit", "slow_rate"))
    return _first(found, "limits")


async def _schedules(view: View, log: Sequence[AuditEntry]) -> list[Notice]:
    """Return the schedules that should have fired, those that the scheduler has disabled, and those that are paused."""
    if internal(view.tq).open_schedules() is None:
        return []
    known = await view.shared.kept.get("schedules", SCHEDULES_KEPT, view.tq.schedules.list)
    late, stopped = list[Notice](), list[Notice]()
    for each in sorted(known, key=lambda each: each.due or 0):
        about = {"name": each.name, "schedule": each.task_id}
        if each.state == "active" and each.due is not None and each.due <= view.now - LATE:
            late.append(Notice("late", values=about, since=each.due))
        elif each.state in ("disabled", "paused"):
            since = next((record.at for record in reversed(each.history) if record.outcome == each.state), None)
            actor = paused_by(log, "schedules", each.task_id)[1] if each.state == "paused" else ""
            stopped.append(Notice(f"{each.state}_schedule", 1, about, since, actor))
    stopped.sort(key=lambda each: (each.kind, each.values["name"]))
    return _first(late, "more_late") + _first(stopped, "more_stopped")


def _first(found: list[Notice], kind: str) -> list[Notice]:
    """Return the first notices, and one that counts the others."""
    more = len(found) - MOST
    return found[:MOST] + ([Notice(kind, more)] if more > 0 else [])
