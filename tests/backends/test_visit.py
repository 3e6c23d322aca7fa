"""Visits of gates: of which, and that others pass in place of tasks that another transaction has locked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

from aiotaskq.backends.flow import gates
from aiotaskq.backends.flow.gates import LOCKED_RETRY
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.backends.memory.transaction import MemoryTransaction
from aiotaskq.core.gate import Bounds, Gate, GateChange
from aiotaskq.core.parking import passing_order
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.gated import CAP_1, CAP_2, claimed, counts, gated, settled, state
from tests.support.rows import NOW, ids


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The ids of the tasks that another transaction has locked, as the stores in memory shall believe."""
    found: set[str] = set()
    write = MemoryTransaction.let_pass

    def let_pass(tx: MemoryTransaction, changes: Sequence[tuple[Task, Task]]) -> Collection[str]:
        write(tx, [change for change in changes if change[0].task_id not in found])
        return found & {before.task_id for before, _ in changes}

    monkeypatch.setattr(MemoryTransaction, "let_pass", let_pass)
    return found


async def test_the_next_task_passes_in_place_of_a_locked_one(locked: set[str]) -> None:
    backend, wide = MemoryBackend(), ("wide", CAP_2)
    first, taken, third, last = tasks = [gated(("g", CAP_2), wide) for _ in range(4)]
    locked.add(taken.task_id)
    await backend.push(tasks)
    assert ids(await claimed(backend)) == ids([first, third])
    assert (await counts(backend), await counts(backend, "wide")) == ((2, 2), (2, 0))
    assert (await backend.gates.tasks("g", 10))[1] == ids([taken, last])
    # The other transaction did not see the slots that are free now.
    assert (await state(backend)).gate.next_at == NOW + LOCKED_RETRY


async def test_a_locked_task_takes_no_tokens(locked: set[str]) -> None:
    backend, rate = MemoryBackend(), Bounds(interval=10, burst=5)
    taken, other = gated(("g", rate), weight=5), gated(("g", rate), weight=1)
    locked.add(taken.task_id)
    await backend.push([taken, other])
    assert ids(await claimed(backend)) == [other.task_id]
    assert (await state(backend)).gate.tat == NOW + 10


async def test_a_locked_task_is_looked_at_again(locked: set[str]) -> None:
    backend = MemoryBackend()
    tasks = [gated() for _ in range(2)]
    locked.update(ids(tasks))
    await backend.push(tasks)
    assert await counts(backend) == (0, 2)
    locked.clear()
    assert await backend.gates.admit(NOW + SECOND, 10) is None
    assert ids(await claimed(backend)) == ids(tasks[:1])


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the gates that are visited."""
    found: list[str] = []
    let_through = gates.let_through

    def visit(gate: Gate, *args: Any) -> Any:
        found.append(gate.key)
        return let_through(gate, *args)

    monkeypatch.setattr(gates, "let_through", visit)
    return found


async def test_a_gate_to_which_a_visit_lets_a_task_pass_is_visited_when_the_task_is_there(visited: list[str]) -> None:
    backend, wide = MemoryBackend(), ("wide", CAP_2)
    first, *rest = gated(("a", CAP_1), wide), gated(("b", CAP_1)), gated(wide), gated(("c", CAP_1))
    await backend.push([first, *rest])
    assert visited == ["a", "b", "wide", "c"]
    assert ids(await claimed(backend)) == ids([first, *rest])


async def test_only_gates_at_which_tasks_wait_are_visited(visited: list[str]) -> None:
    backend = MemoryBackend()
    await backend.push([gated((key, CAP_1)) for key in ("a", "b", "b", "c")])
    assert visited == ["a", "b", "c"]
    visited.clear()
    for task in await claimed(backend):
        await settled(backend, task)
    assert visited == ["b"]


async def test_a_parked_task_is_at_its_gate_alone_and_counted_in_its_queue() -> None:
    backend = MemoryBackend()
    await backend.push([gated(("g", CAP_1), expires_at=NOW + 2 * SECOND) for _ in range(3)])
    queue = backend.queues["default"]
    assert (queue.pending(), queue.entries()) == (3, 5)  # one released, four times of expiry
    queue.advance(NOW + 3 * SECOND)
    assert (queue.pending(), len(queue.expired(NOW))) == (3, 3)
    await backend.delete([task.task_id for task in await backend.find(TaskFilter(), 10)])
    assert queue.pending() == 0


async def test_what_is_left_of_many_waiting_tasks_passes_in_its_order() -> None:
    backend = MemoryBackend()
    await backend.push([gated()])
    (running,) = await claimed(backend)
    tasks = [gated(priority=number % 3) for number in range(2_000)]
    await backend.push(tasks)
    left = sorted(tasks[::400], key=passing_order)
    await backend.delete([task.task_id for task in tasks if task not in left])
    assert await counts(backend) == (1, len(left))
    assert (await backend.gates.tasks("g", 9))[1] == ids(left)
    for task in left:
        await settled(backend, running)
        (running,) = await claimed(backend)
        assert running.task_id == task.task_id


async def test_a_task_that_is_deleted_and_pushed_again_passes_once() -> None:
    backend = MemoryBackend()
    await backend.push([gated()])
    await claimed(backend)
    first, again = tasks = [gated(), gated()]
    await backend.push(tasks)
    await backend.delete([again.task_id])
    await backend.push([again])
    await backend.gates.change("g", GateChange(bounds={"cap": 5}), NOW)
    assert ids(await claimed(backend)) == ids([first, again])
    assert (await counts(backend), backend.queues["default"].pending()) == ((3, 0), 0)
