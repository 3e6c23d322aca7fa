"""Visits of gates: of which, and that others pass in place of tasks that another transaction has locked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aiotaskq.backends.flow import gates
from aiotaskq.backends.flow.gates import Visit
from aiotaskq.backends.flow.transaction import Waiting
from aiotaskq.backends.memory.backend import MemoryBackend
from aiotaskq.core.gate import Bounds, Gate, read_ahead
from aiotaskq.core.task import SECOND, Task, TaskFilter
from tests.support.gated import CAP_1, CAP_2, claimed, gated, settled
from tests.support.rows import NOW, ids


def visit_of(key: str, bounds: Bounds) -> Visit:
    gate = Gate(key=key, bounds=bounds)
    return Visit(gate, 0, read_ahead(gate, 0, NOW))


def before(changes: Sequence[tuple[Task, Task]]) -> list[str]:
    return ids([task for task, _ in changes])


def test_the_next_task_passes_in_place_of_a_locked_one() -> None:
    first, locked, third, last = (gated(("g", CAP_2), ("wide", CAP_2)) for _ in range(4))
    visit = visit_of("g", CAP_2)
    visit.decide(Waiting([first, locked, third]), NOW)
    assert before(visit.passing) == ids([first, locked])
    assert visit.note_passed({locked.task_id})
    assert visit.locked == {locked.task_id}
    visit.decide(Waiting([locked, third, last]), NOW)
    assert before(visit.passing) == [third.task_id]
    assert not visit.note_passed(set())
    assert before(visit.passed) == ids([first, third])
    assert visit.next_gates == ["wide", "wide"]


def test_a_locked_task_takes_no_tokens() -> None:
    rate = Bounds(interval=10, burst=5)
    locked, other = gated(("g", rate), weight=5), gated(("g", rate), weight=1)
    visit = visit_of("g", rate)
    visit.decide(Waiting([locked, other]), NOW)
    assert visit.note_passed({locked.task_id})
    visit.decide(Waiting([other]), NOW)
    assert before(visit.passing) == [other.task_id]
    assert visit.gate.tat == NOW + 10


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the gates that are visited."""
    found: list[str] = []

    def visit(gate: Gate, *args: Any) -> Visit:
        found.append(gate.key)
        return Visit(gate, *args)

    monkeypatch.setattr(gates, "Visit", visit)
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
