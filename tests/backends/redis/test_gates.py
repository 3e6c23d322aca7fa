"""Gates in Redis: the rule in Lua is that of the core, and a script costs what it moves."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiotaskq.backends.base import Change
from aiotaskq.backends.redis import scripts
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.backends.redis.connection import RedisConnections
from aiotaskq.backends.redis.scripts import FOLDER, Script
from aiotaskq.core.gate import Bounds, Flow, Gate, GateChange, Starts, admit
from aiotaskq.core.outcome import Cancelled, Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.rows import LEASE, NOW, new
from tests.support.servers import Valkey

_seqs = itertools.count(NOW)
small = st.integers(0, 5)
instants = st.integers(NOW - 20 * SECOND, NOW + 20 * SECOND)
bounds = st.builds(
    Bounds,
    cap=st.none() | small,
    window=st.none() | small,
    interval=st.none() | st.integers(1, 5 * SECOND),
    burst=st.integers(1, 5),
    max_waiting=st.none() | small,
)
weights = st.lists(st.integers(1, 7), max_size=6)
gates = st.builds(Gate, key=st.just("g"), bounds=bounds, tat=st.just(0) | instants, closed_until=st.just(0) | instants)
RULE = """
local rule, answer = gate_rule(), {}
for i = 1, #ARGV, 6 do
  local gate, now = rule.parse_gate(ARGV[i]), tonumber(ARGV[i + 3])
  rule.charge(gate, {unstarted = tonumber(ARGV[i + 2]), started = cjson.decode(ARGV[i + 5])}, now)
  local count = rule.admit(gate, tonumber(ARGV[i + 1]), now, cjson.decode(ARGV[i + 4]))
  rule.set_bounds(gate, gate.bounds, now)
  answer[#answer + 1] = count .. ' ' .. rule.gate_text(gate)
end
return answer
"""


def text(gate: Gate) -> str:
    """The gate as it is stored."""
    next_at = "-" if gate.next_at is None else gate.next_at
    bounds = msgspec.json.encode(gate.bounds).decode()
    return f"{gate.tat} {gate.closed_until} {next_at} {gate.charged_until} {int(gate.fixed)} {bounds}"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cases=st.lists(
        st.tuples(gates, small, st.integers(0, 8), instants, weights, st.lists(st.tuples(instants, small), max_size=4)),
        min_size=10,
        max_size=50,
    )
)
def test_the_rule_in_lua_is_that_of_the_core(
    server: Valkey, cases: list[tuple[Gate, int, int, int, list[int], list[tuple[int, int]]]]
) -> None:
    source = (FOLDER / "include" / "gate.lua").read_text() + RULE
    words, expected = [], []
    for gate, held, unstarted, now, waiting, started in cases:
        latest_first = [word for at, tokens in sorted(started, reverse=True) for word in (tokens, at)]
        lists = json.dumps(waiting), json.dumps(latest_first)
        words += [text(gate), *map(str, (held, unstarted, now)), *lists]
        count, after = admit(gate, held, Starts(unstarted, started), now, waiting)
        expected.append(f"{count} {text(after)}")
    found = server.ask("EVAL", source, 0, *words)
    assert [each.decode() for each in found] == expected


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
            [Change(task, settle(task, Completed(), NOW + SECOND))], "o", NOW, 1, queues=["other"], lease_until=LEASE
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
    while await backend.gates.admit(now, 10) == 0:
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
    assert await cost(10) == await cost(40)


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


async def test_who_knows_no_gates_calls_scripts_without_them(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Script] = []
    original = RedisConnections.evaluate

    async def evaluate(redis: RedisConnections, script: Script, *args: Any) -> Any:
        called.append(script)
        return await original(redis, script, *args)

    monkeypatch.setattr(RedisConnections, "evaluate", evaluate)
    for plain, row in ((True, new), (False, lambda **fields: gated("g", Bounds(cap=9), **fields))):
        called.clear()
        await backend.push([row(unique_key=f"u{plain}"), row()])
        first, second = await backend.claim("o", NOW + SECOND, 2, lease_until=LEASE)
        assert await backend.update([Change(first, settle(first, Completed(), NOW + SECOND))]) == [True]
        change = Change(second, settle(second, Completed(), NOW + SECOND))
        assert (await backend.exchange([change], "o", NOW, 1, lease_until=LEASE))[0] == [True]
        assert (called[0] is scripts.PUSH, called[2] is scripts.UPDATE, called[3] is scripts.EXCHANGE) == (plain,) * 3
        assert any(script.with_gates for script in called) is plain


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
        assert (await backend.exchange([change], "o", NOW, 1, lease_until=LEASE))[0] == [True]
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
    assert (await backend.gates.change("g", GateChange(bounds=rate), NOW + 20 * SECOND)).tat == NOW + 20 * SECOND
