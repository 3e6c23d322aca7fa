"""Back-off: the wait before a retry, its jitter and its limits."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.outcome import Backoff, Failed, TimedOut, make_backoff, settle
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from tests.core.outcomes import NOW, backoffs, chances, task


@given(backoff=backoffs, attempt=st.integers(0, 2**31), chance=chances)
def test_a_wait_is_between_zero_and_its_limit(backoff: Backoff, attempt: int, chance: float) -> None:
    ceiling = min(backoff.limit, backoff.base * backoff.factor ** min(attempt, 64))
    wait = backoff.delay(attempt, chance)
    assert isinstance(wait, int)
    assert 0 <= wait <= ceiling * SECOND
    if not backoff.jitter:
        assert wait == int(ceiling * SECOND)


def test_the_waits_without_jitter() -> None:
    backoff = Backoff(jitter=False)
    assert [backoff.delay(n, 0.5) // SECOND for n in (0, 1, 2, 10, 11, 12, 5_000)] == [1, 2, 4, 1024, 2048, 3600, 3600]


def test_full_jitter_spreads_what_failed_together() -> None:  # H11
    waits = [Backoff(base=8, factor=1).delay(0, n / 10_000) for n in range(10_000)]
    assert Counter(wait // SECOND for wait in waits) == dict.fromkeys(range(8), 1_250)
    after = {settle(task(), Failed("x", chance=n / 10, backoff=Backoff(base=10)), NOW).run_at - NOW for n in range(10)}
    assert after == {n * SECOND for n in range(10)}
    assert settle(task(), TimedOut(1.0, chance=0.3, backoff=Backoff(base=10)), NOW).run_at == NOW + 3 * SECOND


def test_make_backoff() -> None:
    assert make_backoff(None) == Backoff()
    assert make_backoff(5) == Backoff(base=5, factor=1, limit=5, jitter=False)
    assert make_backoff(0).delay(3, 0.9) == 0
    assert make_backoff(2.5).delay(7, 0.1) == 2_500_000
    given_one = Backoff(base=2, factor=3, limit=9)
    assert make_backoff(given_one) is given_one


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (-1, "backoff: must be at least 0 seconds (got -1)"),
        (math.nan, "backoff: nan is not a number of seconds"),
        (math.inf, "backoff: inf is not a number of seconds"),
        (True, "backoff: seconds as int, float or timedelta are needed (got bool True)"),
        ("1", "backoff: seconds as int, float or timedelta are needed (got str '1')"),
        (Backoff(base=-1), "backoff.base: must be at least 0 seconds (got -1)"),
        (Backoff(limit=math.inf), "backoff.limit: inf is not a number of seconds"),
        (Backoff(factor=0.5), "backoff.factor: must be in 1..1000 (got 0.5)"),
        (Backoff(factor=math.nan), "backoff.factor: must be in 1..1000 (got nan)"),
    ],
)
def test_a_bad_backoff(bad: Any, message: str) -> None:  # I9
    with pytest.raises(ValidationError) as raised:
        make_backoff(bad)
    assert str(raised.value) == message
