"""Claims tasks for the free slots of a worker and writes the outcomes of its runs, both in one transaction a round."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiotaskq.backends.change import Change, Claim
from aiotaskq.backends.listeners import READY
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.concurrency.poller import MAX_BACKOFF, Poller
from aiotaskq.concurrency.wakeup import Arrivals, LoopWakeup, Wakeup
from aiotaskq.core.outcome import Completed, Failed, Outcome, Released, settle, unstorable
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import DatabaseUnavailable, LeaseLost, ValidationError
from aiotaskq.log import gate, log, named
from aiotaskq.runtime.worker.execution import NEVER_STARTED, Host
from aiotaskq.runtime.worker.heartbeat import TRY_WITHIN
from aiotaskq.runtime.worker.prefetch import HORIZON, MOST, Buffer, Prefetch
from aiotaskq.runtime.worker.tally import MANY

if TYPE_CHECKING:
    from aiotaskq.backends.base import ScheduleChange
    from aiotaskq.backends.memory.backend import MemoryBackend
    from aiotaskq.runtime.queue.claims import Pushed
    from aiotaskq.runtime.worker.batches import Batches

R = TypeVar("R")

STALLED = 250_000  # ticks for which a claimed task may wait for a slot before it is released
LULL = 0.005  # seconds without a hint before the store is asked when its next task becomes due
SHRINKS = "shrinks"
"""Why nothing is started while more tasks run than there are slots."""


class Fetcher(Poller):
    """Fills a worker's buffer and slots, and empties its outbox.

    The outcome of a run stays in the outbox until the store has written or refused it, however long that takes: the
    fence tells whether the task was still this worker's. The slot does not wait for it, so that the outcomes of many
    quick tasks are written in one transaction.
    """

    def __init__(self, worker: Host) -> None:
        self._worker = worker
        self._queue, self._heartbeat, self._tally = worker.queue, worker.heartbeat, worker.tally
        self._backend = backend = worker.queue.backend
        self._executions = worker.executions
        self._direct = None if backend.suspends or backend.shared else cast("MemoryBackend", backend)
        self._hooks = worker.queue.hooks
        self._bounded = worker.queue.capacity.maxsize > 0
        self._shared = backend.shared
        self.admit: Callable[[Sequence[Task]], Sequence[Task]] = lambda tasks: tasks
        """Returns the claimed tasks that may be buffered; the others are released by then."""
        self.buffer = Buffer()
        """What is claimed and waits for a slot. Only the fetcher changes it."""
        self._prefetch = Prefetch()
        self.batches: Batches | None = None
        """The groups of tasks that take one slot each; None where no handler has ``batch``."""
        self._only_batches = False  # whether all tasks of the last claim were of such handlers
        self._outbox: list[tuple[Task, Outcome]] = []
        self._left_to_round = False  # whether the outbox has what a push could not write: no later push tries it
        self.unwritten = 0
        """How many outcomes are not written yet, in the outbox or in a round."""
        self._closed = False
        self._paused: set[str] = set()  # the reasons for which it is
        self._in_round = False
        self._stopped = False
        self._pushing = 0  # pushes under way that write outcomes and claim
        self._reserved = 0  # slots for which they may claim
        self._missed = False  # whether a round has left out reserved slots, which may stay free
        self._hinted = False
        self._lull = False
        self._stop_listening: Callable[[], None] = lambda: None
        self._context = contextvars.Context()  # in which hooks are called: not that of a push
        self._arrivals: Arrivals | None = None
        most = worker.lease * TRY_WITHIN if backend.shared else MAX_BACKOFF
        super().__init__("fetcher", self._round, worker.queue.clock, most, self._new_wakeup)

    @property
    def busy(self) -> bool:
        """Whether an outcome will be written, or a round or a push is under way, which may bring tasks."""
        # A loop that ends cancels the rounds: then nothing writes what is left.
        return self._in_round or self._pushing > 0 or (self.unwritten > 0 and self.running)

    async def start(self) -> None:
        """Start claiming and writing in the running loop."""
        await super().start()
        self._context = contextvars.copy_context()
        if self._arrivals is None:
            self._stop_listening = self._backend.listeners.listen(self.wake, READY)
        if self._backend.shared == "host":
            self._queue.takers.append(self)
        self._queue.local_workers.append(self._worker)

    def _new_wakeup(self) -> Wakeup:
        self._arrivals = self._backend.arrivals(self._worker.queues)
        return LoopWakeup() if self._arrivals is None else self._arrivals

    def wake(self, *_hint: object) -> None:
        """Start a round now; callable from any thread."""
        self._hinted = True
        super().wake()

    def close(self) -> None:
        """Claim no more, and release what has not started. Outcomes are still written."""
        self._closed = True
        if self.batches is not None:
            self.batches.close()
        self._stop_listening()
        with contextlib.suppress(ValueError):
            self._queue.local_workers.remove(self._worker)
            self._queue.takers.remove(self)
        self.give_back(NEVER_STARTED)
        super().wake()  # not after the back-off of a store that was away: the time to stop is short

    async def stop(self, timeout: float = 5.0) -> None:
        """Stop writing, too; a round that is under way may take so long to end."""
        self._stopped = True
        await super().stop(timeout)

    # ---- slots and buffer ----

    def next(self, task: Task, outcome: Outcome | None, ticks: int, took: int) -> Task | None:
        """Have the outcome of a run written that has ended after ``took`` ticks; return the task that gets its slot.

        None if there is none yet. Without an outcome nothing is written.
        """
        if SHRINKS in self._paused:
            self.look_shrunk()
        direct = self._direct
        alone = task.on_success is task.on_failure is None and not self._queue.webhooks
        if direct is not None and outcome is not None and alone:
            now = self._clock.now()
            after = settle(task, outcome, now, self._queue.version)
            goes_on = not (self._closed or self._paused) and (self.batches is None or self._free > 0)
            try:
                claimed = direct.step(self._worker.owner, now, self._worker.queues if goes_on else (), task, after)
            except LeaseLost:
                pass  # or a cancel was requested: decided as any other outcome
            else:
                if self._hooks.wanted or gate.open or type(outcome) is not Completed:
                    self._worker.settled(task, outcome, after)
                elif (tally := self._tally) is not None:
                    tally.completed.append(after)
                    if len(tally.completed) >= MANY:
                        tally.collect()
                if claimed is None:
                    super().wake()
                    return None
                if self._bounded:
                    self._queue.claims.hint_room([claimed])
                if claimed.crashes:
                    self._accept([claimed])  # perhaps it is to run alone
                    return None
                return claimed
        if outcome is not None:
            self.put(task, outcome)
        self._prefetch.took(took)
        self.buffer.moved = ticks
        if self.batches is not None:
            self.fill()
            return None
        return self.buffer.popleft() if self.buffer and not self._paused else None

    def share(self, batches: Batches) -> None:
        """Let each batch of tasks take one slot."""
        self.batches = batches
        batches.holds = lambda task: self._heartbeat.holds((task.task_id, task.fence), self._clock.ticks())
        self.look_for_tasks()

    def fill(self) -> None:
        """Run buffered tasks in the free slots."""
        buffer, batches = self.buffer, self.batches
        while buffer and not self._paused:
            if self._unused <= 0 and (batches is None or not batches.joins(buffer[0])):
                break
            self._worker.start_run(buffer.popleft())

    def pause(self, reason: str = "") -> None:
        """Release what has not started; claim nothing and start nothing until ``resume`` for this reason."""
        self._paused.add(reason)
        self.give_back(NEVER_STARTED)

    def resume(self, reason: str = "") -> None:
        """Claim and start tasks again, unless another reason is left; idempotent."""
        if reason in self._paused:
            self._paused.discard(reason)
            self.look_for_tasks()

    def look_for_tasks(self) -> None:
        """Start and claim tasks for the free slots now, unless it is paused."""
        if not self._paused:
            self.fill()
            self.wake()

    def look_shrunk(self) -> None:
        """Start nothing while more tasks run than there are slots; called after the number of slots has changed."""
        if self._unused <= 0:
            self.pause(SHRINKS)
        else:
            self._paused.discard(SHRINKS)
            self.look_for_tasks()

    def give_back(self, reason: str, keep: int = 0) -> None:
        """Release what is buffered, but for the first ``keep`` tasks."""
        for task in self.buffer.take_last(keep):
            self.put(task, Released(reason))

    def _accept(self, tasks: Sequence[Task]) -> None:
        """Take in claimed tasks."""
        if self._shared:
            tasks = [task for task in tasks if self._is_held(task)]
        if self._closed or self._paused:
            for task in tasks:
                self.put(task, Released(NEVER_STARTED))
            return
        if not self.buffer:
            self.buffer.moved = self._clock.ticks()
        if self.batches is not None:
            self._only_batches = all(map(self.batches.is_batched, tasks))
        self.buffer.extend(self.admit(tasks))
        self.fill()

    def _is_held(self, task: Task) -> bool:
        if held := self._heartbeat.hold((task.task_id, task.fence), task.lease_owner):
            return held
        self.put(task, Released(NEVER_STARTED))  # claimed under an id that was removed: others may have it
        return False

    # ---- outcomes ----

    def put(self, task: Task, outcome: Outcome) -> None:
        """Have the outcome of a task written; called on the loop."""
        self.unwritten += 1
        # Later ones are written with it; and what comes during a push by the next push, or by the round after this one.
        if not self._outbox and not self._pushing:
            super().wake()
        self._outbox.append((task, outcome))

    async def confirm(self, task: Task, outcome: Outcome | None) -> Outcome | None:
        """Return what is to be written for a task whose handler has called ``complete(session=…)``; None for nothing.

        Its row says whether the handler's transaction was committed; if not, ``outcome`` is what came of the run.
        """
        row = await self._read(task)
        if row is not None and (row.status, row.fence) == (Status.COMPLETED, task.fence):
            if isinstance(outcome, Failed) and outcome.cause is not None:
                log.warning("{} had completed when its handler raised", named(task), cause=outcome.cause)
            self._worker.settled(task, Completed(row.result), row)
            return None
        return outcome

    async def _read(self, task: Task) -> Task | None:
        failures = 0
        while True:
            try:
                return (await self._backend.get([task.task_id]))[0]
            except DatabaseUnavailable as error:
                if failures == 0:
                    log.warning("{}: whether it completed cannot be read yet: {}", named(task), error)
                failures += 1
                await self._clock.sleep(backoff(failures, 0.1, 2.0))

    # ---- what is pushed in this process ----

    @property
    def wants(self) -> bool:
        """Whether slots are free; a round under way claims for them, and the next one leaves them to pushes."""
        return self._free > 0 and self.here and self._room(True) > 0

    async def push(self, tasks: Sequence[Task]) -> list[Task]:
        """Push tasks, write outcomes, and claim for the free slots, in one transaction."""
        return await self._claim_with(self._backend.push_and_claim, tasks)

    async def fire(self, changes: Sequence[ScheduleChange]) -> list[bool]:
        """Change schedules and push their tasks, write outcomes, and claim for the free slots, in one transaction."""
        return await self._claim_with(self._backend.fire_and_claim, changes)

    async def _claim_with(self, verb: Callable[..., Coroutine[Any, Any, Pushed[R]]], what: Any) -> list[R]:
        room, now = 0 if self._in_round else self._room(True), self._clock.now()
        self._pushing += 1
        self._reserved += room
        claim = self._heartbeat.begin_claim()
        ended, self._outbox = ([], self._outbox) if self._left_to_round else (self._outbox, [])
        changes: list[Change] = []

        def end(left: Sequence[tuple[Task, Outcome]]) -> None:
            """Leave these outcomes to the next round, and free the slots for which the push could claim."""
            self._outbox[:0] = left
            self._left_to_round = self._left_to_round or bool(left)
            self._unreserve(room, claim)

        def take(held: Sequence[bool], claimed: Sequence[Task]) -> None:
            refused = self._written(ended, changes, held)
            if self._stopped:
                self._queue.claims.give_back(claimed)
            else:
                self._accept(claimed)
            end(refused)

        def end_alone(verb: asyncio.Future[Pushed[R]]) -> None:
            if verb.cancelled() or verb.exception() is not None:
                end(ended)
            else:
                take(*verb.result()[1:])

        try:
            changes += [self._change(task, outcome, now) for task, outcome in ended]
            wanted = Claim(self._worker.owner, now, room, self._worker.queues)
            stored, held, claimed = await self._queue.claims.to_its_end(
                verb(what, wanted, changes), lambda verb: verb.add_done_callback(end_alone, context=self._context)
            )
        except asyncio.CancelledError:
            raise  # the transaction goes on, and `end_alone` takes its answer
        except BaseException as error:
            end(ended)
            if not ended or isinstance(error, DatabaseUnavailable) or not isinstance(error, Exception):
                raise
            return await self._claim_with(verb, what)  # the error of an outcome must not fail the push
        self._reserved -= room - len(claimed)  # the caller's next push may claim for the slots that this one has left
        room = len(claimed)
        # Later, so that listeners hear of each push before they hear of its start.
        asyncio.get_running_loop().call_soon(take, held, claimed, context=self._context)
        return stored

    def _unreserve(self, room: int, claim: int) -> None:
        self._heartbeat.end_claim(claim)
        self._pushing -= 1
        self._reserved -= room
        if self._left_to_round or (not self._pushing and (self._missed or self._outbox)):
            self._missed = False
            super().wake()
        self._worker.look_idle()

    # ---- one round ----

    async def _round(self) -> float:
        self._in_round = True
        claim = self._heartbeat.begin_claim() if self._shared else 0
        try:
            return await self._exchange()
        finally:
            if self._shared:
                self._heartbeat.end_claim(claim)
            self._in_round = False
            if self._tally is not None:
                self._tally.collect()
            self._worker.look_idle()

    async def _exchange(self) -> float:
        if SHRINKS in self._paused:
            self.look_shrunk()
        if self.buffer:
            self._give_back_surplus()
            if self._outbox:
                await self._while_quick()
        if self._pushing and not self._left_to_round:
            self._missed = True
            return self._pause()  # the push writes and claims; a round beside it would be one more commit
        ended, self._outbox, self._left_to_round = self._outbox, [], False
        self._missed = self._reserved > 0
        hinted, self._hinted = self._hinted, self._hinted and self._missed  # kept for the claim that gets the room
        room = self._room(bool(ended))
        if self._arrivals is not None:
            self._arrivals.wanted = False  # until a claim has found less than there is room for
        if not ended and not room:
            return self._pause()
        now = self._clock.now()
        if self._lull and not ended and not hinted:
            self._lull = False
            if (pause := await self._until_due(now)) > 0:
                return pause
        changes = [self._change(task, outcome, now) for task, outcome in ended]
        try:
            held, tasks = await self._queue.claims.exchange(
                changes, Claim(self._worker.owner, now, room, self._worker.queues)
            )
        except (DatabaseUnavailable, asyncio.CancelledError):  # cancelled: the worker stops, and waits no longer
            self._outbox[:0] = ended
            raise
        except Exception:
            if not ended:
                raise
            await self._write_each(ended)  # the error of one outcome must not fail the others
            return 0.0
        if tasks:
            self._accept(tasks)
        if refused := self._written(ended, changes, held):
            await self._write_each(refused)
        if len(tasks) == room:
            return self._pause() if self.batches is None or not self._room(False) else 0.0
        if self._arrivals is not None:
            self._arrivals.wanted = True
        if not self._backend.suspends:
            return await self._until_due(now)
        # While hints come, each is followed by a claim: only after a lull is the next due time worth a query.
        self._lull = True
        return min(LULL, self._worker.poll_interval)

    async def _while_quick(self) -> None:
        """Wait while each turn of the loop ends a run, for up to HORIZON, so that one transaction writes many."""
        until = self._clock.ticks() + HORIZON
        count = 0
        while count < len(self._outbox) < MOST and self.buffer and self._clock.ticks() < until:
            count = len(self._outbox)
            await asyncio.sleep(0)

    async def _until_due(self, now: int) -> float:
        """Return the seconds until the next known task becomes due, or until the next poll if that is earlier."""
        at = await self._backend.next_run_at(now, self._worker.queues)
        return self._pause() if at is None else min(self._pause(), max(0.0, (at - now) / SECOND))

    def _change(self, task: Task, outcome: Outcome, now: int) -> Change:
        after = settle(task, outcome, now, self._queue.version)
        alone = task.on_success is task.on_failure is None and not self._queue.webhooks
        return Change(task, after) if alone else Change(task, after, self._worker.follow_ups(after))

    def _written(
        self, ended: Sequence[tuple[Task, Outcome]], changes: Sequence[Change], held: Sequence[bool]
    ) -> list[tuple[Task, Outcome]]:
        """Tell of the outcomes that are written; return those that were refused."""
        refused = []
        for entry, change, ok in zip(ended, changes, held, strict=True):
            if ok:
                for pushed in change.then:
                    self._queue.hooks.call("pushed", self._clock.now(), pushed)
                self.unwritten -= 1
                self._worker.settled(entry[0], entry[1], change.after)
            else:
                refused.append(entry)
        return refused

    async def _write_each(self, entries: Sequence[tuple[Task, Outcome]]) -> None:
        left = list(entries)
        while left:
            task, outcome = left[0]
            try:
                after = await self._queue.settle(task, outcome, then=self._worker.follow_ups)
            except (DatabaseUnavailable, asyncio.CancelledError):
                self._outbox[:0] = left
                raise
            except Exception as error:
                if isinstance(error, ValidationError) and isinstance(outcome, Completed):
                    left[0] = (task, unstorable(error))  # the result is larger than this store can hold
                    continue
                # An error of aiotaskq, not of the handler; the task comes back when its lease ends.
                log.error("{} could not be settled", named(task), cause=error)
                self.unwritten -= 1
                self._heartbeat.drop((task.task_id, task.fence))
            else:
                self.unwritten -= 1
                self._worker.settled(task, outcome, after)
            del left[0]

    # ---- how many ----

    @property
    def _unused(self) -> int:
        """How many slots run no task."""
        unused = self._worker.concurrency - len(self._executions)
        return unused if self.batches is None else unused + self.batches.without_slot

    @property
    def _free(self) -> int:
        """How many slots neither run a task nor have one waiting or on its way."""
        return self._unused - len(self.buffer) - self._reserved

    def _room(self, writes: bool) -> int:
        """Return how many tasks to claim: for the free slots, and more where tasks are quick.

        A round that ``writes`` outcomes claims whatever there is room for. Any other claims for a free slot, or when
        half of the prefetch is used up.
        """
        if self._closed or self._paused or not self._heartbeat.trusted:
            return 0
        ahead = 0 if self._direct is not None else self._prefetch.ahead
        free = self._free
        if self.batches is not None and self._only_batches:  # a batch that is gathered has a slot
            return max(0, free) + self.batches.wanted
        return max(0, free + ahead) if writes or free > 0 or (free + ahead) * 2 >= ahead > 0 else 0

    def _give_back_surplus(self) -> None:
        """Release tasks that were claimed ahead when tasks were quick, if those that run now are slow."""
        if self._closed or self._paused:
            return
        free = self._unused
        if self.buffer.waited(self._clock.ticks()) > STALLED:
            self._prefetch.stalled()
        elif self._prefetch.duration(len(self.buffer) - free) <= STALLED * self._worker.concurrency:
            return
        self.give_back(NEVER_STARTED, keep=max(0, free + self._prefetch.ahead))

    def _pause(self) -> float:
        interval = self._worker.poll_interval
        return min(interval, STALLED / SECOND) if self.buffer else interval
