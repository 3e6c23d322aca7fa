"""Health checks: whether a store answers, whether work goes on in it, and how long a round trip to it takes."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import msgspec

from aiotaskq.backends.base import Backend, Schedules
from aiotaskq.backends.pending_types import PendingType
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from aiotaskq.core.worker_info import WorkerInfo
from aiotaskq.log import printable
from aiotaskq.runtime.queue.operations import Stats, stats_of
from aiotaskq.runtime.waiting import awake

LOOK = 100  # overdue tasks that are read
NAMED = 5  # task types that a problem names
PENDING_LOOKED_AT = 2_000
"""Tasks that are due, and as many others, among which types are looked for that no worker knows: no index has these."""


class Health(msgspec.Struct, frozen=True):
    """The result of a check; ``problems`` is empty if ``ok``. Ages in seconds."""

    ok: bool
    problems: list[str]
    counts: dict[str, int]
    ready: int
    oldest_age: float | None
    paused: list[str]
    unknown_types: dict[str, int]
    """How many tasks are due of each type that no worker knows, though some claim them."""


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
        late: seconds for which a task of a dead worker may wait to be taken back, a due schedule to be fired, a task
            for a worker that knows its type, and, where no task runs, a ready task to be claimed.
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
    unknown: dict[str, int] = {}
    if stats.counts.get(str(Status.PENDING)) and (workers := await awake(backend, now)) is not None:
        unknown = unknown_types(await backend.pending_types(now, PENDING_LOOKED_AT), workers, stats.paused)
        if unknown:  # a deploy may bring a type some time before its workers
            counted = await backend.pending_types(behind, PENDING_LOOKED_AT)
            if long := unknown_types(counted, workers, stats.paused):
                problems.append(f"tasks of types that no worker has, due for over {late:g} s: {named_types(long)}")
    return Health(not problems, problems, stats.counts, stats.ready, age, stats.paused, unknown)


def unknown_types(
    counted: Sequence[PendingType], workers: Sequence[WorkerInfo], paused: Collection[str]
) -> dict[str, int]:
    """Return how many tasks are due of the types that none of these workers can run, though some claim them."""
    waiting: dict[str, int] = {}
    for each in counted:
        claiming = [worker for worker in workers if worker.claims_from(each.queue)]
        if each.due and each.queue not in paused and claiming and not any(one.knows(each.type) for one in claiming):
            waiting[each.type] = waiting.get(each.type, 0) + each.due
    return waiting


def named_types(counts: Mapping[str, int]) -> str:
    """Return these types with their counts, those with the most tasks first."""
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NAMED]
    more = f", … ({len(counts)} types)" if len(counts) > NAMED else ""
    return ", ".join(f"{printable(name)} ({count})" for name, count in most) + more


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


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
