"""A visit of a gate: others pass in place of tasks that another transaction has locked."""

from __future__ import annotations

from aiotaskq.backends.flow.gates import Visit, independent
from aiotaskq.core.gate import Bounds, Gate, read_ahead
from aiotaskq.core.task import Task
from tests.support.gated import CAP_1, CAP_2, gated
from tests.support.rows import NOW, ids


def visit_of(key: str, bounds: Bounds) -> Visit:
    gate = Gate(key=key, bounds=bounds)
    return Visit(gate, 0, read_ahead(gate, NOW))


def test_the_next_task_passes_in_place_of_a_locked_one() -> None:
    first, locked, third, last = (gated(("g", CAP_2), ("wide", CAP_2)) for _ in range(4))
    visit = visit_of("g", CAP_2)
    visit.decide([first, locked, third], NOW)
    assert ids(visit.passing) == ids([first, locked])
    assert visit.note_passed({first.task_id})
    assert visit.locked == {locked.task_id}
    visit.decide([third, last], NOW)
    assert ids(visit.passing) == [third.task_id]
    assert not visit.note_passed({third.task_id})
    assert ids(visit.passed) == ids([first, third])
    assert visit.next_gates == ["wide", "wide"]


def test_a_locked_task_takes_no_tokens() -> None:
    rate = Bounds(interval=10, burst=5)
    locked, other = gated(("g", rate), weight=5), gated(("g", rate), weight=1)
    visit = visit_of("g", rate)
    visit.decide([locked, other], NOW)
    assert visit.note_passed(set())
    visit.decide([other], NOW)
    assert ids(visit.passing) == [other.task_id]
    assert visit.gate.tat == NOW + 10


def test_a_gate_to_which_a_visit_lets_a_task_pass_is_visited_when_the_task_is_there() -> None:
    def visited(key: str, task: Task) -> Visit:
        visit = visit_of(key, CAP_1)
        visit.decide([task], NOW)
        return visit

    wide = ("wide", CAP_1)
    visits = [visited("a", gated(("a", CAP_1), wide)), visited("b", gated(("b", CAP_1)))]
    visits += [visited("wide", gated(wide)), visited("c", gated(("c", CAP_1)))]
    assert visits[0].next_gates == ["wide"]
    assert [visit.key for visit in independent(visits)] == ["a", "b"]
