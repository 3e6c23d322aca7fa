"""The scheduler: are all due times fired, how late, at what cost; adding many schedules; the next times of cron."""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiotaskq import TaskQ, preview
from aiotaskq.core.schedule import Schedule, new_schedule
from benchmarks.case import AIOTASKQ, LIMIT, Run, Sample, Scenario, Unit, quantile, rate, scenario

FIRE = {
    "p50": Unit("ms late", less=True),
    "p99": Unit("ms late", less=True),
    "fired": Unit("% fired"),
    "cpu": Unit("% of a core", less=True),
}


def _firing(name: str, title: str, size: int) -> Scenario:
    return scenario("scheduler", name, title, FIRE, size=size, place="file", warm_up=False)


THOUSAND = _firing("fire.1000", "1,000 schedules, 293 due a second", 1_000)
TEN_THOUSAND = _firing("fire.10000", "10,000 schedules, 2,929 due a second", 10_000)
ADDED = {"rate": Unit("schedules/s")}
ADD = scenario("scheduler", "add", "add schedules, many at once", ADDED, start=200, place="file")
ADD_ONE = scenario("scheduler", "add.one", "add schedules, one by one", ADDED, start=100, place="file")
CRON = scenario("scheduler", "cron", "the next 100 times of a cron expression", {"rate": Unit("times/s")}, start=5)
CRON_LINES = ("*/5 * * * *", "0 2 * * *", "30 8-18/2 * * 1-5", "0 0 1 * *", "15 14 1 * *")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


# ---- firing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Schedules of 1 to 10 seconds, each with its own first due time; and the seconds in which firings are counted."""

    schedules: Sequence[tuple[int, float]]  # interval, first due in epoch seconds
    begin: float
    end: float

    @property
    def due(self) -> int:
        """How many due times lie in between."""
        return sum(
            _passed(start, every, self.end) - _passed(start, every, self.begin) for every, start in self.schedules
        )


def _passed(start: float, every: int, moment: float) -> int:
    """Return how many due times lie before that moment."""
    return max(0, math.ceil((moment - start) / every))


def plan(run: Run, begin: float) -> Plan:
    """Return a plan of so many schedules that begins then and lasts for ten seconds, at full scale."""
    dice = random.Random(1)
    intervals = [1 + number % 10 for number in range(run.n)]
    starts = [begin + every * dice.random() for every in intervals]
    return Plan(list(zip(intervals, starts, strict=True)), begin, begin + min(10, run.of(10, 1)))


class Firings:
    """How late each firing of a plan was, and what the process used of a core meanwhile."""

    def __init__(self) -> None:
        self.lateness: list[float] = []
        self.begin, self.end = 0.0, float("inf")

    def hit(self, every: int, start: float) -> None:
        """A firing of that schedule runs now; what every handler does, and nothing else."""
        now = time.time()
        late = (now - start) % every
        if self.begin <= now - late < self.end:
            self.lateness.append(late)

    async def watch(self, plan: Plan) -> Sample:
        """Wait until the plan is over; return what was seen."""
        self.begin, self.end = plan.begin, plan.end
        await asyncio.sleep(max(0.0, plan.begin - time.time()))
        cpu, clock = time.process_time(), time.perf_counter()
        await asyncio.sleep(plan.end - time.time())
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        await asyncio.sleep(0.5)  # for those due just before the end
        late = self.lateness or [float("nan")]
        values = {
            "p50": quantile(late, 0.50) * 1000,
            "p99": quantile(late, 0.99) * 1000,
            "fired": 100 * len(self.lateness) / plan.due,
            "cpu": 100 * cpu / clock,
        }
        return Sample(values, clock, self.lateness)


def schedules(planned: Plan) -> list[Schedule]:
    """Return the plan in the words of aiotaskq."""
    now = round(time.time() * 1_000_000)
    return [
        new_schedule(f"s{number}", "fire", "interval", {"every": every, "start": start}, every, start_at=start, now=now)
        for number, (every, start) in enumerate(planned.schedules)
    ]


@THOUSAND.by(AIOTASKQ)
@TEN_THOUSAND.by(AIOTASKQ)
async def fire_aiotaskq(run: Run) -> Sample:
    """Each firing is a durable task that is pushed, claimed, run and finished."""
    firings = Firings()
    async with TaskQ(f"sqlite:///{run.place}") as tq:

        @tq.task(name="fire")
        async def fire(every: int, start: float) -> None:
            firings.hit(every, start)

        planned = plan(run, time.time() + 0.5 + run.n / 3_000)
        await tq._scheduler.add(schedules(planned))
        async with tq.running(concurrency=10):
            return await firings.watch(planned)


@THOUSAND.by(LIMIT)
@TEN_THOUSAND.by(LIMIT)
async def fire_limit(run: Run) -> Sample:
    """One heap and one sleep: nothing is kept."""
    firings = Firings()
    planned = plan(run, time.time() + 0.5)
    heap = [(start, every, start) for every, start in planned.schedules]
    heapq.heapify(heap)

    async def look() -> None:
        while True:
            now = time.time()
            while heap[0][0] <= now:
                due, every, start = heap[0]
                firings.hit(every, start)
                heapq.heapreplace(heap, (due + every, every, start))
            await asyncio.sleep(heap[0][0] - time.time())

    task = asyncio.create_task(look())
    try:
        return await firings.watch(planned)
    finally:
        task.cancel()


# ---- adding ---------------------------------------------------------------------------------------------------------


@ADD.by(AIOTASKQ)
async def add_aiotaskq(run: Run) -> Sample:
    async with TaskQ(f"sqlite:///{run.place}") as tq:
        start = time.perf_counter()
        await tq._scheduler.add(schedules(plan(run, time.time() + 3600)))
        return rate(run.n, time.perf_counter() - start)


@ADD_ONE.by(AIOTASKQ)
async def add_one_aiotaskq(run: Run) -> Sample:
    async with TaskQ(f"sqlite:///{run.place}") as tq:
        start = time.perf_counter()
        for number in range(run.n):
            await tq.schedules.add(f"s{number}", "fire", interval=3600)
        return rate(run.n, time.perf_counter() - start)


# ---- cron -----------------------------------------------------------------------------------------------------------


def next_times(run: Run, next_hundred: Callable[[str], Any]) -> Sample:
    """Time the next hundred times, from the text of the expression on."""
    start = time.perf_counter()
    for number in range(run.n):
        next_hundred(CRON_LINES[number % len(CRON_LINES)])
    return rate(run.n * 100, time.perf_counter() - start)


@CRON.by(AIOTASKQ)
def cron_aiotaskq(run: Run) -> Sample:
    return next_times(run, lambda line: preview(cron=line, timezone="Europe/Berlin", after=BEGIN, count=100))


@CRON.by("croniter", "croniter")
def cron_croniter(run: Run) -> Sample:
    """What aiotaskq is built on: the wall clock alone."""
    from croniter import croniter

    begin = BEGIN.replace(tzinfo=None)

    def next_hundred(line: str) -> None:
        times = croniter(line, begin)
        for _ in range(100):
            times.get_next(datetime)

    return next_times(run, next_hundred)
