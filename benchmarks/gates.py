"""What gates cost: the same tasks with no gate, at one that many wait at, and at a thousand, in the store itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from aiotaskq.backends import connect
from aiotaskq.backends.base import Backend, Change, Claim
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.ids import new_id, next_seq
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from benchmarks.case import Run, Sample

EACH = 100  # tasks in a call
SOME = 20  # calls of one kind before those of the next
CAP = 40


class Kind(NamedTuple):
    """The flows of tasks, each in turn, and how many tasks are claimed and settled in a call."""

    flows: Sequence[Flow | None]
    each: int = EACH


KINDS = {
    "none": Kind([None]),
    # Not more can be claimed at a time than the gate lets pass: what it costs beside smaller calls.
    "none, 40 at a time": Kind([None], CAP),
    "hot": Kind([Flow(gates=(("hot", Bounds(cap=CAP)),))]),
    "1,000 gates": Kind([Flow(gates=((f"tenant:{number}", Bounds(cap=3)),)) for number in range(1_000)]),
}


def _tasks(flows: Sequence[Flow | None], first: int) -> list[Task]:
    """Return the tasks of a call of ``push``; ``first`` is the number of the first one."""
    made = []
    for number in range(first, first + EACH):
        now, flow = next_seq(_now()), flows[number % len(flows)]
        task = Task(
            task_id=new_id(), type="work", params={"at": 0.0}, created_at=now // SECOND, run_at=now, seq=now, flow=flow
        )
        made.append(task if flow is None else parked(task, now))
    return made


def _now() -> int:
    return time.time_ns() // 1_000


async def _push(backend: Backend, flows: Sequence[Flow | None], first: int, calls: int) -> None:
    for call in range(calls):
        await backend.push(_tasks(flows, first + call * EACH))


async def _run(backend: Backend, each: int) -> int:
    """Claim and settle until nothing is ready; return how many tasks have ended."""
    now = _now()
    tasks = await backend.claim("w", now, each, lease_until=now + 60 * SECOND)
    count = 0
    while tasks:
        now = _now()
        changes = [Change(task, settle(task, Completed(), now)) for task in tasks]
        held, tasks = await backend.exchange(changes, Claim("w", now, each, lease_until=now + 60 * SECOND))
        count += sum(held)
    return count


async def gates(family: str, run: Run) -> Sample:
    """The rate of tasks that are pushed, claimed and settled by 100, of each kind in turn."""
    calls = max(1, run.n // EACH)
    url = {"memory": "memory://", "sqlite": f"sqlite:///{run.place}"}.get(family, run.place)
    spent = dict.fromkeys(KINDS, 0.0)
    backend = connect(url)
    await backend.open()
    try:
        for done in range(0, calls, SOME):
            some = min(SOME, calls - done)
            for name, kind in KINDS.items():
                start = time.perf_counter()
                await _push(backend, kind.flows, done * EACH, some)
                ended = await _run(backend, kind.each)
                spent[name] += time.perf_counter() - start
                if ended != some * EACH:
                    raise RuntimeError(f"{name}: {ended} of {some * EACH} tasks have ended")
    finally:
        await backend.close()
    return Sample({name: calls * EACH / seconds for name, seconds in spent.items()}, sum(spent.values()))
