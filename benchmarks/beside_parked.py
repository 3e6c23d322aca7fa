"""What parked tasks cost others: the same pushes, claims and settles in two stores, one with many parked rows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.ids import new_id, next_seq
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import Run, Sample
from benchmarks.sql import beside, multiply

PARKED = 1_000_000
EACH = 100  # tasks in a call
SOME = 10  # calls in one store before those in the other
NEVER = 2**61  # microseconds
VERBS = ("push", "claim", "settle")


async def beside_parked(kind: type[Aiotaskq], run: Run) -> Sample:
    """The rates of each verb for tasks without gates, ``none`` and ``parked``: with so many rows at a closed gate."""
    rounds = run.of(20, 2)
    with beside(kind(run.place)) as place:
        async with _opened(kind(run.place), 0) as empty, _opened(kind(place), run.of(PARKED, 200)) as full:
            spent = {"none": dict.fromkeys(VERBS, 0.0), "parked": dict.fromkeys(VERBS, 0.0)}
            for number in range(rounds + 1):
                for name, backend in (("none", empty), ("parked", full))[:: -1 if number % 2 else 1]:
                    took = await _some(backend)
                    for verb in VERBS if number else ():  # the first prepares statements and fills caches
                        spent[name][verb] += took[verb]
    count = rounds * SOME * EACH
    values = {f"{verb}, {name}": count / each[verb] for name, each in spent.items() for verb in VERBS}
    return Sample(values, sum(sum(each.values()) for each in spent.values()))


@contextlib.asynccontextmanager
async def _opened(system: Aiotaskq, rows: int) -> AsyncIterator[Backend]:
    """Give an open store with so many rows that are parked at a closed gate."""
    backend = connect(system.url())
    await backend.open()
    try:
        if rows:
            await backend.gates.change("closed", GateChange(closed_until=NEVER), _now())
            await backend.push([_task(Flow(gates=(("closed", Bounds(cap=1)),)))])
            await asyncio.to_thread(multiply, system, rows)
            (state,) = await backend.gates.find(["closed"])
            if state.waiting != rows:
                raise RuntimeError(f"{state.waiting} rows are parked, not {rows}")
        yield backend
    finally:
        await backend.close()


async def _some(backend: Backend) -> dict[str, float]:
    """Push, claim and settle some calls of tasks; return the seconds of each verb."""
    took = dict.fromkeys(VERBS, 0.0)
    for _ in range(SOME):
        tasks = [_task() for _ in range(EACH)]
        start = time.perf_counter()
        await backend.push(tasks)
        took["push"] += time.perf_counter() - start
    for _ in range(SOME):
        now, start = _now(), time.perf_counter()
        claimed = await backend.claim("w", now, EACH, lease_until=now + 60 * SECOND)
        took["claim"] += time.perf_counter() - start
        now = _now()
        changes = [Change(task, settle(task, Completed(), now)) for task in claimed]
        start = time.perf_counter()
        held = await backend.update(changes)
        took["settle"] += time.perf_counter() - start
        if sum(held) != EACH:
            raise RuntimeError(f"{sum(held)} tasks were claimed and settled, not {EACH}")
    return took


def _task(flow: Flow | None = None) -> Task:
    now = next_seq(_now())
    task = Task(
        task_id=new_id(), type="work", params={"at": 0.0}, created_at=now // SECOND, run_at=now, seq=now, flow=flow
    )
    return task if flow is None else parked(task, now)


def _now() -> int:
    return time.time_ns() // 1_000
