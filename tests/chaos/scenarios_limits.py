"""Scenarios of limits and rates: an observer outside of the system counts the handlers that run, or start."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aiotaskq.core.limits import Gating, Limit, Rate
from aiotaskq.core.task import SECOND, new_task
from tests.chaos.checker import Harm, Run, runs_of
from tests.chaos.harness import Fleet, Report
from tests.chaos.places import Place
from tests.chaos.scenarios import harmed, until

CLOCKS_DIFFER = 0.1
"""Seconds by which processes under load may differ about the time of their store, and so about the end of a lease."""


def most_at_once(runs: Iterable[Run], harms: Sequence[Harm]) -> int:
    """Return the largest number of runs at a time.

    A run of a process that was killed ends with it. A run during whose process's pause the lease was over counts until
    then: it is a zombie afterwards. A run that starts during a pause does so just before the signal arrives.
    """
    ends = {harm.pid: harm.at for harm in harms if harm.kind == "killed"}
    stops = [harm for harm in harms if harm.kind == "paused"]
    changes = []
    for run in runs:
        end = min(run.end or float("inf"), ends.get(run.pid, float("inf")))
        for stop in stops:
            if stop.pid == run.pid and run.start <= stop.until and stop.at < end and stop.lease_until <= stop.until:
                end = min(end, max(stop.lease_until - CLOCKS_DIFFER, run.start))
        changes += [(run.start, 1), (max(run.start, end), -1)]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


async def limits(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    keys: int = 200,
    cap: int = 3,
    tasks: int = 10_000,
    kills: int = 30,
    pauses: int = 10,
    rate: float = 150.0,
    **common: Any,
) -> Report:
    """Workers are killed and paused while many tasks share the slots of a few keys, and those of a limit for all."""
    async with Fleet(place, folder, "limits", concurrency=8, **common) as fleet:
        await fleet.booted(await fleet.start("worker", workers))
        both = workers * 8 * 3 // 4
        gating = Gating("short", [Limit(cap, key="key"), Limit(both, name="all")])
        key_of: dict[str, str] = {}
        begin, seconds = time.monotonic(), tasks / rate

        async def push() -> None:
            for number in range(0, tasks, 20):
                await until(begin, number / rate)
                batch = []
                for _ in range(min(20, tasks - number)):
                    key = f"{fleet.chance.randrange(keys)}"
                    params = {"seconds": round(fleet.chance.uniform(0.02, 0.2), 4)}
                    task = new_task("short", params, now=fleet.clock.now())
                    key_of[task.task_id] = key
                    batch.append(gating.gated(task.replace(params={**params, "key": key})).replace(params=params))
                await fleet.backend.push(batch)
                fleet.acked.update(task.task_id for task in batch)

        _, stopped = await asyncio.gather(push(), harmed(fleet, begin, seconds, kills, pauses))
        last = time.monotonic()
        await fleet.drained(lambda counts: sum(counts.values()) >= tasks)
        report = await fleet.report()
        runs = runs_of(fleet.lines())
        left = [(each.gate.key, each.held, each.waiting) for each in await fleet.backend.gates.find(limit=10_000)]
    by_key: dict[str, list[Run]] = defaultdict(list)
    for task_id, of_task in runs.items():
        by_key[key_of[task_id]] += of_task
    most = {key: most_at_once(each, fleet.harms) for key, each in by_key.items()}
    everywhere = most_at_once([run for each in by_key.values() for run in each], fleet.harms)
    fleet.notes["most of a key"] = max(most.values(), default=0)
    fleet.notes["most of all"] = everywhere
    report.must(max(most.values()) == cap, f"{max(most.values())} of a key ran at a time, and the limit is {cap}")
    report.must(everywhere <= both, f"{everywhere} ran at a time, and the limit is {both}")
    report.must(stopped or not pauses, "no process could be paused: the scenario proves less")
    report.must(not any(held or waiting for _, held, waiting in left), f"slots are left over: {left[:5]}")
    fleet.notes["drained after"] = round(time.monotonic() - last, 1)
    return report


def most_in_a_window(starts: Sequence[tuple[float, int]], seconds: float) -> int:
    """Return the most tokens of starts in any window of so many seconds."""
    most = now = first = 0
    ordered = sorted(starts)
    for at, tokens in ordered:
        now += tokens
        while ordered[first][0] <= at - seconds:
            now -= ordered[first][1]
            first += 1
        most = max(most, now)
    return most


async def rates(
    place: Place,
    folder: Path,
    *,
    limit: int = 50,
    burst: int = 25,
    seconds: float = 60.0,
    skew: float = 5.0,
    **common: Any,
) -> Report:
    """Two workers with wrong clocks share a rate: what is called counts tokens of different weights in a window."""
    async with Fleet(place, folder, "rates", concurrency=16, **common) as fleet:
        gating = Gating("short", [Rate(limit, per=1.0, burst=burst, weight="tokens")])
        weights: dict[str, int] = {}
        batch = []
        while sum(weights.values()) < limit * seconds:
            params = {"seconds": 0.01}
            task = new_task("short", params, now=fleet.clock.now())
            weights[task.task_id] = tokens = fleet.chance.choice((1, 1, 2, 5))
            batch.append(gating.gated(task.replace(params={**params, "tokens": tokens})).replace(params=params))
        for first in range(0, len(batch), 500):
            await fleet.backend.push(batch[first : first + 500])
        fleet.acked.update(weights)
        # Where the store has no clock, its rows go by that of its only host.
        for wrong in (skew, -skew) if place.server is not None else (0.0, 0.0):
            await fleet.start("worker", clock=wrong)
        await fleet.drained(lambda counts: sum(counts.values()) >= len(weights))
        report = await fleet.report()
        runs, rows = runs_of(fleet.lines()), {row.task_id: row for row in await fleet.rows()}
        ahead = fleet.clock.now() / SECOND - time.monotonic()
    starts = sorted((run.start, weights[run.id]) for of_task in runs.values() for run in of_task)
    took = starts[-1][0] - starts[0][0]
    second, ten = most_in_a_window(starts, 1.0), most_in_a_window(starts, 10.0)
    tokens = sum(weights.values())
    fleet.notes.update({"most in 1 s": second, "most in 10 s": ten, "per second": round(tokens / took, 1)})
    # A rate ends at the claim; what is counted are starts, which come later where a process has to wait for its turn.
    late = max(
        run.start + ahead - (rows[run.id].began_at or 0) / SECOND for of_task in runs.values() for run in of_task
    )
    fleet.notes["latest start"] = f"{late:.2f} s"
    slack = limit * max(0.1, late)
    report.must(second <= limit + burst + slack, f"{second} tokens in a second, and the limit is {limit} + {burst}")
    report.must(ten <= 10 * limit + burst + slack, f"{ten} tokens in ten seconds, and the limit is {limit} a second")
    report.must(tokens / took >= 0.95 * limit, f"{tokens / took:.1f} tokens a second, and the limit is {limit}")
    return report
