"""The operation that groups the tasks that have failed by their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from msgspec import Struct, structs

from aiotaskq.core.coded import problem_of
from aiotaskq.core.instants import to_iso
from aiotaskq.core.outcome import end_of
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.operations.fields import MAX_PAGE, Count, Instant, Name, Time, about
from aiotaskq.operations.table import Access, Operations
from aiotaskq.operations.task_views import error_line
from aiotaskq.runtime.queue.bulk import pages, task_filter

failures = Operations("failures")

READ = 500
"""Tasks that are read at a time: their params may be large."""
PERIODS = 24
"""Into how many periods the time since the earliest failure is divided."""


class Listed(Struct, forbid_unknown_fields=True):
    """Which failed tasks are grouped."""

    type: Annotated[Name, about("Only this type")] | None = None
    queue: Annotated[Name, about("Only this queue")] | None = None
    since: Annotated[Instant, about("Only tasks created then or later")] | None = None
    limit: Annotated[int, about("How many failed tasks are read, the newest first", ge=1, le=100_000)] = 10_000


class FailureView(Struct):
    """The failed tasks of one type with the same error."""

    type: str
    error: Annotated[str, about("Its first line, with # for each number and id; where hidden its type; empty if none")]
    count: Count
    first_at: Time
    last_at: Time
    task_id: Annotated[str, about("The task that failed last")]
    periods: Annotated[list[Count], about("How many failed in each period, the earliest first")]


class FailureList(Struct):
    """The failed tasks by type and error, those with most tasks first."""

    failures: list[FailureView]
    errors: Annotated[Count, about(f"How many there are; the first {MAX_PAGE} are listed")]
    read: Annotated[Count, about("How many tasks were read, the newest first")]
    more: Annotated[bool, about("Whether there are older ones, which are not counted")]
    begin: Annotated[Time | None, about("When the first period begins")]
    seconds: Annotated[int, about("Seconds of a period")]


@failures()
async def list_(access: Access, given: Listed) -> FailureList:
    """Group failed tasks by type and error, those with most tasks first.

    Of an error its first line counts, in which `#` stands for each number and id. `same_error` of `tasks.retry` takes
    it, and retries the tasks of a row.
    """
    limit = given.limit
    where = {name: value for name, value in structs.asdict(given).items() if name != "limit" and value is not None}
    wanted = task_filter(status=Status.FAILED, **where)
    found: dict[tuple[str, str], dict[str, int]] = {}
    read = 0
    async for tasks in pages(access.tq.queue.backend, wanted, min(READ, limit + 1)):
        for task in tasks[: max(0, limit - read)]:
            key = task.type, error_line(problem_of(task), access.show_args)
            found.setdefault(key, {})[task.task_id] = end_of(task) or task.created_at * SECOND
        read += len(tasks)
        if read > limit:
            break
    now = access.tq.queue.clock.now()
    begin = min((at for group in found.values() for at in group.values()), default=now)
    seconds = max(1, math.ceil((now - begin) / SECOND / PERIODS))
    ranked = sorted(found, key=lambda key: (-len(found[key]), -max(found[key].values())))
    views = [_view(*key, found[key], begin, seconds) for key in ranked[:MAX_PAGE]]
    return FailureList(views, len(found), min(read, limit), read > limit, to_iso(begin) if found else None, seconds)


def _view(type: str, error: str, group: Mapping[str, int], begin: int, seconds: int) -> FailureView:
    """Return the view of tasks with the same error, which failed at these instants."""
    counts = [0] * PERIODS
    for at in group.values():
        counts[min(PERIODS - 1, (at - begin) // (seconds * SECOND))] += 1
    first, last = min(group.values()), max(group, key=group.__getitem__)
    times = to_iso(first) or "", to_iso(group[last]) or ""
    return FailureView(type, error, len(group), *times, task_id=last, periods=counts)
