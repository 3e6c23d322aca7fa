"""Scenarios of schedules: many schedulers without a leader that are killed, cut off or late, or have wrong clocks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from aiotaskq.backends import connect
from aiotaskq.backends.base import ScheduleChange, Schedules
from aiotaskq.core.schedule import Schedule, new_schedule
from aiotaskq.core.task import SECOND
from tests.chaos.checker import executions, runs_of, schedule_tasks
from tests.chaos.harness import Fleet, Process, Report
from tests.chaos.places import Place
from tests.support.proxy import Proxy

HOUR = 3600 * SECOND
PARTS = 4  # of a second at which schedules are due


@contextlib.asynccontextmanager
async def schedules_of(place: Place) -> AsyncIterator[Schedules]:
    """The schedules of a place, wherever they live."""
    backend = connect(place.schedules or place.url)
    await backend.open()
    yield backend.schedules
    await backend.close()


async def planned(place: Place, count: int, clock: Callable[[], int], kind: str) -> list[Schedule]:
    """Put interval schedules of one second into the store, spread over that second."""
    now = clock()
    made = [
        new_schedule(
            f"every second {number}",
            kind,
            "interval",
            {"seconds": 0.0},
            interval_seconds=1,
            misfire="fire_all",
            start_at=(now // SECOND + 2) + number % PARTS / PARTS,
            now=now,
        )
        for number in range(count)
    ]
    async with schedules_of(place) as schedules:
        await schedules.add(made)
    return made


async def near_a_due(fleet: Fleet, seconds: float) -> None:
    """Wait for about so many seconds, until a moment at which schedules are being fired."""
    await asyncio.sleep(seconds * fleet.chance.uniform(0.2, 1.0))
    left = -fleet.clock.now() % (SECOND // PARTS) / SECOND
    await asyncio.sleep(left + fleet.chance.uniform(0.0, 0.04))


async def read_schedules(place: Place) -> list[Schedule]:
    async with schedules_of(place) as schedules:
        return await schedules.all()


async def delivered(place: Place) -> None:
    """Wait until what dead schedulers had fired into a store elsewhere was handed over by the living."""
    async with schedules_of(place) as schedules, asyncio.timeout(60):
        while await schedules.undelivered(1):
            await asyncio.sleep(0.1)


async def schedulers(
    place: Place,
    folder: Path,
    *,
    schedulers: int = 8,
    schedules: int = 50,
    seconds: float = 60.0,
    skew: float = 5.0,
    every: float = 1.0,
    **common: Any,
) -> Report:
    """Schedulers with clocks that are wrong are killed one after the other: one task for each due, all counted.

    Where there is a server, one more of them loses the way there for half of the time, and then finds it again.
    """
    async with Fleet(place, folder, "schedulers", **common) as fleet, lonely_scheduler(fleet, seconds):
        planned_ones = await planned(place, schedules, fleet.clock.now, "nothing")
        first = {each.task_id: each.due or 0 for each in planned_ones}

        async def start() -> Process:
            return (await fleet.start("scheduler", clock=fleet.chance.uniform(-skew, skew)))[0]

        mortal = [await start() for _ in range(schedulers)]
        await fleet.booted(mortal)
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            await asyncio.sleep(every)
            await fleet.kill(mortal.pop(fleet.chance.randrange(len(mortal))))
            mortal.append(await start())
        await delivered(place)
        for process in fleet.alive("scheduler"):
            await fleet.terminate(process, 10.0)
        report = await fleet.report(all_complete=False)
        rows, final = await fleet.rows(), await read_schedules(place)
    for each in schedule_tasks(final, first, rows):
        report.must(False, each)
    # The fastest clock is ahead of ours; the slowest process that was alone at the end may be behind.
    fewest = min(each.run_count for each in final)
    fleet.notes["fired"] = f"{fewest} to {max(each.run_count for each in final)} times"
    report.must(fewest >= seconds - skew - 3, f"a schedule has fired only {fewest} times in {seconds} s")
    return report


@contextlib.asynccontextmanager
async def lonely_scheduler(fleet: Fleet, seconds: float) -> AsyncIterator[None]:
    """One scheduler whose packets are dropped during the middle half of the time."""
    if fleet.place.server is None or fleet.place.schedules is not None:
        yield
        return
    async with Proxy(*fleet.place.host) as proxy:

        async def cut() -> None:
            await fleet.booted(lonely)  # without a store it does not start
            await asyncio.sleep(seconds / 4)
            proxy.black_hole()
            await asyncio.sleep(seconds / 2)
            proxy.heal()

        lonely = await fleet.start("scheduler", url=fleet.place.through(proxy.port))
        cutting = asyncio.create_task(cut())
        yield
        await cutting


async def downtime(place: Place, folder: Path, *, dues: tuple[int, ...] = (1, 50), **common: Any) -> Report:
    """No scheduler ran across one due, or across fifty: each misfire policy fires exactly what it says."""
    wanted = {"fire_once": lambda _missed: 1, "skip": lambda _missed: 0, "fire_all": lambda missed: missed}
    async with Fleet(place, folder, "downtime", **common) as fleet:
        now = fleet.clock.now()
        made = [
            new_schedule(f"{policy} {missed}", "nothing", "interval", interval_seconds=3600, misfire=policy, now=now)
            for policy in wanted
            for missed in dues
        ]
        async with schedules_of(place) as schedules:
            stored = await schedules.add(made)
            # As if they had been away: the first missed due is so many hours and ten minutes ago, less one hour.
            away = [_moved(each, now - (int(each.name.split()[1]) - 1) * HOUR - HOUR // 6) for each in stored]
            assert all(await schedules.change([ScheduleChange(*pair) for pair in zip(stored, away, strict=True)]))
        started = await fleet.start("scheduler", 3)
        await fleet.booted(started)
        await asyncio.sleep(2.0 * fleet.tolerance)
        for process in started:
            await fleet.terminate(process, 10.0)
        report = await fleet.report(all_complete=False)
        rows, final = await fleet.rows(), await read_schedules(place)
    for schedule in final:
        policy, missed = schedule.name.split()
        fired = sum(row.scheduler_task_id == schedule.task_id for row in rows)
        said = (fired, schedule.run_count)
        expected = wanted[policy](int(missed))
        report.must(
            said == (expected, expected), f"{schedule.name}: {said[0]} tasks, {said[1]} counted, not {expected}"
        )
        report.must((schedule.due or 0) > now, f"{schedule.name}: its next due has passed")
    return report


def _moved(schedule: Schedule, due: int) -> Schedule:
    return schedule.replace(next_run_at=due // SECOND, next_run_us=due % SECOND)


async def purged(
    place: Place,
    folder: Path,
    *,
    schedulers: int = 4,
    schedules: int = 10,
    seconds: float = 20.0,
    every: float = 0.5,
    **common: Any,
) -> Report:
    """Fired tasks end and are deleted at once, and schedulers die as they fire: still each due runs once."""
    async with Fleet(place, folder, "purged", **common) as fleet:
        planned_ones = await planned(place, schedules, fleet.clock.now, "short")
        await fleet.start("worker", 1)
        await fleet.start("scheduler", schedulers, purge=True)
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            await near_a_due(fleet, every)
            await fleet.kill(fleet.chance.choice(fleet.alive("scheduler")))
            await fleet.start("scheduler", purge=True)
        await delivered(place)
        for process in fleet.alive("scheduler"):
            await fleet.terminate(process, 10.0)
        await fleet.drained()
        report = await fleet.report(all_complete=False)
        runs, final = runs_of(fleet.lines()), await read_schedules(place)
    for each in executions(runs, list(runs)):
        report.must(False, f"a due time ran more than once: {each}")
    fired = sum(each.run_count for each in final)
    fleet.notes["fired"] = fired
    report.must(len(runs) == fired, f"the schedules have counted {fired} runs, and {len(runs)} tasks ran")
    report.must(fired >= len(planned_ones) * (seconds - 4), f"only {fired} runs in {seconds} s")
    return report
