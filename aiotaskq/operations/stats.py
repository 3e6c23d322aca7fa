"""The operation that counts the tasks of a store."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from aiotaskq.operations.fields import Count, about, view_of
from aiotaskq.operations.table import Access, Operations

stats = Operations("stats")


class StatsView(Struct):
    """How many tasks there are, and which queues are paused."""

    counts: Annotated[dict[str, Count], about("By status")]
    ready: Annotated[Count, about("Tasks that can be claimed now")]
    oldest_age: Annotated[float | None, about("For how many seconds the oldest of these has waited")]
    queues: Annotated[dict[str, dict[str, Count]], about("By queue and status")]
    paused: list[str]


@stats()
async def get(access: Access) -> StatsView:
    """Count tasks by queue and status; tell which queues are paused, and for how long the oldest ready task waits."""
    return view_of(StatsView, await access.tq.stats())
