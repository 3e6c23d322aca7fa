"""Any sequence of calls has the same outcome on each store as in memory."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from aiotaskq.backends import connect
from aiotaskq.backends.base import Change
from aiotaskq.core.gate import PARKED, Bounds, Flow, GateChange
from aiotaskq.core.outcome import Backoff, Cancelled, Completed, Failed, Released, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.backends import Store
from tests.support.rows import NOW, ids, new

MINUTE = 60 * SECOND

KEYS = {
    "cap": Bounds(cap=2),
    "rate": Bounds(interval=SECOND, burst=2),
    "fair": Bounds(window=2),
    "both": Bounds(cap=3, interval=SECOND // 2, burst=3),
}


@pytest.mark.parametrize("seed", range(3))
async def test_any_sequence_leaves_the_same_rows_as_in_memory(store: Store, seed: int) -> None:
    dice = random.Random(seed)
    mine, other = connect("memory://"), store.backend
    now = NOW + MINUTE
    soon = Backoff(base=1, factor=1.0, jitter=False)
    started: list[Task] = []
    seqs = itertools.count(now)
    for _ in range(60):
        now += dice.choice((0, SECOND // 3, 2 * SECOND))
        match dice.choice(("push", "push", "claim", "end", "end", "change", "pause", "delete", "cancel")):
            case "push":
                tasks = []
                for _ in range(dice.randrange(1, 4)):
                    names = dice.sample(sorted(KEYS), dice.randrange(1, 3))
                    seqs = itertools.count(max(next(seqs), now))
                    task = new(
                        flow=Flow(
                            gates=tuple((name, KEYS[name]) for name in names),
                            weight=dice.choice((1, 1, 2)),
                            weights=dice.choice(((), ((names[0], 2),))),
                        ),
                        seq=next(seqs),
                        priority=dice.choice((0, 0, 1)),
                        queue=dice.choice("ab"),
                        max_retries=1,
                    )
                    tasks.append(parked(task, now + dice.choice((0, 0, 3 * SECOND))))
                now = tasks[-1].seq  # the clock is not set back
                await mine.push(tasks)
                await other.push(tasks)
            case "claim":
                limit = dice.randrange(1, 3)
                tasks = await mine.claim("o", now, limit, lease_until=now + MINUTE)
                assert ids(await other.claim("o", now, limit, lease_until=now + MINUTE)) == ids(tasks)
                started += tasks
            case "end" if started:
                task = started.pop(dice.randrange(len(started)))
                outcome = dice.choice((Completed(), Failed("e", backoff=soon), Released("r")))
                after = settle(task, outcome, now)
                assert await mine.update([Change(task, after)]) == [True]
                assert await other.update([Change(task, after)]) == [True]
            case "change":
                key = dice.choice(sorted(KEYS))
                change = dice.choice(
                    (
                        GateChange(bounds={"cap": dice.randrange(4)}),
                        GateChange(declared=True),
                        GateChange(closed_until=now + 2 * SECOND),
                        GateChange(closed_until=0),
                        GateChange(closed_at_least=now + SECOND),
                        GateChange(charge=2),
                    )
                )
                assert await other.gates.change(key, change, now) == await mine.gates.change(key, change, now)
            case "pause":
                paused = dice.random() < 0.4
                await mine.set_paused("a", paused)
                await other.set_paused("a", paused)
            case "delete" | "cancel" as verb:
                waiting = await mine.find(TaskFilter(status=(Status.PENDING,)), 100)
                if waiting:
                    task = dice.choice(waiting)
                    if verb == "delete":
                        assert await mine.delete([task.task_id]) == await other.delete([task.task_id]) == 1
                    else:
                        after = settle(task, Cancelled(), now)
                        assert await mine.update([Change(task, after)]) == [True]
                        assert await other.update([Change(task, after)]) == [True]
        assert await other.gates.admit(now, 100) == await mine.gates.admit(now, 100)
        rows, others = await mine.find(TaskFilter(), 1_000), await other.find(TaskFilter(), 1_000)
        assert [_shown(row) for row in others] == [_shown(row) for row in rows]
        assert await other.gates.find() == await mine.gates.find()


def _shown(row: Task) -> tuple[Any, ...]:
    return row.task_id, row.status, row.run_at if row.run_at != PARKED else "parked", row.due_at, row.gate
