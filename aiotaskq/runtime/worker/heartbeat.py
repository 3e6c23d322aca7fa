"""The heartbeat: renews the lease of one worker, and notices what it holds in the store without knowing it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from aiotaskq.concurrency.clock import Clock, SystemClock
from aiotaskq.concurrency.loop_bound import LoopBound
from aiotaskq.concurrency.loop_thread import LoopThread
from aiotaskq.concurrency.poller import Poller
from aiotaskq.core.outcome import DEAD_AFTER
from aiotaskq.core.task import SECOND
from aiotaskq.core.worker_info import WorkerInfo, WorkerStack, told_names
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.log import log
from aiotaskq.runtime.owner import fresh_owner, renewing

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.backends.workers import Workers


Key = tuple[str, int]
"""A delivery: task id and fence."""

Description = tuple[tuple[str, ...] | None, int, int, Iterable[str], Iterable[str]]
"""Queues, concurrency, number of running tasks, types that can be run, and limits that their handlers declare."""

WORKER = "worker-"  # the beginning of the ids of workers
PATIENCE = 0.25  # leases until a connection without an answer is given up, at least a second
LEAVING = 1.0  # seconds that leaving the registry may take; else the lease ends by itself
LOOK = 3.0  # seconds between two looks at what the worker is asked for: not every store notifies it of that
TRY_WITHIN = 0.5  # leases between tries while the store is away; a reaper waits for a whole lease once it is back


class Heartbeat:
    """Renews the lease of one worker until it is stopped, in a thread and on a connection of its own.

    So a handler that blocks the worker's loop loses no lease. When that loop has stood still for five leases, nothing
    is renewed any more. With a virtual clock, which belongs to one loop, the heartbeat runs on the worker's loop.

    A worker that was removed from the registry has lost all that it held. It registers under another id and goes on.
    With each renewal the rows that carry the worker's id are compared with what it holds: what it has lost, what is to
    be cancelled, and what was claimed for it in an answer that never came.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        version: str | None = None,
        lease: float,
        heartbeat: float,
        answered: Callable[[Sequence[Key], Sequence[bool | None]], None],
        fenced: Callable[[], None],
        unknown: Callable[[Sequence[Key]], None],
        describe: Callable[[], Description],
        steered: Callable[[bool, int | None], None] = lambda _quiet, _concurrency: None,
        stack: Callable[[int], WorkerStack] | None = None,
    ) -> None:
        """Wire a heartbeat; ``lease`` and ``heartbeat`` in seconds, ``version`` that of the application.

        The first three callbacks run on the worker's loop. ``answered`` is called after each comparison with the answer
        for each delivery that was held: whether its cancel was requested, None if it is lost. ``fenced`` is called when
        no renewal was answered for a whole lease: other workers may have the tasks. ``unknown`` is called with
        deliveries that this worker has in the store, and that it will never run. ``describe`` returns what the registry
        is told, from any thread. ``steered`` is called on the worker's loop when others have asked for something else:
        whether to be quiet, and for how many slots. ``stack`` returns where its handlers stand, when others have asked
        for that at the time that it gets; it is called in the thread of the heartbeat.
        """
        self.owner = fresh_owner(WORKER)
        """The id under which the worker claims. Only the worker's loop uses it, and replaces it."""
        self._shared = backend.shared
        self._thread = LoopThread("aiotaskq-leases") if backend.shared and isinstance(clock, SystemClock) else None
        self._backend = backend if self._thread is None else backend.another(max(lease * PATIENCE, 1.0))
        self._clock = clock
        self._version = version
        self._lease = int(lease * SECOND)
        self._heartbeat = heartbeat
        self._answered = answered
        self._fenced = fenced
        self._unknown = unknown
        self._describe = describe
        self._steered = steered
        self._asked: tuple[bool, int | None] = (False, None)
        self._stack, self._stack_asked = stack, 0
        self._due = 0  # ticks of the next renewal
        self._held: set[Key] = set()  # on the worker's loop
        self._comparisons = 0  # on the worker's loop, as the next two
        self._claims: list[int] = []  # the number of comparisons before each claim under way
        self._strange: dict[Key, int] = {}  # rows that the worker does not know, and the first comparison that had them
        self._bound = LoopBound()  # to the worker's loop
        self._poller = Poller("heartbeat", self._round, clock, lease * TRY_WITHIN)
        self._row: WorkerInfo | None = None  # as it was last written; None while the worker is not registered
        self._started_at = 0
        self._lost = False  # whether the worker's loop has yet to drop what it held under an id that was removed
        self._trusted = 0  # ticks at the sending of the last renewal that was answered
        self._alive = 0  # ticks when the worker's loop last did something
        self._given_up = False
        self._begun = False

    @property
    def trusted(self) -> bool:
        """Whether the lease lasts, as far as the store has answered; otherwise others may have this worker's tasks."""
        return not self._shared or (not self._lost and self._clock.ticks() - self._trusted <= self._lease)

    def holds(self, key: Key, ticks: int) -> bool:
        """Return whether this delivery is held at ``ticks`` of the clock, as far as the store has answered."""
        return not self._shared or (key in self._held and not self._lost and ticks - self._trusted <= self._lease)

    def hold(self, key: Key, owner: str | None) -> bool:
        """Hold a delivery that was claimed for this owner; return False if that is no longer this worker's id."""
        if owner != self.owner:
            return False
        self._held.add(key)
        return True

    def drop(self, key: Key) -> None:
        """Hold this delivery no longer."""
        self._held.discard(key)

    def begin_claim(self) -> int:
        """Take note that a claim is under way, until ``end_claim`` is called with the number that this returns."""
        self._claims.append(self._comparisons)
        return self._comparisons

    def end_claim(self, number: int) -> None:
        """Take note that a claim was answered and its tasks are held, or that no answer will come."""
        self._claims.remove(number)

    def look(self) -> None:
        """See now what the worker is asked for; from any thread."""
        self._poller.wake()

    async def start(self) -> None:
        """Register a worker on the running loop, and renew its lease. Raises DatabaseUnavailable."""
        if not self._shared:
            return
        self._bound.bind()
        self._alive = self._clock.ticks()
        self._started_at = self._clock.now()
        if self._thread is None:
            await self._open()
        else:
            await asyncio.wrap_future(self._thread.submit(self._open))

    async def _open(self) -> None:
        await self._backend.open()
        await self._register(self.owner)
        await self._poller.start()

    async def stop(self, leave: bool = True) -> None:
        """Stop renewing and close the connection; idempotent. ``leave``: the worker holds nothing, so remove it."""
        if not self._shared:
            return
        if self._thread is None:
            await self._close(leave)
        else:
            await asyncio.wrap_future(self._thread.submit(lambda: self._close(leave)))
            await asyncio.to_thread(self._thread.close)

    async def _close(self, leave: bool) -> None:
        await self._poller.stop()
        row, self._row = self._row, None
        if row is not None:
            renewing.discard(row.owner)
            if leave:
                with contextlib.suppress(DatabaseUnavailable, TimeoutError):  # a reaper removes it in the end
                    async with asyncio.timeout(LEAVING):
                        await self._registry.remove(row)
        if self._thread is not None:
            await self._backend.close()

    # ---- on the heartbeat's loop ----

    @property
    def _registry(self) -> Workers:
        assert self._backend.workers is not None
        return self._backend.workers

    def _info(self, owner: str) -> WorkerInfo:
        now = self._clock.now()
        queues, concurrency, busy, types, limits = self._describe()
        return WorkerInfo(
            owner,
            socket.gethostname(),
            os.getpid(),
            sys.modules["aiotaskq"].__version__,
            self._started_at,
            now,
            now + self._lease,
            queues,
            concurrency,
            busy,
            *self._asked,
            told_names(types),
            told_names(limits),
            self._version,
        )

    async def _register(self, owner: str) -> None:
        ticks, row = self._clock.ticks(), self._info(owner)
        await self._registry.register(row)
        self._row, self._trusted = row, ticks
        renewing.add(owner)

    async def _round(self) -> float:
        ticks = self._clock.ticks()
        if self._begun and ticks < self._due:
            if self._row is not None:
                await self._see_what_is_asked(self._row.owner)
        else:
            if self._begun:
                await self._renew()
            elif self._row is not None:  # it has just been registered
                await self._registry.note_version(self._row)
            self._begun, self._due = True, ticks + int(self._heartbeat * SECOND)
        pause = max(0.0, (self._due - self._clock.ticks()) / SECOND)
        return pause if self._thread is None else min(pause, LOOK)

    async def _renew(self) -> None:
        held = list(self._held)
        ticks = self._clock.ticks()  # trust counts from the sending, not from the answer
        if self._is_dead(ticks):
            return
        try:
            if await self._beat(ticks):
                assert self._row is not None
                owner = self._row.owner
                self._call(self._compare, owner, held, (await self._registry.held([owner]))[owner])
                await self._see_what_is_asked(owner)
        except DatabaseUnavailable:
            if not self.trusted:
                self._call(self._fenced)
            raise

    async def _see_what_is_asked(self, owner: str) -> None:
        found = await self._registry.get(owner)
        if found is None:
            return
        if (asked := (found.quiet, found.wanted_concurrency)) != self._asked:
            self._asked = asked
            self._call(self._steered, *asked)
        if self._stack is not None and found.stack_asked > self._stack_asked:
            self._stack_asked = found.stack_asked
            await self._registry.answer(owner, self._stack(found.stack_asked))

    async def _beat(self, ticks: int) -> bool:
        """Renew the lease; return False if it was lost, and the worker has another id now."""
        if (before := self._row) is not None:
            row = self._info(before.owner)
            if await self._registry.heartbeat(row):
                self._row, self._trusted = row, ticks
                return True
            # A reaper has removed the worker, and others take its tasks. Nothing that is claimed under this id is held.
            self._row, self._lost = None, True
            renewing.discard(before.owner)
            self._call(self._lose, None)
        owner = fresh_owner(WORKER)
        await self._register(owner)
        self._call(self._lose, owner)
        return False

    def _is_dead(self, ticks: int) -> bool:
        self._call(self._note_alive)
        dead = ticks - self._alive > DEAD_AFTER * self._lease
        if dead and not self._given_up:
            log.error("the worker's event loop has stood still for {} leases; its lease is renewed no more", DEAD_AFTER)
        if dead != self._given_up and self._row is not None:
            (renewing.discard if dead else renewing.add)(self._row.owner)
        self._given_up = dead
        return dead

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        self._bound.call_soon(callback, *args)

    # ---- on the worker's loop ----

    def _note_alive(self) -> None:
        self._alive = self._clock.ticks()

    def _lose(self, owner: str | None) -> None:
        """Drop all deliveries, as lost; claim again under this id, once there is one."""
        lost = list(self._held)
        self._held.clear()
        self._strange.clear()
        self._answered(lost, [None] * len(lost))
        if owner is not None:
            self.owner = owner
            self._lost = False

    def _compare(self, owner: str, held: Sequence[Key], rows: Sequence[tuple[str, int, bool]]) -> None:
        """Compare what was held before the rows of this owner were read with these rows."""
        if owner != self.owner:
            return
        self._comparisons += 1
        found = {(task_id, fence): cancel for task_id, fence, cancel in rows}
        self._answered(held, [found.get(key) for key in held])
        # Not known in two comparisons, and no claim that began before the first of them is under way: no answer will
        # bring it.
        strange = {key: self._strange.get(key, self._comparisons) for key in found if key not in self._held}
        oldest = min(self._claims, default=self._comparisons)
        forgotten = [key for key, first in strange.items() if first < self._comparisons and first <= oldest]
        self._strange = strange
        if forgotten:
            self._unknown(forgotten)
