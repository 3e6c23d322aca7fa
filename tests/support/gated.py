"""Tasks with gates, for the tests of what passes on each store."""

from __future__ import annotations

import itertools
from typing import Any

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.gate import Bounds, Flow, GateState
from aiotaskq.core.outcome import Backoff, Completed, Outcome, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from tests.support.rows import LEASE, NOW, new

MINUTE = 60 * SECOND
DONE = Completed()
CAP_1, CAP_2 = Bounds(cap=1), Bounds(cap=2)

_seqs = itertools.count(NOW)


def gated(*gates: tuple[str, Bounds], due: int = NOW, weight: int = 1, **fields: Any) -> Task:
    """A task parked at the first of these gates."""
    task = new(flow=Flow(gates=gates or (("g", CAP_1),), weight=weight), seq=next(_seqs), **fields)
    return parked(task, due)


async def claimed(backend: Backend, now: int = NOW + SECOND, limit: int = 100) -> list[Task]:
    return await backend.claim("o", now, limit, lease_until=LEASE)


async def settled(backend: Backend, task: Task, outcome: Outcome = DONE, now: int = NOW + SECOND) -> Task:
    after = settle(task, outcome, now)
    assert await backend.update([Change(task, after)]) == [True]
    return after


def wait(seconds: float) -> Backoff:
    """A back-off of so many seconds."""
    return Backoff(base=seconds, factor=1.0, jitter=False)


async def state(backend: Backend, key: str = "g") -> GateState:
    (found,) = await backend.gates.find([key])
    return found


async def counts(backend: Backend, key: str = "g") -> tuple[int, int]:
    """How many hold a slot, and how many wait."""
    found = await state(backend, key)
    return found.held, found.waiting
