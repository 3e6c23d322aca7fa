"""The one shape of every background loop: call a function that does one round and says how long to sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.wakeup import LoopWakeup, Wakeup
from aiotaskq.log import log

MAX_BACKOFF = 4.0  # seconds between tries while a store is unreachable, so that its return is noticed within 5 s


class Poller:
    """Calls ``poll`` repeatedly; ``poll`` does one round and returns the seconds until the next.

    An exception does not end the loop: it is logged, and the next round follows after a back-off with jitter.
    """

    def __init__(
        self,
        name: str,
        poll: Callable[[], Awaitable[float]],
        clock: Clock,
        max_backoff: float = MAX_BACKOFF,
        wakeup: Callable[[], Wakeup] = LoopWakeup,
    ) -> None:
        """Make a loop that is not started.

        Args:
            max_backoff: the longest pause in seconds after a failed round; never more than MAX_BACKOFF.
            wakeup: makes, in the running loop, the event that ends the pause between two rounds.
        """
        self._make_wakeup = wakeup
        self._max_backoff = min(max_backoff, MAX_BACKOFF)
        self.name = name
        self._poll = poll
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._bound = LoopBound()
        self._wakeup: Wakeup | None = None  # of the rounds that go on; each start has its own
        self.failures = 0
        """Failed rounds since the last good one; 0 is healthy."""

    @property
    def running(self) -> bool:
        """Whether the rounds go on, in an event loop of this process that is not closed."""
        return self._task is not None and not self._task.done() and self._bound.alive

    @property
    def here(self) -> bool:
        """Whether the rounds go on in the running event loop."""
        return self._task is not None and not self._task.done() and self._bound.here

    async def start(self) -> None:
        """Start in the running event loop; idempotent."""
        if not self.running:
            self._bound.bind()
            self._wakeup = self._make_wakeup()
            self._task = asyncio.create_task(self._run(self._wakeup), name=f"aiotaskq-{self.name}")

    async def stop(self, timeout: float = 5.0) -> None:
        """Wait at most ``timeout`` seconds for the current round, then cancel it; idempotent."""
        task, self._task = self._task, None
        wakeup, self._wakeup = self._wakeup, None
        if task is None or task.done() or not self._bound.here:
            return
        if wakeup is not None and not wakeup.asked:
            wakeup()
        _, late = await asyncio.wait({task}, timeout=timeout)
        if late:
            task.cancel()
            await asyncio.wait({task}, timeout=timeout)

    def wake(self) -> None:
        """Begin the next round now; from any thread."""
        wakeup = self._wakeup
        if wakeup is not None and not wakeup.asked:
            wakeup()

    async def _run(self, wakeup: Wakeup) -> None:
        try:
            await self._rounds(wakeup)
        finally:
            wakeup.close()

    async def _rounds(self, wakeup: Wakeup) -> None:
        # Not a flag: a start before these rounds have ended would reset it, and they would go on beside the new ones.
        # Nor the task: an eager one begins before `start` knows it.
        while self._wakeup is wakeup:
            wakeup.clear()
            try:
                delay = await self._poll()
                self.failures = 0
            except Exception as error:
                self.failures += 1
                delay = backoff(self.failures, 0.1, self._max_backoff)
                log.warning("{}: {}: {}; next try in {:.1f} s", self.name, type(error).__name__, error, delay)
            if self._wakeup is not wakeup:
                break
            if not await self._clock.wait(wakeup, delay):
                continue
            await asyncio.sleep(0)  # if rounds never wait and are woken each time, other tasks of the loop still run
