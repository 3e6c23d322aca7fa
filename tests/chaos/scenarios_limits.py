"""The scenario of limits: an observer counts the handlers of each key that run, outside of the system, under faults."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aiotaskq.core.limits import Gating, Limit
from aiotaskq.core.task import new_task
from tests.chaos.checker import Harm, Run, runs_of
from tests.chaos.harness import Fleet, Report
from tests.chaos.places import Place
from tests.chaos.scenarios import moments, until


def most_at_once(runs: Iterable[Run], ends: dict[int, float], stops: Sequence[Harm], lease: float) -> int:
    """Return the largest number of runs at a time. ``ends`` is when processes were killed, ``stops`` are their pauses.

    A run of a process that was paused counts until its lease was over at the earliest: then it is a zombie.
    """
    changes = []
    for run in runs:
        end = min(run.end or float("inf"), ends.get(run.pid, float("inf")))
        for stop in stops:
            if stop.pid == run.pid and run.start <= stop.at < end and stop.until - stop.at >= lease:
                end = min(end, stop.at + lease)
        changes += [(run.start, 1), (end, -1)]
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

        async def harm() -> list[bool]:
            kinds = fleet.chance.sample(["kill"] * kills + ["pause"] * pauses, kills + pauses)
            paused: list[asyncio.Task[bool]] = []
            for kind, offset in zip(kinds, moments(fleet, len(kinds), seconds), strict=True):
                await until(begin, offset)
                victim = await fleet.victim([p.pid for p in fleet.processes if p.paused_at is not None])
                if kind == "pause":
                    paused.append(asyncio.create_task(fleet.pause(victim, 2 * fleet.lease)))
                else:
                    await fleet.kill(victim)
                    await fleet.start("worker")
            return await asyncio.gather(*paused)

        _, stopped = await asyncio.gather(push(), harm())
        last = time.monotonic()
        await fleet.drained(lambda counts: sum(counts.values()) >= tasks)
        report = await fleet.report()
        runs = runs_of(fleet.lines())
        left = [(each.gate.key, each.held, each.waiting) for each in await fleet.backend.gates.find(limit=10_000)]
    by_key: dict[str, list[Run]] = defaultdict(list)
    for task_id, of_task in runs.items():
        by_key[key_of[task_id]] += of_task
    dead = {harm.pid: harm.at for harm in fleet.harms if harm.kind == "killed" and harm.pid is not None}
    stops = [harm for harm in fleet.harms if harm.kind == "paused"]
    lease = fleet.lease - fleet.heartbeat  # the last heartbeat before a pause may have been so long ago
    most = {key: most_at_once(each, dead, stops, lease) for key, each in by_key.items()}
    everywhere = most_at_once([run for each in by_key.values() for run in each], dead, stops, lease)
    fleet.notes["most of a key"] = max(most.values(), default=0)
    fleet.notes["most of all"] = everywhere
    report.must(max(most.values()) == cap, f"{max(most.values())} of a key ran at a time, and the limit is {cap}")
    report.must(everywhere <= both, f"{everywhere} ran at a time, and the limit is {both}")
    report.must(sum(stopped) > 0 or not pauses, "no process could be paused: the scenario proves less")
    report.must(not any(held or waiting for _, held, waiting in left), f"slots are left over: {left[:5]}")
    fleet.notes["drained after"] = round(time.monotonic() - last, 1)
    return report
