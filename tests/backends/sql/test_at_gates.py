"""What a database is told of pushes and ends at gates, and what a claim makes of rows, where flows alternate."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aiotaskq.backends.base import Change
from aiotaskq.backends.sql.at_gates import ending, entering
from aiotaskq.backends.sql.rows import CLAIM, claimed, json_text, new_rows
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.outcome import Completed, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.task import Status, Task
from tests.support.rows import LEASE, NOW, new

CAPPED, FAIR = Flow(gates=(("a", Bounds(cap=2)),)), Flow(gates=(("b", Bounds(window=3)),))
TWO = Flow(gates=(("a", Bounds(cap=2)), ("b", Bounds(cap=2))))
FLOWS = [CAPPED, FAIR, None, CAPPED, CAPPED, FAIR]


def pushed(flows: list[Flow | None]) -> list[Task]:
    tasks = [new(flow=flow) for flow in flows]
    return [task if task.flow is None else parked(task, task.seq) for task in tasks]


def ended(flows: list[Flow | None]) -> list[Change]:
    running = {"status": Status.RUNNING, "fence": 1, "lease_owner": "w", "lease_until": LEASE, "began_at": NOW}
    tasks = [new(flow=flow, **running) for flow in flows]
    return [Change(task, settle(task, Completed(), NOW + number)) for number, task in enumerate(tasks)]


def test_a_push_ranks_the_tasks_of_each_gate() -> None:
    asked = entering(pushed(FLOWS))
    assert asked is not None
    assert asked.ranks == [1, 1, None, 2, 3, 2]
    assert asked.shared == [False, True, False, False, False, True]
    assert [gate["key"] for gate in msgspec.json.decode(asked.gates)] == ["a", "b"]


def test_an_end_frees_the_slots_of_each_gate() -> None:
    asked = ending(ended(FLOWS))
    assert asked is not None and asked.at == NOW + len(FLOWS) - 1
    gates = msgspec.json.decode(asked.gates)
    assert [(gate["key"], gate["shared"]) for gate in gates] == [("a", False), ("b", True)]
    assert [msgspec.json.decode(gate["flow"], type=Flow) for gate in gates] == [CAPPED, FAIR]
    assert asked.bounds == {"a": Bounds(cap=2), "b": Bounds(window=3)}


@pytest.mark.parametrize("flows", [[TWO], [CAPPED, TWO], [CAPPED, CAPPED, TWO]])
def test_a_flow_of_several_gates_is_left_to_the_admission(flows: list[Flow | None]) -> None:
    assert entering(pushed(flows)) is None
    assert ending(ended(flows)) is None


def test_a_task_at_another_gate_than_that_of_its_flow_is_left_to_the_admission() -> None:
    first, second = pushed([CAPPED, CAPPED])
    assert entering([first, second]) is not None
    assert entering([first, second.replace(gate="b")]) is None


def test_each_claimed_task_has_its_own_flow() -> None:
    flows = [CAPPED, None, FAIR, CAPPED, TWO, None]
    tasks = pushed(flows)
    names, values = new_rows(tasks)
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in values]
    rows[3]["flow"] = "{"
    found = claimed([[row[name] for name in CLAIM] + [None] for row in rows], Task(task_id="", type=""))
    assert [task.flow for task in found] == [CAPPED, None, FAIR, None, TWO, None]
    assert [task.gate for task in found] == ["a", None, "b", None, "b", None]
    assert [task.undecodable is not None for task in found] == [False, False, False, True, False, False]
    assert [task.task_id for task in found] == [task.task_id for task in tasks]


def test_one_flow_of_many_tasks_is_read_once() -> None:
    text = json_text(CAPPED)
    row = ["id", "t", None, 0, 0, 3, 0, "default", NOW, NOW, None, text, 1, None]
    first, second = claimed([row, row], Task(task_id="", type=""))
    assert first.flow is second.flow and first.flow == CAPPED
