"""Redis: which tasks hold the slots of a gate, and rows whose states are alike."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from aiotaskq.backends.base import Change, Claim
from aiotaskq.backends.redis.backend import RedisBackend
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.outcome import Completed, Failed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import SECOND, Task
from tests.support.rows import LEASE, NOW, new
from tests.support.servers import Valkey

_seqs = itertools.count(NOW)


CAP = Bounds(cap=99)


def gated(key: str = "g", bounds: Bounds = CAP, **fields: object) -> Task:
    return parked(new(flow=Flow(gates=((key, bounds),)), seq=next(_seqs), **fields), NOW)


async def held(backend: RedisBackend, key: str = "g") -> list[str]:
    (state,) = await backend.gates.find([key])
    ids, _ = await backend.gates.tasks(key, 100)
    assert len(ids) == state.held
    return sorted(ids)


async def end(backend: RedisBackend, tasks: Sequence[Task]) -> None:
    changes = [Change(task, settle(task, Completed(), NOW + SECOND)) for task in tasks]
    assert all(await backend.update(changes))


@pytest.mark.parametrize("counts", [(1, 2), (8,), (9,), (3, 5, 1), (7, 2), (20, 1)])
async def test_the_slots_of_a_gate_are_those_of_its_tasks(
    counts: Sequence[int], backend: RedisBackend, server: Valkey, prefix: str
) -> None:
    await backend.push([gated(key) for key in ("", "g:", "gg", "1:g")])  # their slots are beside those of g
    for _ in range(2):
        pushed: list[str] = []
        for count in counts:
            rows = [gated(queue="q") for _ in range(count)]
            await backend.push(rows)
            pushed += [row.task_id for row in rows]
            assert await held(backend) == sorted(pushed)
        while tasks := await backend.claim("w", NOW + SECOND, 3, queues=["q"], lease_until=LEASE):
            await end(backend, tasks)
            pushed = [task_id for task_id in pushed if task_id not in {task.task_id for task in tasks}]
            assert await held(backend) == sorted(pushed)
        assert pushed == []
    await backend.gates.mend(NOW + SECOND)
    assert not server.ask("HEXISTS", f"{{{prefix}}}:gates", "g")
    assert server.ask("ZCARD", f"{{{prefix}}}:slots") == 4


async def test_an_id_of_two_lines_holds_one_slot(backend: RedisBackend) -> None:
    await backend.push([gated(task_id="one")])
    await backend.push([gated(task_id="two\nlines")])
    assert await held(backend) == ["one", "two\nlines"]
    await end(backend, await backend.claim("w", NOW + SECOND, 3, lease_until=LEASE))
    assert await held(backend) == []


async def test_a_retry_gives_its_slot_back_and_takes_it_again(backend: RedisBackend) -> None:
    first, second = gated(bounds=Bounds(cap=1), max_retries=3), gated(bounds=Bounds(cap=1))
    await backend.push([first, second])
    (task,) = await backend.claim("w", NOW + SECOND, 2, lease_until=LEASE)
    assert await held(backend) == [first.task_id]
    assert await backend.update([Change(task, settle(task, Failed("no"), NOW + SECOND))]) == [True]
    assert await held(backend) == [second.task_id]
    await end(backend, await backend.claim("w", NOW + SECOND, 2, lease_until=LEASE))
    (again,) = await backend.get([first.task_id])
    assert again is not None
    await backend.gates.admit(again.due_us, 10)
    assert await held(backend) == [first.task_id]


@pytest.mark.parametrize("ends", ["update", "exchange"])
async def test_many_gates_take_as_many_commands_as_few(server: Valkey, backend: RedisBackend, ends: str) -> None:
    def calls() -> int:
        stats = server.ask("INFO", "commandstats")
        return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")

    async def cost(count: int) -> int:
        before = calls()
        await backend.push([gated(f"k{n}", Bounds(cap=2)) for n in range(count)])
        tasks = await backend.claim("w", NOW + SECOND, count, lease_until=LEASE)
        if ends == "update":
            await end(backend, tasks)
        else:
            changes = [Change(task, settle(task, Completed(), NOW + SECOND)) for task in tasks]
            assert all((await backend.exchange(changes, Claim("w", NOW + SECOND, count, lease_until=LEASE)))[0])
        return calls() - before

    await cost(40)  # the server loads the scripts, and the gates are new
    assert await cost(10) == await cost(40)


async def test_rows_of_states_of_one_length_are_not_taken_for_one_another(backend: RedisBackend) -> None:
    rows = [
        gated(key, Bounds(cap=cap), queue=queue, priority=priority, type=name, fence=fence)
        for queue in ("q1", "q2")
        for priority in (1, 2)
        for fence in (0, 1)
        for key, cap, name in (("g1", 6, "abc"), ("g2", 7, "abd"), ("g33", 8, "a"))
    ]
    random.Random(1).shuffle(rows)
    for row in rows:  # one at a time: rows of a gate have several lanes
        await backend.push([row])
    known = {row.task_id: row for row in rows}
    done, tasks = 0, await backend.claim("w", NOW + SECOND, 5, lease_until=LEASE)
    while tasks:
        done += len(tasks)
        for task in tasks:
            row = known[task.task_id]
            assert (task.flow, task.gate, task.queue, task.type) == (row.flow, row.gate, row.queue, row.type)
            assert (task.priority, task.seq, task.run_at, task.due_at) == (row.priority, row.seq, NOW, None)
            assert task.fence == row.fence + 1
        changes = [Change(task, settle(task, Completed(), NOW + SECOND)) for task in tasks]
        all_held, tasks = await backend.exchange(changes, Claim("w", NOW + SECOND, 5, lease_until=LEASE))
        assert all(all_held)
    assert done == len(rows)
    for key in ("g1", "g2", "g33"):
        assert await held(backend, key) == []
    stats = await backend.stats(NOW + SECOND)
    assert stats.queues == {queue: {"completed": 12} for queue in ("q1", "q2")}
