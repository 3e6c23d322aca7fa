"""The scenarios of the table "must hold": each injects its faults and returns a report.

The defaults are the full size of the table; ``sizes.py`` says what the two-minute profile makes of them.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiotaskq.core.status import Status
from aiotaskq.core.stopping import ExitCode
from tests.chaos.checker import executions, runs_of, zombie_writes
from tests.chaos.harness import Fleet, Report
from tests.chaos.places import Place
from tests.support.machine import within

Scenario = Callable[..., Awaitable[Report]]


def moments(fleet: Fleet, count: int, seconds: float) -> list[float]:
    """Random offsets, not quite at the ends."""
    return sorted(fleet.chance.uniform(0.05, 0.95) * seconds for _ in range(count))


async def until(begin: float, offset: float) -> None:
    await asyncio.sleep(max(0.0, begin + offset - time.monotonic()))


async def harmed(fleet: Fleet, begin: float, seconds: float, kills: int, pauses: int) -> int:
    """Kill workers, which are replaced at once, and stop others for two leases; return how many were stopped."""
    kinds = fleet.chance.sample(["kill"] * kills + ["pause"] * pauses, kills + pauses)
    paused: list[asyncio.Task[bool]] = []
    for kind, offset in zip(kinds, moments(fleet, len(kinds), seconds), strict=True):
        await until(begin, offset)
        victim = await fleet.victim()
        if kind == "pause":
            paused.append(asyncio.create_task(fleet.pause(victim, 2 * fleet.lease)))
        else:
            await fleet.kill(victim)
            await fleet.start("worker")
    return sum(await asyncio.gather(*paused))


async def supervised(fleet: Fleet, workers: int, **options: Any) -> asyncio.Task[None]:
    """Keep so many workers: each that ends is replaced, as a service manager does. Cancel the task to end it."""

    async def watch() -> None:
        while True:
            missing = workers - sum(p.alive for p in fleet.processes if p.role == "worker")
            if missing > 0:
                await fleet.start("worker", missing, **options)
            await asyncio.sleep(0.05)

    await fleet.start("worker", workers, **options)
    return asyncio.create_task(watch())


async def kills(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    slots: int = 8,
    tasks: int = 5000,
    kills: int = 30,
    rate: float = 100.0,
    **common: Any,
) -> Report:
    """Workers are killed again and again; each is replaced at once."""
    async with Fleet(place, folder, "kills", concurrency=slots, **common) as fleet:
        await fleet.booted(await fleet.start("worker", workers))
        producers = await fleet.start("producer", 2, count=tasks // 2, rate=rate / 2, batch=8)
        begin = time.monotonic()
        for offset in moments(fleet, kills, tasks / rate):
            await until(begin, offset)
            await fleet.kill(await fleet.victim())
            await fleet.start("worker")
        await fleet.finished(producers)
        await fleet.drained(lambda counts: sum(counts.values()) >= tasks // 2 * 2)
        report = await fleet.report()
    found = report.findings
    most = kills * slots
    report.must(found.duplicates <= most, f"{found.duplicates} duplicates, above {kills} kills x {slots} slots")
    report.must(found.p99 <= fleet.bound, f"recovery p99 is {found.p99:.2f} s, above {fleet.bound:.1f} s")
    return report


async def survivors(
    place: Place, folder: Path, *, tasks: int = 24, seconds: float = 3.0, timeout: float = 3600.0, **common: Any
) -> Report:
    """One of four workers is killed and none is started: the others take over, in time, whatever the task's timeout."""
    async with Fleet(place, folder, "survivors", concurrency=8, **common) as fleet:
        workers = await fleet.start("worker", 4)
        await fleet.push("short", tasks, seconds, timeout=timeout)
        while not (busy := {line.pid for line in fleet.lines() if line.what == "start"}):
            await asyncio.sleep(0.05)
        await fleet.kill(next(p for p in workers if p.pid in busy))
        await fleet.drained()
        report = await fleet.report()
        rows = await fleet.rows()
    report.must(bool(report.findings.recovery), "the kill interrupted nothing: the scenario proves nothing")
    late = max(report.findings.recovery, default=0.0)
    report.must(late <= fleet.bound, f"a task came back after {late:.2f} s, above {fleet.bound:.1f} s")
    report.must(all(row.retry_count == 0 for row in rows), "a crash has consumed a retry of the task")
    return report


async def producers(
    place: Place,
    folder: Path,
    *,
    producers: int = 20,
    tasks: int = 100,
    rate: float = 20.0,
    batch: int = 3,
    **common: Any,
) -> Report:
    """Every producer is killed in the middle and started again: it repeats the pushes whose outcome is unknown."""
    async with Fleet(place, folder, "producers", **common) as fleet:
        await fleet.start("worker", 2)
        options = {"count": tasks, "rate": rate, "batch": batch, "seconds": (0.0, 0.01)}
        started = await fleet.start("producer", producers, **options)
        begin = time.monotonic()
        order = fleet.chance.sample(started, producers)
        for process, offset in zip(order, moments(fleet, producers, tasks / rate), strict=True):
            await until(begin, offset)
            if process.alive:
                await fleet.kill(process)
                await fleet.start("producer", name=process.name, **options)
        await fleet.finished([p for p in fleet.processes if p.role == "producer"])
        await fleet.drained(lambda counts: sum(counts.values()) >= producers * tasks)
        report = await fleet.report()
        ids = [row.task_id for row in await fleet.rows()]
        lines = fleet.lines()
    acked = {line.id for line in lines if line.what == "ack"}
    intents = [line.id for line in lines if line.what == "intent"]
    fleet.notes["repeated"] = len(intents) - len(set(intents))
    report.must(len(acked) == producers * tasks, f"{len(acked)} pushes of {producers * tasks} were acknowledged")
    report.must(len(ids) == len(set(ids)) == producers * tasks, f"{len(ids)} rows, {len(set(ids))} ids")
    for each in executions(runs_of(lines), acked):
        report.must(False, f"no worker was harmed: {each}")
    return report


async def pauses(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    slots: int = 8,
    pauses: int = 15,
    every: float = 3.0,
    rate: float = 3.0,
    **common: Any,
) -> Report:
    """Workers are stopped (SIGSTOP) for three leases and go on as zombies that write all they can.

    Handlers run for more than two leases: when such a worker continues, its task runs elsewhere; only its fence tells.
    """
    async with Fleet(place, folder, "pauses", concurrency=slots, **common) as fleet:
        if place.name == "mysql":
            # A process that is stopped within a transaction keeps its locks for three leases. MySQL tells the others
            # that they have waited for too long; they try again.
            fleet.expected = re.compile(r"\b1205\b")
        await fleet.booted(await fleet.start("worker", workers))
        pause = 3 * fleet.lease
        tasks = int(rate * pauses * every)
        options = {"kinds": {"zombie": 1.0}, "seconds": (2 * fleet.lease, 2.5 * fleet.lease)}
        producing = await fleet.start("producer", count=tasks, rate=rate, batch=4, **options)
        paused: list[asyncio.Task[bool]] = []
        while len(paused) < pauses:
            await asyncio.sleep(fleet.chance.uniform(0.5, 1.0) * every)
            alive = fleet.alive()
            known = runs_of(fleet.lines())
            if sum(any(run.committed for run in runs) for runs in known.values()) >= tasks:
                break  # no worker is left
            at_work = {run.pid for runs in known.values() for run in runs if run.end is None}
            victims = [each for each in await fleet.expendable(alive) if each.pid in at_work]  # others make no zombies
            if victims and len(alive) > 1:  # one worker must take over
                paused.append(asyncio.create_task(fleet.pause(fleet.chance.choice(victims), pause, unlocked=True)))
                await asyncio.sleep(0.5)  # by then it is known whether there was still a process to be stopped
                if paused[-1].done() and not paused[-1].result():
                    paused.pop()
        await asyncio.gather(*paused)
        await fleet.finished(producing)
        await fleet.drained(lambda counts: sum(counts.values()) >= tasks)
        # The zombies' own writes come when their handlers end.
        await asyncio.sleep(2.0)
        report = await fleet.report()
        lines = fleet.lines()
        # All are killed where the fleet ends.
        survivors = len(fleet.alive())
        ends = [(each.pid, each.status, each.paused_at) for each in fleet.processes if each.role == "worker"]
    tried, _ = zombie_writes(lines, runs_of(lines))
    fleet.notes["zombie writes"] = tried
    report.must(len(paused) == pauses, "all tasks had ended before the last pause")
    report.must(tried > 0, "no zombie has tried to write: the scenario proves nothing")
    report.must(survivors == workers, f"a worker that was paused has ended (pid, status, paused at): {ends}")
    return report


async def blocking(
    place: Place, folder: Path, *, workers: int = 2, rounds: int = 2, others: int = 20, **common: Any
) -> Report:
    """Handlers block the event loop for three leases, asleep and at work: everything runs once."""
    async with Fleet(place, folder, "blocking", concurrency=4, **common) as fleet:
        await fleet.booted(await fleet.start("worker", workers))
        for kind in ("blocking", "spinning")[:rounds]:
            await fleet.push(kind, 1, 3 * fleet.lease)
            await fleet.push("cooperative", others, 0.3)
            await fleet.drained()
        report = await fleet.report()
        lines = fleet.lines()
    for each in executions(runs_of(lines), fleet.acked):
        report.must(False, f"nothing was harmed: {each}")
    return report


async def poison(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    slots: int = 8,
    tasks: int = 1000,
    hows: tuple[str, ...] = ("kill", "exit"),
    **common: Any,
) -> Report:
    """Tasks that kill their process fail as poison when they do it alone; all others, also beside them, complete."""
    async with Fleet(place, folder, "poison", concurrency=slots, **common) as fleet:
        watch = await supervised(fleet, workers)
        bad: list[str] = []
        for how in hows:
            await fleet.push("short", tasks // 2, 0.05)
            bad += await fleet.push("killer", 1, 0.02, params={"how": how})
            await fleet.push("short", tasks // 2, 0.05)
            await fleet.drained()
        fleet.acked -= set(bad)
        watch.cancel()
        report = await fleet.report()
        rows = {row.task_id: row for row in await fleet.rows()}
        runs = runs_of(fleet.lines())
    for each in bad:
        row = rows[each]
        said = (row.status, row.crashes, "poison" in (row.error_message or ""), row.retry_count)
        report.must(said == (Status.FAILED, 3, True, 0), f"the killer {each} ended as {said}")
        report.must(len(runs[each]) >= 3, f"the killer {each} ran {len(runs[each])} times")
    innocent = max((row.crashes for row in rows.values() if row.task_id not in bad), default=0)
    fleet.notes["worst bystander"] = f"{innocent} crashes"
    return report


# ---- stopping -------------------------------------------------------------------------------------------------------


async def terms(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    slots: int = 8,
    terms: int = 100,
    every: float = 0.5,
    drain: float = 0.6,
    grace: float = 0.4,
    rate: float = 10.0,
    **common: Any,
) -> Report:
    """A rolling deploy that never ends, over handlers of every kind: each exit in its bound, no retry consumed."""
    grace = within(grace)  # a handler that stops when it is told to does so in time on a slow machine, too
    async with Fleet(place, folder, "terms", concurrency=slots, drain=drain, grace=grace, **common) as fleet:
        await fleet.booted(await fleet.start("worker", workers))
        kinds = {"short": 1.0, "cooperative": 1.0, "stubborn": 1.0, "thread": 1.0, "flaky": 1.0}
        tasks = int(rate * terms * every)
        producing = await fleet.start("producer", count=tasks, rate=rate, kinds=kinds, seconds=(0.05, 1.2), batch=4)
        (endless,) = await fleet.push("cooperative", 1, 3600.0)
        stops: list[asyncio.Task[float]] = []
        bound = fleet.allowed(drain + 2.0) + grace
        terminated: set[int] = set()
        for _ in range(terms):
            await asyncio.sleep(fleet.chance.uniform(0.5, 1.5) * every)
            victim = await fleet.victim(terminated)
            terminated.add(victim.pid)
            stops.append(asyncio.create_task(fleet.terminate(victim, bound)))
            await fleet.start("worker")
        slowest = max(await asyncio.gather(*stops))
        await fleet.finished(producing)
        await fleet.drained(lambda counts: sum(counts.values()) > tasks, besides=1)
        (before,) = await fleet.backend.get([endless])
        while not await fleet.ended(endless):
            await fleet.queue.cancel(endless)
            await asyncio.sleep(0.1)
        fleet.acked.remove(endless)
        report = await fleet.report()
        rows = {row.task_id: row for row in await fleet.rows()}
    codes = [p.status for p in fleet.processes if p.pid in terminated]
    fleet.notes["exits"] = " ".join(f"{code}:{codes.count(code)}" for code in sorted(set(codes), key=str))
    fleet.notes["slowest"] = f"{slowest:.1f} s"
    report.must(slowest <= bound, f"an exit took {slowest:.1f} s, above {bound:.1f} s")
    report.must(
        all(code in (ExitCode.DRAINED, ExitCode.RELEASED, ExitCode.ABANDONED) for code in codes),
        f"exit codes {sorted(map(str, codes))}",
    )
    assert before is not None
    report.must(
        (before.retry_count, before.crashes) == (0, 0),
        f"{terms} deploys have cost the endless task {before.retry_count} retries and {before.crashes} crashes",
    )
    report.must(rows[endless].status is Status.CANCELLED, f"the endless task is {rows[endless].status}")
    for row in rows.values():
        allowed = 1 if row.type == "flaky" else 0
        report.must(row.retry_count == allowed, f"{row.task_id} ({row.type}): {row.retry_count} retries consumed")
    return report


async def cut_short(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    stops: int = 50,
    every: float = 0.4,
    rate: float = 20.0,
    **common: Any,
) -> Report:
    """SIGTERM, and then SIGKILL at a random moment of the drain: nothing is lost, nothing is stuck."""
    async with Fleet(place, folder, "cut_short", concurrency=8, drain=1.0, grace=0.5, **common) as fleet:
        await fleet.booted(await fleet.start("worker", workers))
        tasks = int(rate * stops * every)
        producing = await fleet.start("producer", count=tasks, rate=rate, seconds=(0.05, 0.8), batch=4)
        terminated: set[int] = set()
        for _ in range(stops):
            victim = await fleet.victim(terminated)
            terminated.add(victim.pid)
            fleet.signal(victim, signal.SIGTERM)
            await fleet.start("worker")
            await asyncio.sleep(fleet.chance.uniform(0.0, every * 2))
            if await fleet.expendable([victim]) and victim.alive:
                await fleet.kill(victim)
        await fleet.finished(producing)
        await fleet.drained(lambda counts: sum(counts.values()) >= tasks)
        return await fleet.report()
