"""Limits, rates and fair shares: what their declarations accept, and the gates that follow for a task."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aiotaskq.core.gate import (
    PARKED,
    Bounds,
    Flow,
    Gate,
    GateChange,
    Starts,
    admit,
    changed,
    charged,
    is_idle,
    set_back,
)
from aiotaskq.core.limits import Fair, Gating, Limit, Rate, Spec, check_shared, specs_of
from aiotaskq.core.outcome import Cancelled, Completed, Failed, settle
from aiotaskq.core.parking import gates_to_admit, is_end_of_run, pushed_at, settled_at
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.core.usage import USED_UP_UNTIL
from aiotaskq.errors import ValidationError


def flow(*specs: Spec, params: dict[str, Any] | None = None, **options: Any) -> Flow | None:
    return Gating("export", specs, **options).flow({"tenant": 42} if params is None else params)


def keys(*specs: Spec, **options: Any) -> list[str]:
    found = flow(*specs, **options)
    return [] if found is None else [key for key, _ in found.gates]


def test_the_key_of_a_gate_has_its_name_and_the_value_of_the_key() -> None:
    assert keys(Limit(5)) == ["export"]
    assert keys(Limit(5, name="openai")) == ["openai"]
    assert keys(Limit(5, key="tenant")) == ["tenant:42"]
    assert keys(Limit(5, key="tenant", name="exports")) == ["exports:42"]
    assert keys(Limit(5, key=lambda params: params["tenant"] % 5)) == ["export:2"]
    assert keys(Fair("tenant"), params={"tenant": UUID(int=1)}) == ["tenant:00000000-0000-0000-0000-000000000001"]


@pytest.mark.parametrize("key", [0, "", "0", False, 0.0])
def test_a_key_that_is_empty_or_zero_is_a_key(key: object) -> None:
    assert keys(Limit(5, key="tenant"), params={"tenant": key}) == [f"tenant:{key}"]


def test_keys_with_the_same_text_are_one() -> None:
    assert keys(Limit(5, key="tenant"), params={"tenant": 1}) == keys(Limit(5, key="tenant"), params={"tenant": "1"})


def test_a_task_without_a_key_passes_no_gate() -> None:
    assert flow(Limit(5, key="tenant"), params={"tenant": None}) is None
    assert keys(Limit(5, key="tenant"), Limit(9), params={"tenant": None}) == ["export"]


def test_defaults_of_the_handler_count() -> None:
    assert keys(Limit(5, key="tenant"), params={}, defaults={"tenant": "a"}) == ["tenant:a"]
    assert keys(Limit(5, key=lambda params: params["tenant"]), params={}, defaults={"tenant": "a"}) == ["export:a"]
    with pytest.raises(ValidationError, match="limit: key: 'tenant' is not among the params of export"):
        flow(Limit(5, key="tenant"), params={})


def test_gates_are_passed_narrow_to_wide_and_rates_last() -> None:
    specs = [
        Rate(9, name="api"),
        Limit(9, name="all"),
        Rate(1, key="tenant", name="paced"),
        Limit(1, key="tenant", name="few"),
        Fair("tenant"),
    ]
    for order in itertools.permutations(specs):
        assert keys(*order) == ["tenant:42", "few:42", "paced:42", "all", "api"]


def test_one_gate_may_have_several_bounds() -> None:
    found = flow(Limit(2, key="tenant", max_waiting=9), Rate(100, per=60, key="tenant", max_waiting=5), Fair("tenant"))
    bounds = Bounds(cap=2, window=100, interval=600_000, burst=10, max_waiting=5)
    assert found == Flow(gates=(("tenant:42", bounds),))


def test_a_rate_has_an_interval_and_saves_a_tenth_of_its_limit() -> None:
    assert Rate(100, per=60).interval == 600_000
    assert Rate(7).interval == 142_858
    assert Rate(10_000).interval == 100
    assert Rate(5, per=timedelta(minutes=1)).interval == 12 * SECOND
    assert [Rate(limit).saved for limit in (1, 9, 19, 20, 100)] == [1, 1, 1, 2, 10]
    assert Rate(100, burst=1).saved == 1


def test_a_weight_is_a_number_a_parameter_or_a_function() -> None:
    params = {"tenant": 42, "tokens": 7}
    for weight in ("tokens", lambda params: params["tokens"], 7):
        found = flow(Rate(100, name="api", weight=weight), params=params)
        assert found is not None
        assert found.weight == 7
    found = flow(Limit(5), Rate(9, name="a"), Rate(90, name="b", weight="tokens"), params=params)
    assert found is not None
    assert [found.tokens(key) for key, _ in found.gates] == [1, 1, 7]
    found = flow(
        Fair("tenant", window=10, weight=lambda params: 2.5), Fair("tokens", window=10, weight=0.01), params=params
    )
    assert found is not None
    assert [bounds.window for _, bounds in found.gates] == [25, 1]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Limit(-1), "limit: -1 is not in 0"),
        (lambda: Limit(1.5), "limit: an int is needed"),  # type: ignore[arg-type]
        (lambda: Limit(1, key=5), "limit: key: a string is needed"),  # type: ignore[arg-type]
        (lambda: Limit(1, name="a\tb"), "limit: name: control characters"),
        (lambda: Limit(1, max_waiting=-1), "limit: max_waiting: -1 is not in 0"),
        (lambda: Rate(0), "rate: 0 is not in 1"),
        (lambda: Rate(10_001), "rate: 10001 in 1 s is more than 10000 per second"),
        (lambda: Rate(1, per=0), "rate: per: must be more than 0 seconds"),
        (lambda: Rate(1, weight=0), "rate: weight: 0 is not in 1"),
        (lambda: Rate(1, burst=0), "rate: burst: 0 is not in 1"),
        (lambda: Rate(100, weight=11), "rate: weight: 11 tokens are more than the burst of 10, .* of at least 11$"),
        (lambda: Rate(100, weight=3, burst=2), "rate: weight: 3 tokens are more than the burst of 2"),
        (lambda: Rate(1, per=86_400, burst=10_000), "rate: burst: 10000 tokens take more than ten years"),
        (lambda: Fair(None), "fair: a key is needed"),  # type: ignore[arg-type]
        (lambda: Fair("a", window=0), "fair: window: 0 is not in 1"),
        (lambda: Fair("a", weight=0), "fair: weight: a number above 0 is needed"),
        (lambda: specs_of(limit=5), r"limit: Limit\(5\) or a list of such is needed \(got 5\)"),
        (lambda: specs_of(rate=[Limit(5)]), "rate: Rate"),
    ],
)
def test_a_wrong_declaration_is_refused(make: Callable[[], object], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        make()


@pytest.mark.parametrize(
    ("specs", "error"),
    [
        (
            [Limit(1, key="tennant")],
            r"limit: key: export\(\) has no parameter 'tennant'; there is: tenant, tokens; did",
        ),
        ([Rate(1, weight="size")], r"rate: weight: export\(\) has no parameter 'size'; there is: tenant, tokens$"),
        (
            [Limit(1, key="tenant.name")],
            r"limit: key: 'tenant.name' is a part .*: lambda params: params\['tenant'\]\['name'\]$",
        ),
        ([Limit(1), Limit(2)], "limit: export has two for 'export'; give one of them another name"),
        ([Fair("tenant"), Fair("tenant", 5)], "fair: export has two for 'tenant'; give one of them another name"),
    ],
)
def test_a_declaration_that_does_not_fit_the_handler_is_refused(specs: list[Spec], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        Gating("export", specs, accepted={"tenant", "tokens"})


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (Limit(1, key=lambda params: [1]), r"limit: key: a text or a number is needed \(got list\)"),
        (Limit(1, key=lambda params: params["x"]), "limit: key: its function raised KeyError: 'x'; it is given"),
        (Limit(1, key=lambda params: "a\nb"), "limit: key: only printable characters"),
        (Limit(1, key=lambda params: "a" * 250), "limit: key: 257 characters are more than 255"),
        (Rate(1, weight=lambda params: 0.5), "rate: weight: an int is needed"),
        (Rate(1, per=86_400, weight=lambda params: 10_000), "rate: weight: 10000 tokens take more than ten years"),
        (Rate(100, weight="tenant"), "rate: weight: 42 tokens are more than the burst of 10, the most that are saved"),
        (Fair("tenant", weight=lambda params: "much"), "fair: weight: a number above 0 is needed"),
    ],
)
def test_a_key_or_weight_that_a_gate_cannot_have_is_refused(spec: Spec, error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        flow(spec)


def test_shared_gates_are_declared_alike() -> None:
    first = Gating("a", [Limit(5, name="api"), Rate(9, name="calls", weight="tokens")])
    check_shared("b", Gating("b", [Limit(5, name="api"), Rate(9, name="calls")]), [("a", first)])
    check_shared("b", Gating("b", [Limit(4, key="api")]), [("a", first)])  # the gates api: and api are two
    with pytest.raises(ValidationError, match="b: the gate 'api' is shared with a, which declares it differently"):
        check_shared("b", Gating("b", [Limit(4, name="api")]), [("a", first)])


def test_shared_gates_are_passed_in_one_order() -> None:
    x, y, z = (Limit(1, name=name) for name in "xyz")
    known = [("a", Gating("a", [x, y])), ("b", Gating("b", [y, z]))]
    check_shared("c", Gating("c", [x, z]), known)
    circle = r"\(c: 'z' → 'x'; a: 'x' → 'y'; b: 'y' → 'z'\); list shared gates in the same order$"
    with pytest.raises(ValidationError, match="^c: shared gates would be passed in a circle " + circle):
        check_shared("c", Gating("c", [z, x]), known)


def test_types_with_different_narrow_gates_share_a_wide_one() -> None:
    wide = Limit(9, name="all")
    known = [
        ("a", Gating("a", [wide, Limit(1, key="tenant")])),
        ("b", Gating("b", [Limit(1, key="user"), wide])),
        ("c", Gating("c", [Limit(1, key="tenant"), Limit(1, key="user"), wide])),
    ]
    for at, (name, gating) in enumerate(known):
        check_shared(name, gating, known[:at] + known[at + 1 :])
    with pytest.raises(ValidationError, match="d: 'user' → 'tenant'; c: 'tenant' → 'user'"):
        check_shared("d", Gating("d", [Limit(1, key="user"), Limit(1, key="tenant"), wide]), known)


def test_a_gated_task_is_parked_and_keeps_its_due_time() -> None:
    task = Task(task_id="1", type="export", params={"tenant": 1}, run_at=7, seq=5)
    parked = Gating("export", [Limit(1, key="tenant")]).gated(task)
    assert (parked.run_at, parked.due_at, parked.gate, parked.due) == (PARKED, 7, "tenant:1", 7)
    assert Gating("export", [Limit(1, key="tenant")]).gated(task.replace(params={"tenant": None})).flow is None


def test_the_time_of_a_push_is_not_that_of_a_stamp_ahead_of_the_clock() -> None:
    """Push stamps go on rising then; the time of a push must not."""
    task = Task(task_id="1", type="t", run_at=PARKED, due_at=SECOND, seq=SECOND)
    assert pushed_at(task) == SECOND
    assert pushed_at(task.replace(seq=60 * SECOND)) == SECOND
    assert pushed_at(task.replace(due_at=60 * SECOND)) == SECOND  # a delayed one


def test_a_gate_that_does_not_open_by_time_stays_closed_when_the_clock_is_set_back() -> None:
    closed = Gate(key="g", closed_until=9 * SECOND)
    assert set_back(closed, 2 * SECOND, 5 * SECOND).closed_until == 7 * SECOND
    used_up = replace(closed, closed_until=USED_UP_UNTIL)
    assert set_back(used_up, 2 * SECOND, 5 * SECOND) == used_up


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


def test_a_charge_and_other_bounds_count_after_the_starts_of_before() -> None:
    gate = Gate(key="g", bounds=Bounds(interval=SECOND, burst=2))
    now = 10**15
    gate = charged(gate, Starts(0, [(now, 2)]), now)
    assert gate.tat == now + 2 * SECOND
    given = changed(gate, GateChange(charge=-1), now)
    assert charged(given, Starts(0, [(now, 2)]), now).tat == now + SECOND  # charged once
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
