"""Rules of alerts: which hold, and that each alert begins and ends once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiotaskq.core.alerts import (
    Rules,
    Seen,
    after,
    changes,
    grows,
    holding,
    make_rules,
    opened,
    runs_long,
    waits_long,
)
from aiotaskq.errors import ValidationError

ALL = make_rules(2, 300, 60, 60, 30)
SEEN = st.builds(
    Seen,
    dead_letters=st.integers(0, 4),
    oldest_ready=st.one_of(st.none(), st.floats(0, 600)),
    late_schedules=st.lists(st.sampled_from("abcdefg"), max_size=7),
    unclaimed=st.lists(st.sampled_from("abc"), max_size=2),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(SEEN, max_size=12))
def test_each_alert_begins_and_ends_once(looks: list[Seen]) -> None:
    known: dict[str, Any] = {}
    told: dict[str, list[tuple[bool, int]]] = {}
    for now, seen in enumerate(looks):
        found = holding(ALL, seen)
        made = changes(known, found, now)
        known = after(known, made)
        assert known.keys() == found.keys()
        assert changes(known, found, now + 1) == []
        for alert in made:
            told.setdefault(alert.rule, []).append((alert.firing, alert.since))
    for each in told.values():
        assert [firing for firing, _ in each] == [number % 2 == 0 for number in range(len(each))]
        assert all(each[number][1] == each[number - 1][1] for number in range(1, len(each), 2))


def test_which_rules_hold() -> None:
    quiet = Seen(1, 300.0, [], [])
    assert holding(ALL, quiet) == {}
    assert holding(ALL, Seen(2, 301.0, ["a"], ["mail"])) == {
        "dead_letters": "tasks that have failed for good: 2",
        "oldest_ready": "a task has been ready for 301 s",
        "schedule_late": "no scheduler has fired what is due: a",
        "no_worker": "no worker claims the ready tasks of: mail",
    }
    assert holding(Rules(None, None, None, None, 30.0), Seen(9, 999.0, [], [])) == {}
    (text,) = holding(ALL, Seen(0, None, list("abcdefg"), [])).values()
    assert text.endswith("a, b, c, d, e and 2 more")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, None, None, 30), "alerts: at least one of"),
        ((0, None, None, None, 30), "dead_letters: "),
        ((None, 0, None, None, 30), "oldest_ready: "),
        ((1, None, None, None, 0), "every: "),
        ((None, 300, None, None, 30, {"tenant": "acme"}), "alerts: tags choose which dead letters are counted"),
        ((1, None, None, None, 30, "acme"), "tags: "),
    ],
)
def test_rules_that_are_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=f"^{message}"):
        make_rules(*given)


def test_what_is_open_is_read_from_the_stored_value_and_nothing_else_is() -> None:
    made = changes({}, {"no_worker": "text"}, 7)
    (alert,) = opened(after({}, made))
    assert alert == made[0]
    junk = {"a": 1, "b": [1], "c": ["1", "x"], "d": [True, "x"], "e": [10**400, "x"], "f": [-1, "x"]}
    assert opened(junk) == opened(None) == opened([1]) == opened("x") == []


@pytest.mark.parametrize(
    ("seconds", "p99", "long"),
    [(61, 6, True), (60, 6, False), (59, 0.1, False), (601, 60.2, False), (9_999, None, False)],
)
def test_a_run_is_long_beside_those_of_its_type(seconds: float, p99: float | None, long: bool) -> None:
    assert runs_long(seconds, p99) is long


def test_a_backlog_grows_where_more_comes_than_ends() -> None:
    assert [grows(20, 19), grows(20, 20), grows(9, 0), grows(10, 0)] == [True, False, False, True]
    assert [waits_long(61, 1.0), waits_long(60, 1.0), waits_long(1, 0.0)] == [True, False, True]
