"""Lets parked tasks pass when a time has come: that of a rate, of a delay, or at which a closed gate opens."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiotaskq.backends.listeners import GATES
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.task import SECOND

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend

LIMIT = 500  # gates admitted in one transaction
MEND_AFTER = 60  # poll intervals between two looks for gates that a dead process or another program has left behind


class LimitSweep:
    """Admits the gates that are due: in a loop for a worker, and before a pop by hand, since there may be no worker.

    In a store of this process, each change of a time is a hint. In a shared one hints can be lost, so it also polls.
    """

    def __init__(self, backend: Backend, clock: Clock, poll_interval: float) -> None:
        """Make the sweep of a store; ``poll_interval`` in seconds."""
        self._backend = backend
        self._gates = backend.gates
        self._clock = clock
        self._interval = poll_interval
        self._next_poll = self._next_mend = 0  # ticks
        self._hinted = False
        self._poller = Poller("gates", self.sweep_if_due, clock)
        self.next_at: int | None = None
        """The earliest time at which a gate may let a task pass, as far as is known; microseconds UTC."""
        self._stop_listening: Callable[[], None] = backend.listeners.listen(self._hint, GATES)

    @property
    def idle(self) -> bool:
        """Whether no time is known at which a gate is due, and no hint has come."""
        return self.next_at is None and not self._hinted

    async def start(self) -> None:
        """Sweep in the running loop until ``stop``."""
        await self._poller.start()

    async def stop(self, seconds: float) -> None:
        """End the loop; a round that is under way may take so long."""
        await self._poller.stop(seconds)
        self._next_poll = 0

    def _hint(self, _kind: str, _names: object) -> None:
        self._hinted = True
        self._poller.wake()  # from any thread

    async def sweep_if_due(self) -> float:
        """Sweep if a gate may be due, or a poll is; return the seconds until a gate is, or until the next poll."""
        due = self.next_at is not None and self._clock.now() >= self.next_at
        if self._hinted or due or self._clock.ticks() >= self._next_poll:
            await self.sweep()
        pause = max(0.0, (self._next_poll - self._clock.ticks()) / SECOND)
        return pause if self.next_at is None else min(pause, max(0.0, (self.next_at - self._clock.now()) / SECOND))

    async def sweep(self) -> None:
        """Admit the gates that are due."""
        self._hinted = False
        ticks = self._clock.ticks()
        mend = MEND_AFTER * self._interval
        if ticks >= self._next_mend:
            if self._next_mend:
                await self._gates.mend(self._clock.now())
            self._next_mend = ticks + int(mend * random.uniform(0.8, 1.2) * SECOND)
        self.next_at = await self._gates.admit(self._clock.now(), LIMIT)
        self._next_poll = ticks + int((self._interval if self._backend.shared else mend) * SECOND)
