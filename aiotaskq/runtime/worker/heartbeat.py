"""The heartbeat: renews the leases of one worker, and knows which of them can be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aiotaskq.backends.base import Backend
from aiotaskq.concurrency.clock import Clock, SystemClock
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.outcome import DEAD_AFTER
from aiotaskq.core.task import SECOND
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.log import log
from aiotaskq.runtime.owner import renewing

Key = tuple[str, int]
"""A delivery: task id and fence."""

TRY_WITHIN = 0.5  # leases between tries while the store is away; a reaper waits for a whole lease once it is back
LOST: Final = -(2**63)  # ticks from which no lease lasts


class Heartbeat:
    """Renews the leases of one worker until it is stopped, in a thread and on a connection of its own.

    So a handler that blocks the worker's loop loses no lease. When that loop has stood still for five leases, nothing
    is renewed any more. With a virtual clock, which belongs to one loop, the heartbeat runs on the worker's loop.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        lease: float,
        heartbeat: float,
        answered: Callable[[Sequence[Key], Sequence[bool | None]], None],
        fenced: Callable[[], None],
        owner: str = "",
    ) -> None:
        """Wire a heartbeat for the leases of ``owner``; ``lease`` and ``heartbeat`` in seconds.

        Both callbacks run on the worker's loop. ``answered`` is called after each renewal with the answer for each
        delivery: whether its cancel was requested, None if it is lost. ``fenced`` is called when no renewal was
        answered for a whole lease: other workers may have the tasks.
        """
        self._owner = owner
        self._shared = backend.shared
        self._thread = LoopThread("aiotaskq-leases") if backend.shared and isinstance(clock, SystemClock) else None
        self._backend = backend if self._thread is None else backend.another()
        self._clock = clock
        self._lease = int(lease * SECOND)
        self._heartbeat = heartbeat
        self._answered = answered
        self._fenced = fenced
        # By delivery, the ticks from which its lease counts. The heartbeat's loop changes the lists; the worker's loop
        # alone adds and removes keys.
        self._held: dict[Key, list[int]] = {}
        self._bound = LoopBound()  # to the worker's loop
        self._poller = Poller("heartbeat", self._renew, clock, lease * TRY_WITHIN)
        self._trusted = 0  # ticks at the sending of the last renewal that was answered
        self._alive = 0  # ticks when the worker's loop last did something
        self._failing = False
        self._given_up = False

    @property
    def trusted(self) -> bool:
        """Whether the store has answered within the lease; otherwise other workers may have this worker's tasks."""
        return not self._shared or self._clock.ticks() - self._trusted <= self._lease

    def holds(self, key: Key, ticks: int) -> bool:
        """Return whether the lease of this delivery lasts at ``ticks`` of the clock, as far as the store has answered.

        Asked for each delivery: after the process was suspended, a renewal of others says nothing about this one.
        """
        if not self._shared:
            return True
        since = self._held.get(key)
        return since is not None and ticks - since[0] <= self._lease

    def hold(self, key: Key, since: int) -> None:
        """Renew the lease of this delivery from now on; it was claimed at ``since`` ticks of the clock."""
        self._held[key] = [since]

    def drop(self, key: Key) -> None:
        """Stop renewing the lease of this delivery."""
        self._held.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    async def start(self) -> None:
        """Start renewing for a worker on the running loop. Raises DatabaseUnavailable."""
        if not self._shared:
            return
        self._bound.bind()
        self._trusted = self._alive = self._clock.ticks()
        renewing.add(self._owner)
        if self._thread is None:
            await self._poller.start()
        else:
            await asyncio.wrap_future(self._thread.submit(self._open))

    async def _open(self) -> None:
        await self._backend.open()
        await self._poller.start()

    async def stop(self) -> None:
        """Stop renewing and close the connection; idempotent."""
        if not self._shared:
            return
        renewing.discard(self._owner)
        if self._thread is None:
            await self._poller.stop()
        else:
            await asyncio.wrap_future(self._thread.submit(self._close))
            await asyncio.to_thread(self._thread.close)

    async def _close(self) -> None:
        await self._poller.stop()
        await self._backend.close()

    # ---- on the heartbeat's loop ----

    async def _renew(self) -> float:
        since = list(self._held.items())
        held = [key for key, _ in since]
        ticks = self._clock.ticks()  # trust counts from the sending, not from the answer
        if self._is_dead(ticks):
            return self._heartbeat
        try:
            if held:
                answers = await self._backend.heartbeat(held, self._clock.now() + self._lease)
                for (_, asked), answer in zip(since, answers, strict=True):
                    asked[0] = LOST if answer is None else ticks
                self._call(self._answered, held, answers)
            elif self._failing:  # with nothing to renew, only this tells that the store is back
                await self._backend.ping()
        except DatabaseUnavailable:
            self._failing = True
            if not self.trusted:
                self._call(self._fenced)
            raise
        self._failing = False
        self._trusted = ticks
        return self._heartbeat

    def _is_dead(self, ticks: int) -> bool:
        self._call(self._beat)
        dead = ticks - self._alive > DEAD_AFTER * self._lease
        if dead and not self._given_up:
            log.error("the worker's event loop has stood still for {} leases; they are renewed no more", DEAD_AFTER)
        if dead != self._given_up:
            (renewing.discard if dead else renewing.add)(self._owner)
        self._given_up = dead
        return dead

    def _beat(self) -> None:
        self._alive = self._clock.ticks()

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        self._bound.call_soon(callback, *args)
