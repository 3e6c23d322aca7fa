"""The rule of debounced pushes: what the task that holds the key becomes by a newer call."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.edit import Debounce, after_call, call_key, joined, throttle_key
from aiotaskq.core.gate import Bounds, Flow
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Attempt, Task
from aiotaskq.errors import TaskConflict, ValidationError

NOW = 1_750_000_000 * SECOND
gaps = st.lists(st.integers(0, 10 * SECOND), max_size=12)


def waits(**fields: Any) -> Task:
    values = {"task_id": "1", "type": "t", "created_at": NOW // SECOND, "seq": NOW, "run_at": NOW, "unique_key": "k"}
    return Task(**{**values, **fields})


@given(gaps, st.integers(0, 5 * SECOND), st.none() | st.integers(0, 20 * SECOND))
def test_it_is_due_after_a_pause_or_after_max_wait(gaps: list[int], delay: int, more: int | None) -> None:
    rule = Debounce(delay, None if more is None else delay + more)
    row, now, calls = waits(run_at=NOW + delay), NOW, [NOW]
    for number, gap in enumerate(gaps, 1):
        now += gap
        if now > row.run_at:
            break  # it may have been claimed
        row = after_call(row, waits(task_id="2", params={"n": number}), rule, now)
        calls.append(now)
        assert row.params == {"n": number} and row.task_id == "1" and row.fence == number
        assert row.run_at == min(now + delay, NOW + delay + more if more is not None else now + delay)
        assert now <= row.run_at


@given(st.integers(0, 100 * SECOND), st.integers(0, 10 * SECOND))
def test_calls_do_not_bring_a_retry_forward_by_more_than_the_pause(put_off: int, delay: int) -> None:
    run = Attempt(number=1)
    row = waits(run_at=NOW + 60 * SECOND + put_off, attempts=(run,), retry_count=1, crashes=1, error_message="e")
    after = after_call(row, waits(task_id="2"), Debounce(delay, max_wait=delay), NOW + 60 * SECOND)
    assert after.run_at == min(row.run_at, NOW + 60 * SECOND + delay)
    assert (after.retry_count, after.crashes, after.attempts, after.error_message) == (1, 1, (run,), "e")


@given(st.lists(st.lists(st.integers(), max_size=4), min_size=1, max_size=6))
def test_lists_are_joined_and_nothing_else(lists: list[list[int]]) -> None:
    params: dict[str, Any] = {"n": [], "m": 0, "gone": 1}
    for number, part in enumerate(lists, 1):
        params = joined(params, {"n": part, "m": number})
    assert params == {"n": [n for part in lists for n in part], "m": len(lists)}


def test_a_task_that_runs_gives_its_key_up() -> None:
    row = waits(status=Status.RUNNING)
    assert after_call(row, waits(task_id="2", params={"n": 1}), Debounce(1), NOW) == row.replace(unique_key=None)


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"type": "other"}, "is of type 'other'"), ({"undecodable": "params is not JSON"}, "params is not JSON")],
)
def test_a_task_that_is_not_a_call_of_the_key_is_not_changed(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(TaskConflict, match=text):
        after_call(waits(**fields), waits(task_id="2"), Debounce(1), NOW)


def test_a_push_stamp_that_was_ahead_of_the_clock_does_not_put_it_off() -> None:
    row = waits(seq=NOW + 3_600 * SECOND)
    assert after_call(row, waits(task_id="2"), Debounce(SECOND, SECOND), NOW + SECOND).run_at == NOW + SECOND


def test_a_clock_that_was_set_back_does_not_put_it_off() -> None:
    row, rule, now = waits(), Debounce(2 * SECOND, 5 * SECOND), NOW - 3_600 * SECOND
    row = row.replace(run_at=now + 2 * SECOND)  # moved by the step
    for _ in range(3):
        now += SECOND // 2
        row = after_call(row, waits(task_id="2"), rule, now)
    assert row.run_at == NOW - 3_598 * SECOND


def test_a_task_with_gates_is_parked_until_it_is_due() -> None:
    flow, other = Flow(gates=(("a", Bounds(1)), ("b", Bounds(1)))), Flow(gates=(("c", Bounds(1)),))
    row = waits(flow=flow, gate="b")
    after = after_call(row, waits(task_id="2", flow=flow), Debounce(SECOND), NOW)
    assert (after.parked, after.gate, after.due_at) == (True, "a", NOW + SECOND)
    after = after_call(after, waits(task_id="3", flow=other), Debounce(SECOND), NOW + 5)
    assert (after.gate, after.flow, after.due_at) == ("c", other, NOW + 5 + SECOND)
    after = after_call(after, waits(task_id="4"), Debounce(SECOND), NOW + 6)
    assert (after.gate, after.flow, after.due_at, after.run_at) == (None, None, None, NOW + 6 + SECOND)


def test_a_key_is_the_given_one_or_made_of_the_params_or_the_type() -> None:
    assert call_key("t", "k", {}) == call_key("t", lambda params: params["id"], {"id": "k"}) == "t:k"
    assert call_key("t", lambda params: params.get("id"), {}) == "t:null"
    assert call_key("t", None, {"a": 1, "b": 2}) == call_key("t", None, {"b": 2, "a": 1}) != call_key("t", None, {})
    assert call_key("t", None, {"a": 1}, whole=True) == call_key("t", None, {}, whole=True) == "t:"
    assert throttle_key("t:k", 60, 119) == throttle_key("t:k", 60, 60) != throttle_key("t:k", 60, 120)
    with pytest.raises(ValidationError, match="give a 'key' that is a string"):
        call_key("t", None, {"a": object()})
