"""The only reader of the clock: real, steady, or virtual. Below the actors, now is an argument."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from itertools import count


class Clock(ABC):
    """What the actors ask for time. Instants are integer microseconds UTC, durations float seconds."""

    @abstractmethod
    def now(self) -> int:
        """Return the present instant in microseconds UTC."""

    @abstractmethod
    def ticks(self) -> int:
        """Return microseconds of a clock that cannot be set: for measuring how long something takes."""

    @abstractmethod
    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        """Wait until the event is set or ``timeout`` seconds have passed; return whether it is set."""

    @abstractmethod
    def call_later(self, delay: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call back after ``delay`` seconds, in the running loop; returns what cancels it."""

    async def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        await self.wait(asyncio.Event(), seconds)


class SystemClock(Clock):
    """The host's wall clock; waiting is monotonic, so that a step of the wall clock never prolongs a sleep."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def ticks(self) -> int:
        return time.monotonic_ns() // 1000

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        if event.is_set():
            return True
        try:
            # asyncio.wait_for swallows cancellation on Python 3.11.
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return event.is_set()
        return True

    def call_later(self, delay: float, callback: Callable[[], object]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(delay, callback).cancel


class SteadyClock(SystemClock):
    """Wall time at the start of the process plus monotonic time since: for stores that end with the process."""

    _offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now(self) -> int:
        return self._offset + time.monotonic_ns() // 1000


class StoreClock(SystemClock):
    """A store's clock as seen from here: what it said at the last look, plus what a monotonic clock has counted since.

    So hosts whose clocks differ agree about leases and due times. Before the first look, and for a store that goes by
    the host's clock, it is the host's.
    """

    DRIFT = 200  # microseconds a second by which two unsynchronised quartz clocks may part

    def __init__(self) -> None:
        self._ahead: int | None = None  # of `ticks`
        self._doubt = 0  # microseconds by which the last look may be wrong
        self._looked = 0  # ticks of that look
        self.is_set = False
        """Whether the store was asked."""
        self._due = 0  # ticks from which on it should be asked again

    def now(self) -> int:
        ahead = self._ahead
        return super().now() if ahead is None else self.ticks() + ahead

    @property
    def stale(self) -> bool:
        """Whether the store was never asked, or not for half a minute."""
        return not self.is_set or (self.foreign and self.ticks() >= self._due)

    @property
    def foreign(self) -> bool:
        """Whether the store has a clock of its own."""
        return self._ahead is not None

    async def look(self, ask: Callable[[], Awaitable[int | None]]) -> None:
        """Ask the store for its time. Raises what ``ask`` raises.

        The answer was made somewhere between sending and receiving, so it is taken for the middle and may be wrong by
        half of the round trip (F. Cristian, "Probabilistic clock synchronization", 1989); a better one is kept until
        drift has made it worse.
        """
        sent = self.ticks()
        said = await ask()
        received = self.ticks()
        self.is_set = True
        self._due = received + 30_000_000
        if said is None:
            return
        doubt = (received - sent) // 2
        aged = self._doubt + (received - self._looked) * self.DRIFT // 1_000_000
        ahead = said - (sent + received) // 2
        # Where the two cannot both be right, a clock was set, or ours stood still while the host slept.
        if self._ahead is None or doubt <= aged or abs(ahead - self._ahead) > doubt + aged:
            self._ahead, self._doubt, self._looked = ahead, doubt, received


class VirtualClock(Clock):
    """Time that passes only by :meth:`advance`: for tests. One loop, not thread-safe."""

    def __init__(self, start: int = 1_700_000_000_000_000) -> None:
        self._now = start
        self._set_by = 0  # microseconds by which `step` has moved the wall clock
        self._timers: list[tuple[int, int, Callable[[], object]]] = []
        self._ties = count()

    def now(self) -> int:
        return self._now

    def ticks(self) -> int:
        return self._now - self._set_by

    def step(self, seconds: float) -> None:
        """Set the clock forward or back without waking anybody early, as an administrator would."""
        shift = round(seconds * 1_000_000)
        self._now += shift
        self._set_by += shift
        # Waits are monotonic: they end after as much passed time as before the step.
        self._timers = [(due + shift, tie, callback) for due, tie, callback in self._timers]

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        if event.is_set():
            return True
        waiter = asyncio.ensure_future(event.wait())
        over = asyncio.get_running_loop().create_future()
        cancel = self.call_later(timeout, lambda: None if over.done() else over.set_result(None))
        try:
            await asyncio.wait({waiter, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancel()
            waiter.cancel()
        return event.is_set()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Callable[[], None]:
        active = True

        def fire() -> None:
            if active:
                callback()

        def cancel() -> None:
            nonlocal active
            active = False

        heappush(self._timers, (self._now + round(delay * 1_000_000), next(self._ties), fire))
        return cancel

    async def advance(self, seconds: float) -> None:
        """Let time pass: every timer fires at its own instant, and what it wakes runs before the next."""
        end = self._now + round(seconds * 1_000_000)
        await self.settle()
        while self._timers and self._timers[0][0] <= end:
            due, _, callback = heappop(self._timers)
            self._now = max(self._now, due)
            callback()
            await self.settle()
        self._now = end
        await self.settle()

    async def settle(self) -> None:
        """Run the loop until nothing in it is ready: what waits for threads (a database) is given a moment too."""
        for _ in range(20):
            await asyncio.sleep(0)
