"""Histograms, sums and percentiles of the history, and when periods are rolled."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.history import (
    DAY,
    HOUR,
    MINUTE,
    QUARTER,
    Period,
    Sums,
    added_up,
    begin_of,
    bounds,
    count_sorted,
    histogram,
    histogram_text,
    hours_from,
    percentile,
    rolls,
    widened,
)
from aiotaskq.core.task import SECOND


def bucket(duration: int) -> int:
    counts: dict[int, int] = {}
    count_sorted(counts, [duration])
    (number,) = counts
    return number


durations = st.integers(0, 40 * DAY * SECOND) | st.integers(0, 100)


@given(durations)
def test_a_duration_is_within_the_bounds_of_its_bucket(duration: int) -> None:
    low, above = bounds(bucket(duration))
    assert low <= duration < above
    assert above - low <= max(1, low / 8)


@given(st.integers(0, 500))
def test_each_bucket_begins_where_the_one_before_ends(number: int) -> None:
    low, above = bounds(number)
    assert (bucket(low), bucket(above - 1), bucket(above)) == (number, number, number + 1)


def test_a_negative_duration_counts_as_nothing() -> None:
    sums = Sums()
    sums.add_runs([7, -5], [-3, -4])
    assert (sums.n, sums.run_us, sums.wait_us, sums.runs, sums.waits) == (2, 7, 0, {0: 1, 7: 1}, {0: 2})


@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from([0, 1, 50, 95, 99, 99.9, 100]))
def test_a_percentile_is_off_by_at_most_a_sixteenth(values: list[int], percent: float) -> None:
    counts: dict[int, int] = {}
    count_sorted(counts, sorted(values))
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    found = percentile(counts, percent)
    assert found is not None
    assert abs(found - exact) <= exact / 16


def test_nothing_has_no_percentile() -> None:
    assert percentile({}, 50) is None
    assert Period(0, MINUTE, "q", "t", "lost", 1).run_percentile(50) is None


@given(st.lists(durations))
def test_a_histogram_is_stored_as_text(values: list[int]) -> None:
    counts: dict[int, int] = {}
    count_sorted(counts, sorted(values))
    assert sum(counts.values()) == len(values)
    assert histogram(histogram_text(counts)) == counts


@given(st.lists(st.tuples(durations, durations), min_size=1, max_size=50), st.integers(1, 5))
def test_sums_in_parts_are_the_sums_of_all(runs: list[tuple[int, int]], parts: int) -> None:
    key = (0, MINUTE, "q", "t", "completed", "")
    pieces = []
    for part in [runs[start::parts] for start in range(parts)]:
        if part:
            sums = Sums()
            sums.add_runs([run for run, _ in part], [wait for _, wait in part])
            pieces.append(sums.period(key))
    whole = Sums()
    whole.add_runs([run for run, _ in runs], [wait for _, wait in runs])
    random.shuffle(pieces)
    assert added_up(pieces) == [whole.period(key)]


def test_what_a_period_says_in_seconds() -> None:
    sums = Sums()
    sums.add_runs([SECOND] * 98 + [60 * SECOND] * 2, [0] * 100)
    period = sums.period((0, MINUTE, "q", "t", "completed", ""))
    assert (period.n, period.run_seconds, period.wait_seconds) == (100, 218.0, 0.0)
    assert period.run_percentile(50) == pytest.approx(1, rel=1 / 16)
    assert period.run_percentile(99) == pytest.approx(60, rel=1 / 16)
    assert period.wait_percentile(99) == 0


@given(st.integers(100 * DAY * SECOND, 2**60))
def test_only_whole_longer_periods_are_rolled(now: int) -> None:
    found = rolls(now)
    wanted = [(MINUTE, (QUARTER,)), (QUARTER, (HOUR, DAY)), (HOUR, ()), (DAY, ())]
    assert [(roll.seconds, roll.into) for roll in found] == wanted
    kept_for = ((3 * HOUR, QUARTER), (2 * DAY, DAY), (30 * DAY, DAY), (90 * DAY, DAY))
    for roll, (kept, unit) in zip(found, kept_for, strict=True):
        assert roll.before % (unit * SECOND) == 0
        assert kept * SECOND <= now - roll.before < (kept + unit) * SECOND
    assert found[2].before == hours_from(now), "hours that are read are not deleted"


def test_a_period_is_widened_and_not_narrowed() -> None:
    at = begin_of(1_790_000_000 * SECOND, DAY)
    minute = Period(at + 61 * MINUTE * SECOND, MINUTE, "q", "t", "failed", 3)
    assert widened(minute, HOUR) == Period(at + HOUR * SECOND, HOUR, "q", "t", "failed", 3)
    assert widened(widened(minute, DAY), HOUR) == Period(at, DAY, "q", "t", "failed", 3)
