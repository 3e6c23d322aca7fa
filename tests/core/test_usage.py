"""Sums of what is used up: what is refused, and that reports may be repeated, late and out of order."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.gate import Bounds, Flow, group_of_budget
from aiotaskq.core.outcome import HandedBack, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import Task
from aiotaskq.core.usage import MAX_NAMES, MAX_SUM, Usage, added, checked_budget, is_used_up, risen, summed

amounts = st.dictionaries(st.sampled_from("abc"), st.integers(0, 10**6) | st.floats(0, 1e6), max_size=3)


def test_a_parameter_may_have_the_name_of_the_gates_of_budgets() -> None:
    assert group_of_budget("budget:g", Bounds()) == "g"
    assert group_of_budget("budget:5", Bounds(cap=3)) is None  # as Limit(3, key="budget") makes it
    assert group_of_budget("tenant:5", Bounds()) is None


def test_decimal_fractions_add_up_as_by_hand() -> None:
    sums: Usage | None = None
    for _ in range(10):
        sums = added(sums, {"cost": 0.1, "tokens": 7})
    assert sums == {"cost": 1.0, "tokens": 70}
    assert type(added(None, {"tokens": 7})["tokens"]) is int


@pytest.mark.parametrize("wrong", [-1, -0.5, math.nan, math.inf, True, "7", None, MAX_SUM + 1, [7]])
def test_what_is_no_amount_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"^usage: tokens: a number from 0"):
        added(None, {"tokens": wrong})
    with pytest.raises(ValidationError, match=r"^budget: tokens: a number from 0"):
        checked_budget({"tokens": wrong})


def test_names_and_sums_are_bounded() -> None:
    many = {f"n{number}": 1 for number in range(MAX_NAMES)}
    assert added(None, many) == many
    with pytest.raises(ValidationError, match="names are more than"):
        added(many, {"another": 1})
    with pytest.raises(ValidationError, match="the sum of the task"):
        added({"a": MAX_SUM}, {"a": 1})
    for name in ("", "x" * 51, "a\n"):
        with pytest.raises(ValidationError):
            added(None, {name: 1})
    for wrong in (None, 5, ["tokens"]):
        with pytest.raises(ValidationError, match=r"^budget: a dict"):
            checked_budget(wrong)


@given(st.lists(amounts, min_size=1, max_size=6), st.data())
def test_reports_in_any_order_end_with_the_last_sums(spent: list[dict[str, float]], data: st.DataObject) -> None:
    reports: list[Usage] = []
    for each in spent:
        reports.append(added(reports[-1] if reports else None, each))
    stored: Usage = {}
    group: Usage = {}
    for report in data.draw(st.permutations([*reports, *reports])):
        stored, more = risen(stored, report)
        assert all(amount >= 0 for amount in more.values())
        group = summed(group, more)
    assert stored == reports[-1]
    assert group.keys() == stored.keys()
    assert all(math.isclose(group[name], stored[name], abs_tol=1e-6) for name in stored)


def test_a_budget_is_used_up_by_any_of_its_names() -> None:
    budget = checked_budget({"tokens": 10, "cost": 0.5})
    assert not is_used_up(budget, {})
    assert not is_used_up(budget, {"tokens": 9, "cost": 0.4, "calls": 1_000})
    assert is_used_up(budget, {"tokens": 10})
    assert is_used_up(budget, {"cost": 0.5})
    assert not is_used_up({}, {"tokens": 10})
    assert is_used_up({"tokens": 0}, {})


def test_a_member_keeps_its_budgets_where_a_push_gives_it_other_gates() -> None:
    budget = ("budget:g", Bounds())
    task = Task(
        task_id="1", type="t", status=Status.RUNNING, flow=Flow(gates=(budget, ("a", Bounds(cap=1))), group="g")
    )
    other = Task(task_id="1", type="t", flow=Flow(gates=(("b", Bounds(cap=2)),), weight=3))
    after = settle(task, HandedBack(other), 5)
    assert after.flow == Flow(gates=(budget, ("b", Bounds(cap=2))), weight=3, group="g")
    assert (after.parked, after.gate) == (True, "budget:g")
