"""Task types: how often each ran in a span of time, how often it failed, and how long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from aiotaskq.core.status import Status
from aiotaskq.core.task import TaskFilter
from aiotaskq.runtime.health import PENDING_LOOKED_AT, unknown_types
from aiotaskq.runtime.waiting import awake
from aiotaskq.web.dashboard.matching import part_of
from aiotaskq.web.dashboard.past import TypeSums, span_of
from aiotaskq.web.dashboard.rows import types_told
from aiotaskq.web.dashboard.view import View, page
from aiotaskq.web.dashboard.words import marked

ROWS = 300
PARKED_LOOKED_AT = 1_000
"""Pending tasks, the newest first, among which those are counted that wait at limits or for other tasks."""

ORDERS: dict[str, Callable[[TypeSums], float]] = {
    "completed": lambda row: row.total.counts.get("completed", 0),
    "failed": lambda row: row.total.counts.get("failed", 0),
    "share": lambda row: row.share or 0.0,
    "p50": lambda row: row.total.run.p50 or 0.0,
    "p95": lambda row: row.total.run.p95 or 0.0,
    "p99": lambda row: row.total.run.p99 or 0.0,
    "rate": lambda row: row.per_minute,
    "wait": lambda row: row.total.wait.p95 or 0.0,
}
"""By the name in the address; the largest first. Any other is the order of the names."""


@page("types", marked("Task types"), "span", "sort", "like")
async def types(view: View) -> dict[str, Any]:
    """Read the sums of each type."""
    sort = view.text("sort") or "completed"
    like = view.text("like")
    rows = [row for row in await view.shared.past.types(view.text("span")) if part_of(like, row.name)]
    if by := ORDERS.get(sort):
        rows.sort(key=by, reverse=True)  # equal ones stay in the order of their names
    known = {row.name for row in rows}
    waiting, unknown, looked_at = await view.keep("types", lambda: _waiting(view))
    return {
        "span": span_of(view.text("span")).name,
        "sort": sort if sort in ORDERS else "name",
        "types": rows[:ROWS],
        "idle": [name for name in sorted(waiting) if name not in known and part_of(like, name)][:ROWS],
        "waiting": waiting,
        "unknown": unknown,
        "more": len(rows) > ROWS,
        "looked_at": looked_at,
        "newest": PARKED_LOOKED_AT,
        "like": like or "",
    }


async def _waiting(view: View) -> tuple[dict[str, int], Collection[str], int | None]:
    """Return the number of waiting tasks by type: of types registered here, known to workers, or of waiting tasks.

    Then the types that no worker knows. Then the limit up to which due tasks, and as many others, were counted; None if
    all were. Tasks that wait at limits or for other tasks are counted among the newest pending ones.
    """
    backend = view.tq.queue.backend
    counted = await backend.pending_types(view.now, PENDING_LOOKED_AT)
    workers = await awake(backend, view.now) or []
    told = [name for worker in workers for name in types_told(worker.types) or ()]
    waiting = Counter(dict.fromkeys([*view.handlers, *told], 0))
    newest = await backend.find(TaskFilter(status=(Status.PENDING,)), PARKED_LOOKED_AT)
    for each in counted:
        waiting[each.type] += each.count
    waiting.update(task.type for task in newest if task.parked)
    all_seen = len(newest) < PARKED_LOOKED_AT and waiting.total() < PENDING_LOOKED_AT
    return waiting, unknown_types(counted, workers, await view.tq.paused()), None if all_seen else PENDING_LOOKED_AT


@page("type", marked("Task type"), "name", "span", "by", section="types")
async def type_page(view: View) -> dict[str, Any]:
    """Read what workers did with the tasks of one type."""
    name = view.needed("name")
    return {
        "name": name,
        "registered": name in view.handlers,
        "activity": await view.shared.past.activity(view.text("span"), type=name, by=view.text("by")),
    }
