"""What goes into a worker and comes out: claims tasks for its slots, and writes what they came to, in one exchange."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

from aiotaskq.backends.base import READY, Backend, Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import MAX_BACKOFF, Service
from aiotaskq.concurrency.wakeup import Arrivals, LoopWakeup, Wakeup
from aiotaskq.core.outcome import Backoff, Completed, Failed, Outcome, Released, settle, unstorable
from aiotaskq.core.task import SECOND, Status, Task
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.log import log, named
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.worker.buffer import Inbox
from aiotaskq.runtime.worker.heartbeat import TRY_WITHIN, LeaseKeeper
from aiotaskq.runtime.worker.prefetch import HORIZON, MOST

STALLED = 250_000  # ticks for which a claimed task may wait for a slot before others shall have it
LULL = 0.005  # seconds without a hint before a store is asked when its next task becomes due
NEVER_STARTED = "never started"


class Supply:
    """Fills a worker's inbox and empties its outbox; one round is one transaction.

    What a handler came to is kept until the store has taken it, for as long as that takes: the fence tells whether it
    was still ours to write. Whoever runs next does not wait for that, so that quick tasks are written by the hundred.
    """

    def __init__(
        self,
        queue: Queue,
        backend: Backend,
        clock: Clock,
        inbox: Inbox,
        keeper: LeaseKeeper,
        *,
        owner: str,
        queues: Sequence[str] | None,
        concurrency: int,
        lease: float | None,
        poll_interval: float,
        accept: Callable[[Sequence[Task], int], None],
        backoff: Callable[[Task], Backoff],
        follow_ups: Callable[[Task], tuple[Task, ...]],
        told: Callable[[Task, Outcome, Task | None], None],
        rested: Callable[[], None],
    ) -> None:
        """Wire it; durations in seconds, ``lease`` None where the store knows none.

        ``accept`` is called with the tasks that were claimed, and the clock's ticks before that; ``told`` with a task,
        what it came to, and what it is now, None if it was no longer this worker's; ``rested`` at the end of each
        round.
        """
        self._queue = queue
        self._backend = backend
        self._clock = clock
        self._inbox = inbox
        self._keeper = keeper
        self._owner = owner
        self._queues = queues
        self._concurrency = concurrency
        self._lease = None if lease is None else int(lease * SECOND)
        self._poll_interval = poll_interval
        self._accept = accept
        self._backoff = backoff
        self._follow_ups = follow_ups
        self._told = told
        self._rested = rested
        self._ended: list[tuple[Task, Outcome]] = []
        self._closed = False
        self._in_round = False
        self._stopped = False
        self._over = asyncio.Event()
        self._sentinel: asyncio.Task[Any] | None = None
        self._coming = 0  # slots that are kept for what comes with a push
        self._missed = False  # whether a round has found them kept, and may have been for what comes after that
        self._hinted = False
        self._lull = False
        self._stop_listening: Callable[[], None] = lambda: None
        self._arrivals: Arrivals | None = None
        most = MAX_BACKOFF if lease is None else lease * TRY_WITHIN
        self._service = Service("fetcher", self._round, clock, most, self._make_wakeup)

    @property
    def failures(self) -> int:
        """Failed rounds since the last good one; 0 is healthy."""
        return self._service.failures

    @property
    def running(self) -> bool:
        """Whether it claims and writes."""
        return self._service.running

    @property
    def cancelled(self) -> bool:
        """Whether every coroutine was cancelled, as when the loop ends."""
        return self._sentinel is not None and (self._sentinel.cancelling() > 0 or self._sentinel.cancelled())

    @property
    def busy(self) -> bool:
        """Whether something is to be written, or a round is under way, which may bring tasks."""
        return self._in_round or self._coming > 0 or self._inbox.unwritten > 0

    async def start(self) -> None:
        """Start claiming and writing in the running loop."""
        # Nobody else cancels it: one that works is cancelled by each of its own timeouts, for a moment.
        self._sentinel = asyncio.create_task(self._over.wait(), name="aiotaskq-sentinel")
        await self._service.start()
        if self._arrivals is None:
            self._stop_listening = self._backend.hints.listen(self.wake, READY)
        if self._backend.hands_over:
            self._queue.takers.append(self)

    def _make_wakeup(self) -> Wakeup:
        self._arrivals = self._backend.arrivals(self._queues)
        return LoopWakeup() if self._arrivals is None else self._arrivals

    def wake(self, *_hint: object) -> None:
        """Look now: a hint, from any thread."""
        self._hinted = True
        self._service.wake()

    def put(self, task: Task, outcome: Outcome) -> None:
        """Have written what became of a task. On the loop."""
        self._inbox.unwritten += 1
        if not self._ended:  # what follows goes with it; and where the store is away, its return is not asked for each
            self._service.wake()
        self._ended.append((task, outcome))

    def _done(self, task: Task, outcome: Outcome, after: Task | None) -> None:
        self._inbox.written(task)
        self._told(task, outcome, after)

    async def put_completed(self, task: Task, outcome: Outcome | None) -> None:
        """A handler has completed its task in its own transaction: the row tells whether that was committed."""
        row = await self._read(task)
        if row is not None and (row.status, row.fence) == (Status.COMPLETED, task.fence):
            if isinstance(outcome, Failed):
                log.warning("{} had completed when its handler raised", named(task), cause=outcome.cause)
            self._inbox.forget(task)
            self._told(task, Completed(row.result), row)
        elif isinstance(outcome, Completed):
            why = "complete(session=…): its transaction was not committed"
            self.put(task, Failed(why, True, self._backoff(task), random.random()))
        elif outcome is not None:
            self.put(task, outcome)
        else:
            self._inbox.forget(task)

    async def _read(self, task: Task) -> Task | None:
        failures = 0
        while True:
            try:
                return (await self._backend.get([task.task_id]))[0]
            except DatabaseUnavailable as error:
                if failures == 0:
                    log.warning("{}: whether it completed cannot be read yet: {}", named(task), error)
                failures += 1
                await self._clock.sleep(min(2.0, 0.05 * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0))

    def close(self) -> None:
        """Claim no more, and give back what was not started; what ends is still written."""
        self._closed = True
        self._stop_listening()
        with contextlib.suppress(ValueError):
            self._queue.takers.remove(self)
        for task in self._inbox.take():
            self.put(task, Released(NEVER_STARTED))
        self._service.wake()  # what waits for a store that was away: there is not all the time that a back-off takes

    async def stop(self, seconds: float) -> None:
        """Write no more either; a round that runs may take so long to end."""
        self._stopped = True
        await self._service.stop(seconds)
        self._over.set()

    # ---- what is pushed in this process ----

    @property
    def wants(self) -> bool:
        """Whether slots wait, and no round is under way that could bring them tasks."""
        return not self._in_round and self._slots > 0 and self._service.here and self._room(True) > 0

    async def push(self, tasks: Sequence[Task]) -> list[Task]:
        """Push tasks, and claim for the free slots in the same transaction."""
        room = self._room(True)
        self._coming += room
        since, now = self._clock.ticks(), self._clock.now()
        try:
            stored, claimed = await self._queue.claims.push_and_claim(
                tasks, self._owner, now, room, queues=self._queues, lease_until=self._lease_from(now)
            )
        except BaseException:
            self._arrived(room)
            raise
        # Later, so that each is told as pushed before it is told as started.
        asyncio.get_running_loop().call_soon(self._take, claimed, since, room)
        return stored

    def _take(self, tasks: Sequence[Task], since: int, room: int) -> None:
        if self._stopped:
            self._queue.claims.give_back(tasks)
        else:
            self._accept(tasks, since)
        self._arrived(room)

    def _arrived(self, room: int) -> None:
        self._coming -= room
        if self._missed:
            self._missed = False
            self._service.wake()
        self._rested()

    # ---- one round ----

    async def _round(self) -> float:
        self._in_round = True
        try:
            return await self._exchange()
        finally:
            self._in_round = False
            self._inbox.hurry()
            self._rested()

    async def _exchange(self) -> float:
        if self._inbox.narrow:
            self._give_back(0)
        else:
            self._give_back_what_waits()
        if self._ended and len(self._inbox):
            await self._while_quick()
        ended, self._ended = self._ended, []
        self._missed = self._coming > 0
        hinted, self._hinted = self._hinted, self._hinted and self._missed  # kept for the claim that gets the room
        room = self._room(bool(ended))
        if self._arrivals is not None:
            self._arrivals.wanted = False  # until a claim has found less than there is room for
        if not ended and not room:
            return self._pause()
        since, now = self._clock.ticks(), self._clock.now()
        if self._lull and not ended and not hinted:
            self._lull = False
            if (pause := await self._until_due(now)) > 0:
                return pause
        changes = [self._change(task, outcome, now) for task, outcome in ended]
        try:
            held, tasks = await self._queue.claims.exchange(
                changes, self._owner, now, room, queues=self._queues, lease_until=self._lease_from(now)
            )
        except (DatabaseUnavailable, asyncio.CancelledError):  # cancelled: the store does not answer, and we stop
            self._ended[:0] = ended
            raise
        except Exception:
            if not ended:
                raise
            await self._write_each(ended)  # an error of one must not fail the others
            return 0.0
        if tasks:
            self._accept(tasks, since)
        if ended:
            await self._tell(ended, changes, held)
        if len(tasks) == room:
            # A suspect that has just ended has kept others out: nothing else tells that there is room now.
            return 0.0 if not room and self._room(False) else self._pause()
        if self._arrivals is not None:
            self._arrivals.wanted = True
        if not self._backend.grouped:
            return await self._until_due(now)
        # While tasks come and go it does not pay to ask when the next becomes due: each hint is followed by a claim.
        self._lull = True
        return min(LULL, self._poll_interval)

    async def _while_quick(self) -> None:
        """Wait while each turn of the loop ends a run, for up to HORIZON, so that one transaction writes many."""
        until = self._clock.ticks() + HORIZON
        count = 0
        while count < len(self._ended) < MOST and len(self._inbox) and self._clock.ticks() < until:
            count = len(self._ended)
            await asyncio.sleep(0)

    async def _until_due(self, now: int) -> float:
        """Before the earliest known time nothing becomes due by itself; a hint or the next poll tells of the rest."""
        at = await self._backend.next_run_at(now, self._queues)
        return self._pause() if at is None else min(self._pause(), max(0.0, (at - now) / SECOND))

    async def _tell(
        self, ended: Sequence[tuple[Task, Outcome]], changes: Sequence[Change], held: Sequence[bool]
    ) -> None:
        lost = []
        for entry, change, ok in zip(ended, changes, held, strict=True):
            if ok:
                for pushed in change.then:
                    self._queue.events.emit("pushed", self._clock.now(), pushed)
                self._done(entry[0], entry[1], change.after)
            else:
                lost.append(entry)
        if lost:
            await self._write_each(lost)

    def _change(self, task: Task, outcome: Outcome, now: int) -> Change:
        after = settle(task, outcome, now)
        return Change(task, after, () if task.on_success is task.on_failure is None else self._follow_ups(after))

    async def _write_each(self, entries: Sequence[tuple[Task, Outcome]]) -> None:
        left = list(entries)
        while left:
            task, outcome = left[0]
            try:
                after = await self._queue.settle(task, outcome, then=self._follow_ups)
            except (DatabaseUnavailable, asyncio.CancelledError):
                self._ended[:0] = left
                raise
            except ValidationError as error:
                if isinstance(outcome, Completed):  # the result is larger than this store can hold
                    left[0] = (task, unstorable(error))
                    continue
                self._unsettled(task, error)
            except Exception as error:
                self._unsettled(task, error)
            else:
                self._done(task, outcome, after)
            del left[0]

    def _unsettled(self, task: Task, error: Exception) -> None:
        # A fault of ours, not of the handler; the task comes back when its lease ends.
        log.error("{} could not be settled", named(task), cause=error)
        self._inbox.written(task)
        self._keeper.drop((task.task_id, task.fence))

    def _lease_from(self, now: int) -> int | None:
        return None if self._lease is None else now + self._lease

    @property
    def _slots(self) -> int:
        """How many slots have nothing to do, and nothing on its way."""
        return self._concurrency - self._inbox.running - len(self._inbox) - self._coming

    def _room(self, rides: bool) -> int:
        """How many to claim: what the slots have room for, and some more where tasks are quick.

        By itself a claim is for many, or for a slot that is free; it ``rides`` with what has to be written anyway.
        """
        if self._closed or not self._keeper.trusted or self._inbox.narrow:
            return 0
        ahead = self._inbox.pace.ahead
        slots = self._slots
        return max(0, slots + ahead) if rides or slots > 0 or (slots + ahead) * 2 >= ahead > 0 else 0

    def _give_back_what_waits(self) -> None:
        """Tasks were claimed because those before were quick; if now they are slow, another process may have a slot."""
        if self._closed:
            return
        free = self._concurrency - self._inbox.running
        if self._inbox.waits_for() > STALLED:
            self._inbox.pace.stalled()
        elif self._inbox.pace.lasts(len(self._inbox) - free) <= STALLED * self._concurrency:
            return
        self._give_back(max(0, free + self._inbox.pace.ahead))

    def _give_back(self, but: int) -> None:
        for task in self._inbox.take_last(but):
            self.put(task, Released(NEVER_STARTED))

    def _pause(self) -> float:
        return min(self._poll_interval, STALLED / SECOND) if len(self._inbox) else self._poll_interval
