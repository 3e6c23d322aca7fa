"""What all pages share for a while: answers by their names, and the counts of tasks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from aiotaskq.backends.read_limit import limited_reads
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.core.history import HOUR, MINUTE
from aiotaskq.core.task import SECOND
from aiotaskq.errors import AiotaskqError
from aiotaskq.log import log
from aiotaskq.runtime.queue.operations import Stats

if TYPE_CHECKING:
    from aiotaskq.app.taskq import TaskQ

EXACT = 50_000
"""Tasks: of no more than these the counts are read for each page."""
SHARE = 100
"""Counts of more are kept for so many times as long as reading them took."""


MOST_KEPT = 64
"""Answers that are kept by default."""

T = TypeVar("T")


class Kept:
    """Keeps what need not be read anew each time; of too many the one that was read longest ago is dropped."""

    def __init__(self, clock: Callable[[], int], most: int = MOST_KEPT) -> None:
        """Keep so many answers; ``clock`` returns microseconds."""
        self._clock = clock
        self._most = most
        self._answers: dict[Hashable, tuple[int, Any]] = {}

    def has(self, name: Hashable, seconds: float) -> bool:
        """Return whether there is an answer that is not older than so many seconds."""
        return name in self._answers and 0 <= self._clock() - self._answers[name][0] < seconds * SECOND

    async def get(self, name: Hashable, seconds: float, read: Callable[[], Awaitable[T]]) -> T:
        """Return an answer that is not older than so many seconds, which is read if there is none."""
        if self.has(name, seconds):
            return cast(T, self._answers[name][1])
        before = self._answers
        answer = await read()
        if before is self._answers:  # else something was changed meanwhile
            before.pop(name, None)
            before[name] = self._clock(), answer
            if len(before) > self._most:
                del before[next(iter(before))]
        return answer

    def forget(self) -> None:
        """Read everything anew: something was changed."""
        self._answers = {}


class Counted(msgspec.Struct, frozen=True):
    """Counts, and whether they may have changed since."""

    stats: Stats
    approximate: bool


class Unended:
    """How many tasks of each queue had not ended, at the end of each minute of the last hour in which that was read.

    No store counts what is pushed: with what has ended it follows from these numbers.
    """

    def __init__(self) -> None:
        self._minutes: dict[int, dict[str, int]] = {}

    def note(self, stats: Stats, now: int) -> None:
        """Keep what was read at ``now``, in microseconds UTC."""
        minute = now // (MINUTE * SECOND)
        self._minutes[minute] = {
            name: counts.get("pending", 0) + counts.get("running", 0) for name, counts in stats.queues.items()
        }
        self._minutes = {each: found for each, found in self._minutes.items() if each > minute - HOUR // MINUTE}

    def came(self, queue: str, out: Sequence[int], now: int) -> list[float | None]:
        """Return how many tasks of a queue came in each minute in which ``out`` tasks ended, the latest one last.

        None where it was not read before and after.
        """
        latest = now // (MINUTE * SECOND)
        first = latest - len(out) + 1
        found: list[float | None] = [None] * len(out)
        known = sorted(each for each in self._minutes if first - 1 <= each <= latest)
        for before, after in itertools.pairwise(known):
            more = self._minutes[after].get(queue, 0) - self._minutes[before].get(queue, 0)
            ended = sum(out[before + 1 - first : after + 1 - first])
            for minute in range(before + 1, after + 1):
                found[minute - first] = max(0, more + ended) / (after - before)
        return found


class Counts:
    """The counts of one task queue. One read at a time, however many pages want them.

    Few are read anew for each page, others are kept for a while and marked as approximate.
    """

    def __init__(self, tq: TaskQ) -> None:
        self.unended = Unended()
        self._tq = tq
        self._clock = SystemClock()
        self._last: Stats | None = None
        self._read_at = 0  # ticks
        self._took = 0  # microseconds
        self._reading: asyncio.Task[Stats] | None = None

    async def get(self) -> Counted:
        """Return the counts; only the first call, and one after a pause, waits where reading takes long.

        The paused queues are always those of now: a page offers the opposite as a button.
        """
        age, reading = self._clock.ticks() - self._read_at, self._reading
        if self._last is None or sum(self._last.counts.values()) <= EXACT or age > 10 * SHARE * self._took + SECOND:
            current = self._read()
            counted = Counted(await asyncio.shield(current), False)
            if current is not reading:  # begun here: it has read them, too
                return counted
        else:
            if age > SHARE * self._took:
                self._read()
            counted = Counted(self._last, True)
        stats = msgspec.structs.replace(counted.stats, paused=await self._tq.paused())
        return Counted(stats, counted.approximate)

    def forget(self) -> None:
        """Read anew for the next page: something was changed, which a read that has begun may not see."""
        self._last = self._reading = None

    def _read(self) -> asyncio.Task[Stats]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._measure(), name="aiotaskq-dashboard-counts")
            self._reading.add_done_callback(_log_failure)
        return self._reading

    async def _measure(self) -> Stats:
        began = self._clock.ticks()
        with limited_reads(None):  # read once for all pages, and kept for long where it takes long
            found = await self._tq.stats()
        self.unended.note(found, self._tq.queue.clock.now())
        if asyncio.current_task() is self._reading:  # else something was changed meanwhile
            self._last, self._read_at = found, self._clock.ticks()
            self._took = self._read_at - began
        return found


def _log_failure(reading: asyncio.Task[Stats]) -> None:
    # A page that waits for it reports the error, too; one that shows older counts does not.
    if reading.cancelled() or (error := reading.exception()) is None:
        return
    if isinstance(error, AiotaskqError):
        log.debug("dashboard: counts were not read: {}", error)
    else:
        log.error("dashboard: counts were not read", cause=error)
