"""The operation that says how many workers are needed, for what starts and stops them."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Struct

from aiotaskq.app.internal import RunOptions
from aiotaskq.core.task import SECOND
from aiotaskq.operations.fields import Count, Name, Seconds, about
from aiotaskq.operations.table import Access, Operations
from aiotaskq.runtime.waiting import awake

scale = Operations("scale")
SLOTS = RunOptions().concurrency
"""Slots of a worker that is started without a number."""


class Aim(Struct, forbid_unknown_fields=True):
    """What is to be reached."""

    queue: Annotated[Name, about("Only this queue; default all that are not paused")] | None = None
    within: Annotated[float, about("Seconds in which what is ready now should be done", gt=0, le=86_400)] = 60.0
    slots: Annotated[int, about("Slots of one worker; default those of the workers that are there", ge=1)] | None = None


class ScaleView(Struct):
    """What waits, what works on it, and how many workers it needs."""

    ready: Annotated[Count, about("Tasks that can be claimed now")]
    ready_age: Annotated[float, about("For how many seconds the oldest of these has waited; 0 where there is none")]
    running: Annotated[Count, about("Tasks that run")]
    workers: Annotated[Count, about("Workers that claim from here")]
    slots: Annotated[Count, about("Their slots")]
    run_seconds: Annotated[Seconds | None, about("The mean run time of the last hour; null where nothing has run")]
    drain_seconds: Annotated[Seconds | None, about("Until what is ready is done by these slots; null if not known")]
    wanted_workers: Annotated[Count, about("Workers that are needed; 0 where nothing is ready and nothing runs")]


@scale()
async def get(access: Access, given: Aim) -> ScaleView:
    """Tell how many workers are needed to be done with what is ready, and what that is computed from."""
    tq, queues = access.tq, None if given.queue is None else [given.queue]
    backend, now = tq.queue.backend, tq.queue.clock.now()
    ready, first = await backend.count_ready(now, queues), await backend.next_run_at(now, queues)
    counts = (await backend.stats(now)).queues
    running = sum(counts.get(name, {}).get("running", 0) for name in queues or counts)
    ended = [each for each in await tq.history(queue=given.queue) if each.run_us]
    mean = sum(each.run_us for each in ended) / sum(each.n for each in ended) / SECOND if ended else None
    claiming = [
        each for each in await awake(backend, now) or () if given.queue is None or each.claims_from(given.queue)
    ]
    slots = sum(each.concurrency for each in claiming)
    each_has = given.slots or (slots / len(claiming) if slots else SLOTS)
    return ScaleView(
        ready=ready,
        ready_age=max(0, now - first) / SECOND if ready and first is not None else 0.0,
        running=running,
        workers=len(claiming),
        slots=slots,
        run_seconds=mean,
        drain_seconds=drain_seconds(ready, slots, mean),
        wanted_workers=wanted_workers(ready, running, mean, given.within, each_has),
    )


def drain_seconds(ready: int, slots: int, mean: float | None) -> float | None:
    """Return the seconds until so many tasks of this mean run time have ended; None where that is not known."""
    if not ready:
        return 0.0
    return ready * mean / slots if slots and mean is not None else None


def wanted_workers(ready: int, running: int, mean: float | None, within: float, slots: float) -> int:
    """Return how many workers of so many slots end the ready tasks ``within`` seconds.

    Each running task keeps its slot. Where no run time is known, each ready task gets one, too.
    """
    for_ready = ready if mean is None else min(ready, math.ceil(ready * mean / within))
    return math.ceil((running + for_ready) / slots)
