"""Health checks: whether a store answers, whether work goes on in it, and how long a round trip to it takes."""

from __future__ import annotations

import statistics

import msgspec

from aiotaskq.backends.base import Backend, Schedules
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.task import SECOND, Status
from aiotaskq.runtime.queue.operations import Stats, stats_of

LOOK = 100  # overdue tasks that are read


class Health(msgspec.Struct, frozen=True):
    """The result of a check; ``problems`` is empty if ``ok``. Ages in seconds."""

    ok: bool
    problems: list[str]
    counts: dict[str, int]
    ready: int
    oldest_age: float | None
    paused: list[str]


class Distance(msgspec.Struct, frozen=True):
    """Milliseconds of round trips to a store, and by how many its clock is ahead of the host's (None: it has none)."""

    median: float
    worst: float
    ahead: float | None


async def examine(
    backend: Backend,
    clock: Clock,
    *,
    schedules: Schedules | None = None,
    known: Stats | None = None,
    late: float = 120.0,
    max_age: float | None = None,
) -> Health:
    """Check whether work goes on. Raises DatabaseUnavailable if the store does not answer.

    Args:
        schedules: the schedules to check as well, if any.
        known: counts that were read a moment ago; by default they are read.
        late: seconds for which a task of a dead worker may wait to be taken back, a due schedule to be fired, and,
            where no task runs, a ready task to be claimed.
        max_age: seconds for which a ready task may wait; None is no limit.
    """
    await backend.ping()
    now = clock.now()
    problems = []
    behind = now - int(late * SECOND)
    lost = [task for task in await backend.overdue(behind, LOOK) if task.status is Status.RUNNING]
    if lost:
        count = f"{len(lost)}{'+' if len(lost) == LOOK else ''}"
        problems.append(
            f"running tasks without a living worker for over {late:g} s, which no other worker takes up: {count}"
        )
    stats = await stats_of(backend, now) if known is None else known
    age = stats.oldest_age
    if age is not None and age > late and stats.counts.get(str(Status.RUNNING), 0) <= len(lost):
        problems.append(
            f"tasks that are ready: {stats.ready}, the oldest for {age:.0f} s, and none runs: no worker is at work"
        )
    if max_age is not None and age is not None and age > max_age:
        problems.append(f"tasks that are ready: {stats.ready}, the oldest for {age:.0f} s (more than {max_age:g} s)")
    due = None if schedules is None else await schedules.next_due()
    if due is not None and due < behind:
        problems.append(f"a schedule has been due for {(now - due) / SECOND:.0f} s: no scheduler runs")
    return Health(not problems, problems, stats.counts, stats.ready, age, stats.paused)


async def measure(backend: Backend, clock: Clock, rounds: int = 7) -> Distance:
    """Measure round trips and the store's clock. Raises DatabaseUnavailable."""
    trips: list[int] = []
    ahead: list[tuple[int, float]] = []
    for _ in range(rounds):
        sent, at = clock.ticks(), clock.now()
        said = await backend.ping()
        trip = clock.ticks() - sent
        trips.append(trip)
        if said is not None:
            ahead.append((trip, said - (at + trip / 2)))  # the answer was made between sending and receiving
    best = min(ahead)[1] if ahead else None  # the error is at most half of the round trip
    return Distance(statistics.median(trips) / 1000, max(trips) / 1000, None if best is None else best / 1000)
