"""Scenarios of groups, debounced tasks and batches: what is counted and joined in the store, seen from outside."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.core.groups import CANCEL, GroupState, derived_id
from aiotaskq.core.ids import new_id
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.task import Task, new_task
from tests.chaos.checker import Run, runs_of
from tests.chaos.harness import Fleet, Report
from tests.chaos.ledger import Line
from tests.chaos.places import Place
from tests.chaos.scenarios import harmed, until

SIZE = 8
SHAPES = ("then", "then", "on_failure", "graph")
"""In turn: of a group all members complete, one fails, and one waits for all others."""


def outline(shape: str, now: int, every: float) -> Outline:
    """A group whose members end at the same moments, and whose callback says which group it is of."""
    group_id = new_id()
    members = [new_task("member", {"every": every}, now=now) for _ in range(SIZE)]
    if shape == "on_failure":
        members[0] = new_task("member", {"every": every, "fails": True}, now=now, max_retries=0)
    others = {str(n): CANCEL for n in range(SIZE - 1)}
    kinds = {kind: new_task("called", {"group": group_id, "kind": kind}, now=now) for kind in ("then", "on_failure")}
    return Outline(
        group_id=group_id,
        nodes=tuple(
            Node(str(n), member, others if shape == "graph" and n == SIZE - 1 else {})
            for n, member in enumerate(members)
        ),
        then=kinds["then"],
        on_failure=kinds["on_failure"],
    )


async def groups(
    place: Place,
    folder: Path,
    *,
    workers: int = 4,
    groups: int = 2_000,
    kills: int = 20,
    pauses: int = 6,
    rate: float = 15.0,
    every: float = 0.1,
    **common: Any,
) -> Report:
    """Workers are killed and stopped while the members of many groups end at the same moments: one callback of each."""
    async with Fleet(place, folder, "groups", concurrency=SIZE, **common) as fleet:
        await fleet.booted(await fleet.start("worker", workers))
        begin = time.monotonic()
        made: dict[str, tuple[str, Outline]] = {}

        async def push() -> None:
            for number in range(groups):
                await until(begin, number / rate)
                shape, now = SHAPES[number % len(SHAPES)], fleet.clock.now()
                each = outline(shape, now, every)
                made[each.group_id] = shape, each
                assert await fleet.backend.groups.push(plan(each, now))
                fleet.acked.update(task.task_id for task in members(each) if not task.params.get("fails"))
                fleet.acked.add(callback_id(shape, each.group_id))

        _, stopped = await asyncio.gather(push(), harmed(fleet, begin, groups / rate, kills, pauses))
        last = time.monotonic()
        await fleet.drained(lambda counts: sum(counts.values()) >= groups * (SIZE + 1))
        fleet.notes["drained after"] = round(time.monotonic() - last, 1)
        report = await fleet.report()
        lines, rows = fleet.lines(), await fleet.rows()
        states = [each for each in await fleet.backend.groups.get(list(made)) if each is not None]
    called = [line for line in lines if line.what == "called"]
    fleet.notes["groups"] = len(states)
    fleet.notes["callbacks run"] = len(called)
    report.must(stopped > 0 or not pauses, "no process could be stopped: the scenario proves less")
    for each in (*callbacks(made, called, rows), *ended(made, states), *too_early(made, called, runs_of(lines))):
        report.must(False, each)
    return report


def members(made: Outline) -> list[Task]:
    return [node.what for node in made.nodes if isinstance(node.what, Task)]


def callback_id(shape: str, group_id: str) -> str:
    return derived_id(group_id, "on_failure" if shape == "on_failure" else "then", 1)


def callbacks(made: Mapping[str, tuple[str, Outline]], called: Collection[Line], rows: Collection[Task]) -> list[str]:
    """Groups of which not exactly one task called back, counted by the handlers, and by the rows."""
    ran: dict[str, set[str]] = defaultdict(set)
    for line in called:
        ran[line.how].add(line.id)
    stored = Counter(row.params["group"] for row in rows if row.type == "called")
    found = []
    for group_id, (shape, _) in made.items():
        wanted = {callback_id(shape, group_id)}
        if ran[group_id] != wanted or stored[group_id] != 1:
            found.append(f"group {group_id} ({shape}): {ran[group_id]} called back, {stored[group_id]} are stored")
    return found


def ended(made: Mapping[str, tuple[str, Outline]], states: Collection[GroupState]) -> list[str]:
    """Groups whose counts are not those of their members."""
    found = [] if len(states) == len(made) else [f"{len(made) - len(states)} groups are gone"]
    for each in states:
        shape, _ = made[each.group_id]
        counts = (each.total, each.remaining, each.failed, each.cancelled, each.generation)
        if counts != (SIZE, 0, shape == "on_failure", 0, 1):
            found.append(f"group {each.group_id} ({shape}): total, remaining, failed, … are {counts}")
    return found


def too_early(
    made: Mapping[str, tuple[str, Outline]], called: Sequence[Line], runs: Mapping[str, Sequence[Run]]
) -> list[str]:
    """Callbacks, and members that wait for others, that started before those had ended once."""
    found = []
    first = {line.how: line.at for line in reversed(called)}
    for group_id, (shape, each) in made.items():
        tasks = members(each)
        ends = [min((run.end for run in runs.get(task.task_id, ()) if run.end), default=float("inf")) for task in tasks]
        if group_id in first and first[group_id] < max(ends):
            found.append(f"group {group_id} ({shape}) called back before its members had ended")
        *_, last = tasks
        start = min((run.start for run in runs.get(last.task_id, ())), default=float("inf"))
        if shape == "graph" and start < max(ends[:-1]):
            found.append(f"the last task of {group_id} started before the others had ended")
    return found


async def debounced(
    place: Place,
    folder: Path,
    *,
    workers: int = 3,
    keys: int = 20,
    calls: int = 4_000,
    kills: int = 15,
    pauses: int = 5,
    rate: float = 50.0,
    **common: Any,
) -> Report:
    """Workers are killed and stopped while debounced calls are joined: each call is in one task, which completes."""
    async with Fleet(place, folder, "debounced", concurrency=8, **common) as fleet, TaskQ(place.url) as tq:
        await fleet.booted(await fleet.start("worker", workers))
        begin = time.monotonic()

        async def call(number: int) -> None:
            await until(begin, number / rate)
            key = f"{fleet.chance.randrange(keys)}"
            params = {"calls": [f"{key}/{number}"], "seconds": 0.3}
            handle = await tq.push(
                "collecting", params, debounce=0.2, max_wait=1.0, merge="list", key=key, max_retries=3
            )
            fleet.acked.add(handle.task_id)

        async def push() -> None:
            # Two at a time, so that some meet the same task at the same moment.
            for number in range(0, calls, 2):
                await asyncio.gather(call(number), call(number + 1))

        _, stopped = await asyncio.gather(push(), harmed(fleet, begin, calls / rate, kills, pauses))
        await fleet.drained()
        report = await fleet.report()
        lines, rows = fleet.lines(), await fleet.rows()
    joined = {line.id: line.data["calls"] for line in lines if line.what == "joined"}
    seen = Counter(each for row in rows for each in row.params["calls"])
    ran = Counter(each for of_task in joined.values() for each in of_task)
    fleet.notes["calls"] = f"{calls} in {len(rows)} tasks"
    report.must(stopped > 0 or not pauses, "no process could be stopped: the scenario proves less")
    report.must(len(rows) < calls, "no two calls were joined: the scenario proves nothing")
    for name, counted in (("are in the rows", seen), ("were run", ran)):
        wrong = {each: count for each, count in counted.items() if count != 1}
        report.must(len(counted) == calls, f"{len(counted)} calls of {calls} {name}")
        report.must(not wrong, f"calls that {name} not exactly once: {wrong}")
    return report


async def batches(
    place: Place,
    folder: Path,
    *,
    workers: int = 3,
    tasks: int = 4_000,
    kills: int = 15,
    pauses: int = 5,
    rate: float = 50.0,
    **common: Any,
) -> Report:
    """Workers are killed and stopped amid batches: each task of a batch has its own fence, retries and outcome."""
    async with Fleet(place, folder, "batches", concurrency=4, **common) as fleet:
        await fleet.booted(await fleet.start("worker", workers))
        begin = time.monotonic()
        fails: set[str] = set()

        async def push() -> None:
            for number in range(0, tasks, 10):
                await until(begin, number / rate)
                now = fleet.clock.now()
                made = []
                for _ in range(min(10, tasks - number)):
                    item = {"seconds": round(fleet.chance.uniform(0.05, 0.4), 4), "fails": fleet.chance.random() < 0.1}
                    made.append(new_task("batched", {"items": item}, now=now))
                    fails.update([made[-1].task_id] if item["fails"] else [])
                await fleet.backend.push(made)
                fleet.acked.update(task.task_id for task in made)

        _, stopped = await asyncio.gather(push(), harmed(fleet, begin, tasks / rate, kills, pauses))
        await fleet.drained(lambda counts: sum(counts.values()) >= tasks)
        report = await fleet.report()
        rows = await fleet.rows()
        starts = Counter((line.pid, round(line.at, 2)) for line in fleet.lines() if line.what == "start")
    fleet.notes["largest batch"] = max(starts.values(), default=0)
    report.must(stopped > 0 or not pauses, "no process could be stopped: the scenario proves less")
    report.must(max(starts.values(), default=0) > 1, "no two tasks were in a batch: the scenario proves nothing")
    for row in rows:
        wanted = 1 if row.task_id in fails else 0
        report.must(row.retry_count == wanted, f"{row.task_id}: {row.retry_count} retries, not {wanted}")
    return report
