"""The pause after failures: doubled, bounded, and never the same for all processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.concurrency.failure_backoff import backoff


@given(st.integers(1, 10**9), st.floats(1e-3, 10), st.floats(1e-3, 1e4))
def test_a_pause_is_between_half_and_all_of_a_doubled_and_bounded_time(
    failures: int, first: float, longest: float
) -> None:
    most = min(longest, first * 2.0 ** min(failures - 1, 64))
    assert most / 2 <= backoff(failures, first, longest) <= most


def test_chance_sets_processes_apart_that_failed_together() -> None:
    assert len({backoff(3, 0.1, 4.0) for _ in range(20)}) > 1
