"""The overview: what needs attention, how many tasks are in which state, what workers did, and each queue.

What needs attention is each thing that keeps tasks from running, as a sentence with the page that says more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.schedule import Schedule
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.operations.task_views import task_view
from aiotaskq.runtime.health import PENDING_LOOKED_AT, unknown_types
from aiotaskq.runtime.queue.operations import Stats, unclaimed_queues
from aiotaskq.web.dashboard.rows import LimitRow, limit_row, queue_rows
from aiotaskq.web.dashboard.view import View, page
from aiotaskq.web.dashboard.words import marked

RECENT = 5  # failed tasks that are listed
LOOKED_AT = 20  # failed tasks that are counted before the history has them
HOUR = 3_600  # seconds
KEEP = 5.0  # seconds for which an open page does not look anew for failures and for what needs attention


@page("", marked("Overview"), "span")
async def overview(view: View) -> dict[str, Any]:
    """Read the counts, what workers did, and what needs attention."""
    counted = await view.shared.counts.get()
    stats = counted.stats
    failed = await view.keep("failures", KEEP, lambda: _failed(view)) if stats.counts.get("failed") else []
    hour = (await view.shared.past.activity("1h")).total.counts.get("failed", 0)
    unclaimed, stuck = await view.keep("attention", KEEP, lambda: look(view.tq, stats, view.now))
    failures = max(hour, _recent(failed, view.now))
    grave = [Notice("failed", "failed", "tasks", {"status": "failed"}, failures)] if failures else []
    worker = view.tq.worker
    return {
        "attention": [*unclaimed, *grave, *paused_queues(stats), *stuck],
        "counts": stats.counts,
        "approximate": counted.approximate,
        "ready": stats.ready,
        "oldest": stats.oldest_age,
        "activity": await view.shared.past.activity(view.text("span")),
        "written": worker is None or worker.tally is not None,  # whether what the worker of this process did is
        "queues": queue_rows(stats),
        "failed": [task_view(each, errors=False, params=False) for each in failed[:RECENT]],
    }


async def _failed(view: View) -> list[Task]:
    backend = view.tq.queue.backend
    found = await backend.get(await backend.last_ended(Status.FAILED, LOOKED_AT))
    return [task for task in found if task is not None and task.status is Status.FAILED]


def _recent(failed: Sequence[Task], now: int) -> int:
    """Count those that ended in the last hour: workers write the history only once a minute."""
    return sum(each.completed_at is not None and each.completed_at > now // SECOND - HOUR for each in failed)


# ---- what needs attention ----

MOST_LIMITS, MOST_SCHEDULES, MOST_QUEUES, MOST_TYPES = 5, 5, 20, 5
LIMITS_LOOKED_AT = 1_000
LATE = 60 * SECOND
"""Microseconds after which a schedule that is due is late."""


class Notice(msgspec.Struct, frozen=True):
    """One thing that needs attention."""

    level: str
    """The icon and colour: ``failed``, ``paused``, ``waiting``, ``closed`` or ``expired``."""
    kind: str
    """By which the template has the sentence."""
    page: str
    query: dict[str, str] = {}
    number: int = 1
    values: dict[str, Any] = {}


async def look(tq: TaskQ, stats: Stats, now: int) -> tuple[list[Notice], list[Notice]]:
    """Return what keeps tasks from being claimed, and what else keeps some; ``now`` in microseconds UTC."""
    registry = tq.queue.backend.workers
    unclaimed: list[Notice] = []
    if registry is not None and stats.counts.get("pending"):
        alive = [each for each in await registry.all() if each.lease_until > now]
        unclaimed = await _without_workers(tq, stats, alive) if stats.ready else []
        counted = await tq.queue.backend.pending_types(now, PENDING_LOOKED_AT)
        awake = [each for each in alive if not each.quiet]
        unclaimed += unknown_notices(unknown_types(counted, awake, stats.paused))
    limits = [limit_row(each) for each in await tq.limits.list(LIMITS_LOOKED_AT) if each.waiting]
    schedules = internal(tq).open_schedules()
    late = [] if schedules is None else await schedules.due(now - LATE, MOST_SCHEDULES + 1)
    return unclaimed, stuck_limits(limits) + late_schedules(late)


async def _without_workers(tq: TaskQ, stats: Stats, alive: Sequence[WorkerInfo]) -> list[Notice]:
    """Return the queues with ready tasks that no worker claims."""
    awake = [each for each in alive if not each.quiet]
    if not awake:
        return [Notice("failed", "all_quiet" if alive else "no_worker", "workers", number=stats.ready)]
    names = await unclaimed_queues(tq.queue.backend, stats, awake, tq.queue.clock.now(), MOST_QUEUES)
    return [Notice("failed", "unclaimed", "queue", {"name": name}, values={"queue": name}) for name in names]


def unknown_notices(waiting: Mapping[str, int]) -> list[Notice]:
    """Return a notice for each type that no worker knows, those with the most tasks first."""
    found = [
        Notice("failed", "unknown_type", "tasks", {"type": name, "status": "pending"}, count, {"type": name})
        for name, count in sorted(waiting.items(), key=lambda item: (-item[1], item[0]))[:MOST_TYPES]
    ]
    if (more := len(waiting) - MOST_TYPES) > 0:
        found.append(Notice("failed", "unknown_types", "types", number=more))
    return found


def paused_queues(stats: Stats) -> list[Notice]:
    """Return the paused queues in which tasks wait."""
    return [
        Notice("paused", "paused_queue", "queue", {"name": name}, count, {"queue": name})
        for name in stats.paused
        if (count := stats.queues.get(name, {}).get("pending", 0))
    ]


def stuck_limits(rows: Sequence[LimitRow]) -> list[Notice]:
    """Return the paused and the full limits at which tasks wait: paused ones first, then those with the most."""
    stuck = [row for row in rows if row.limit.waiting and (row.stopped or (row.share is not None and row.share >= 1))]
    stuck.sort(key=lambda row: (not row.stopped, -row.limit.waiting, row.limit.key))
    found = []
    for row in stuck[:MOST_LIMITS]:
        limit, about = row.limit, {"key": row.limit.key}
        if limit.state == "used_up":
            group = str(limit.budget_of)
            found.append(Notice("closed", "used_up", "group", {"id": group}, limit.waiting, {"group": group}))
        elif row.stopped:
            found.append(Notice("paused", "paused_limit", "limit", about, limit.waiting, about))
        else:
            found.append(Notice("waiting", "full_limit", "limit", about, limit.waiting, about))
    if (more := len(stuck) - MOST_LIMITS) > 0:
        found.append(Notice("waiting", "limits", "limits", number=more))
    return found


def late_schedules(late: Sequence[Schedule]) -> list[Notice]:
    """Return the schedules that should have fired."""
    found = [
        Notice("expired", "late", "schedule", {"id": each.task_id}, values={"name": each.name})
        for each in late[:MOST_SCHEDULES]
    ]
    if len(late) > MOST_SCHEDULES:
        found.append(Notice("expired", "more_late", "schedules"))
    return found
