"""Scenarios of durable steps: workflows that are killed amid steps, sleeps, children and events."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine

from aiotaskq.app.taskq import TaskQ
from aiotaskq.backends.sql.engines import parse_url
from aiotaskq.core.steps import Step
from tests.chaos.checker import Harm, Run, runs_of
from tests.chaos.harness import Fleet, Report
from tests.chaos.ledger import Line
from tests.chaos.places import Place
from tests.chaos.program import persistently
from tests.chaos.scenarios import until
from tests.chaos.scenarios_groups import harmed

STEPS = ("first", "second", "paid", "child", "packed", "sent")
WAITS = ("done", "go")
SUSPENSIONS = 1 + len(WAITS)
"""A sleep, and the waits: so often a workflow may leave its slot, and so often it is woken."""


async def workflows(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    workflows: int = 2_000,
    kills: int = 40,
    pauses: int = 10,
    restarts: int = 4,
    rate: float = 20.0,
    **common: Any,
) -> Report:
    """Workers are killed and stopped, and the server is restarted, amid workflows: each step has one value."""
    if place.sql:
        await _effects(place, "CREATE TABLE chaos_effect (task_id VARCHAR(64) NOT NULL)")
    async with Fleet(place, folder, "workflows", concurrency=8, **common) as fleet, TaskQ(place.url) as tq:
        await fleet.booted(await fleet.start("worker", workers))
        begin, seconds = time.monotonic(), workflows / rate
        pushed: list[str] = []

        async def emit(task_id: str, after: float) -> None:
            """Tell two values at nearly the same time, before the workflow waits, or after; one of them stays."""
            await asyncio.sleep(after)
            await asyncio.gather(*(persistently(partial(tq.emit, f"go:{task_id}", value)) for value in "ab"))

        async def push() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(workflows):
                    await until(begin, number / rate)
                    task_id = f"workflow-{number:05d}"
                    params = {"sql": place.sql}
                    await persistently(partial(tq.push, "workflow", params, task_id=task_id, max_retries=100))
                    pushed.append(task_id)
                    group.create_task(emit(task_id, fleet.chance.uniform(0.0, 4.0)))

        async def harm() -> int:
            stopped = await harmed(fleet, begin, 0.7 * seconds, kills, pauses)
            if place.server is not None:
                for how in fleet.chance.sample(["fast", "immediate"] * restarts, restarts):
                    await asyncio.sleep(0.25 * seconds / restarts)
                    await fleet.outage(asyncio.to_thread(place.server.restart, how))
            return stopped

        _, stopped = await asyncio.gather(push(), harm())
        last = time.monotonic()
        fleet.acked.update(pushed)
        await fleet.drained(lambda counts: sum(counts.values()) >= 2 * workflows)
        fleet.notes["drained after"] = round(time.monotonic() - last, 1)
        report = await fleet.report()
        lines = fleet.lines()
        rows = await fleet.rows()
        stored = {task_id: await tq.steps(task_id) for task_id in pushed}
        paid = Counter(await _effects(place, "SELECT task_id FROM chaos_effect")) if place.sql else Counter(pushed)
    ran = runs_of(lines)
    fleet.notes["runs"] = sum(len(ran.get(task_id, ())) for task_id in pushed)
    report.must(stopped > 0 or not pauses, "no process could be stopped: the scenario proves less")
    children = Counter(row.params["of"] for row in rows if row.type == "child")
    for task_id in pushed:
        report.must(children[task_id] == 1, f"{task_id} has {children[task_id]} children")
        report.must(paid[task_id] == 1, f"{task_id}: its effect is there {paid[task_id]} times")
    for each in (*values(pushed, lines, stored), *woken(pushed, ran, fleet.harms)):
        report.must(False, each)
    return report


async def _effects(place: Place, statement: str) -> list[str]:
    """Execute a statement about the effects of steps; return the first column of what it selects."""
    engine = create_async_engine(parse_url(place.url))
    async with engine.begin() as connection:
        result = await connection.exec_driver_sql(statement)
        found = [str(value) for (value,) in result.all()] if result.returns_rows else []
    await engine.dispose()
    return found


def values(pushed: Iterable[str], lines: Iterable[Line], stored: Mapping[str, Sequence[Step]]) -> list[str]:
    """Steps and events of which two runs have seen different values, or the store holds another one, or none."""
    seen: dict[tuple[str, str], set[Any]] = defaultdict(set)
    for line in lines:
        if line.what == "step":
            seen[line.id, line.how].add(line.data["value"])
    found = []
    for task_id in pushed:
        held = {step.name.partition(":")[0]: step.value for step in stored[task_id] if step.kind in ("step", "event")}
        found += [
            f"{task_id}: {name} was {seen[task_id, name]}, and the store has {held.get(name)}"
            for name in (*STEPS, *WAITS)
            if seen[task_id, name] != {held.get(name)}
        ]
    return found


def woken(pushed: Iterable[str], runs: Mapping[str, Sequence[Run]], harms: Sequence[Harm]) -> list[str]:
    """Workflows that left their slot more often than they sleep and wait: woken for nothing, or more than once."""
    counts = {task_id: sum(_left(run, harms) for run in runs.get(task_id, ())) for task_id in pushed}
    return [f"{task_id}: left its slot {count} times" for task_id, count in counts.items() if count > SUSPENSIONS]


def _left(run: Run, harms: Sequence[Harm]) -> bool:
    """Whether the handler has left its slot by itself; one whose worker gives it back is cancelled.

    A sleep that could not be stored, since the server was away, begins again.
    """
    cut = any(
        harm.kind == "cut" and harm.at <= (run.settled or run.start) and harm.until >= run.start for harm in harms
    )
    return run.event == "released" and run.how == "raised" and not cut


async def races(
    place: Place, folder: Path, *, workers: int = 2, tasks: int = 10_000, together: int = 50, **common: Any
) -> Report:
    """Events are emitted by one process while tasks begin to wait for them in others: none of them waits for ever."""
    async with (
        Fleet(place, folder, "races", concurrency=together // workers, **common) as fleet,
        TaskQ(place.url) as tq,
    ):
        await fleet.booted(await fleet.start("worker", workers))
        total = 0
        while total < tasks:
            some = min(together, tasks - total)
            ids = await fleet.push("waiting", some)
            # The times from a push to its wait; without hints to other processes it is found by polling.
            spread = fleet.chance.choice((0.3, 0.6) if place.name == "mysql" else (0.01, 0.03, 0.1))

            async def emit(task_id: str, after: float) -> None:
                await asyncio.sleep(after)
                assert await tq.emit(f"race:{task_id}", task_id)

            await asyncio.gather(*(emit(task_id, fleet.chance.uniform(0.0, spread)) for task_id in ids))
            total += some
            await fleet.drained(lambda counts, total=total: sum(counts.values()) >= total)  # type: ignore[misc]
        report = await fleet.report()
        ran = runs_of(fleet.lines())
    fleet.notes["waited"] = waited = sum(len(mine) > 1 for mine in ran.values())
    fleet.notes["found it"] = direct = sum(len(mine) == 1 for mine in ran.values())
    report.must(min(waited, direct) > tasks // 100, f"{waited} waited and {direct} did not: the scenario proves less")
    return report


async def sleepers(place: Place, folder: Path, *, tasks: int = 100_000, others: int = 5_000, **common: Any) -> Report:
    """Very many workflows sleep: a worker holds nothing of them, and other tasks are as quick as before."""
    async with Fleet(place, folder, "sleepers", concurrency=50, quiet=True, **common) as fleet:
        (worker,) = await fleet.start("worker")

        async def rate() -> float:
            begin = time.monotonic()
            await fleet.push("nothing", others)
            await fleet.drained(besides=slept)
            return others / (time.monotonic() - begin)

        slept = 0
        await rate()  # memory grows with the first tasks
        before, measured = await rate(), await fleet.measure(worker)
        while slept < tasks:
            some = min(2_000, tasks - slept)
            await fleet.push("napping", some)
            slept += some
            while (await fleet.backend.stats(fleet.clock.now())).ready > 1_000:
                await asyncio.sleep(0.05)
        while (stats := await fleet.backend.stats(fleet.clock.now())).ready or stats.counts["running"]:
            await asyncio.sleep(0.05)
        asleep, after = await fleet.measure(worker), await rate()
        fleet.acked.clear()
        report = await fleet.report()
        counts = await fleet.counts()
    fleet.notes.update({name: f"{measured[name]} -> {asleep[name]}" for name in ("rss", "threads", "coroutines")})
    fleet.notes["tasks/s"] = f"{before:.0f} -> {after:.0f}"
    report.must(counts["pending"] == tasks, f"{counts['pending']} of {tasks} workflows sleep")
    report.must(asleep["rss"] <= 1.1 * measured["rss"], "memory grew with the workflows that sleep")
    report.must(asleep["coroutines"] <= measured["coroutines"] + 2, "coroutines are kept for workflows that sleep")
    return report
