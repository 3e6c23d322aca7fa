"""The clock of a store, as seen from a host."""

from __future__ import annotations

from typing import Any

import pytest

from aiotaskq.concurrency.clock import StoreClock
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable


class Host(StoreClock):
    """A host whose clocks a test sets."""

    wall = 1_000 * SECOND
    steady = 5 * SECOND

    def ticks(self) -> int:
        return self.steady


async def test_the_stores_clock_is_taken_from_the_middle_of_the_round_trip() -> None:
    clock = Host()
    assert not clock.is_set and not clock.foreign

    async def ask() -> int:
        clock.steady += 40_000  # there
        said = 777 * SECOND
        clock.steady += 40_000  # and back
        return said

    await clock.look(ask)
    assert clock.is_set and clock.foreign
    assert clock.now() == 777 * SECOND + 40_000
    clock.steady += 3 * SECOND
    assert clock.now() == 780 * SECOND + 40_000


async def test_a_slow_answer_does_not_replace_a_good_one_until_that_has_aged() -> None:
    clock = Host()

    def ask(says: int, takes: int) -> Any:
        async def answer() -> int:
            clock.steady += takes
            return says

        return answer

    await clock.look(ask(100 * SECOND, 1_000))
    good = clock.now()
    await clock.look(ask(103 * SECOND, 4 * SECOND))  # two seconds of doubt
    assert clock.now() == good + 4 * SECOND
    clock.steady += 20_000 * SECOND  # drift has made the good one worse than that
    await clock.look(ask(20_107 * SECOND, 4 * SECOND))
    assert clock.now() == 20_109 * SECOND


async def test_the_store_is_asked_again_where_the_first_answer_took_long() -> None:
    clock, takes = Host(), [200_000, 1_000, 300_000]

    async def ask() -> int:
        clock.steady += takes.pop(0)  # until it answers; the answer takes no time
        return clock.steady + 1_000 * SECOND

    await clock.look(ask)
    assert clock.now() - clock.steady == 1_000 * SECOND + 500
    await clock.look(ask)  # a later one is not repeated
    assert (clock.now() - clock.steady, takes) == (1_000 * SECOND + 500, [])


async def test_an_answer_that_contradicts_the_last_one_is_believed() -> None:
    clock = Host()

    async def at_once() -> int:
        return 100 * SECOND

    async def an_hour_later() -> int:  # the host slept, and its monotonic clock with it
        clock.steady += 200_000
        return 3700 * SECOND

    await clock.look(at_once)
    await clock.look(an_hour_later)
    assert clock.now() == 3700 * SECOND + 100_000


async def test_the_stores_clock_is_stale_after_half_a_minute() -> None:
    clock = Host()

    async def ask() -> int:
        return clock.steady

    assert clock.stale
    await clock.look(ask)
    assert not clock.stale
    clock.steady += 30 * SECOND
    assert clock.stale


async def test_a_store_without_a_clock_goes_by_the_hosts() -> None:
    clock = StoreClock()

    async def none() -> None:
        return None

    before = clock.now()
    await clock.look(none)
    assert clock.is_set and not clock.foreign
    assert 0 <= clock.now() - before < 3600 * SECOND


async def test_an_error_of_the_store_is_raised_and_the_old_answer_kept() -> None:
    clock = Host()

    async def away() -> int:
        raise DatabaseUnavailable("away")

    with pytest.raises(DatabaseUnavailable):
        await clock.look(away)
    assert not clock.is_set
