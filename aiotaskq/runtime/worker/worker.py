"""The worker: claims tasks, runs each in a coroutine of its own, and settles what they came to."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import IntEnum
from typing import Any

from aiotaskq.backends.base import CANCEL, Backend, Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.poller import Service
from aiotaskq.core.outcome import Completed, Outcome, Released, marked, storable, unmarked
from aiotaskq.core.task import MAX_NAME, SECOND, Status, Task, check_int, check_key, check_seconds
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.log import gate, log, named, printable
from aiotaskq.runtime.clock_steps import HostClock
from aiotaskq.runtime.context import TaskContext
from aiotaskq.runtime.handler import Executors, Handler
from aiotaskq.runtime.queue.queue import Queue
from aiotaskq.runtime.task_log import log_lost, log_outcome
from aiotaskq.runtime.worker.buffer import Inbox
from aiotaskq.runtime.worker.execution import Running
from aiotaskq.runtime.worker.fetcher import NEVER_STARTED, Supply
from aiotaskq.runtime.worker.follow_ups import follow_ups
from aiotaskq.runtime.worker.heartbeat import Key, LeaseKeeper, fresh_owner
from aiotaskq.runtime.worker.runner import CUT_OFF, STOPPED, RunCall, Runner
from aiotaskq.runtime.worker.watchdog import Slots

SERVICES = 1.0  # seconds in which a loop's round may end by itself when the worker stops
CLOSING = 5.0  # seconds that giving back connections, threads and resources may take in the end


class ExitCode(IntEnum):
    """How a worker stopped."""

    DRAINED = 0
    GIVEN_BACK = 3
    ABANDONED = 4


class Worker:
    """Runs tasks of one queue actor with ``concurrency`` slots until it is stopped."""

    def __init__(
        self,
        queue: Queue,
        backend: Backend,
        clock: Clock,
        handlers: Mapping[str, Handler],
        *,
        concurrency: int = 10,
        queues: Sequence[str] | None = None,
        lease: float = 60.0,
        heartbeat: float = 15.0,
        reap_interval: float = 15.0,
        poll_interval: float = 1.0,
        middleware: Sequence[Callable[[Task, RunCall], Awaitable[Any]]] = (),
        resources: Callable[[contextlib.AsyncExitStack], Awaitable[Mapping[Any, Any]]] | None = None,
    ) -> None:
        """Wire a worker; all durations in seconds. ``queues`` None serves every queue that is not paused."""
        self._queue = queue
        self._backend = backend
        self._clock = clock
        self._handlers = handlers
        self._concurrency = check_int("concurrency", concurrency, 1, 10_000)
        if isinstance(queues, str) or (queues is not None and not queues):
            raise ValidationError(f"queues: a list of names is needed, or None for every queue (got {queues!r:.40})")
        self._queues = None if queues is None else tuple(check_key("queues", name, MAX_NAME) for name in queues)
        self._lease = check_seconds("lease", lease, zero=False)
        self._heartbeat = check_seconds("heartbeat", heartbeat, zero=False)
        if self._heartbeat * 2 > self._lease:
            raise ValidationError(f"heartbeat: {heartbeat} s is more than half of the lease of {lease} s")
        self._poll_interval = check_seconds("poll_interval", poll_interval, zero=False)
        self._middleware = middleware
        self._make_resources = resources
        self._owner = fresh_owner("worker-")
        self._inbox = Inbox(clock.ticks, int(self._lease * SECOND), self._start_ready, self._let_others_in)
        self._chores: set[asyncio.Task[None]] = set()
        self._running: dict[str, Running] = {}
        self.held = Slots(self._running, handlers, self._concurrency, queue.events, clock)
        self._stop_listening: Callable[[], None] = lambda: None
        self._keeper = LeaseKeeper(
            backend,
            clock,
            lease=self._lease,
            heartbeat=self._heartbeat,
            answered=self._answered,
            fenced=self._fenced,
            owner=self._owner,
        )
        self._supply = Supply(
            queue,
            backend,
            clock,
            self._inbox,
            self._keeper,
            owner=self._owner,
            queues=self._queues,
            concurrency=self._concurrency,
            lease=self._lease if backend.shared else None,
            poll_interval=self._poll_interval,
            accept=self._accept,
            backoff=lambda task: self._handlers[task.type].backoff,
            follow_ups=self._follow_ups,
            told=self._told_of_the_end,
            rested=self._look_idle,
        )
        self._executors = Executors(self._concurrency)
        self.runner = Runner(
            handlers,
            self._executors,
            clock,
            queue.events,
            self._running,
            durable=backend.durable,
            timed_out=self.held.timed_out,
            ending=lambda: self._supply.cancelled,
        )
        self._host_clock = HostClock(backend, clock, queue.told_of_step)
        self._canceller = Service("cancels", self._look_for_cancels, clock)
        self._reap_interval = check_seconds("reap_interval", reap_interval, zero=False)
        self._reaper = Service("reaper", self._reap, clock)
        self._reap_from = 0  # ticks
        self._stopping = False
        self._hurried = False
        self._given_back = 0
        self._idle = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self._exit: asyncio.Task[ExitCode] | None = None

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return len(self._running)

    @property
    def tasks(self) -> list[Task]:
        """The tasks that run here now, the earliest first."""
        return [running.task for running in self._running.values()]

    @property
    def problem(self) -> str | None:
        """What is wrong, or None: leases not renewed, claims that fail, handlers that go on after their timeout."""
        if not self._keeper.trusted or self._supply.failures:
            return "leases are not renewed, or nothing can be claimed"
        if deaf := self.held.deaf():
            types = ", ".join(sorted({printable(task.type) for task in deaf})[:5])
            return (
                f"{len(deaf)} of {self._concurrency} slots are held by handlers that go on after their timeout: {types}"
            )
        return None

    async def start(self) -> None:
        """Start the fetcher, the heartbeat and the reaper in the running loop."""
        self.loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._idle = asyncio.Event()
        resources = await self._make_resources(self._stack) if self._make_resources is not None else {}
        self.runner.prepare(self._middleware, resources)
        self._stop_listening = self._backend.hints.listen(self._told_to_cancel, CANCEL)
        self.held.start()
        await self._keeper.start()
        if self._backend.shared:
            await self._backend.watch()
            await self._canceller.start()
        await self._supply.start()
        await self._reaper.start()
        log.debug("worker started: {} slots, {}", self._concurrency, self._served())

    def _served(self) -> str:
        return "every queue" if self._queues is None else f"queues {', '.join(map(printable, self._queues))}"

    def _told_to_cancel(self, _kind: str, names: Sequence[str]) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._cancel_here, set(names))  # the hint may come from any thread

    def _cancel_here(self, ids: set[str]) -> None:
        for running in self._running.values():
            if running.task.task_id in ids:
                running.interrupt("cancel")
        for task in self._inbox.take(lambda task: task.task_id in ids):
            self._put(task.replace(cancel_requested=True))

    def _accept(self, tasks: Sequence[Task], since: int) -> None:
        for task in tasks:
            if self._backend.shared:
                self._keeper.hold((task.task_id, task.fence), since)
            if self._stopping:
                self._supply.put(task, Released(NEVER_STARTED))
            elif (earlier := self._running.get(task.task_id)) is not None:
                self._not_beside(earlier, task)
            else:
                self._put(task)

    def _put(self, task: Task) -> None:
        if not self._inbox.put(task):
            # Where others are let in, it is a second suspect, and would be claimed again at once.
            self._supply.put(task, Released(NEVER_STARTED, 0 if self._inbox.narrow else SECOND))
        elif task.crashes and self._inbox.narrow:
            self._supply.wake()  # what waits beside it goes back

    def _not_beside(self, earlier: Running, task: Task) -> None:
        # Its lease was lost, and it came back to us while the last run still goes on: never two of them here at once.
        earlier.interrupt("lost")
        self._supply.put(task, Released("an earlier run of it has not ended here", SECOND))

    # ---- running ----

    def _start_ready(self) -> None:
        """Start a run for each task that may run now, as far as there are free slots."""
        inbox = self._inbox
        while inbox.running < self._concurrency and (task := inbox.next()) is not None:
            if (earlier := self._running.get(task.task_id)) is not None:
                self._not_beside(earlier, task)
                inbox.done(task, self._clock.ticks(), 0)
                continue
            running = self._running[task.task_id] = Running(task, TaskContext(task, self))
            alone = task.crashes > 0 and inbox.alone(task)
            self._spawn(running, self._run_alone(running) if alone else self._run(running))

    async def _run_alone(self, running: Running) -> None:
        """Mark the row of a suspect that has no other task beside it, then run it.

        If this process dies from here on, the task is blamed for it.
        """
        began = self._clock.ticks()
        self._inbox.mark()
        try:
            if await self._rewrite(running, marked(running.task)):
                self._clock.call_later(self._lease, self._inbox.hurry)
                self._spawn(running, self._run(running))
                return
            self._supply.put(running.task, Released(NEVER_STARTED))
        except Exception as error:
            self._not_settled(running.task, error)
        self._ended(running, began)

    async def _rewrite(self, running: Running, after: Task) -> bool:
        """Write another owner of a task that runs here; return whether it is still ours, unchanged."""
        if self._backend.shared:
            until = self._clock.now() + int(self._lease * SECOND)
            try:
                (held,) = await self._backend.update([Change(running.task, after.replace(lease_until=until))])
            except DatabaseUnavailable as error:
                log.warning("{}: whether it runs alone cannot be written: {}", named(after), error)
                return False
            if not held:
                return False
        running.task = after
        return True

    def _let_others_in(self, task: Task) -> None:
        running = self._running.get(task.task_id)
        if running is not None and not running.unmarking:
            running.unmarking = True
            self._chore(self._take_mark_back(running))

    async def _take_mark_back(self, running: Running) -> None:
        """Before other tasks run beside a suspect: from then on one of them may be what this process dies of."""
        task = running.task
        try:
            gone = await self._rewrite(running, unmarked(task))
            if not gone and self._running.get(task.task_id) is running:
                (row,) = await self._backend.get([task.task_id])
                gone = row is None or (row.status, row.fence) != (task.status, task.fence)
                if row is not None and not gone:
                    running.task = task.replace(cancel_requested=row.cancel_requested)
            if gone and self._running.get(task.task_id) is running:
                self._inbox.unmark()
                self._supply.wake()
        finally:
            running.unmarking = False  # if the mark is still there, the next round tries again

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        chore = self.loop.create_task(work, name="aiotaskq-chore")
        self._chores.add(chore)
        chore.add_done_callback(self._chore_done)

    def _chore_done(self, chore: asyncio.Task[None]) -> None:
        self._chores.discard(chore)
        if not chore.cancelled() and (error := chore.exception()) is not None:
            log.warning("worker: {}: {}", type(error).__name__, error)

    def _spawn(self, running: Running, work: Coroutine[Any, Any, None]) -> None:
        # A copy of the context that the worker was started in: a handler's context variables end with its run.
        # Not by the loop's task factory: an eager one would run the handler, and those after it, in here.
        running.coroutine = asyncio.Task(work, loop=self.loop, name="aiotaskq-run", context=self._context.copy())

    async def _run(self, running: Running) -> None:
        """Run one task. Nothing is awaited here but the handler: a cancel that it leaves behind meets nobody else."""
        began = self._clock.ticks()
        running.begun = True
        try:
            if self._keeper.holds((running.task.task_id, running.task.fence), began):
                outcome = await self.runner.run(running)
            else:  # the process stood still for longer than its lease: others may have the task; if not, it goes back
                outcome = Released(CUT_OFF)
            if running.context.completed:
                self._spawn(running, self._run_completed(running, outcome, began))
                return
            self._put_outcome(running.task, outcome)
        except Exception as error:
            self._not_settled(running.task, error)
        except BaseException:
            self._drop(running.task)
            self._ended(running, began)
            raise
        self._ended(running, began)

    async def _run_completed(self, running: Running, outcome: Outcome | None, began: int) -> None:
        """Settle a run that has completed its task in a transaction of its own, which is read back from the store."""
        try:
            await self._supply.put_completed(running.task, outcome)
        except Exception as error:
            self._not_settled(running.task, error)
        finally:
            self._ended(running, began)

    def _put_outcome(self, task: Task, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._supply.put(task, outcome)
        else:
            self._drop(task)

    def _not_settled(self, task: Task, error: Exception) -> None:
        # A fault of ours, not of the handler: the worker must live, and the task comes back when its lease ends.
        log.error("{} could not be settled", named(task), cause=error)
        self._drop(task)

    def _drop(self, task: Task) -> None:
        self._inbox.forget(task)
        self._keeper.drop((task.task_id, task.fence))

    def _ended(self, running: Running, began: int) -> None:
        del self._running[running.task.task_id]
        now = self._clock.ticks()
        self._inbox.done(running.task, now, now - began)
        if self._stopping:
            self._look_idle()

    async def report(self, task: Task, value: dict[str, Any]) -> bool:
        """Store the progress of a task that runs here; return whether it is still ours."""
        return (await self._backend.report([(task.task_id, task.fence, value)]))[0]

    async def complete(self, task: Task, session: Any, result: Any) -> bool:
        """Complete a task that runs here in the caller's transaction; return whether it is still ours."""
        result = storable(result)
        return await self._queue.complete_with(session, task, result, then=self._follow_ups) is not None

    # ---- settling ----

    def _told_of_the_end(self, task: Task, outcome: Outcome, after: Task | None) -> None:
        if self._backend.shared:
            self._keeper.drop((task.task_id, task.fence))
        events = self._queue.events
        if after is None or type(outcome) is not Completed or gate.open:
            log_outcome(task, outcome, after, self._clock.now())
        if after is None:
            self._uncount(task)
            events.emit("lost", self._clock.now(), task)
            return
        if type(outcome) is Released and outcome.reason == STOPPED:
            self._given_back += 1
        if events.wanted:
            events.emit(_event_of(after, outcome), self._clock.now(), after)
        if after.on_success is not None or after.on_failure is not None:
            callback = {Status.COMPLETED: after.on_success, Status.FAILED: after.on_failure}.get(after.status)
            if callable(callback):
                events.call(callback, after, f"the callback of task {after.task_id}")

    def _look_idle(self) -> None:
        if not self._running and not self._supply.busy:
            self._idle.set()

    def _follow_ups(self, after: Task) -> tuple[Task, ...]:
        return follow_ups(after, self._handlers, self._clock.now())

    # ---- leases ----

    def _answered(self, held: Sequence[Key], answers: Sequence[bool | None]) -> None:
        for key, answer in zip(held, answers, strict=True):
            running = self._running.get(key[0])
            if running is not None and running.task.fence == key[1] and answer is not False:
                if answer is None and running.reason != "lost":
                    self._uncount(running.task)
                    log_lost(running.task)
                running.interrupt("lost" if answer is None else "cancel")
            elif answer is None:
                self._keeper.drop(key)
                for task in self._inbox.take(lambda task, key=key: (task.task_id, task.fence) == key):  # type: ignore[misc]
                    self._uncount(task)
                    log_lost(task)

    def _uncount(self, lost: Task) -> None:
        # Another host cannot know that this process lives.
        if self._backend.shared:
            self._chore(self._queue.reaper.uncount(lost))

    def _fenced(self) -> None:
        # Others may have our tasks by now: stop working on them; nothing is claimed until the store answers again.
        count = len(self._running)
        log.warning("no lease could be renewed in time: {} running tasks are stopped, others may have them", count)
        for running in self._running.values():
            running.interrupt("cut off")
        for task in self._inbox.take():
            self._supply.put(task, Released(CUT_OFF))

    async def _look_for_cancels(self) -> float:
        """Cancel requests reach us by a hint where the store has one, else here."""
        if self._running:
            self._cancel_here(set(await self._backend.cancelling(list(self._running))))
        await self._host_clock.look()
        return self._poll_interval

    async def _reap(self) -> float:
        ticks = self._clock.ticks()
        if self._reaper.failures:
            await self._backend.ping()
            # The store is back. Who lives renews its leases now, or gives back what it had to drop: only who does
            # neither for a whole lease is lost, and blamed on its tasks.
            self._reap_from = ticks + int(self._lease * SECOND)
        if ticks < self._reap_from:
            return min(self._reap_interval, (self._reap_from - ticks) / SECOND)
        if await self._queue.reaper.reap(
            owner=self._owner, holds=self._keeper, then=self._follow_ups, lease=self._lease
        ):
            return 0.0
        await self._backend.tidy()
        return self._reap_interval * random.uniform(0.8, 1.2)

    # ---- stopping ----

    async def stop(self, drain: float = 25.0, grace: float = 5.0) -> ExitCode:
        """Stop in stages: claim no more, let handlers end for ``drain`` seconds, cancel, wait ``grace``, give back.

        Idempotent, also in parallel. The heartbeat goes on to the last.
        """
        if self._exit is None:
            self._exit = asyncio.create_task(self._stop(drain, grace), name="aiotaskq-stop")
        return await asyncio.shield(self._exit)

    def hurry(self) -> None:
        """Skip the drain, or what is left of it: cancel the handlers now (a second signal), and start no others."""
        self._stopping = self._hurried = self.runner.stopping = True
        self._supply.wake()
        for running in list(self._running.values()):
            running.interrupt("shutdown")

    async def _stop(self, drain: float, grace: float) -> ExitCode:
        self._stopping = self.runner.stopping = True
        self._supply.close()
        await asyncio.gather(self._reaper.stop(SERVICES), self._canceller.stop(SERVICES))
        self._stop_listening()
        self.held.stop()
        if not await self._until_idle(0.0 if self._hurried else drain):
            self.hurry()
            await self._until_idle(grace)
        abandoned = list(self._running.values())
        for running in abandoned:
            # Its lease ends by itself; nobody may take the task while this process still works on it.
            running.abandoned = True
            log.error("{} does not stop and is abandoned", named(running.task))
        await self._supply.stop(SERVICES)
        if unwritten := self._inbox.unwritten:  # the store is away: their leases end by themselves
            log.error("what became of {} tasks could not be stored; they will be run again", unwritten)
        await self._queue.events.idle(grace)
        for chore in self._chores:
            chore.cancel()
        try:
            async with asyncio.timeout(CLOSING):
                await self._keeper.stop()
                await self._executors.close(wait=not abandoned)
                await self._stack.aclose()
        except TimeoutError:
            log.error("the worker's connections and resources were not closed within {:g} s", CLOSING)
        self.runner.deadlines.close()
        if abandoned or unwritten:
            return ExitCode.ABANDONED
        return ExitCode.GIVEN_BACK if self._given_back else ExitCode.DRAINED

    async def _until_idle(self, seconds: float) -> bool:
        """Wait until nothing runs and all that ran is written."""
        end = self._clock.ticks() + int(seconds * SECOND)
        while self._running or self._supply.busy:
            self._idle.clear()
            left = (end - self._clock.ticks()) / SECOND
            if left <= 0 or not await self._clock.wait(self._idle, left):
                return False
        return True


def _event_of(after: Task, outcome: Outcome) -> str:
    if after.status is Status.PENDING:
        return "released" if isinstance(outcome, Released) else "retried"
    return str(after.status)
