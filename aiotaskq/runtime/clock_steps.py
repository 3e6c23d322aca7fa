"""Notices that the clock was set back, tells of it, and lets what waits by elapsed time go on."""

from __future__ import annotations

from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.firing import CLOCKS_DIFFER
from aiotaskq.core.task import SECOND
from aiotaskq.log import log

TOLD_FOR = 30 * SECOND  # ticks: the scheduler and the worker of a process see the same step at different times


class StepLog:
    """Tells of a step once, whichever parts of the process see it."""

    def __init__(self) -> None:
        self._told: int | None = None  # ticks

    def __call__(self, back: int, ticks: int) -> None:
        """Log that the clock was set back by so many microseconds, unless that was logged just now."""
        if self._told is None or ticks - self._told > TOLD_FOR:
            log.warning(
                "the clock was set back by {:.0f} s: intervals go on; cron expressions wait for the times they name",
                back / SECOND,
            )
        self._told = ticks


class ClockSteps:
    """Compares a clock with its ticks from one look to the next."""

    def __init__(self, clock: Clock, told: StepLog) -> None:
        self._clock = clock
        self._told = told
        self._anchor: int | None = None

    def back(self) -> int:
        """Return by how many microseconds the clock was set back since the last look: 0 for up to CLOCKS_DIFFER."""
        before, self._anchor = self._anchor, self._clock.anchor()
        back = 0 if before is None else before - self._anchor
        if back <= CLOCKS_DIFFER:
            return 0
        self._told(back, self._clock.ticks())
        return back


class HostClock:
    """Lets delays and leases in a store that goes by the host's clock go on when that is set back."""

    def __init__(self, backend: Backend, clock: Clock, told: StepLog) -> None:
        self._backend = backend
        self._clock = clock
        self._steps = ClockSteps(clock, told)
        self._known: int | None = None  # the anchor that the store was told of
        self._back = 0  # microseconds of which it was not told yet

    async def look(self) -> None:
        """Compare the clock with the last look, and move what the store holds. Raises DatabaseUnavailable."""
        if self._backend.has_clock:
            return
        self._back += self._steps.back()
        anchor = self._clock.anchor()
        if self._known is None or abs(anchor - self._known) > CLOCKS_DIFFER:
            await self._backend.clock_set(anchor, self._back, self._clock.now())
            self._known, self._back = anchor, 0
