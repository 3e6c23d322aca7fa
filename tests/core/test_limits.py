"""Limits, rates and fair shares: what their declarations accept, and the gates that follow for a task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from aiotaskq.core.errors import INT32
from aiotaskq.core.gate import (
    PARKED,
    Bounds,
    Flow,
)
from aiotaskq.core.limits import Fair, Gating, Limit, Rate, Spec, check_shared, names_gate, specs_of
from aiotaskq.core.parking import pushed_at
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import ValidationError
from tests.support.kinds import Colour, Level


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


@pytest.mark.parametrize(
    ("key", "text"),
    [(date(2026, 1, 2), "2026-01-02"), (Decimal("1.50"), "1.50"), (Colour.RED, "red"), (Level.LOW, "1")],
)
def test_a_key_of_a_function_is_the_text_of_its_value(key: object, text: str) -> None:
    assert keys(Limit(5, key=lambda params: key)) == [f"export:{text}"]


def test_a_function_changes_the_params_of_no_other_one() -> None:
    take = lambda params: params.pop("tenant")  # noqa: E731
    assert keys(Limit(5, key=take, name="a"), Limit(5, key=take, name="b")) == ["a:42", "b:42"]


@pytest.mark.parametrize(
    ("label", "key", "names"),
    [
        ("api", "api", True),
        ("api", "api2", False),
        ("api", "api:1", False),
        ("tenant:", "tenant:1", True),
        ("tenant:", "tenants:1", False),
        ("tenant:", "tenant", False),
    ],
)
def test_a_gate_is_named_by_its_label(label: str, key: str, names: bool) -> None:
    assert names_gate(label, key) == names


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


@pytest.mark.parametrize("spec", [Limit(1, max_waiting=7), Rate(1, max_waiting=7), Fair("tenant", max_waiting=7)])
def test_each_kind_bounds_how_many_wait(spec: Spec) -> None:
    found = flow(spec)
    assert found is not None
    assert [bounds.max_waiting for _, bounds in found.gates] == [7]


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
    rates = [Rate(9, name="a"), Rate(90, name="b", weight="tokens"), Rate(20, name="c", weight=2)]
    found = flow(Limit(5), *rates, params=params)
    assert found is not None
    assert [found.tokens(key) for key, _ in found.gates] == [1, 1, 7, 2]
    found = flow(
        Fair("tenant", window=10, weight=lambda params: 2.5), Fair("tokens", window=10, weight=0.01), params=params
    )
    assert found is not None
    assert [bounds.window for _, bounds in found.gates] == [25, 1]
    found = flow(Fair("tenant", weight=INT32 - 1), params=params)
    assert found is not None
    assert [bounds.window for _, bounds in found.gates] == [INT32]


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
        (lambda: Fair("a", weight=True), "fair: weight: a number above 0 is needed"),
        (lambda: Fair("a", weight=math.inf), "fair: weight: a number above 0 is needed"),
        (lambda: specs_of(limit=5), r"limit: Limit\(5\) or a list of such is needed \(got 5\)"),
        (lambda: specs_of(limit=Rate(2, per=1)), "limit: a Rate is given as rate="),
        (lambda: specs_of(rate=[Limit(5)]), "rate: a Limit is given as limit="),
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


def test_an_option_is_one_limit_or_several() -> None:
    one, other = Limit(5), Limit(6, name="other")
    assert specs_of(limit=one) == (one,)
    assert specs_of(limit=[one, other]) == specs_of(limit=(one, other)) == (one, other)
    assert specs_of(fair="tenant") == (Fair("tenant"),)
    assert specs_of(fair=[str, Fair("tenant")]) == (Fair(str), Fair("tenant"))


def test_shared_gates_are_declared_alike() -> None:
    first = Gating("a", [Limit(5, name="api"), Rate(9, name="calls", weight="tokens")])
    check_shared("b", Gating("b", [Limit(5, name="api"), Rate(9, name="calls")]), [("a", first)])
    check_shared("b", Gating("b", [Limit(4, key="api")]), [("a", first)])  # the gates api: and api are two
    both = Gating("a", [Limit(5, name="api"), Rate(9, name="api")])
    for specs, known in (([Limit(4, name="api")], first), ([Limit(5, name="api"), Rate(8, name="api")], both)):
        with pytest.raises(ValidationError, match="b: the limit 'api' is shared with a, which declares it differently"):
            check_shared("b", Gating("b", specs), [("a", known)])


def test_shared_gates_are_passed_in_one_order() -> None:
    x, y, z = (Limit(1, name=name) for name in "xyz")
    known = [("a", Gating("a", [x, y])), ("b", Gating("b", [y, z]))]
    check_shared("c", Gating("c", [x, z]), known)
    circle = r"\(c: 'z' → 'x'; a: 'x' → 'y'; b: 'y' → 'z'\); list shared limits in the same order$"
    with pytest.raises(ValidationError, match="^c: shared limits would be passed in a circle " + circle):
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
    assert (parked.run_at, parked.due_at, parked.gate, parked.due_us) == (PARKED, 7, "tenant:1", 7)
    assert Gating("export", [Limit(1, key="tenant")]).gated(task.replace(params={"tenant": None})).flow is None


def test_the_time_of_a_push_is_not_that_of_a_stamp_ahead_of_the_clock() -> None:
    """Push stamps go on rising then; the time of a push must not."""
    task = Task(task_id="1", type="t", run_at=PARKED, due_at=SECOND, seq=SECOND)
    assert pushed_at(task) == SECOND
    assert pushed_at(task.replace(seq=60 * SECOND)) == SECOND
    assert pushed_at(task.replace(due_at=60 * SECOND)) == SECOND  # a delayed one
