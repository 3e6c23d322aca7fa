"""Notices that the clock was set back, logs it, and lets everything that waits by elapsed time go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.firing import CLOCKS_DIFFER
from aiotaskq.core.task import SECOND
from aiotaskq.log import log

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend

SAME_STEP = 30 * SECOND  # ticks within which scheduler and worker of a process may notice the same step


class StepLog:
    """Logs each step of the clock once, whichever parts of the process notice it."""

    def __init__(self) -> None:
        self._logged: int | None = None  # ticks

    def __call__(self, back: int, ticks: int) -> None:
        """Log that the clock was set back by so many microseconds, unless this step was logged before."""
        if self._logged is None or ticks - self._logged > SAME_STEP:
            log.warning(
                "the clock was set back by {:.0f} s: intervals go on; cron expressions wait for the times they name",
                back / SECOND,
            )
        self._logged = ticks


class ClockSteps:
    """Compares a clock with its ticks, from one call to the next."""

    def __init__(self, clock: Clock, step_log: StepLog) -> None:
        self._clock = clock
        self._step_log = step_log
        self._anchor: int | None = None

    def back(self) -> int:
        """Return by how many microseconds the clock was set back since the last call; 0 for up to CLOCKS_DIFFER."""
        before, self._anchor = self._anchor, self._clock.anchor()
        back = 0 if before is None else before - self._anchor
        if back <= CLOCKS_DIFFER:
            return 0
        self._step_log(back, self._clock.ticks())
        return back


class HostClock:
    """Moves delays and leases of a store without a clock of its own when the host's clock is set back."""

    def __init__(self, backend: Backend, clock: Clock, step_log: StepLog) -> None:
        self._backend = backend
        self._clock = clock
        self._steps = ClockSteps(clock, step_log)
        self._known: int | None = None  # the anchor of the clock by which the store's rows go
        self._back = 0  # microseconds by which they are still to be moved

    async def look(self) -> None:
        """Move the times in the store if the clock was set back since the last call. Raises DatabaseUnavailable."""
        if self._backend.shared != "host":
            return
        self._back += self._steps.back()
        anchor = self._clock.anchor()
        if self._known is None or abs(anchor - self._known) > CLOCKS_DIFFER:
            await self._backend.clock_set(anchor, self._back, self._clock.now())
            self._known, self._back = anchor, 0
