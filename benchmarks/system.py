"""A task queue under test: the few things that the queue scenarios ask of every contestant alike.

Each contestant's class says how its users would do these things with its recommended settings. The scenarios
(``benchmarks.cases.queues``) are the same code for all.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

BATCH = 500  # tasks of one bulk push


class Tally:
    """Counts the tasks that ran, from any thread, and wakes the coroutine that waits for the last one."""

    def __init__(self) -> None:
        self.waits: list[float] = []  # from push to start, in seconds, of tasks with the time of their push
        self.first = self.last = 0.0
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._error: BaseException | None = None
        self.expect(0)

    def expect(self, count: int) -> None:
        """Reset the counter; so many tasks are to run."""
        self.count = 0
        self._expected = count
        self._numbers = itertools.count(1)  # its next() is one step for the interpreter: no thread gets in between
        self._reached.clear()

    def hit(self, at: float = 0.0) -> None:
        """Count a running task that was pushed at this time; every handler does this and nothing else."""
        number = next(self._numbers)
        self.count = number
        if at:
            self.waits.append(time.perf_counter() - at)
        if number == 1:
            self.first = time.perf_counter()
        if number == self._expected:
            self.last = time.perf_counter()
            self._loop.call_soon_threadsafe(self._reached.set)

    def fail(self, error: BaseException) -> None:
        """Report that the workers have ended; ``reached`` raises this error."""
        self._error = error
        self._reached.set()

    async def reached(self, patience: float = 120.0) -> None:
        """Wait until as many as expected have run. Raises what the workers ended with."""
        async with asyncio.timeout(patience):
            await self._reached.wait()
        if self._error is not None:
            raise self._error


class System(ABC):
    """One task queue, its tasks doing nothing but ``tally.hit(at)``."""

    who: ClassVar[str]
    family: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules without which it is absent."""
    note: ClassVar[str] = ""
    """How it is set up."""
    without: ClassVar[tuple[str, ...]] = ()
    """Names of scenarios that it cannot run."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.tally = Tally()

    async def make(self) -> None:  # noqa: B027 - not all need it
        """Create what an empty store needs, such as tables; called once, before any ``open``."""

    async def open(self) -> None:  # noqa: B027
        """Connect."""

    async def close(self) -> None:  # noqa: B027
        """Close everything."""

    @abstractmethod
    async def push(self, at: float = 0.0) -> None:
        """Push one task; return when it is accepted, and on disk where that is promised."""

    async def push_many(self, count: int) -> None:
        """Push so many in the way that is meant for many at once."""
        raise NotImplementedError

    async def push_from(self, producers: int, each: int) -> None:
        """Push from so many producers at the same time, of which each waits for one push before the next."""

        async def producer() -> None:
            for _ in range(each):
                await self.push()

        await asyncio.gather(*(producer() for _ in range(producers)))

    def notify(self) -> None:  # noqa: B027 - most always do
        """From now on wake workers of other processes by each push."""

    @abstractmethod
    def working(self, concurrency: int) -> AbstractAsyncContextManager[Any]:
        """Run workers, so many tasks at a time, while the context is entered."""

    @abstractmethod
    async def unfinished(self) -> bool:
        """Return whether a task has not run, or has run and this is not yet written; asked only near the end."""

    async def fill(self, count: int) -> None:
        """Push so many, before anything is measured."""
        if "push.bulk" not in self.without:
            for left in range(count, 0, -BATCH):
                await self.push_many(min(BATCH, left))
        else:
            for _ in range(count):
                await self.push()

    async def drained(self) -> None:
        """Wait until the tally is reached and all of it is written."""
        await self.tally.reached()
        await self.written()

    async def written(self) -> None:
        """Wait until nothing is unfinished; the contestants have no event for this in common."""
        while await self.unfinished():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


SYSTEMS: dict[tuple[str, str], type[System]] = {}
"""The contestants by family and name; ``benchmarks.queues.contestant`` registers them."""


class ThreadSystem(System):
    """A system whose users call it from threads."""

    @abstractmethod
    def push_now(self, at: float = 0.0) -> None:
        """Push one task."""

    async def push(self, at: float = 0.0) -> None:
        self.push_now(at)

    async def push_from(self, producers: int, each: int) -> None:
        def producer() -> None:
            for _ in range(each):
                self.push_now()

        await asyncio.to_thread(in_threads, producers, producer)


def in_threads(count: int, function: Callable[[], None]) -> float:
    """Run a function in so many threads at once; return the seconds from the start of all to the end of the last.

    Raises what one of them raised.
    """
    gate = threading.Barrier(count + 1)
    errors: list[BaseException] = []

    def body() -> None:
        gate.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    gate.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - start
