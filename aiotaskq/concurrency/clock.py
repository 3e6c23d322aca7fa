"""The only place that reads a clock: the system's, a steady one, a store's, or a virtual one for tests."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Iterable, Sized
from datetime import timedelta
from itertools import count
from operator import itemgetter
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from aiotaskq.concurrency.wakeup import Waitable
from aiotaskq.core.errors import check_seconds
from aiotaskq.core.task import SECOND

ROUNDS = 1_000  # iterations of a loop after which virtual time goes on, though something in it never waits
SAME_MOMENT = 10_000  # microseconds within which two reads count as simultaneous
BLIND_ROUNDS = 20  # iterations of a loop that does not show whether anything is ready


class Clock(ABC):
    """Tells the time and waits. Instants are integer microseconds UTC, durations float seconds."""

    @abstractmethod
    def now(self) -> int:
        """Return the present instant in microseconds UTC."""

    @abstractmethod
    def ticks(self) -> int:
        """Return the microseconds of a clock that is never set, for measuring how long something takes.

        Where the system has such a clock, it runs on while the host is suspended.
        """

    @abstractmethod
    def nanos(self) -> int:
        """Return the nanoseconds of a clock that is never set back, for values that end with the process."""

    @abstractmethod
    async def wait(self, event: Waitable, timeout: float) -> bool:
        """Wait until the event is set or ``timeout`` seconds have passed; return whether it is set."""

    @abstractmethod
    def call_later(self, delay: float, callback: Callable[[], object]) -> Callable[[], None]:
        """Call a function in the running loop after ``delay`` seconds; return a function that cancels it."""

    def anchor(self) -> int:
        """Return ``now`` minus ``ticks``, which changes only when the clock is set."""
        for _ in range(10):
            begin, now = self.ticks(), self.now()
            if self.ticks() - begin < SAME_MOMENT:  # else this thread was suspended between the two
                break
        return now - begin

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        await self.wait(asyncio.Event(), seconds)


# CLOCK_MONOTONIC stops while Linux is suspended (clock_gettime(2)); leases go on.
_TICKS = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock(Clock):
    """The host's wall clock; waiting is monotonic, so that a step of the wall clock never prolongs a sleep."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def ticks(self) -> int:
        return time.clock_gettime_ns(_TICKS) // 1000

    nanos = staticmethod(time.monotonic_ns)  # without a Python function around it

    async def wait(self, event: Waitable, timeout: float) -> bool:
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
    """The wall clock at the start of the process, plus monotonic time since: for stores that end with the process."""

    _offset = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now(self) -> int:
        return self._offset + time.monotonic_ns() // 1000


class StoreClock(SystemClock):
    """A store's clock: the time that the store told last, plus the monotonic time that has passed since.

    By it, hosts whose own clocks differ agree about leases and due times. Before the store is asked first, and for a
    store without a clock of its own, it is the host's clock.
    """

    DRIFT = 200  # microseconds a second by which two unsynchronised quartz clocks may diverge
    ROUGH = 2_000  # microseconds of doubt after the first answer, above which the store is asked again

    def __init__(self) -> None:
        self._ahead: int | None = None  # microseconds by which the store is ahead of `ticks`
        self._doubt = 0  # microseconds by which that may be wrong
        self._looked = 0  # ticks at which it was measured
        self.is_set = False
        """Whether the store was asked at least once."""
        self._due = 0  # ticks at which it should be asked again

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

        The answer was made some time between sending and receiving. It is taken to be made in the middle, which may be
        wrong by half of the round trip (F. Cristian, "Probabilistic clock synchronization", 1989). An answer of an
        earlier, shorter round trip is kept until drift has made it worse than the new one.
        """
        for _ in range(1 if self.is_set else 2):  # the first question may have opened the connection
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
            # If the two contradict each other, a clock was set, or `ticks` stopped while the host was suspended.
            if self._ahead is None or doubt <= aged or abs(ahead - self._ahead) > doubt + aged:
                self._ahead, self._doubt, self._looked = ahead, doubt, received
            if self._doubt <= self.ROUGH:
                return


class VirtualClock(Clock):
    """A clock for tests, whose time passes only by :meth:`advance`. For one loop; not thread-safe."""

    def __init__(self, start: int = 1_700_000_000_000_000) -> None:
        self._now = start
        self._set_by = 0  # microseconds by which `step` has moved the wall clock
        self._latest = start
        self._timers: list[tuple[int, int, Callable[[], object]]] = []  # by ticks, and of the same ticks by age
        self._ties = count()
        self._watched: list[tuple[Callable[[], Iterable[asyncio.Future[Any]]], float]] = []
        self._given_up: WeakSet[asyncio.Future[Any]] = WeakSet()
        self.sleepers: dict[asyncio.Task[Any], int] = {}
        """The asyncio tasks that wait for this clock, and how often."""
        self._slept: asyncio.Future[None] | None = None  # done when another wait has begun

    def now(self) -> int:
        return self._now

    def ticks(self) -> int:
        return self._now - self._set_by

    def nanos(self) -> int:
        self._latest = max(self._latest, self._now)
        return self._latest * 1000

    def step(self, seconds: float) -> None:
        """Set the clock forward or back, as an administrator would; no wait ends earlier or later by that."""
        shift = round(seconds * 1_000_000)
        self._now += shift
        self._set_by += shift

    async def wait(self, event: Waitable, timeout: float) -> bool:
        if event.is_set():
            return True
        if timeout <= 0:
            await asyncio.sleep(0)
            return event.is_set()
        here = asyncio.current_task()
        assert here is not None
        over = False

        def end() -> None:
            nonlocal over
            over = True
            here.cancel()

        self.sleepers[here] = self.sleepers.get(here, 0) + 1
        if self._slept is not None and not self._slept.done():
            self._slept.set_result(None)
        cancel = self.call_later(timeout, end)
        try:
            await event.wait()
        except asyncio.CancelledError:
            # As asyncio.timeout does, which also needs a timer of the loop: a cancellation by others goes on.
            if not over or here.uncancel() > 0:
                raise
            return event.is_set()
        finally:
            cancel()
            if (left := self.sleepers.pop(here) - 1) > 0:
                self.sleepers[here] = left
        return True

    def call_later(self, delay: float, callback: Callable[[], object]) -> Callable[[], None]:
        timer = (self._now - self._set_by + round(delay * 1_000_000), next(self._ties), callback)
        insort(self._timers, timer)

        def cancel() -> None:
            place = bisect_left(self._timers, timer)
            if self._timers[place : place + 1] == [timer]:
                del self._timers[place]

        return cancel

    @property
    def next_at(self) -> int | None:
        """The instant at which the next timer fires, in microseconds UTC; None if there is no timer."""
        return self._timers[0][0] + self._set_by if self._timers else None

    def watch(self, pending: Callable[[], Iterable[asyncio.Future[Any]]], patience: float = 30.0) -> None:
        """Stop time while one of the futures that ``pending()`` returns has not ended.

        They stand for work outside of the loop, such as that of a database. One that takes more than ``patience`` real
        seconds is no longer waited for.
        """
        self._watched.append((pending, patience))

    async def advance(self, seconds: float | timedelta) -> None:
        """Let a time pass: each timer fires at its instant, and what it starts runs before the next one."""
        end = self._now + round(check_seconds("seconds", seconds) * 1_000_000)
        await self.settle()
        while (due := self.next_at) is not None and due <= end:
            self._now = max(self._now, due)
            # What a timer sets for the same instant fires after the others have had their turn.
            latest = next(self._ties)
            while self._timers and self._timers[0][:2] <= (self._now - self._set_by, latest):
                self._timers.pop(0)[2]()
            await self.settle()
        self._now = max(self._now, end)
        await self.settle()

    async def settle(self) -> None:
        """Run the loop until nothing in it is ready, and all watched futures have ended."""
        while True:
            await _until_quiet()
            left = [
                (future, patience)
                for pending, patience in self._watched
                for future in pending()
                if not future.done() and future not in self._given_up
            ]
            if not left:
                return
            patience = min(patience for _, patience in left)
            futures = {future for future, _ in left}
            # A wait that begins may be that of what a future stands for.
            self._slept = asyncio.get_running_loop().create_future()
            futures.add(self._slept)
            done, _ = await asyncio.wait(futures, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self._given_up.update(future for future, seconds in left if seconds == patience)


async def _until_quiet() -> None:
    """Run the loop until it has nothing to do but wait.

    There is no public way to ask whether it has. The loops of asyncio have a list of what is ready; other loops run a
    fixed number of iterations.
    """
    ready: Sized | None = getattr(asyncio.get_running_loop(), "_ready", None)
    for _ in range(ROUNDS if ready is not None else BLIND_ROUNDS):
        await asyncio.sleep(0)
        if ready is not None and not ready:
            return


T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls a function at deadlines, on the running loop.

    One timer is set, for the earliest: most deadlines are cancelled before they pass. It rings although its deadline
    was cancelled.
    """

    def __init__(self, clock: Clock, expired: Callable[[T], object]) -> None:
        """``expired`` is called with each item whose deadline has passed."""
        self._clock = clock
        self._expired = expired
        self._dues: dict[T, int] = {}  # in ticks
        self._next = 0  # ticks for which the timer is set, 0 if it is not
        self._stop: Callable[[], object] = lambda: None

    def __len__(self) -> int:
        return len(self._dues)

    def add(self, seconds: float, item: T, since: int) -> None:
        """Set a deadline for an item, which has none: so many seconds after ``since``, in ticks of the clock."""
        due = self._dues[item] = since + int(seconds * SECOND)
        if not self._next or due < self._next:
            self._set_timer(due)

    def cancel(self, item: T) -> None:
        """Cancel the deadline of an item; idempotent."""
        self._dues.pop(item, None)

    def close(self) -> None:
        """Cancel all deadlines."""
        self._stop()
        self._dues.clear()
        self._next = 0

    def _set_timer(self, due: int) -> None:
        self._stop()
        self._next = due
        self._stop = self._clock.call_later(max(0.0, (due - self._clock.ticks()) / SECOND), self._look)

    def _look(self) -> None:
        self._next, now = 0, self._clock.ticks()
        passed = [(due, item) for item, due in self._dues.items() if due <= now]
        for _, item in sorted(passed, key=itemgetter(0)):
            if self._dues.pop(item, None) is not None:  # it may be cancelled by then
                self._expired(item)
        if self._dues and not self._next:
            self._set_timer(min(self._dues.values()))
