"""Gates in Redis: a script costs what it moves, and what is stored stays right."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.core.gate import Bounds, Flow, GateChange
from aiotaskq.core.outcome import Cancelled, Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.rows import LEASE, NOW, new
from tests.support.servers import Valkey

_seqs = itertools.count(NOW)


def gated(key: str, bounds: Bounds, **fields: object) -> Task:
    return parked(new(flow=Flow(gates=((key, bounds),)), seq=next(_seqs), **fields), NOW)


async def test_a_script_runs_as_many_commands_however_many_rows_wait(server: Valkey, backend: RedisBackend) -> None:
    def calls() -> int:
        stats = server.ask("INFO", "commandstats")
        return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")

    async def cost() -> list[int]:
        """The number of commands of a push, a claim and an update at the gate, and of a claim beside it."""
        await backend.push([new(queue="other")])
        seen = [calls()]
        await backend.push([gated("g", Bounds(cap=2))])
        seen.append(calls())
        (task,) = await backend.claim("o", NOW + SECOND, 1, queues=["default"], lease_until=LEASE)
        seen.append(calls())
        await backend.exchange(
            [Change(task, settle(task, Completed(), NOW + SECOND))],
            Claim("o", NOW, 1, queues=["other"], lease_until=LEASE),
        )
        seen.append(calls())
        return [after - before for before, after in itertools.pairwise(seen)]

    await backend.push([gated("g", Bounds(cap=2)) for _ in range(5)])
    await cost()
    few = await cost()
    await backend.push([gated("g", Bounds(cap=2)) for _ in range(4_000)])
    assert await cost() == few
    assert await backend.count_ready(NOW) <= 2


async def test_rows_that_are_not_due_cost_nothing_whatever_their_priorities(
    server: Valkey, backend: RedisBackend
) -> None:
    def calls() -> int:
        stats = server.ask("INFO", "commandstats")
        return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")

    async def cost(first: int, count: int) -> int:
        """The number of commands of an end at the gate, after more rows were pushed that wait for their time."""
        flow = Flow(gates=(("g", Bounds(cap=1)),))
        rows = [new(flow=flow, seq=next(_seqs), priority=-n) for n in range(first, first + count)]
        await backend.push([*(parked(row, NOW + 3600 * SECOND) for row in rows), gated("g", Bounds(cap=1))])
        (task,) = await backend.claim("o", NOW + SECOND, 1, lease_until=LEASE)
        before = calls()
        assert await backend.update([Change(task, settle(task, Completed(), NOW + SECOND))]) == [True]
        return calls() - before

    await backend.push([gated("g", Bounds(cap=1)) for _ in range(3)])
    await cost(1, 1)
    few = await cost(2, 1)
    assert await cost(3, 500) == few


async def test_more_rows_than_one_call_takes_become_due_and_pass_in_order(backend: RedisBackend) -> None:
    flow, late = Flow(gates=(("g", Bounds(cap=1)),)), NOW + 3600 * SECOND
    rows = [new(flow=flow, seq=next(_seqs), priority=-n) for n in range(5_100)]
    await backend.push([parked(row, late + n) for n, row in enumerate(rows)])
    now = late + 3600 * SECOND
    while (first := await backend.gates.admit(now, 10)) is not None and first <= now:
        assert await backend.count_ready(now) == 0
    (task,) = await backend.claim("o", now, 9, lease_until=LEASE)
    assert task.task_id == rows[-1].task_id


async def test_gates_where_nothing_waits_are_not_looked_at(server: Valkey, backend: RedisBackend) -> None:
    def calls() -> int:
        stats = server.ask("INFO", "commandstats")
        return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")

    async def cost(gates: int) -> int:
        """The number of commands of an update that ends a task at each gate."""
        await backend.push([gated(f"k{n}", Bounds(cap=1)) for n in range(gates)])
        tasks = await backend.claim("o", NOW + SECOND, gates, lease_until=LEASE)
        before = calls()
        assert await backend.update([Change(task, settle(task, Completed(), NOW + SECOND)) for task in tasks])
        return calls() - before

    await cost(1)  # the server loads the scripts
    assert await cost(40) == await cost(80)


async def test_mending_drops_the_slot_of_a_row_that_another_program_deleted(
    server: Valkey, backend: RedisBackend, prefix: str
) -> None:
    first, second = gated("g", Bounds(cap=1)), gated("g", Bounds(cap=1))
    await backend.push([first, second])
    assert await backend.gates.mend(NOW) == 0
    server.ask("HDEL", f"{{{prefix}}}:state", first.task_id)
    assert await backend.gates.mend(NOW) == 1
    assert await backend.gates.admit(NOW + SECOND, 10) is None
    (task,) = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert task.task_id == second.task_id
    assert task.flow == Flow(gates=(("g", Bounds(cap=1)),))


async def test_a_damaged_row_passes_its_gate_and_gives_its_slot_back(
    server: Valkey, backend: RedisBackend, prefix: str
) -> None:
    first, second = gated("g", Bounds(cap=1)), gated("g", Bounds(cap=1), retry_count=2)
    await backend.push([first, second])
    stored = server.ask("HGET", f"{{{prefix}}}:state", second.task_id)
    damaged = stored.replace(b'"retry_count":2', b'"retry_count":{')
    assert damaged != stored
    server.ask("HSET", f"{{{prefix}}}:state", second.task_id, damaged)
    (task,) = await backend.claim("o", NOW + SECOND, 2, lease_until=LEASE)
    assert await backend.update([Change(task, settle(task, Completed(), NOW + SECOND))]) == [True]
    (task,) = await backend.claim("o", NOW + SECOND, 2, lease_until=LEASE)
    assert (task.task_id, task.flow, task.undecodable is None) == (second.task_id, second.flow, False)
    failed = task.replace(status=Status.FAILED, error_message="undecodable", ended_at=NOW + SECOND)
    assert await backend.update([Change(task, failed)]) == [True]
    (state,) = await backend.gates.find(["g"])
    assert (state.held, state.waiting) == (0, 0)


@pytest.mark.parametrize("exchanges", [False, True])
@pytest.mark.parametrize("runs", [False, True])
async def test_a_reader_who_knows_no_gates_of_a_row_frees_its_slot(
    backend: RedisBackend, runs: bool, exchanges: bool
) -> None:
    async def read() -> Task:
        task = (await backend.get([old.task_id]))[0] if not runs else None
        return task or (await backend.claim("o", NOW, 1, lease_until=LEASE))[0]

    old = new(seq=next(_seqs))
    await backend.push([old])
    known = await read()
    # Another program deletes the task and pushes it again with a gate: the guard of the change cannot tell.
    await backend.delete([old.task_id])
    again, second = gated("g", Bounds(cap=1), task_id=old.task_id), gated("g", Bounds(cap=1))
    await backend.push([again, second])
    await read()
    change = Change(known, settle(known, Completed() if runs else Cancelled(), NOW))
    if exchanges:
        assert (await backend.exchange([change], Claim("o", NOW, 1, lease_until=LEASE)))[0] == [True]
    else:
        assert await backend.update([change]) == [True]
    await backend.gates.admit(NOW, 10)
    (state,) = await backend.gates.find(["g"])
    assert (state.held, state.waiting) == (1, 0)
    assert second.task_id in {task.task_id for task in await backend.find(TaskFilter(), 10) if not task.parked}


async def test_a_rate_of_an_operator_counts_what_has_passed_before(backend: RedisBackend) -> None:
    await backend.push([gated("g", Bounds(cap=9)) for _ in range(2)])
    rate = {"interval": SECOND, "burst": 2}
    for now in (NOW + SECOND, NOW + 2 * SECOND):  # two that have not started are as many as may start at once
        assert (await backend.gates.change("g", GateChange(bounds=rate), now)).tat == now + 2 * SECOND
    await backend.claim("o", NOW + 2 * SECOND, 1, lease_until=LEASE)
    assert (await backend.gates.change("g", GateChange(), NOW + 9 * SECOND)).tat == NOW + 10 * SECOND
    await backend.gates.change("g", GateChange(bounds={"interval": None}, declared=True), NOW + 9 * SECOND)
    await backend.claim("o", NOW + 9 * SECOND, 1, lease_until=LEASE)
    # What started before there was a rate again takes no tokens.
    assert (await backend.gates.change("g", GateChange(bounds=rate), NOW + 20 * SECOND)).tat == NOW + 10 * SECOND


async def test_a_transaction_decides_anew_where_a_gate_has_changed_since_it_was_read(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    original = RedisConnections.evaluate

    async def evaluate(redis: RedisConnections, name: str, *args: Any) -> Any:
        nonlocal commits
        commits += name == "commit"
        if name == "commit" and commits == 1:
            await other.push([gated("g", Bounds(cap=1))])
        return await original(redis, name, *args)

    other = backend.another()
    await other.open()
    monkeypatch.setattr(RedisConnections, "evaluate", evaluate)
    await backend.push([gated("g", Bounds(cap=1))])
    await other.close()
    assert commits == 3
    assert await backend.count_ready(NOW + SECOND) == 1
    assert [(each.held, each.waiting) for each in await backend.gates.find()] == [(1, 1)]


async def test_mending_counts_what_waits_anew(server: Valkey, backend: RedisBackend, prefix: str) -> None:
    rows = [gated("g", Bounds(cap=1)) for _ in range(3)]
    await backend.push(rows)
    server.ask("HDEL", f"{{{prefix}}}:state", rows[1].task_id)
    (task,) = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert await backend.update([Change(task, settle(task, Completed(), NOW + SECOND))]) == [True]
    await backend.gates.mend(NOW + SECOND)
    assert [(each.held, each.waiting) for each in await backend.gates.find()] == [(1, 0)]
    (last,) = await backend.claim("o", NOW + SECOND, 10, lease_until=LEASE)
    assert last.task_id == rows[2].task_id
