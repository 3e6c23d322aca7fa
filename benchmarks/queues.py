"""The scenarios of task queues: the same code for every store and every contestant, see ``benchmarks.system``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.case import LATENCY, NOTES, RATE, Run, Sample, Unit, latency, rate, scenario
from benchmarks.system import BATCH, SYSTEMS, System
from benchmarks.worker_processes import WorkerProcesses

S = TypeVar("S", bound=System)
Measure = Callable[[type[System], Run], Awaitable[Sample]]

PRODUCERS = {"memory": 1, "sqlite": 100}  # as many at the same time; elsewhere 50
BACKLOGS = (10_000, 200_000)
GAP = 0.004  # seconds between two pushes into an idle queue, on average
PACE, SLOW = 0.015, 0.120  # seconds between two pushes for another process, on average
PLACES = {"sqlite": "file", "postgresql": "postgresql", "mysql": "mysql", "redis": "redis"}


def producers(family: str) -> int:
    """Return how many push at the same time."""
    return PRODUCERS.get(family, 50)


@contextlib.asynccontextmanager
async def opened(kind: type[S], place: str) -> AsyncIterator[S]:
    """Give the contestant in its empty place, ready for use."""
    system = kind(place)
    await system.make()
    await system.open()
    try:
        yield system
    finally:
        await system.close()


# ---- what is measured -----------------------------------------------------------------------------------------------


async def push_one(kind: type[System], run: Run) -> Sample:
    async with opened(kind, run.place) as system:
        start = time.perf_counter()
        for _ in range(run.n):
            await system.push()
        return rate(run.n, time.perf_counter() - start)


async def push_many(kind: type[System], run: Run) -> Sample:
    count = 50 if kind.family == "memory" else producers(kind.family)
    each = max(1, run.n // count)
    async with opened(kind, run.place) as system:
        start = time.perf_counter()
        await system.push_from(count, each)
        return rate(count * each, time.perf_counter() - start)


async def push_bulk(kind: type[System], run: Run) -> Sample:
    calls = max(1, run.n // BATCH)
    async with opened(kind, run.place) as system:
        start = time.perf_counter()
        for _ in range(calls):
            await system.push_many(BATCH)
        return rate(calls * BATCH, time.perf_counter() - start)


async def drain(concurrency: int, kind: type[System], run: Run) -> Sample:
    """From the start of the first task until the last is written as finished."""
    async with opened(kind, run.place) as system:
        await system.fill(run.n)
        system.tally.expect(run.n)
        async with system.working(concurrency):
            await system.drained()
            return rate(run.n, time.perf_counter() - system.tally.first)


async def drain_two(kind: type[System], run: Run) -> Sample:
    async with opened(kind, run.place) as system:
        await system.fill(run.n)
        async with WorkerProcesses(kind, run.place, processes=2, concurrency=50) as processes:
            await processes.until(run.n)
            await system.written()
            return rate(run.n, time.perf_counter() - processes.first)


async def push_and_run(kind: type[System], run: Run) -> Sample:
    """From the first push until the last task is written as finished; workers were waiting."""
    count = producers(kind.family)
    each = max(1, run.n // count)
    return await _whole(kind, run.place, count * each, lambda system: system.push_from(count, each))


async def one_by_one(kind: type[System], run: Run) -> Sample:
    """As ``push_and_run``, with one producer."""
    return await _whole(kind, run.place, run.n, lambda system: system.push_from(1, run.n))


async def bulk_and_run(kind: type[System], run: Run) -> Sample:
    """As ``push_and_run``, 500 tasks in a call."""
    calls = max(1, run.n // BATCH)

    async def push(system: System) -> None:
        for _ in range(calls):
            await system.push_many(BATCH)

    return await _whole(kind, run.place, calls * BATCH, push)


async def _whole(kind: type[System], place: str, count: int, push: Callable[[System], Awaitable[None]]) -> Sample:
    async with opened(kind, place) as system, system.working(10):
        await _warm(system)
        system.tally.expect(count)
        start = time.perf_counter()
        await push(system)
        await system.drained()
        return rate(count, time.perf_counter() - start)


async def idle_latency(kind: type[System], run: Run) -> Sample:
    """From before the push until the handler starts, one task at a time, workers waiting for work."""
    give_up = time.perf_counter() + max(1.0, 10 * run.scale)  # a slow contestant gets as many as there is time for
    dice = random.Random(1)
    async with opened(kind, run.place) as system, system.working(10):
        await _warm(system)
        system.tally.waits.clear()
        for _ in range(run.n):
            await asyncio.sleep(dice.uniform(0.0, 2 * GAP))
            system.tally.expect(1)
            await system.push(at=time.perf_counter())
            await system.tally.reached()
            if time.perf_counter() > give_up:
                break
        return latency(system.tally.waits)


async def two_latency(pace: float, kind: type[System], run: Run) -> Sample:
    """From before the push until the handler starts in another process; a push does not wait for earlier tasks."""
    dice = random.Random(1)
    clock = asyncio.get_running_loop().time
    async with (
        opened(kind, run.place) as system,
        WorkerProcesses(kind, run.place, processes=1, concurrency=10) as processes,
    ):
        system.notify()
        await system.push()
        await processes.until(1)
        due = clock()
        for _ in range(run.n):
            due = max(due + dice.uniform(0.5, 1.5) * pace, clock())
            await asyncio.sleep(due - clock())
            await system.push(at=time.perf_counter())
        await processes.until(1 + run.n)
        await system.written()
    return latency(processes.waits)


async def backlog(kind: type[System], run: Run) -> Sample:
    """The rate of the first few thousand tasks, with so many waiting behind them."""
    values, held = {}, 0
    measured, sizes = backlog_sizes(run)
    async with opened(kind, run.place) as system:
        for full, size in zip(BACKLOGS, sizes, strict=True):
            await system.fill(size - held)
            system.tally.expect(measured)
            async with system.working(100):
                await system.tally.reached()
                values[f"{full:,}"] = (measured - 1) / (system.tally.last - system.tally.first)
            held = size - measured
    return Sample(values)


def backlog_sizes(run: Run) -> tuple[int, list[int]]:
    """Return how many tasks of a backlog are measured, and the sizes of the backlogs at the run's scale."""
    measured = run.of(4_000, 200)
    return measured, [run.of(full, 2 * measured) for full in BACKLOGS]


async def _warm(system: System) -> None:
    """Wait until one task has run, so that connections are made and workers wait."""
    system.tally.expect(1)
    await system.push()
    await system.drained()


# ---- as scenarios ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    title: str
    measure: Measure
    start: int = 200
    size: int = 0
    only: tuple[str, ...] = ()  # families
    figures: str = "rate"
    part: str = ""  # a contestant that is without that scenario cannot run this one


SHARED = ("sqlite", "postgresql", "mysql", "redis")
KINDS = {
    "push.one": _Kind("push, one producer", push_one),
    "push.many": _Kind("push, {producers} producers at a time", push_many),
    "push.bulk": _Kind("push, 500 in a call", push_bulk, start=1_000),
    "drain.10": _Kind("drain, 10 at a time", functools.partial(drain, 10)),
    "drain.100": _Kind("drain, 100 at a time", functools.partial(drain, 100)),
    "drain.two": _Kind("drain, two processes with 50 each", drain_two, only=SHARED, start=400),
    "run": _Kind("push, run and finish, 10 at a time", push_and_run),
    "run.one": _Kind("push, run and finish, one producer", one_by_one, only=("sqlite",)),
    "run.bulk": _Kind(
        "push 500 in a call, run and finish, 10 at a time",
        bulk_and_run,
        start=1_000,
        only=("memory",),
        part="push.bulk",
    ),
    "latency": _Kind("push to start, workers idle", idle_latency, size=400, figures="latency"),
    "latency.two": _Kind(
        "push to start, a task every 15 ms in another process",
        functools.partial(two_latency, PACE),
        size=400,
        only=("sqlite", "postgresql", "redis"),
        figures="latency",
    ),
    "latency.slow": _Kind(
        "push to start, a task every 120 ms in another process",
        functools.partial(two_latency, SLOW),
        size=100,
        only=("postgresql",),
        figures="latency",
    ),
    "backlog": _Kind("drain, 100 at a time, before a backlog", backlog, size=1, figures="backlog"),
}
FIGURES = {"rate": RATE, "latency": LATENCY, "backlog": {f"{full:,}": Unit("tasks/s") for full in BACKLOGS}}


def contestant(kind: type[S]) -> type[S]:
    """Register a system in all scenarios of its family except those that it is ``without``; a class decorator."""
    SYSTEMS[kind.family, kind.who] = kind
    if kind.note:
        NOTES[kind.family, kind.who] = kind.note
    for name, each in KINDS.items():
        if (each.only and kind.family not in each.only) or {name, each.part} & set(kind.without):
            continue
        title = each.title.format(producers=50 if kind.family == "memory" else producers(kind.family))
        place = PLACES.get(kind.family, "")
        figures = FIGURES[each.figures]
        scene = scenario(kind.family, name, title, figures, size=each.size, start=each.start, place=place)
        scene.by(kind.who, *kind.needs)(functools.partial(each.measure, kind))
    return kind
