"""Retention: in the background, deletes tasks that have ended long ago, and sums up the old part of the history."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.errors import check_seconds
from aiotaskq.core.history import rolls
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import SECOND, TaskFilter
from aiotaskq.runtime.queue.bulk import PURGE_CHUNK, ended_before

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend

PAUSE = 0.05  # seconds between two full transactions, so that claims and pushes come in between
SWEEP_INTERVAL = 60.0  # seconds; the shortest
ROLL_INTERVAL = 3600.0  # seconds between two looks for old periods of the history
ROLL_CHUNK = 1_000  # periods in one transaction
DEFAULT_AGE = 7 * 86_400.0  # seconds

Auto = Literal["auto"]


class Retention(Poller):
    """Deletes old ended tasks, and rolls the history. Any number of processes may do it at once."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        ended: float | timedelta | Auto | None,
        failed: float | timedelta | None,
        history: bool = False,
        interval: float | timedelta = SWEEP_INTERVAL,
    ) -> None:
        """``failed`` is the age in seconds at which failed tasks are deleted, ``ended`` that of all others.

        ``interval``, in seconds, is the time between two looks; it is shorter where an age is, but at least
        SWEEP_INTERVAL. ``history`` is whether old minutes of the history are added up to hours, and so on. An age of
        None keeps tasks. "auto" is DEFAULT_AGE on a durable store, but for a database that was adopted from other
        software: that keeps them. Raises ValidationError.
        """
        super().__init__("retention", self._sweep, clock)
        self._auto = ended == "auto" and backend.durable
        self._backend = backend
        self._ages: dict[Status, float] = {}
        self._rests = False  # whether the first round only waits
        if ended is not None and ended != "auto":
            self._keep_for(check_seconds("retention", ended, zero=False))
        if failed is not None:
            self._ages[Status.FAILED] = check_seconds("retention_failed", failed, zero=False)
        self._history = backend.history if history else None
        self._interval = max(SWEEP_INTERVAL, check_seconds("cleanup_interval", interval, zero=False))
        self._next = {"roll": 0, "events": 0, "orphans": 0}  # ticks of the next look, by what is looked for
        self._orphans: set[str] = set()  # the ids of tasks that had steps and no row at the last look
        self._mends = backend.steps.mends

    async def start(self) -> None:
        """Start in the running loop, if there is anything to delete by age, or to mend. Raises DatabaseUnavailable."""
        if self._auto:
            self._auto = False
            if not await self._backend.keeps_ended():
                self._keep_for(DEFAULT_AGE)
                self._rests = True
        if self._history is not None:
            self._put_off("roll", ROLL_INTERVAL / 10 * random.uniform(0.8, 1.2))
        if self._ages or self._history is not None or self._mends:
            await super().start()

    def _keep_for(self, age: float) -> None:
        self._ages.update(dict.fromkeys(FINAL - {Status.FAILED}, age))

    async def _sweep(self) -> float:
        if self._rests:
            # By default many processes sweep that live shortly: not each of them begins with a write.
            self._rests = False
            return self._pause * random.uniform(0.2, 1.0)
        full = await self._roll()
        if self._ages:
            await self._backend.after.follow_all(self._clock.now())  # of a parent that is deleted no end is known
        for status, age in self._ages.items():
            where = TaskFilter(status=(status,), completed_before=ended_before(age, self._clock))
            full |= await self._backend.purge(where, PURGE_CHUNK) == PURGE_CHUNK
        if self._backend.groups.used and (ages := [age for status, age in self._ages.items() if status != "failed"]):
            before = self._clock.now() - int(max(ages) * SECOND)
            full |= await self._backend.groups.purge(before, PURGE_CHUNK) == PURGE_CHUNK
        steps = self._backend.steps
        now = self._clock.now()
        if steps.used or self._is_due("events"):
            self._put_off("events")
            full |= await steps.expire(now, PURGE_CHUNK) == PURGE_CHUNK
        if self._is_due("orphans"):
            self._put_off("orphans")
            # Not at once: a task that has no row yet may be about to be pushed.
            found = set(await steps.orphans(PURGE_CHUNK))
            if old := found & self._orphans:
                await steps.drop(sorted(old))
            self._orphans = found - old
        await steps.mend(now)  # though this process has no steps: the one that has stored the event is gone
        interval = self._pause if self._ages or self._mends else max(ROLL_INTERVAL, self._interval)
        return PAUSE if full else interval * random.uniform(0.8, 1.2)

    @property
    def _pause(self) -> float:
        return max(SWEEP_INTERVAL, min([self._interval, *self._ages.values()]))

    async def _roll(self) -> bool:
        """Roll some of the history, if it is time; return whether there may be more to roll."""
        if self._history is None or not self._is_due("roll"):
            return False
        full = False
        for roll in rolls(self._clock.now()):
            full |= await self._history.roll(roll, ROLL_CHUNK) >= ROLL_CHUNK
        if not full:
            self._put_off("roll", ROLL_INTERVAL * random.uniform(0.8, 1.2))
        return full

    def _is_due(self, what: str) -> bool:
        return self._clock.ticks() >= self._next[what]

    def _put_off(self, what: str, seconds: float = ROLL_INTERVAL) -> None:
        self._next[what] = self._clock.ticks() + int(seconds * SECOND)
