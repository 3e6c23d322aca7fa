"""What parked tasks cost others: the same pushes, claims and settles in two stores, one with many parked rows."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterable

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.ids import new_id, next_seq
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from benchmarks.aiotaskq import Aiotaskq
from benchmarks.case import Run, Sample
from benchmarks.cpu import Cpu
from benchmarks.sql import TASKS, beside, connected, multiply

PARKED = 1_000_000
EACH = 100  # tasks in a call
SOME = 5  # calls in one store before those in the other
SWEEP = 10  # rounds between two sweeps
NEVER = 2**61  # microseconds
VERBS = ("push", "claim", "settle")
STORES = ("none", "parked")
Spent = dict[str, float]


async def beside_parked(kind: type[Aiotaskq], run: Run) -> Sample:
    """The CPU time of each verb for tasks without gates, ``none`` and ``parked``: with so many rows at a closed gate.

    That of this process and of the server, for a task, in microseconds, the median of the rounds. The figure with the
    name of the verb alone is that of ``none`` divided by that of ``parked``, round by round, and the median of these.
    """
    rounds = run.of(200, 2)
    with beside(kind(run.place)) as place:
        systems = dict(zip(STORES, (kind(run.place), kind(place)), strict=True))
        async with _opened(systems["none"], 0) as empty, _opened(systems["parked"], run.of(PARKED, 200)) as full:
            backends = {"none": empty, "parked": full}
            for backend in backends.values():  # which prepares statements and fills caches
                await _some(backend, None)
            cpus = {name: Cpu(system) for name, system in systems.items()}
            spent: dict[str, list[Spent]] = {name: [] for name in STORES}
            for number in range(rounds):
                if number % SWEEP == 0:
                    await asyncio.to_thread(_sweep, systems.values())
                for name in STORES[:: -1 if number % 2 else 1]:
                    spent[name].append(await _some(backends[name], cpus[name]))
    tasks = SOME * EACH
    values: dict[str, float] = {}
    for verb in VERBS:
        none, many = ([each[verb] for each in spent[name]] for name in STORES)
        values[verb] = statistics.median(one / other for one, other in zip(none, many, strict=True))
        for name, times in zip(STORES, (none, many), strict=True):
            values[f"{verb}, {name}"] = statistics.median(times) / tasks * 1e6
    return Sample(values, sum(sum(each.values()) for times in spent.values() for each in times))


@contextlib.asynccontextmanager
async def _opened(system: Aiotaskq, rows: int) -> AsyncIterator[Backend]:
    """Give an open store with so many rows that are parked at a closed gate."""
    backend = connect(system.url())
    await backend.open()
    try:
        if rows:
            await backend.gates.change("closed", GateChange(closed_until=NEVER), _now())
            at_gate = Flow(gates=(("closed", Bounds(cap=1)),))
            if system.family == "redis":
                for first in range(0, rows, 10 * EACH):
                    await backend.push([_task(at_gate) for _ in range(min(10 * EACH, rows - first))])
            else:
                await backend.push([_task(at_gate)])
                await asyncio.to_thread(multiply, system, rows)
            (state,) = await backend.gates.find(["closed"])
            if state.waiting != rows:
                raise RuntimeError(f"{state.waiting} rows are parked, not {rows}")
        yield backend
    finally:
        await backend.close()


async def _some(backend: Backend, cpu: Cpu | None) -> Spent:
    """Push, claim and settle some calls of tasks; return the seconds of each verb."""
    calls = [[_task() for _ in range(EACH)] for _ in range(SOME)]
    spent = dict.fromkeys(VERBS, 0.0)
    read = _no_time if cpu is None else cpu.seconds
    begin = read()
    for tasks in calls:
        await backend.push(tasks)
    spent["push"] = read() - begin
    now, begin = next_seq(_now()), read()  # no earlier than the stamps of the tasks
    claimed = [await backend.claim("w", now, EACH, lease_until=now + 60 * SECOND) for _ in range(SOME)]
    spent["claim"] = read() - begin
    now = _now()
    changes = [[Change(task, settle(task, Completed(), now)) for task in tasks] for tasks in claimed]
    begin = read()
    held = [sum(await backend.update(each)) for each in changes]
    spent["settle"] = read() - begin
    if sum(held) != SOME * EACH:
        raise RuntimeError(f"{sum(held)} tasks were claimed and settled, not {SOME * EACH}")
    return spent


def _sweep(systems: Iterable[Aiotaskq]) -> None:
    """Do what a server does by itself, at a moment of its own, with both stores at the same one."""
    for system in systems:
        if system.family == "postgresql":
            with connected(system) as execute:
                execute(f"ALTER TABLE {TASKS} SET (autovacuum_enabled = off)")
                execute(f"VACUUM (INDEX_CLEANUP ON) {TASKS}")


def _no_time() -> float:
    return 0.0


def _task(flow: Flow | None = None) -> Task:
    now = next_seq(_now())
    task = Task(
        task_id=new_id(), type="work", params={"at": 0.0}, created_at=now // SECOND, run_at=now, seq=now, flow=flow
    )
    return task if flow is None else parked(task, now)


def _now() -> int:
    return time.time_ns() // 1_000
