"""Scenarios of the store: restarts, cut connections, many rows, transactions of callers."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND
from tests.chaos.checker import Findings, executions, percentile, runs_of
from tests.chaos.filling import claim_problems, fill
from tests.chaos.harness import Fleet, Process, Report
from tests.chaos.ledger import Line
from tests.chaos.places import Place
from tests.support.proxy import Proxy


async def mixed(
    place: Place,
    folder: Path,
    *,
    workers: int = 8,
    producers: int = 8,
    slots: int = 4,
    tasks: int = 20_000,
    rate: float = 330.0,
    **common: Any,
) -> Report:
    """Many processes push, claim and settle on one store and nothing is harmed: each task runs once."""
    async with Fleet(place, folder, "mixed", concurrency=slots, **common) as fleet:
        await fleet.booted(await fleet.start("worker", workers))
        each = tasks // producers
        options = {"count": each, "rate": rate / producers, "seconds": (0.0, 0.01), "batch": 4}
        await fleet.finished(await fleet.start("producer", producers, **options), 600.0)
        await fleet.drained(lambda counts: sum(counts.values()) >= each * producers)
        report = await fleet.report()
        lines = fleet.lines()
    for said in executions(runs_of(lines), {line.id for line in lines if line.what == "ack"}):
        report.must(False, f"nothing was harmed: {said}")
    locked = [line for line in lines if line.what == "locked"]
    fleet.notes["locked"] = len(locked)
    said = f"the database was locked in {len(locked)} transactions, the first at {[each.how for each in locked[:1]]}"
    report.must(not locked, said)
    return report


POOL = 5  # connections that a pool keeps; this program has one, too
KEPT = POOL + 3  # by a worker: its pool, and one each for heartbeats, hints, and what has just been replaced


# ---- the server goes and comes back ---------------------------------------------------------------------------------


def first_start(lines: list[Line], after: float) -> float:
    """Seconds from an instant to the first handler that starts then."""
    return min((line.at for line in lines if line.what == "start" and line.at >= after), default=float("inf")) - after


async def restarts(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    slots: int = 8,
    each: int = 10,
    rate: float = 200.0,
    every: float = 4.0,
    **common: Any,
) -> Report:
    """The server is restarted, in order and by a crash, under load: the same processes go on."""
    assert place.server is not None
    async with Fleet(place, folder, "restarts", concurrency=slots, **common) as fleet:
        options = {"rate": rate / 2, "seconds": (0.0, 0.05), "batch": 16}
        everyone = await fleet.start("worker", workers)
        await fleet.booted(everyone)
        baseline = await connections_after(fleet, int(rate))
        tasks = int(rate / 2 * every * 2 * each)
        producing = await fleet.start("producer", 2, count=tasks, **options)
        ready: list[float] = []
        for how in fleet.chance.sample(["fast", "immediate"] * each, 2 * each):
            await asyncio.sleep(every * fleet.chance.uniform(0.5, 1.0))
            await fleet.outage(asyncio.to_thread(place.server.restart, how))
            ready.append(time.monotonic())
        await fleet.finished(producing, 600.0)
        await fleet.drained(lambda counts: sum(counts.values()) >= 2 * tasks + int(rate))
        after = await connections_after(fleet, int(rate))
        report = await fleet.report()
        lines = fleet.lines()
    slowest = max(first_start(lines, at) for at in ready)
    fleet.notes.update({"restarts": len(ready), "first claim": f"{slowest:.2f} s", "conn.": f"{baseline} -> {after}"})
    report.must(slowest <= fleet.allowed(5.0), f"the first claim came {slowest:.2f} s after the server was ready")
    # The baseline is what the pools may keep: which of them has grown to its size by when is chance.
    most = max(baseline, workers * KEPT + POOL)
    report.must(after <= most, f"{after} connections, {baseline} before {len(ready)} restarts; the pools keep {most}")
    return with_everyone_alive(report, everyone)


async def connections_after(fleet: Fleet, burst: int) -> int:
    """The connections to the store that remain when much has happened at once, and nothing happens any more."""
    await fleet.push("short", burst, 0.05)
    await fleet.drained()
    await asyncio.sleep(1.0)
    return fleet.place.connections()


def with_everyone_alive(report: Report, processes: list[Process]) -> Report:
    for process in processes:
        report.must(process.status in (None, -signal.SIGKILL), f"{process.name} has ended with {process.status}")
    return report


async def outages(
    place: Place,
    folder: Path,
    *,
    workers: int = 3,
    slots: int = 4,
    seconds: float = 20.0,
    rate: float = 30.0,
    calm: float = 3.0,
    **common: Any,
) -> Report:
    """Workers are cut off by the network: refused, then swallowed, then with answers lost."""
    async with Proxy(*place.host) as proxy:
        through = place.through(proxy.port)
        async with Fleet(place, folder, "outages", concurrency=slots, **common) as fleet:
            everyone = await fleet.start("worker", workers, url=through)
            await fleet.booted(everyone)
            faults = (proxy.refuse, proxy.black_hole, proxy.drop_replies)
            tasks = int(rate * (seconds + 2 * calm) * len(faults))
            # Producers are in another place: what is not cut off goes on.
            producing = await fleet.start("producer", count=tasks, rate=rate, seconds=(0.0, 0.5), batch=4)
            healed: list[float] = []

            async def broken(fault: Any) -> None:
                fault()
                await asyncio.sleep(seconds)
                proxy.heal()

            for fault in faults:
                await asyncio.sleep(calm)
                await fleet.outage(broken(fault))
                healed.append(time.monotonic())
                await asyncio.sleep(calm)
            await fleet.finished(producing)
            await fleet.drained(lambda counts: sum(counts.values()) >= tasks)
            report = await fleet.report()
            lines = fleet.lines()
    slowest = max(first_start(lines, at) for at in healed)
    fleet.notes["first claim"] = f"{slowest:.2f} s"
    report.must(slowest <= fleet.allowed(5.0), f"the first claim came {slowest:.2f} s after the network was back")
    return with_everyone_alive(report, everyone)


async def unknown_outcomes(
    place: Place, folder: Path, *, tasks: int = 200, cuts: int = 40, rate: float = 50.0, **common: Any
) -> Report:
    """A producer's connection is cut when its commit is sent, before or behind the server: the push is repeated."""
    # A push by itself is one statement without a COMMIT on PostgreSQL; this is a param of each task.
    pattern = {"postgresql": b'"seconds"', "redis": b"EVALSHA"}.get(place.name, b"COMMIT")
    async with Proxy(*place.host) as proxy, Fleet(place, folder, "unknown_outcomes", **common) as fleet:
        await fleet.start("worker", 2)
        options = {"count": tasks, "rate": rate, "seconds": (0.0, 0.01), "batch": 1}
        (producer,) = await fleet.start("producer", url=place.through(proxy.port), **options)
        while not any(line.what == "ack" for line in fleet.lines()):  # a program needs its store to start
            await asyncio.sleep(0.05)
        for number in range(cuts):
            seen = proxy.cuts
            proxy.cut_on(pattern, deliver=number % 2 == 0)
            while proxy.cuts == seen and producer.alive:
                await asyncio.sleep(0.01)
        await fleet.finished([producer])
        await fleet.drained(lambda counts: sum(counts.values()) >= tasks)
        report = await fleet.report()
        lines = fleet.lines()
    fleet.notes["cuts"] = proxy.cuts
    report.must(proxy.cuts >= cuts // 2, f"only {proxy.cuts} cuts came about: the scenario proves nothing")
    for said in executions(runs_of(lines), {line.id for line in lines if line.what == "intent"}):
        report.must(False, f"no worker was harmed: {said}")
    return report


# ---- the caller's transaction ---------------------------------------------------------------------------------------


async def transactions(place: Place, folder: Path, *, each: int = 10, hold: float = 0.5, **common: Any) -> Report:
    """Roll back after a push: no task. Commit and die before the wake-up: found by polling, and never earlier."""
    async with Fleet(place, folder, "transactions", **common) as fleet:
        await fleet.booted(await fleet.start("worker", 2))
        ends = fleet.chance.sample(["rollback", "kill"] * each, 2 * each)
        for end in ends:
            await fleet.finished(await fleet.start("transactor", end=end, seconds=(0.1, hold)))
        kept = {line.id: line.at for line in fleet.lines() if line.what == "suicide"}
        await fleet.drained(lambda counts: sum(counts.values()) >= len(kept))
        await asyncio.sleep(1.0)
        report = await fleet.report()
        ids = {row.task_id for row in await fleet.rows()}
        lines = fleet.lines()
    report.must(len(kept) == each, f"{len(kept)} transactions of {each} were committed")
    report.must(ids == set(kept), f"rolled back and there: {ids - set(kept)}; committed and not: {set(kept) - ids}")
    starts = {line.id: line.at for line in lines if line.what == "start"}
    intents = {line.id: line.at for line in lines if line.what == "intent"}
    report.must(intents.keys() >= kept.keys(), "a push in a transaction did not return")
    commits = {line.id: line.at for line in lines if line.what == "ack"}
    for task_id in kept:
        at = starts.get(task_id, float("inf"))
        late = at - kept[task_id]
        report.must(at > commits[task_id], f"{task_id} ran {commits[task_id] - at:.3f} s before its commit")
        report.must(late <= fleet.allowed(2.0), f"{task_id} was found {late:.2f} s after its commit")
    return report


# ---- much of everything ---------------------------------------------------------------------------------------------


async def memory(
    place: Place, folder: Path, *, first: int = 20_000, last: int = 100_000, growth: float = 1.1, **common: Any
) -> Report:
    """One worker runs very many tasks, every tenth failing with 100 KB in its frames: nothing of them stays."""
    async with Fleet(place, folder, "memory", concurrency=10, quiet=True, **common) as fleet:
        (worker,) = await fleet.start("worker")
        measures: list[dict[str, Any]] = []
        pushed = 0
        for goal in (first, last):
            while pushed < goal:
                step = min(2_000, goal - pushed)
                await fleet.push("failing", step // 10, max_retries=0)
                await fleet.push("nothing", step - step // 10)
                pushed += step
                while (await fleet.counts()).get(str(Status.PENDING), 0) > 2_000:
                    await asyncio.sleep(0.1)
            await fleet.drained()
            await asyncio.sleep(2.0)
            measures.append(await fleet.measure(worker))
        fleet.acked.clear()
        report = await fleet.report()
        counts = await fleet.counts()
    before, after = measures
    fleet.notes.update({name: f"{before[name]} -> {after[name]}" for name in ("rss", "threads", "files", "coroutines")})
    report.must(after["rss"] <= before["rss"] * growth, f"memory grew from {before['rss']} to {after['rss']} bytes")
    report.must(after["frames"] <= before["frames"] + 2, f"frames kept: {before['frames']} to {after['frames']}")
    for name in ("threads", "files", "coroutines"):
        report.must(abs(after[name] - before[name]) <= 2, f"{name} went from {before[name]} to {after[name]}")
    said = (counts[str(Status.FAILED)], counts[str(Status.COMPLETED)])
    report.must(said == (last // 10, last - last // 10), f"{said[0]} tasks failed and {said[1]} completed")
    return report


async def many_rows(
    place: Place,
    folder: Path,
    *,
    finished: int = 1_000_000,
    future: int = 100_000,
    claims: int = 500,
    bound: float = 0.02,
    **common: Any,
) -> Report:
    """With very many finished and future rows a claim is still quick, and its plan uses an index."""
    begun = time.monotonic()
    async with Fleet(place, folder, "many_rows", **common) as fleet:
        await asyncio.to_thread(fill, place.url, finished, future)
        times = []
        for number in range(claims):
            await fleet.push("nothing", 1)
            now = fleet.clock.now()
            begin = time.perf_counter()
            claimed = await fleet.backend.claim("claimer", now, 1, lease_until=now + 3600 * SECOND)
            times.append(time.perf_counter() - begin)
            assert len(claimed) == 1, f"claim {number} found {len(claimed)} tasks"
        problems = await asyncio.to_thread(claim_problems, place.url)
        seconds = time.monotonic() - begun
        findings = Findings(tasks=finished + future + claims)
        report = Report("many_rows", place.name, fleet.seed, findings, seconds, fleet.notes, fleet.folder)
    p99 = percentile(times, 99)
    fleet.notes.update({"claim p50": f"{percentile(times, 50) * 1000:.1f} ms", "claim p99": f"{p99 * 1000:.1f} ms"})
    report.must(p99 <= fleet.allowed(bound), f"claim p99 is {p99 * 1000:.1f} ms")
    for problem in problems:
        report.must(False, f"the claim reads more than an index gives it: {problem}")
    return report
