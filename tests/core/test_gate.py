"""The rule by which gates let tasks pass: caps are kept and used, and a rate gives no more than it may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aiotaskq.core.gate import (
    Bounds,
    Flow,
    Gate,
    GateChange,
    Starts,
    admit,
    changed,
    charged,
    due_by,
    is_idle,
    set_back,
)
from aiotaskq.core.outcome import Cancelled, Completed, Failed, settle
from aiotaskq.core.parking import gates_to_admit, is_end_of_run, settled_at
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.usage import USED_UP_UNTIL


def test_a_gate_that_does_not_open_by_time_stays_closed_when_the_clock_is_set_back() -> None:
    closed = Gate(key="g", closed_until=9 * SECOND)
    assert set_back(closed, 2 * SECOND, 5 * SECOND).closed_until == 7 * SECOND
    used_up = replace(closed, closed_until=USED_UP_UNTIL)
    assert set_back(used_up, 2 * SECOND, 5 * SECOND) == used_up


def test_a_gate_that_is_due_stays_due() -> None:
    assert due_by(Gate(key="g", next_at=0), 5 * SECOND).next_at == 0
    assert due_by(Gate(key="g"), 5 * SECOND).next_at == 5 * SECOND
    assert due_by(Gate(key="g", closed_until=7 * SECOND), 5 * SECOND).next_at == 7 * SECOND


class Rated:
    """The tasks of one rate, and all their starts, by a clock that may be set back and by a real one."""

    def __init__(self, burst: int) -> None:
        self.gate = Gate(key="g", bounds=Bounds(interval=SECOND // 2, burst=burst))
        self.now = self.real = 10**15
        self.ready: list[int] = []
        self.running: list[tuple[int, int]] = []
        self.started: list[tuple[int, int]] = []
        self.back = 0

    def admit(self, weights: list[int], ran: Sequence[tuple[int, int]] = ()) -> None:
        starts = Starts(sum(self.ready), [*self.running, *ran])
        count, self.gate = admit(self.gate, 0, starts, self.now, weights)
        self.ready += weights[:count]

    def step(self, passed: int) -> None:
        self.real += max(0, passed)
        self.now += passed
        self.back -= min(0, passed)

    def notice(self) -> None:
        self.gate, self.back = set_back(self.gate, self.back, self.now), 0

    def start(self, count: int) -> None:
        for weight in self.ready[:count]:
            self.started.append((self.real, weight))
            self.running.append((self.now, weight))
        del self.ready[:count]

    def end(self, count: int) -> None:
        ran = self.running[:count]
        del self.running[:count]
        if ran:
            self.admit([], ran)

    def check(self) -> None:
        bounds = self.gate.bounds
        assert bounds.interval is not None
        for first, (begin, _) in enumerate(self.started):
            tokens = 0
            for end, weight in self.started[first:]:
                tokens += weight
                assert tokens <= (end - begin) / bounds.interval + bounds.burst


_moves = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 6_000_000)),
    st.tuples(st.just("step"), st.integers(-3_000_000, 0)),
    st.tuples(st.just("notice")),
    st.tuples(st.just("admit"), st.lists(st.integers(1, 3), max_size=6)),
    st.tuples(st.just("start"), st.integers(1, 6)),
    st.tuples(st.just("end"), st.integers(1, 6)),
    st.tuples(st.just("open"), st.booleans()),
)


@settings(max_examples=1_000)
@given(st.integers(1, 5), st.lists(_moves, max_size=40))
def test_no_window_sees_more_tokens_than_the_rate_and_its_burst(burst: int, moves: list[tuple[Any, ...]]) -> None:
    """Also where tasks start long after they have passed, and where the clock is set back, whether noticed or not."""
    rated = Rated(burst)
    for name, *values in moves:
        match name:
            case "step":
                rated.step(*values)
            case "admit":
                rated.admit([min(weight, burst) for weight in values[0]])
            case "start":
                rated.start(*values)
            case "end":
                rated.end(*values)
            case "notice":
                rated.notice()
            case "open":
                rated.gate = replace(rated.gate, closed_until=0 if values[0] else 10**16)
    rated.check()


def test_a_burst_that_started_late_is_not_saved_once_more() -> None:
    rated = Rated(burst=3)
    rated.admit([1] * 3)
    rated.step(60 * SECOND)
    rated.start(3)
    rated.admit([1] * 3)
    assert rated.ready == []
    assert rated.gate.next_at == rated.now + SECOND // 2


def test_what_starts_while_a_gate_is_closed_takes_its_tokens() -> None:
    rated = Rated(burst=3)
    rated.admit([1] * 3)
    rated.gate = replace(rated.gate, closed_until=rated.now + 60 * SECOND)
    rated.step(60 * SECOND - 1)
    rated.start(3)
    rated.end(3)
    rated.step(1)
    rated.admit([1] * 3)
    assert rated.ready == []


@pytest.mark.parametrize("noticed", [True, False])
def test_a_clock_that_is_set_back_fills_no_rate(noticed: bool) -> None:
    rated = Rated(burst=2)
    rated.admit([1] * 2)
    rated.start(2)
    rated.step(-3600 * SECOND)
    if noticed:
        rated.notice()
    rated.admit([1] * 2)
    assert rated.ready == []
    if not noticed:
        return
    rated.step(SECOND)
    rated.admit([1] * 2)
    assert rated.ready == [1, 1]  # and stands still no longer than an empty one
    rated.step(60 * SECOND)
    rated.start(2)
    rated.admit([1] * 2)
    assert rated.ready == []  # also what starts before the clock is where it was
    rated.step(-SECOND)
    rated.admit([1] * 2)
    rated.notice()
    rated.admit([1] * 2)
    assert rated.ready == []


def test_a_rate_that_was_idle_is_not_filled_by_a_step_that_is_noticed_late() -> None:
    rated = Rated(burst=2)
    rated.step(-SECOND)
    rated.admit([1] * 2)
    rated.start(2)
    rated.admit([])
    rated.notice()
    rated.admit([1] * 2)
    assert rated.ready == []


def test_a_rate_that_lets_nothing_pass_stays_as_it_is() -> None:
    """So a sweep writes no gate that is untouched."""
    full = Gate(key="g", bounds=Bounds(interval=SECOND, burst=2), tat=3 * SECOND)
    assert admit(full, 0, Starts(), 9 * SECOND, []) == (0, full)
    count, used = admit(full, 0, Starts(), 9 * SECOND, [1, 1, 1])
    assert (count, used.tat, used.next_at) == (2, 11 * SECOND, 10 * SECOND)
    assert admit(used, 0, Starts(), 9 * SECOND + 5, [1]) == (0, used)


def test_a_cap_bounds_what_a_rate_would_let_pass() -> None:
    gate = Gate(key="g", bounds=Bounds(cap=3, interval=SECOND, burst=9))
    assert admit(gate, 1, Starts(), 10**15, [1] * 9)[0] == 2


def test_a_task_with_more_tokens_than_the_burst_passes_a_full_rate_and_takes_them_all() -> None:
    now = 10**15
    count, gate = admit(Gate(key="g", bounds=Bounds(interval=SECOND, burst=2)), 0, Starts(), now, [5, 1])
    assert (count, gate.tat, gate.next_at) == (1, now + 5 * SECOND, now + 4 * SECOND)


def test_what_has_not_started_counts_for_no_more_than_the_burst() -> None:
    now = 10**15
    gate = Gate(key="g", bounds=Bounds(interval=SECOND, burst=2))
    assert charged(gate, Starts(50), now).tat == now + 2 * SECOND


def test_a_charge_and_other_bounds_count_after_the_starts_of_before() -> None:
    gate = Gate(key="g", bounds=Bounds(interval=SECOND, burst=2))
    now = 10**15
    gate = charged(gate, Starts(0, [(now, 2)]), now)
    assert gate.tat == now + 2 * SECOND
    given = changed(gate, GateChange(charge=-1), now)
    assert charged(given, Starts(0, [(now, 2)]), now).tat == now + SECOND  # charged once
    taken = changed(gate, GateChange(charge=1_000), now)
    assert charged(taken, Starts(), now).tat == now + 1_002 * SECOND
    slow = changed(gate, GateChange(bounds={"interval": 60 * SECOND}), now)
    assert charged(slow, Starts(0, [(now, 2)]), now).tat == gate.tat
    free = Gate(key="g")
    rated = changed(free, GateChange(bounds={"interval": SECOND}), now)
    assert charged(rated, Starts(0, [(now, 2)]), now).tat <= now  # started before there was a rate


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(1, 10**6), st.booleans())
def test_a_step_of_the_clock_stops_a_rate_no_longer_than_an_empty_one(
    burst: int, before: int, after: int, steps: int, waits: bool
) -> None:
    """``before`` and ``after`` tasks wanted to pass before the step, and after it until it was noticed."""
    now, back = 10**15, steps * SECOND
    gate = Gate(key="g", bounds=Bounds(interval=SECOND, burst=burst), closed_until=now + SECOND if waits else 0)
    _, gate = admit(gate, 0, Starts(), now, [1] * before)
    _, gate = admit(gate, 0, Starts(), now - back, [1] * after)
    gate = set_back(gate, back, now - back)
    assert gate.closed_until == (now - back + SECOND if waits else 0)
    assert gate.next_at is None or gate.next_at <= now - back
    assert admit(gate, 0, Starts(), now - back + burst * SECOND, [1])[0] == 1
    charged = changed(gate, GateChange(charge=100_000), now)
    assert set_back(charged, back, now - back).tat == charged.tat - back


@given(
    st.sampled_from(("cap", "window")),
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=40),
)
def test_a_cap_is_never_exceeded_and_always_used(name: str, most: int, steps: list[tuple[int, int]]) -> None:
    gate, held = Gate(key="g", bounds=Bounds(**{name: most})), 0
    for ended, waiting in steps:
        held -= min(held, ended)
        count, gate = admit(gate, held, Starts(), 0, [1] * waiting)
        held += count
        assert held <= most
        assert held == most or count == waiting
        assert gate.next_at is None  # the end of a task lets the next one pass


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 20), st.integers(0, 400))
def test_a_rate_is_used_in_full_and_no_task_waits_for_ever(limit: int, burst: int, weight: int, late: int) -> None:
    """Tasks that always wait pass at the rate, as long as a look is no later than the saved tokens last."""
    bounds = Bounds(interval=SECOND // limit, burst=burst)
    gate, now, passed = Gate(key="g", bounds=bounds), 10**15, 0
    late = min(late, (burst - min(weight, burst)) * bounds.interval)
    began = now
    for _ in range(100):
        count, gate = admit(gate, 0, Starts(), now, [weight] * 100)
        passed += count
        assert gate.next_at is not None
        assert now < gate.next_at <= now + weight * bounds.interval
        now = gate.next_at + late
    tokens = (now - began) / bounds.interval
    assert passed * weight >= tokens - weight - burst


@given(
    st.builds(
        Gate,
        key=st.just("g"),
        bounds=st.builds(Bounds, cap=st.none() | st.integers(1, 3), interval=st.none() | st.integers(1, 9)),
        tat=st.integers(0, 20),
        closed_until=st.integers(0, 20),
    ),
    st.integers(0, 20),
    st.integers(0, 9),
    st.lists(st.integers(1, 3), max_size=4),
)
def test_an_idle_gate_lets_pass_what_a_new_one_would(gate: Gate, now: int, later: int, weights: list[int]) -> None:
    count, after = admit(gate, 0, Starts(), now + later, weights)
    fresh, after_fresh = admit(Gate(key="g", bounds=gate.bounds), 0, Starts(), now + later, weights)
    if is_idle(gate, now):
        assert (count, after.next_at) == (fresh, after_fresh.next_at)


@given(gates=st.lists(st.sampled_from("abc"), unique=True), status=st.sampled_from(Status), outcome=st.integers(0, 2))
def test_the_end_of_a_run_admits_all_of_its_gates(gates: list[str], status: Status, outcome: int) -> None:
    own = Flow(gates=tuple((key, Bounds(cap=1)) for key in gates))
    before = Task(task_id="1", type="t", status=status, flow=own, gate=gates[-1] if gates else None, max_retries=1)
    run = before.replace(status=Status.RUNNING)
    after = settle(run, [Completed(), Failed("no"), Cancelled()][outcome], 5 * SECOND)
    ends = is_end_of_run(before, after)
    assert ends == (status is Status.RUNNING and after.final)
    if ends:
        assert gates_to_admit(before, after) == tuple(gates)
        assert settled_at(before, after) == after.ended_at == 5 * SECOND
