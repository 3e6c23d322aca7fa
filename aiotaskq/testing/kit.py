"""The kit: workers and schedules in virtual time, which a test advances or drains; and inline mode."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from aiotaskq.app.internal import internal
from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.errors import check_int, check_seconds, instant
from aiotaskq.core.outcome import Released
from aiotaskq.core.status import Status
from aiotaskq.core.steps import NEVER
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import TaskFailed, ValidationError
from aiotaskq.log import printable
from aiotaskq.runtime.hooks import HookCall
from aiotaskq.runtime.worker.worker import Worker
from aiotaskq.testing.harness import START, Harness, PushCall, RunCall, opened
from aiotaskq.testing.override import Pushes

MAX_JUMPS = 10_000  # of `drain(delayed=True)`; after these it is taken to be endless


class Kit(Harness):
    """A ``TaskQ`` in virtual time: ``tq``, its ``clock``, and the ``pushed`` tasks.

    Workers claim due tasks as soon as the test awaits something. Time passes only in ``advance``, ``advance_to`` and
    ``drain(delayed=True)``: a test that awaits ``handle.result()`` of a delayed task, or reads its
    ``handle.stream()``, fails after ten real seconds.
    """

    REMEDY = "await kit.advance(…), or kit.drain(delayed=True), first; an event has to be emitted"

    def __init__(
        self, tq: TaskQ, clock: VirtualClock, recorded: Pushes, *, concurrency: int = 10, scheduler: bool = True
    ) -> None:
        """For ``virtual`` and the fixtures, which swap the store and the clock of ``tq`` first."""
        super().__init__(tq, clock, recorded)
        self._concurrency = check_int("concurrency", concurrency, 1, 10_000)
        self._scheduler = scheduler
        self._declared: set[str] = set()
        self._expiring: set[str] = set()
        self._popped: set[tuple[str, int]] = set()
        tq.on("pushed", self._note_expiry)

    async def _start(self) -> None:
        self._declared = set(internal(self.tq).registered.schedules)
        running = self.tq.running(self._concurrency, scheduler=self._scheduler, workers=True, drain=0, grace=1)
        await self._stack.enter_async_context(running)

    async def _ready(self) -> None:
        await self.start()
        parts = internal(self.tq)
        if new := parts.registered.schedules.keys() - self._declared:
            # Declared in the test itself, after the start.
            self._declared |= new
            await parts.scheduler().declare([parts.registered.schedules[name]() for name in sorted(new)])
            if self._scheduler:
                await parts.scheduler().start()

        for task in self.tq.queue.unacked.tasks:
            if task.lease_until is not None and (pop := (task.task_id, task.fence)) not in self._popped:
                self._popped.add(pop)
                self.clock.call_later(max(0, task.lease_until - self.clock.now()) / SECOND, self._expire)

    def _note_expiry(self, event: HookCall) -> None:
        """Let a task that is not claimed expire at its instant; otherwise the next look of a worker would notice."""
        task = event.task
        if task is not None and task.expires_at is not None:
            self._expiring.add(task.task_id)
            self.clock.call_later(max(0, task.expires_at - self.clock.now()) / SECOND, self._expire)

    def _expire(self) -> None:
        if self.tq.worker is not None:
            self.tq.worker.leases.reap_now()

    # ---- time ----

    @property
    def now(self) -> datetime:
        """The virtual time, as an aware datetime in UTC."""
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self.clock.now())

    async def advance(
        self, seconds: float | timedelta = 0, *, days: float = 0, hours: float = 0, minutes: float = 0
    ) -> None:
        """Advance the time by seconds or a timedelta, and days, hours and minutes. Everything happens at its instant.

        Time stands still while a database or a handler in a thread works. It does not wait for a handler that waits for
        anything else, as a socket or ``asyncio.sleep``: call ``drain()`` first.

        Raises ValidationError for a negative time.
        """
        # One part may be less than nothing, as in an hour less a microsecond.
        check_seconds("seconds", abs(seconds) if isinstance(seconds, int | float | timedelta) else seconds)
        own = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        span = own + timedelta(days=days, hours=hours, minutes=minutes)
        check_seconds("seconds", span.total_seconds())
        await self._ready()
        await self.clock.advance(span.total_seconds())

    async def advance_to(self, when: datetime) -> None:
        """Advance the time to an instant, an aware datetime. Raises ValidationError for a naive or past one."""
        ahead = instant("when", when) - self.clock.now()
        if ahead < 0:
            raise ValidationError(f"when: {when} is past; it is {self.now.isoformat()}")
        await self._ready()
        await self.clock.advance(ahead / SECOND)

    async def drain(
        self,
        timeout: float | timedelta = 10.0,
        *,
        delayed: bool = False,
        within: float | timedelta = timedelta(days=366),
    ) -> None:
        """Run until no task is due or runs; time stands still.

        Args:
            timeout: real seconds that it may take; handlers may wait for a thread or a socket.
            delayed: let time jump to each planned retry and delay until no task is pending. Schedules fire meanwhile;
                it ends as soon as no task is pending, even if schedules continue.
            within: the virtual time that ``delayed`` may take.

        Raises:
            AssertionError: names what is left: a handler that does not end in time or waits for virtual time, or, with
                ``delayed``, tasks that continue beyond ``within`` or 10,000 jumps, such as one that pushes itself.
        """
        await self._ready()
        loop = asyncio.get_running_loop()
        real, longest = check_seconds("timeout", timeout), check_seconds("within", within)
        end = loop.time() + real
        began, jumps = self.clock.now(), 0
        while True:
            await self.clock.settle()
            now, over, turns = self.clock.now(), loop.time() >= end, self._turns
            planned = await self._planned(now)
            if self._turns != turns:
                continue  # a run ended while the database was read, and is not settled yet
            outside = [run for run in self._runs.values() if not self._sleeps(run)]
            worker = self.tq.worker
            if worker is not None and worker.runner.batches.gathers and (planned is None or planned > now):
                worker.runner.batches.close()  # no more tasks come while time stands still
                continue
            if outside or (planned is not None and planned <= now):
                if over:
                    raise await self._unfinished(f"after {real:g} s there is work left")
                if outside:  # real time passes
                    ends = {run.ended for run in outside}
                    await asyncio.wait(ends, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                else:  # a worker is about to claim
                    await asyncio.sleep(0.002)
                continue
            if self._runs:  # all of them wait for the clock
                if not delayed:
                    raise await self._unfinished("handlers wait for time: advance(…), or drain(delayed=True)")
                planned = min(filter(None, (planned, self.clock.next_at)), default=None)
            if planned is None or not delayed:
                return
            if over or jumps == MAX_JUMPS or planned - began > longest * SECOND:
                passed = timedelta(microseconds=now - began)
                raise await self._unfinished(f"no end after {jumps} jumps, over {passed} of virtual time")
            jumps += 1
            await self.clock.advance(max(0, planned - now) / SECOND)

    async def _planned(self, now: int) -> int | None:
        """Return when the next task is due that is known, may pass its gate, or expires; None if none is."""
        backend = self.tq.queue.backend
        gates = await backend.gates.find(limit=100_000) if not self.tq.queue.limit_sweep.idle else []
        times = [await backend.next_run_at(now), *(each.gate.next_at for each in gates if each.waiting)]
        if self._expiring:
            found = [task for task in await backend.get(list(self._expiring)) if task is not None]
            left = [task for task in found if task.status is Status.PENDING and (task.expires_at or 0) > now]
            self._expiring = {task.task_id for task in left}
            times += [task.expires_at for task in left]
        # Only an event ends a wait without a timeout.
        return min((at for at in times if at is not None and at < NEVER), default=None)

    async def _unfinished(self, what: str) -> AssertionError:
        lines = [f"drain: {what}"]
        for status in (Status.RUNNING, Status.PENDING):
            counts = Counter(task.type for task in await self.tasks(status))
            if counts:
                names = ", ".join(f"{count} x {printable(name)}" for name, count in sorted(counts.items()))
                lines.append(f"  {status}: {names}")
        for limit in await self.tq.limits.list(limit=100_000):
            if limit.waiting:
                paused = "" if limit.state == "open" else ", paused"
                lines.append(f"  limit {printable(limit.key)}: {limit.waiting} wait, {limit.held} hold a slot{paused}")
        if (stored := internal(self.tq).open_schedules()) is not None:
            enabled = [printable(each.name) for each in await stored.all() if each.enabled]
            lines += ["  enabled schedules: " + ", ".join(enabled[:20])] if enabled else []
        return AssertionError("\n".join(lines))


@contextlib.asynccontextmanager
async def virtual(
    tq: TaskQ | None = None,
    url: str | None = None,
    *,
    start: datetime = START,
    concurrency: int = 10,
    scheduler: bool = True,
    **options: Any,
) -> AsyncIterator[Kit]:
    """Run the workers and schedules of a TaskQ in virtual time, during a test.

    Args:
        tq: the application's own; default a new one.
        url: the store; default one in memory with the rules of the real one. See ``override``.
        start: when virtual time begins; an aware datetime.
        concurrency: handlers at a time.
        scheduler: whether schedules are fired.
        options: as of ``TaskQ``; a test of leases sets ``lease=60``, say. The default is 30 days, and one day for the
            rounds of background loops, so that virtual time jumps over what has nothing to do.
    """
    clock = VirtualClock(instant("start", start))
    with opened(Kit, tq, url, clock=clock, concurrency=concurrency, scheduler=scheduler, **options) as kit:
        async with kit:
            yield kit


# ---- inline mode: each task runs in the caller before its push returns, by the rules of a worker ----

INLINE = "aiotaskq.inline"  # the queue of the worker, which claims nothing by itself
CLAIM_LIMIT = 10_000  # tasks claimed at a time


class Inline(Harness):
    """A ``TaskQ`` whose pushes run the handler: ``tq``, its ``clock``, and the ``pushed`` tasks."""

    REMEDY = "inline mode runs no task later: use virtual(tq)"

    def __init__(
        self, tq: TaskQ, clock: VirtualClock, recorded: Pushes, *, retries: bool = False, raise_errors: bool = True
    ) -> None:
        """For ``inline`` and the fixtures, which swap the store and the clock of ``tq`` first."""
        super().__init__(tq, clock, recorded)
        self._retries = retries
        self._raise_errors = raise_errors
        self._errors: dict[str, Exception] = {}
        self._wanted: set[str] = set()  # ids of tasks that a push runs, or is going to run
        self._claimed: dict[str, Task] = {}  # claimed tasks that do not run yet

    async def _start(self) -> None:
        running = self.tq.running(1, queues=[INLINE], scheduler=False, workers=True, drain=0, grace=1)
        await self._stack.enter_async_context(running)
        self.tq.queue.step_verbs.short = 0.0  # it leaves every sleep, so that the push lets the time pass

    async def push(self, tasks: list[Task], call_next: PushCall) -> list[Task]:
        await self.start()
        ids = [task.task_id for task in tasks]
        self._wanted.update(ids)  # before the push: a concurrent one must not run them
        try:
            stored = await call_next(tasks)
            new = [task.task_id for task, row in zip(tasks, stored, strict=True) if row is task]
            if None in await self.tq.queue.backend.get(new):
                return stored  # its transaction is not committed yet; a claim might wait for it
            errors = [await self._run_to_the_end(task_id) for task_id in new]
        finally:
            self._wanted.difference_update(ids)
        await self._claim()
        while others := self._claimed.keys() - self._wanted:  # follow-ups of a task, callbacks of a group
            errors.append(await self._run_to_the_end(min(others)))
            await self._claim()
        if first := next(filter(None, errors), None):
            raise first
        return stored

    async def run(self, task: Task, call_next: RunCall) -> Any:
        try:
            return await super().run(task, call_next)
        except Exception as error:
            self._errors[task.task_id] = error
            raise

    async def _run_to_the_end(self, task_id: str) -> Exception | None:
        """Run a task until it waits for something; return the error to raise."""
        while True:
            row = await self.tq.get(task_id)
            if task_id not in self._claimed:
                await self._claim()
            if (task := self._claimed.pop(task_id, None)) is not None:
                self._errors.pop(task_id, None)
                outcome, completed = await self._worker.runner.run(task)
                await self._worker.settle(task, outcome, completed)
                left = outcome.suspended if isinstance(outcome, Released) else None
                if left is not None and left.new[0].step.kind == "sleep":
                    await self.clock.advance(max(0, left.until - self.clock.now()) / SECOND)
            elif row.status is Status.PENDING and row.retry_count and self._retries and row.run_at > self.clock.now():
                await self.clock.advance((row.run_at - self.clock.now()) / SECOND)
            elif (at := await self._passes_at(row)) is not None:
                await self.clock.advance(max(0, at - self.clock.now()) / SECOND)
            else:
                break
        error = self._errors.pop(task_id, None)
        if self._raise_errors and row.status in (Status.PENDING, Status.FAILED) and row.error_message is not None:
            return TaskFailed(row) if error is None else error
        return None

    async def _passes_at(self, row: Task) -> int | None:
        """Return when a due task may pass the rate at which it waits; None if it waits for anything else."""
        if not row.parked or row.gate is None or row.due_us > self.clock.now():
            return None
        state = await self.tq.limits.get(row.gate)
        return state.next_at if state.state == "open" else None

    async def _claim(self) -> None:
        """Claim every due task, since a store cannot claim a certain one."""
        for task in await self._worker.claim(CLAIM_LIMIT):
            self._claimed[task.task_id] = task

    @property
    def _worker(self) -> Worker:
        assert self.tq.worker is not None
        return self.tq.worker


@contextlib.asynccontextmanager
async def inline(
    tq: TaskQ | None = None,
    url: str | None = None,
    *,
    retries: bool = False,
    raise_errors: bool = True,
    **options: Any,
) -> AsyncIterator[Inline]:
    """Let each push run its task before it returns, so that ``handle.result()`` is available at once.

    The handler is awaited in the coroutine that pushes, with middleware, resources, timeout and events, and its outcome
    is settled as in a worker. Where a rate makes a task wait, or a handler sleeps, time passes. A task with a
    delay or debounce, at a closed limit, that waits for an event, or that is pushed with ``session`` stays pending, and
    no schedule fires: use ``virtual`` for those.

    Args:
        tq: the application's own; default a new one.
        url: the store; default one in memory with the rules of the real one. See ``override``.
        retries: run a task that is retried again at once, without its back-off.
        raise_errors: the push raises the last error of the handler, or TaskFailed where it raised none, as at a
            timeout; of several tasks the first one's, when all have run. False only stores the failure.
        options: as of ``TaskQ``.
    """
    clock = VirtualClock(instant("start", START))
    with opened(Inline, tq, url, clock=clock, retries=retries, raise_errors=raise_errors, **options) as made:
        async with made:
            yield made
