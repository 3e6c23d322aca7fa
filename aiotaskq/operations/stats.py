"""The operation that counts the tasks of a store."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from aiotaskq.operations.fields import Count, Nothing, view_of
from aiotaskq.operations.table import Access, Operations

stats = Operations("stats")


class StatsView(Struct):
    """How many tasks there are, and which queues are paused."""

    counts: Annotated[dict[str, Count], Meta(description="By status")]
    ready: Annotated[Count, Meta(description="Tasks that can be claimed now")]
    oldest_age: Annotated[float | None, Meta(description="For how many seconds the oldest of these has waited")]
    queues: Annotated[dict[str, dict[str, Count]], Meta(description="By queue and status")]
    paused: list[str]


@stats()
async def get(access: Access, given: Nothing) -> StatsView:
    """Count tasks by queue and status; tell which queues are paused, and for how long the oldest ready task waits."""
    return view_of(StatsView, await access.tq.stats())
