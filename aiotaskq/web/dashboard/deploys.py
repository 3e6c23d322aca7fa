"""When versions of the application first started, as marks in charts and a line on pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ


async def deploys(tq: TaskQ, since: int) -> list[tuple[int, str]]:
    """Return the versions of the application that first started at ``since`` or later, and when, the earliest first.

    Instants are in microseconds UTC. Workers tell of their version where there is one; a store without a registry of
    workers knows none.
    """
    registry = tq.queue.backend.workers
    found = [] if registry is None else await registry.versions(tq.queue.clock.now())
    return [(at, version) for at, version in found if at >= since]
