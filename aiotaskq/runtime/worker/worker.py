"""The worker: wires its parts together, runs claimed tasks in its slots, and stops in two stages."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiotaskq.backends.listeners import STEER
from aiotaskq.concurrency.reusable_task import ReusableTask
from aiotaskq.core.conversion import storable
from aiotaskq.core.errors import MAX_NAME, check_int, check_key, check_seconds
from aiotaskq.core.notes import NewNote
from aiotaskq.core.outcome import Completed, Outcome, Released
from aiotaskq.core.parent import PARENT, Parent
from aiotaskq.core.status import Status
from aiotaskq.core.stopping import CLOSING, SERVICES, ExitCode
from aiotaskq.core.task import SECOND, Task, TaskOfObjects, new_task, run_options, trace_of
from aiotaskq.errors import ValidationError
from aiotaskq.log import gate, log, named, printable
from aiotaskq.runtime.context import TaskContext
from aiotaskq.runtime.handler import Handler, told
from aiotaskq.runtime.limits import told_limits
from aiotaskq.runtime.task_log import log_outcome
from aiotaskq.runtime.worker.execution import FENCED, NEVER_STARTED, STOPPED, Execution, Host, retrieve
from aiotaskq.runtime.worker.executors import Executors
from aiotaskq.runtime.worker.fetcher import Fetcher
from aiotaskq.runtime.worker.heartbeat import Description, Heartbeat
from aiotaskq.runtime.worker.leases import Leases, Quarantine
from aiotaskq.runtime.worker.notes import NoteWriter, Work
from aiotaskq.runtime.worker.runner import RunCall, Runner
from aiotaskq.runtime.worker.stacks import Stacks
from aiotaskq.runtime.worker.tally import Tally
from aiotaskq.runtime.worker.watchdog import Occupancy, Watchdog

if TYPE_CHECKING:
    from aiotaskq.runtime.queue.queue import Queue


QUIET = "quiet"  # why its fetcher is paused
BY_STOP = (STOPPED, NEVER_STARTED, FENCED)  # why tasks are released that a stop does not let run to their ends
TURN, RUNS = 250, 32  # ticks and runs in one asyncio task after which others of the loop have a turn


class Worker(Host):
    """Runs tasks of one queue with ``concurrency`` slots until it is stopped."""

    def __init__(
        self,
        queue: Queue,
        handlers: Mapping[str, Handler],
        *,
        concurrency: int = 10,
        queues: Sequence[str] | None = None,
        lease: float | timedelta = 60.0,
        heartbeat: float | timedelta = 15.0,
        reap_interval: float | timedelta = 15.0,
        poll_interval: float | timedelta = 1.0,
        middleware: Sequence[Callable[[Task, RunCall], Awaitable[Any]]] = (),
        resources: Callable[[contextlib.AsyncExitStack], Awaitable[Mapping[Any, Any]]] | None = None,
        history: bool = True,
        history_tags: Sequence[str] = (),
    ) -> None:
        """Wire a worker; all durations in seconds. ``queues`` None serves every queue that is not paused.

        ``history`` is whether it writes what its tasks did, in sums; those of each value of ``history_tags``, too.
        Raises ValidationError for an option out of its range.
        """
        self.concurrency = check_int("concurrency", concurrency, 1, 10_000)
        if isinstance(queues, str) or (queues is not None and not queues):
            raise ValidationError(f"queues: a list of names is needed, or None for every queue (got {queues!r:.40})")
        self.queues = None if queues is None else tuple(check_key("queues", name, MAX_NAME) for name in queues)
        self.lease = check_seconds("lease", lease, zero=False)
        self.poll_interval = check_seconds("poll_interval", poll_interval, zero=False)
        heartbeat = check_seconds("heartbeat", heartbeat, zero=False)
        if heartbeat * 2 > self.lease:
            raise ValidationError(f"heartbeat: {heartbeat:g} s is more than half of the lease of {self.lease:g} s")
        self.queue, self._handlers = queue, handlers
        self._backend, self._clock = backend, clock = queue.backend, queue.clock
        self._shared = backend.shared
        self._middleware = middleware
        self._make_resources = resources
        self.executions: dict[str, Execution] = {}
        self._configured = self.concurrency
        self.quiet = False
        """Whether it claims nothing more, and only goes on with what it runs."""
        self.runner = Runner(
            handlers,
            Executors(self.concurrency),
            clock,
            host=self,
            hooks=queue.hooks,
            executions=self.executions,
            objects=queue.objects,
        )
        self._watchdog = Watchdog(self.runner, queue.hooks, clock)
        self.stacks = Stacks(self.runner, clock)
        self.heartbeat = Heartbeat(
            backend,
            clock,
            version=queue.version,
            lease=self.lease,
            heartbeat=heartbeat,
            answered=lambda held, answers: self.leases.answered(held, answers),
            fenced=lambda: self.leases.fenced(),
            unknown=lambda keys: self.chore(self.leases.give_back_unknown(keys)),
            describe=self._described,
            steered=self._steered,
            stack=self.stacks.look,
        )
        self.tally = Tally(backend.history, clock, queue.commit_hooks, history_tags) if history else None
        self._fetcher = Fetcher(self)
        self._fetcher.admit = Quarantine(self, self._fetcher).admit
        self.leases = Leases(self, self._fetcher, reap_interval)
        self._stop_listening: Callable[[], None] = lambda: None
        self._notes = NoteWriter(backend.notes, clock, self._begin, queue.hooks, self.tally)
        self.note: Callable[[TaskContext, NewNote], None] = self._notes.add
        self.spend: Callable[[TaskContext, Mapping[str, Any]], None] = self._notes.spend
        self._chores: set[asyncio.Task[None]] = set()
        self._given_back, self._hurried, self._idle = 0, False, asyncio.Event()
        self._waiting = 0  # how many wait until the worker is idle
        self._stack = contextlib.AsyncExitStack()
        self._exit: asyncio.Task[ExitCode] | None = None

    @property
    def owner(self) -> str:
        """The id under which it claims: another one after others had taken it for dead."""
        return self.heartbeat.owner

    @property
    def running(self) -> bool:
        """Whether it claims tasks."""
        return self._fetcher.running

    @property
    def tasks(self) -> list[Task]:
        """The tasks that run here now, the earliest first."""
        return [execution.task for execution in self.executions.values()]

    @property
    def problem(self) -> str | None:
        """What is wrong, or None: leases not renewed, claims that fail, handlers that go on after their timeout."""
        if not self.heartbeat.trusted or self._fetcher.failures:
            return "leases are not renewed, or nothing can be claimed"
        if stuck := self._watchdog.stuck():
            types = ", ".join(sorted({printable(task.type) for task in stuck})[:5])
            return (
                f"{len(stuck)} of {self.concurrency} slots are held by handlers that go on after their timeout: {types}"
            )
        return None

    def _described(self) -> Description:
        busy = len(self.executions) - self.runner.batches.without_slot
        return self.queues, self.concurrency, busy, told(self._handlers), told_limits(self._handlers)

    def _steered(self, quiet: bool, concurrency: int | None) -> None:
        """Do what others have asked for in the registry."""
        if quiet != self.quiet:
            self.set_quiet(quiet)
        if (wanted := concurrency or self._configured) != self.concurrency:
            self.resize(wanted)

    def set_quiet(self, quiet: bool) -> None:
        """Claim nothing more and go on with what runs; or, with False, claim again. Called on the worker's loop."""
        self.quiet = quiet
        if quiet:
            self._fetcher.pause(QUIET)
        else:
            self._fetcher.resume(QUIET)
        self._tell("quieted" if quiet else "woken")

    def resize(self, concurrency: int) -> None:
        """Have so many slots from now on; what runs goes on to its end. Called on the worker's loop.

        Raises ValidationError.
        """
        self.concurrency = check_int("concurrency", concurrency, 1, 10_000)
        self.runner.executors.resize(concurrency)
        self._fetcher.look_shrunk()
        self._tell("resized")

    def _steer_hint(self, _kind: str, owners: Sequence[str]) -> None:
        if self._shared and self.owner in owners:
            self.heartbeat.look()

    def _tell(self, event: str) -> None:
        log.info("worker {} {}: {} slots", self.owner, event, self.concurrency)
        detail: dict[str, Any] = {"owner": self.owner, "quiet": self.quiet, "concurrency": self.concurrency}
        self.queue.hooks.call(event, self._clock.now(), **detail)

    def occupancy(self) -> Occupancy:
        """Count what runs now; callable from any thread."""
        return self._watchdog.occupancy()

    async def start(self) -> None:
        """Start claiming, running and reaping in the running loop. Raises DatabaseUnavailable."""
        self.loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._idle = asyncio.Event()
        resources = await self._make_resources(self._stack) if self._make_resources is not None else {}
        self.runner.batches.on_used = self._fetcher.share
        self.runner.start(self._middleware, resources)
        self._watchdog.start()
        self.stacks.bind()
        await self.heartbeat.start()
        self._stop_listening = self._backend.listeners.listen(self._steer_hint, STEER)
        if self._shared:
            await self._backend.watch()
        await self.leases.start()
        await self._fetcher.start()
        await self.queue.limit_sweep.start()
        await self.queue.after_sweep.start()
        if self.tally is not None:
            await self.tally.start()
        served = "every queue" if self.queues is None else f"queues {', '.join(map(printable, self.queues))}"
        log.debug("worker started: {} slots, {}", self.concurrency, served)

    # ---- running ----

    def start_run(self, task: Task) -> None:
        if (earlier := self.executions.get(task.task_id)) is not None:
            # Its lease was lost, and this worker has claimed it again while that run goes on: not two runs of it here.
            earlier.interrupt("lost")
            self._fetcher.put(task, Released("an earlier run of it has not ended here", SECOND))
        else:
            execution = self.runner.begin(task)
            self._spawn(execution, self._run(execution))

    def _spawn(self, execution: Execution, work: Coroutine[Any, Any, None]) -> None:
        # In a copy of the context that the worker was started in: a handler's context variables end with its run.
        # Not by the loop's task factory, which may be eager and run the handler, and the ones after it, in this call.
        execution.coroutine = ReusableTask(work, loop=self.loop, name="aiotaskq-run", context=self._context.copy())

    async def _run(self, execution: Execution | None) -> None:
        """Run a task, and others after it, as long as no handler leaves anything behind in this asyncio task.

        It awaits only handlers: a delayed cancel by a handler interrupts no other await.
        """
        assert execution is not None
        here = execution.coroutine
        assert isinstance(here, ReusableTask)
        mark, is_as_marked = here.mark, here.is_as_marked  # bound once: Python 3.14 counts references alike in both
        mark()
        runs, ticks = RUNS, self._clock.ticks()
        until = ticks + TURN
        while execution is not None:
            execution.began = ticks
            task = execution.task
            try:
                if not self._shared or self.heartbeat.holds((task.task_id, task.fence), ticks):
                    outcome = await self.runner.execute(execution)
                else:  # the process was suspended for longer than its lease: released, unless another worker has it
                    outcome = Released(FENCED)
                if execution.context.unfinished:
                    self._spawn(execution, self._finish(execution, outcome))
                    return
            except BaseException as error:
                self._unsettled(execution, error)
                if not isinstance(error, Exception):
                    here.add_done_callback(retrieve)
                    raise
                return
            runs -= 1
            ticks = self._clock.ticks()
            execution = self._next(execution, outcome, ticks, runs > 0 and ticks < until and is_as_marked())

    async def _finish(self, execution: Execution, outcome: Outcome | None) -> None:
        try:
            outcome = await self._confirmed(execution.task, outcome, execution.context.completed)
        except BaseException as error:
            self._unsettled(execution, error)
            if not isinstance(error, Exception):
                raise
        else:
            self._next(execution, outcome, self._clock.ticks(), False)
            if outcome is None:
                self._fetcher.wake()

    async def _confirmed(self, task: Task, outcome: Outcome | None, completed: bool) -> Outcome | None:
        """Write the last notes of a run, and let a task sleep; return what is to be written, None for nothing.

        ``completed`` is whether its handler has written an outcome, which the row has to confirm.
        """
        await self._notes.finish(task)
        if completed:
            outcome = await self._fetcher.confirm(task, outcome)
        if type(outcome) is Released and outcome.suspended is not None:
            outcome = await self._suspend(task, outcome)
        return outcome

    async def _suspend(self, task: Task, outcome: Released) -> Outcome | None:
        """Write that a task sleeps or waits; return None, or what is to be written if that could not be done."""
        if (after := await self.queue.step_verbs.suspend(task, outcome, lambda: not self.runner.stopping)) is None:
            return Released(outcome.reason, ran=True)  # it runs again, unless it was cancelled, and sleeps then
        self.settled(task, outcome, after)
        return None

    def _next(self, ended: Execution, outcome: Outcome | None, ticks: int, here: bool) -> Execution | None:
        """Have an outcome written; return what is to run after it in the same asyncio task, if ``here``."""
        del self.executions[ended.task.task_id]
        if self._fetcher.batches is not None:
            self.runner.batches.leave(ended.task)
        if outcome is None:  # written already, or no longer this worker's
            self._drop(ended.task)
        try:
            task = self._fetcher.next(ended.task, outcome, ticks, ticks - (ended.began or ticks))
        except Exception as error:
            self._unsettled(ended, error)
            return None
        if task is not None:
            if here and task.task_id not in self.executions:
                execution = self.runner.begin(task)
                execution.coroutine = ended.coroutine
                return execution
            self.start_run(task)
        if self._waiting:
            self.look_idle()
        return None

    def _unsettled(self, execution: Execution, error: BaseException) -> None:
        """Free the slot of a run of which nothing was written; the task comes back when its lease ends."""
        if isinstance(error, Exception):  # an error of aiotaskq, not of the handler: the worker goes on
            log.error("{} could not be settled", named(execution.task), cause=error)
        self._drop(execution.task)
        self.executions.pop(execution.task.task_id, None)
        self.runner.batches.leave(execution.task)
        self._fetcher.fill()
        if self._waiting:
            self.look_idle()

    def _drop(self, task: Task) -> None:
        self.heartbeat.drop((task.task_id, task.fence))

    async def report(self, task: Task, value: dict[str, Any]) -> bool:
        """Store the progress of a task that runs here; return whether it is still this worker's."""
        return (await self._backend.report([(task.task_id, task.fence, value)]))[0]

    def _begin(self, work: Work) -> None:
        self.loop.call_soon_threadsafe(lambda: self.chore(work()))

    async def complete(self, task: Task, session: Any, result: Any) -> bool:
        """Complete a task that runs here in the caller's transaction; return whether it is still this worker's."""
        if self._backend.shared != "host":  # else the caller's transaction may have the lock that this would wait for
            await self._notes.finish(task)
        result = storable(result, handler.returns if (handler := self._handlers.get(task.type)) is not None else None)
        return await self.queue.complete_with(session, task, result, then=self.follow_ups) is not None

    def chore(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background; an error is logged."""
        chore = self.loop.create_task(work, name="aiotaskq-chore")
        self._chores.add(chore)
        chore.add_done_callback(self._chore_done)

    def _chore_done(self, chore: asyncio.Task[None]) -> None:
        self._chores.discard(chore)
        if not chore.cancelled() and (error := chore.exception()) is not None:
            log.warning("worker: {}: {}", type(error).__name__, error)

    # ---- in the caller's coroutine ----

    async def claim(self, limit: int) -> list[Task]:
        """Claim tasks of every queue, beside the slots, and hold them until they are settled."""
        claim = self.heartbeat.begin_claim()
        try:
            tasks = await self._backend.claim(self.owner, self._clock.now(), limit)
            for task in tasks:
                self.heartbeat.hold((task.task_id, task.fence), task.lease_owner)
        finally:
            self.heartbeat.end_claim(claim)
        return tasks

    async def settle(self, task: Task, outcome: Outcome | None, completed: bool) -> None:
        """Write what came of a task that ``runner`` has run, before this returns."""
        if (outcome := await self._confirmed(task, outcome, completed)) is not None:
            self.settled(task, outcome, await self.queue.settle(task, outcome, then=self.follow_ups))

    # ---- settling ----

    def settled(self, task: Task, outcome: Outcome, after: Task | None) -> None:
        if self._shared:
            self._drop(task)
        hooks = self.queue.hooks
        if after is None or type(outcome) is not Completed or gate.open:
            log_outcome(task, outcome, after, self._clock.now())
        if after is None:
            self.leases.uncount(task)
            hooks.call("lost", self._clock.now(), task)
            return
        if type(outcome) is Released and self.runner.stopping and outcome.reason in BY_STOP:
            self._given_back += 1
        if self.tally is not None:
            self.tally.settled(task, outcome, after)
        if hooks.wanted:
            hooks.call(_event_of(after, outcome), self._clock.now(), after)
        if after.on_success is not None or after.on_failure is not None:
            callback = {Status.COMPLETED: after.on_success, Status.FAILED: after.on_failure}.get(after.status)
            if callable(callback):
                hooks.invoke(callback, after, f"the callback of task {after.task_id}")

    def follow_ups(self, after: Task) -> tuple[Task, ...]:
        messages, now = self.queue.told(after), self._clock.now()
        name = {Status.COMPLETED: after.on_success, Status.FAILED: after.on_failure}.get(after.status)
        if not isinstance(name, str):
            return messages
        parent = Parent(after.task_id, after.type, after.result, after.error_message)
        params = {PARENT: parent if isinstance(after, TaskOfObjects) else parent.as_params()}
        handler = self._handlers.get(name)
        options: dict[str, Any] = {} if handler is None else run_options(handler.template)
        extra = trace_of(after)  # it belongs to the same trace
        if handler is not None:
            extra |= handler.template.extra
        task = new_task(name, params, now=now, extra=extra, kind=type(after), **options)
        if handler is not None and handler.gating is not None:
            try:
                task = handler.gating.gated(task)
            except ValidationError as error:  # it is pushed without gates: to refuse it would undo the end of its task
                log.error("the follow-up {} of {} passes no limit: {}", printable(name), named(after), error)
        return (task, *messages)

    # ---- stopping ----

    async def stop(self, drain: float = 25.0, grace: float = 5.0) -> ExitCode:
        """Stop in stages: claim no more, let handlers end for ``drain`` seconds, cancel, wait ``grace``, release.

        Idempotent, also in parallel. Leases are renewed until the end.
        """
        # A loop that has crashed may have begun to stop: nothing waits for what it left.
        if self._exit is None or self._exit.get_loop() is not asyncio.get_running_loop():
            self.runner.stopping = True
            self._fetcher.close()
            self._exit = asyncio.create_task(self._stop(drain, grace), name="aiotaskq-stop")
        return await asyncio.shield(self._exit)

    def hurry(self) -> None:
        """Skip what is left of the drain, as for a second signal: cancel the handlers, and start no others."""
        self.runner.stopping = self._hurried = True
        self._fetcher.close()
        for execution in list(self.executions.values()):
            execution.interrupt("shutdown")

    async def _stop(self, drain: float, grace: float) -> ExitCode:
        await asyncio.gather(self.leases.stop(SERVICES), self.queue.limit_sweep.stop(SERVICES))
        self._watchdog.stop()
        self._stop_listening()
        if not await self.until_idle(0.0 if self._hurried else drain):
            self.hurry()
            await self.until_idle(grace)
        abandoned = list(self.executions.values())
        for execution in abandoned:
            # Its lease ends by itself: until then no other worker may run the task, since this process still does.
            execution.abandoned = True
            log.error("{} does not stop and is abandoned", named(execution.task))
        await self._fetcher.stop(SERVICES)
        await self.queue.after_sweep.stop(SERVICES)  # it hears of the ends up to now
        if unwritten := self._fetcher.unwritten:  # the store is away; the leases end by themselves
            log.error("the outcomes of {} tasks could not be written; the tasks will run again", unwritten)
        await self.queue.hooks.idle(grace)
        for chore in self._chores:
            chore.cancel()
        try:
            async with asyncio.timeout(CLOSING):
                if self.tally is not None:
                    await self.tally.stop(SERVICES)
                await self.heartbeat.stop(leave=not (abandoned or unwritten or self.queue.claims.busy))
                await self.runner.close(wait=not abandoned)
                await self._stack.aclose()
        except TimeoutError:
            log.error("the worker's connections and resources were not closed within {:g} s", CLOSING)
        if abandoned or unwritten:
            return ExitCode.ABANDONED
        return ExitCode.RELEASED if self._given_back else ExitCode.DRAINED

    def look_idle(self) -> None:
        """End the waits in ``until_idle``, if nothing runs and all outcomes are written."""
        if not self.executions and not self._fetcher.busy:
            self._idle.set()

    async def until_idle(self, seconds: float) -> bool:
        end = self._clock.ticks() + int(seconds * SECOND)
        self._waiting += 1
        try:
            while self.executions or self._fetcher.busy:
                self._idle.clear()
                left = (end - self._clock.ticks()) / SECOND
                if left <= 0 or not await self._clock.wait(self._idle, left):
                    return False
            return True
        finally:
            self._waiting -= 1


def _event_of(after: Task, outcome: Outcome) -> str:
    if after.status is Status.PENDING:
        return "released" if isinstance(outcome, Released) else "retried"
    return str(after.status)
