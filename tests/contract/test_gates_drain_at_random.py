"""After any sequence of calls, all tasks pass and end once the gates are open, and no cap was exceeded until then."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from aiotaskq.backends.base import Backend, Change
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.groups import CANCEL, RUN
from aiotaskq.core.outcome import Backoff, Cancelled, Completed, Failed, Outcome, Released, Requeued, Rerun, settle
from aiotaskq.core.parking import parked, slots
from aiotaskq.core.plan import Node, Outline, plan
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.rows import ids, new

START = 4_000_000_000 * SECOND  # after the present: a delete is not before the last push of this process
MINUTE = 60 * SECOND
SEEDS = 4 * int(os.environ.get("AIOTASKQ_SOAK", "1"))
BOUNDS = {
    "a": Bounds(cap=2),
    "b": Bounds(cap=3),
    "m": Bounds(cap=4),
    "z": Bounds(cap=4),
    "rate": Bounds(interval=SECOND, burst=3),
    "fair": Bounds(window=2),
}
FLOWS = (("a", "m"), ("b", "z"), ("m",), ("z",), ("b", "m"), ("rate",), ("fair", "m"), ())
SOON = Backoff(base=1, factor=1.0, jitter=False)
OUTCOMES: tuple[Outcome, ...] = (Completed(), Completed(), Failed("e", backoff=SOON), Released("r", SECOND))


class Run:
    """A store, and what random calls do to it."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.backend, self.dice = backend, random.Random(seed)
        self.now = START
        self.started: list[Task] = []
        self._numbers = itertools.count()

    def task(self, names: Sequence[str] | None = None, due: int | None = None, **fields: object) -> Task:
        """Make a task with gates, due now or in some seconds, or without gates."""
        names = self.dice.choice(FLOWS) if names is None else names
        self.now += 1  # each push has a stamp of its own
        due = due or self.now + self.dice.choice((0, 0, 0, 2 * SECOND))
        flow = Flow(gates=tuple((name, BOUNDS[name]) for name in names)) if names else None
        task = new(flow=flow, seq=self.now, run_at=due, queue=self.dice.choice("aab"), max_retries=1, **fields)
        return parked(task, due) if names else task

    async def push(self) -> None:
        """Push some tasks: of all kinds, alike, or due at the same time."""
        names = self.dice.choice((None, None, self.dice.choice(FLOWS)))
        due = self.dice.choice((None, self.now + 3 * SECOND))
        await self.backend.push([self.task(names, due) for _ in range(self.dice.randrange(1, 8))])

    async def push_group(self) -> None:
        first = [Node(f"first {n}", self.task()) for n in range(self.dice.randrange(1, 4))]
        rule = self.dice.choice((CANCEL, RUN))
        last = Node("last", self.task(), {node.name: rule for node in first})
        outline = Outline(group_id=f"g{next(self._numbers)}", nodes=(*first, last), named=True, then=self.task())
        await self.backend.groups.push(plan(outline, self.now))

    async def claim(self) -> None:
        limit = self.dice.randrange(1, 9)
        self.started += await self.backend.claim("o", self.now, limit, lease_until=self.now + MINUTE)
        held = Counter(key for task in self.started for key in slots(task))
        for state in await self.backend.gates.find(sorted(held)):
            cap = state.gate.bounds.cap
            assert cap is None or state.gate.key in self.lowered or held[state.gate.key] <= cap

    lowered: frozenset[str] = frozenset()
    """Gates whose caps were changed: those that had passed before go on."""

    async def end(self) -> None:
        """End some tasks, and bring back some that have ended, in one call."""
        count = min(len(self.started), self.dice.randrange(1, 5))
        chosen = [self.started.pop(self.dice.randrange(len(self.started))) for _ in range(count)]
        changes = [Change(task, settle(task, self.dice.choice(OUTCOMES), self.now)) for task in chosen]
        ended = await self.backend.find(TaskFilter(status=(Status.FAILED, Status.CANCELLED)), 50)
        back = self.dice.sample(ended, min(len(ended), self.dice.randrange(3)))
        changes += [Change(task, settle(task, Requeued(), self.now)) for task in back]
        await self.backend.update(changes)

    async def rerun(self) -> None:
        rows = [
            row
            for row in await self.backend.find(TaskFilter(status=(Status.COMPLETED,)), 50)
            if row.flow is None or row.flow.group is None
        ]
        if rows:
            row = self.dice.choice(rows)
            await self.backend.update([Change(row, settle(row, Rerun(self.task(task_id=row.task_id)), self.now))])

    async def change(self) -> None:
        key = self.dice.choice(sorted(BOUNDS))
        self.lowered |= {key}
        await self.backend.gates.change(
            key,
            self.dice.choice(
                (
                    GateChange(bounds={"cap": self.dice.randrange(8)}),
                    GateChange(declared=True),
                    GateChange(closed_until=self.now + 2 * SECOND),
                    GateChange(closed_until=0),
                )
            ),
            self.now,
        )

    async def pause(self) -> None:
        await self.backend.set_paused(self.dice.choice("ab"), self.dice.random() < 0.5)

    async def remove(self) -> None:
        waiting = await self.backend.find(TaskFilter(status=(Status.PENDING,)), 100)
        chosen = self.dice.sample(waiting, min(len(waiting), self.dice.randrange(1, 3)))
        if self.dice.random() < 0.5:
            await self.backend.delete(ids(chosen))
        else:
            await self.backend.update([Change(task, settle(task, Cancelled(), self.now)) for task in chosen])

    async def mend(self) -> None:
        await self.backend.gates.mend(self.now)

    async def drain(self) -> list[Task]:
        """Open everything, and end whatever passes; return what is left."""
        for queue in "ab":
            await self.backend.set_paused(queue, False)
        for key in BOUNDS:
            await self.backend.gates.change(key, GateChange(bounds={"cap": None}, closed_until=0), self.now)
        for _ in range(60):
            self.now += 5 * SECOND
            while await self.backend.gates.admit(self.now, 100) == self.now:
                pass
            self.started += await self.backend.claim("o", self.now, 100, lease_until=self.now + MINUTE)
            await self.backend.update([Change(task, settle(task, Completed(), self.now)) for task in self.started])
            self.started = []
        return await self.backend.find(TaskFilter(status=(Status.PENDING, Status.RUNNING)), 100)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_everything_passes_once_the_gates_are_open(backend: Backend, seed: int) -> None:
    run = Run(backend, seed)
    verbs = [run.push, run.push, run.push_group, run.claim, run.claim, run.end, run.end, run.rerun]
    verbs += [run.change, run.pause, run.remove, run.mend]
    for _ in range(60):
        run.now += run.dice.choice((0, SECOND // 3, 2 * SECOND))
        await run.dice.choice(verbs)()
        await backend.gates.admit(run.now, 100)
    assert [(row.task_id, row.status, row.gate, row.waits) for row in await run.drain()] == []
    assert [state for state in await backend.gates.find() if state.held or state.waiting] == []
