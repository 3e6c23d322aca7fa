"""Timeouts on one timer."""

from __future__ import annotations

from aiotaskq.concurrency.clock import Deadlines, VirtualClock
from aiotaskq.core.task import SECOND


async def test_deadlines_ring_in_their_order_and_only_if_not_taken_back() -> None:
    clock = VirtualClock()
    rung: list[tuple[str, int]] = []
    start = clock.ticks()
    deadlines: Deadlines[str] = Deadlines(clock, lambda what: rung.append((what, clock.ticks() - start)))
    for what, seconds in (("five", 5), ("one", 1), ("three", 3), ("two", 2)):
        deadlines.add(seconds, what, start)
    deadlines.cancel("three")
    deadlines.cancel("three")
    assert len(deadlines) == 3
    await clock.advance(10)
    assert rung == [("one", SECOND), ("two", 2 * SECOND), ("five", 5 * SECOND)]
    assert len(deadlines) == 0
    deadlines.add(1, "late", clock.ticks())
    deadlines.close()
    await clock.advance(10)
    assert len(rung) == 3


async def test_those_of_one_timeout_ring_in_the_order_in_which_they_came() -> None:
    clock = VirtualClock()
    rung: list[tuple[int, int]] = []
    start = clock.ticks()
    deadlines: Deadlines[int] = Deadlines(clock, lambda number: rung.append((number, clock.ticks() - start)))
    for number in range(6):
        deadlines.add(2 if number % 2 else 3, number, clock.ticks())
        await clock.advance(0.5)
    deadlines.cancel(2)
    await clock.advance(10)
    half = SECOND // 2
    assert rung == [(1, 5 * half), (0, 6 * half), (3, 7 * half), (5, 9 * half), (4, 10 * half)]


async def test_one_that_expires_cancels_another_of_the_same_moment() -> None:
    clock = VirtualClock()
    rung: list[int] = []

    def expired(number: int) -> None:
        rung.append(number)
        deadlines.cancel(2)

    deadlines: Deadlines[int] = Deadlines(clock, expired)
    for number in (1, 2, 3):
        deadlines.add(1, number, clock.ticks())
    await clock.advance(1)
    assert rung == [1, 3]


async def test_deadlines_that_are_taken_back_leave_nothing_behind() -> None:  # H3
    clock = VirtualClock()
    deadlines: Deadlines[int] = Deadlines(clock, print)
    for number in range(10_000):
        deadlines.add(3600 + number // 10, number, clock.ticks())
        deadlines.cancel(number)
    assert len(deadlines) == 0
    assert len(clock._timers) == 1
