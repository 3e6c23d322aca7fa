"""Timeouts on one timer."""

from __future__ import annotations

from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.concurrency.deadlines import Deadlines
from aiotaskq.core.task import SECOND


async def test_deadlines_ring_in_their_order_and_only_if_not_taken_back() -> None:
    clock = VirtualClock()
    rung: list[tuple[str, int]] = []
    start = clock.ticks()
    deadlines: Deadlines[str] = Deadlines(clock, lambda what: rung.append((what, clock.ticks() - start)))
    numbers = [deadlines.add(seconds, what) for what, seconds in (("five", 5), ("one", 1), ("three", 3), ("two", 2))]
    deadlines.cancel(numbers[2])
    deadlines.cancel(numbers[2])
    assert len(deadlines) == 3
    await clock.advance(10)
    assert rung == [("one", SECOND), ("two", 2 * SECOND), ("five", 5 * SECOND)]
    assert len(deadlines) == 0
    deadlines.add(1, "late")
    deadlines.close()
    await clock.advance(10)
    assert len(rung) == 3


async def test_deadlines_that_are_taken_back_leave_nothing_behind() -> None:  # H3
    deadlines: Deadlines[int] = Deadlines(VirtualClock(), print)
    for number in range(10_000):
        deadlines.cancel(deadlines.add(3600, number))
    assert len(deadlines._heap) < 1_100
    assert len(deadlines) == 0
