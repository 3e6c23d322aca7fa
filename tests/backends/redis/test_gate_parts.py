"""Gates in Redis: what would keep the server busy goes in parts, and each part leaves a state to go on from."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.gates import Gates
from aiotaskq.backends.redis import backend as redis_backend
from aiotaskq.backends.redis import gate_rows
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from aiotaskq.errors import ValidationError
from tests.support.rows import LEASE, NOW, new

_seqs = itertools.count(NOW)
LATER = NOW + SECOND


def gated(key: str, bounds: Bounds, **fields: object) -> Task:
    return parked(new(flow=Flow(gates=((key, bounds),)), seq=next(_seqs), **fields), NOW)


@pytest.fixture
def called(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scripts that are called from now on."""
    found: list[str] = []
    original = RedisConnections.evaluate

    async def evaluate(redis: RedisConnections, name: str, *args: Any) -> Any:
        found.append(name)
        return await original(redis, name, *args)

    monkeypatch.setattr(RedisConnections, "evaluate", evaluate)
    return found


async def test_a_push_to_many_gates_is_one_transaction(backend: RedisBackend, called: list[str]) -> None:
    await backend.push([gated(f"k{n}", Bounds(cap=1), expires_at=LEASE) for n in range(1_200)])
    assert called == ["gates_read", "commit"]
    assert await backend.count_ready(LATER) == 1_200


async def test_a_sweep_goes_on_with_what_a_push_has_left(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(now: int, limit: int) -> None:
        return None

    monkeypatch.setattr(gate_rows, "MOST_PASSING", 600)
    with monkeypatch.context() as patch:
        patch.setattr(backend.gates, "admit", dies)
        await backend.push([gated(f"k{n}", Bounds(cap=1)) for n in range(1_100)])
    passed = await backend.count_ready(LATER)
    assert 600 <= passed < 1_100
    assert await backend.gates.admit(LATER, 1_100) is None
    assert await backend.count_ready(LATER) == 1_100


async def test_a_push_to_too_many_gates_is_refused(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_backend, "MOST_GATED", 2)
    with pytest.raises(ValidationError, match=r"3 tasks at once.* more than the 2 "):
        await backend.push([gated("g", Bounds(cap=1)) for _ in range(3)])
    assert await backend.find(TaskFilter(), 10) == []


async def test_a_gate_that_lets_many_pass_does_so_in_parts(backend: RedisBackend, called: list[str]) -> None:
    await backend.push([gated("g", Bounds(cap=1)) for _ in range(5_200)])
    called.clear()
    await backend.gates.change("g", GateChange(bounds={"cap": 10_000}), LATER)
    assert called.count("commit") == 2
    assert await backend.count_ready(LATER) == 5_200


async def test_a_pause_parks_in_parts(backend: RedisBackend, called: list[str]) -> None:
    await backend.push([gated(f"k{n}", Bounds(cap=2)) for n in range(500) for _ in range(3)])
    called.clear()
    await backend.set_paused("default", True)
    assert called.count("commit") == 4
    assert [(each.held, each.waiting) for each in await backend.gates.find()] == [(0, 3)] * 500
    await backend.set_paused("default", False)
    assert await backend.gates.admit(LATER, 500) is None
    assert [(each.held, each.waiting) for each in await backend.gates.find()] == [(2, 1)] * 500


async def test_mending_parks_what_a_pause_that_was_cut_off_has_left(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(gates: Gates, queue: str, paused: bool) -> None:
        return None

    first, second = gated("g", Bounds(cap=1), queue="paused"), gated("g", Bounds(cap=1))
    await backend.push([first, second])
    monkeypatch.setattr(Gates, "pause", dies)
    await backend.set_paused("paused", True)
    monkeypatch.undo()
    await backend.gates.mend(LATER)
    assert await backend.gates.admit(LATER, 10) is None
    (task,) = await backend.claim("o", LATER, 10, lease_until=LEASE)
    assert task.task_id == second.task_id
    assert await backend.gates.mend(LATER) == 0


async def test_deleting_many_is_done_in_parts(backend: RedisBackend, called: list[str]) -> None:
    tasks = [gated("g", Bounds(cap=1)) for _ in range(1_100)]
    await backend.push(tasks)
    called.clear()
    assert await backend.delete([task.task_id for task in tasks]) == 1_100
    assert called.count("commit") == 2


async def test_rows_that_differ_pass_a_gate_together_and_are_claimed_as_they_are(backend: RedisBackend) -> None:
    bounds = Bounds(cap=20)
    first = [gated("a", bounds) for _ in range(20)]
    await backend.push(first)
    held = await backend.claim("o", NOW, 20, lease_until=LEASE)
    others = [
        gated("a", bounds),
        gated("a", bounds, queue="another"),
        gated("a", bounds, fence=3),
        gated("a", bounds, cancel_requested=True),
        gated("a", bounds, expires_at=LEASE),
        gated("a", bounds, type="another"),
        gated("a", bounds, unique_key="u"),
        gated("a", bounds, priority=-1),
        gated("a", bounds).replace(due_at=7),
        gated("a", Bounds(cap=20, window=20)),
        parked(new(flow=Flow(gates=(("a", bounds),), group="g"), seq=next(_seqs)), NOW),
        gated("a", bounds),
    ]
    await backend.push(others)
    changes = [Change(task, settle(task, Completed(), LATER)) for task in held]
    flags, claimed = await backend.exchange(changes, Claim("o", LATER, 20, lease_until=LEASE))
    assert flags == [True] * 20
    stored = {task.task_id: task for task in await backend.get([task.task_id for task in others]) if task is not None}
    assert {task.task_id: task for task in claimed} == stored
    for task in others:
        run_at = LATER if task.flow is not None and task.flow.gates[0][1].window else task.due_at
        assert stored[task.task_id] == task.replace(
            status=Status.RUNNING, fence=task.fence + 1, run_at=run_at, due_at=None, lease_owner="o",
            lease_until=LEASE, began_at=LATER, started_at=LATER // SECOND,
        )  # fmt: skip


async def test_many_changes_without_gates_need_no_code_of_gates(backend: RedisBackend, called: list[str]) -> None:
    await backend.push([new() for _ in range(240)])
    first = await backend.claim("o", NOW, 120, lease_until=LEASE)
    called.clear()
    held, second = await backend.exchange(
        [Change(task, settle(task, Completed(), NOW)) for task in first], Claim("o", NOW, 120, lease_until=LEASE)
    )
    assert all(held)
    assert all(await backend.update([Change(task, settle(task, Completed(), NOW)) for task in second]))
    assert called == ["exchange", "exchange"]


async def test_the_last_of_many_changes_meets_a_row_that_has_got_gates(
    backend: RedisBackend, called: list[str]
) -> None:
    """Its reader knew the row before it was pushed again; the script that meets it has written nothing yet."""
    await backend.push([new() for _ in range(120)])
    *others, last = await backend.claim("o", NOW, 120, lease_until=LEASE)
    await backend.delete([last.task_id])
    again = gated("g", Bounds(cap=1), task_id=last.task_id, fence=last.fence - 1)
    await backend.push([again])
    (claimed,) = await backend.claim("o", NOW, 1, lease_until=LEASE)
    assert (claimed.task_id, claimed.fence) == (last.task_id, last.fence)
    called.clear()
    held, _ = await backend.exchange(
        [Change(task, settle(task, Completed(), NOW)) for task in (*others, last)],
        Claim("o", NOW, 1, lease_until=LEASE),
    )
    assert all(held)
    assert (called[0], called[-1]) == ("exchange", "commit")  # which claims, too
    assert called.count("exchange") == 1
    assert (await backend.stats(NOW)).counts["completed"] == 120
    assert [(each.held, each.waiting) for each in await backend.gates.find()] == [(0, 0)]
