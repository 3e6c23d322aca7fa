"""Runs the handler of one task and returns what came of it as an outcome. It writes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from types import CoroutineType
from typing import Any

from msgspec.structs import replace

from aiotaskq.concurrency.clock import Clock, Deadlines
from aiotaskq.core.coded import COLUMNS
from aiotaskq.core.conversion import describe, storable
from aiotaskq.core.outcome import (
    SNOOZED,
    Cancelled,
    Completed,
    Failed,
    LeaseExpired,
    Outcome,
    Released,
    TimedOut,
    due_since,
    make_backoff,
    passed_on,
    snoozes_of,
    unstorable,
)
from aiotaskq.core.parent import RESULTS, ParentDeleted
from aiotaskq.core.task import SECOND, Task, is_unread
from aiotaskq.errors import DatabaseUnavailable, EventTimeout, Retry, ValidationError
from aiotaskq.log import application_frames, gate, log, named, printable
from aiotaskq.runtime.context import SnoozeRequested, TaskContext, TaskHost
from aiotaskq.runtime.current import current
from aiotaskq.runtime.handler import Handler, no_resource
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.params import ParamsMisfit, misfit, unfitting
from aiotaskq.runtime.run_steps import RunSteps, is_suspension, misfit_in, no_version, only_in
from aiotaskq.runtime.worker.batches import Batches, BatchMisfit
from aiotaskq.runtime.worker.execution import FENCED, STOPPED, Execution
from aiotaskq.runtime.worker.executors import Executors

UNKNOWN_AFTER = 3600.0  # seconds that a due task without a handler is passed to other workers before it fails
NOT_AWAITED = (
    "not_awaited: the handler returned a coroutine, which has not run; await it, and make the function, "
    "or the decorator around it, 'async def'"
)
NOT_COMMITTED = "complete(session=…): its transaction was not committed"
RunCall = Callable[[Task], Awaitable[Any]]


class Runner:
    """Calls handlers, through the middleware and within their timeouts, in the loop, in a thread or in a process.

    A cancel from outside ends a run only when its execution was interrupted, or when the loop ends.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        executors: Executors,
        clock: Clock,
        *,
        host: TaskHost,
        hooks: Hooks | None = None,
        executions: dict[str, Execution] | None = None,
        objects: bool = False,
    ) -> None:
        """Wire a runner.

        ``host`` is what ``current_task()`` reports to; ``executions`` is where what runs is kept, by task id. With
        ``objects``, params and results are passed as they are, and not as JSON.
        """
        self.handlers, self.executors = handlers, executors
        self._clock = clock
        self._host = host
        self._hooks = Hooks() if hooks is None else hooks
        self._objects = objects
        self.timed_out: Callable[[Execution], object] = lambda _execution: None
        """Called after a handler was interrupted because of its timeout."""
        self.executions: dict[str, Execution] = {} if executions is None else executions
        """What runs, by task id."""
        self._deadlines = Deadlines(clock, self._interrupt_late)
        self.batches = Batches(clock, handlers, executors.start, self._injected, self._began, lambda: self._loop_ends)
        """The groups of tasks whose handlers have ``batch``."""
        self._resources: Mapping[Any, Any] = {}
        self._plain = True
        self._call: RunCall = self._invoke
        self._sentinel: asyncio.Task[object] | None = None
        self.stopping = False
        """Whether the worker stops: then a child process that dies was stopped as well, and is no crash."""

    def start(
        self, middleware: Sequence[Callable[[Task, RunCall], Awaitable[Any]]] = (), resources: Mapping[Any, Any] = {}
    ) -> None:
        """Set the middleware, the outermost first, and the resources by type; call it in the loop, before a run."""
        self._resources = resources
        self.batches.open()
        self._plain = not middleware
        self._call = self._invoke
        for each in reversed(middleware):
            self._call = functools.partial(_wrapped, each, self._call)
        # Nothing cancels this task but the end of the loop, which cancels every task.
        self._sentinel = asyncio.create_task(asyncio.Event().wait(), name="aiotaskq-sentinel")

    async def close(self, wait: bool = True) -> None:
        """End timeouts, threads and processes; ``wait`` as in ``Executors.close``."""
        if self._sentinel is not None:
            with contextlib.suppress(RuntimeError):  # its loop was closed
                self._sentinel.cancel()
        await self.executors.close(wait)
        self._deadlines.close()

    def begin(self, task: Task) -> Execution:
        """Return the execution of a task, by which it can be interrupted from now on; run it with ``execute``."""
        execution = self.executions[task.task_id] = Execution(task, TaskContext(task, self._host))
        if self.batches.used:
            self.batches.enter(execution)
        return execution

    async def run(self, task: Task) -> tuple[Outcome | None, bool]:
        """Run a task in the calling coroutine; return its outcome, and whether the row has to confirm it.

        The outcome is None if the task is no longer this worker's.
        """
        execution = self.executions[task.task_id] = Execution(task, TaskContext(task, self._host))
        self.batches.enter(execution, alone=True)  # nothing else runs here that could join it
        execution.coroutine, execution.began = asyncio.current_task(), self._clock.ticks()
        try:
            outcome = await self.execute(execution)
        finally:
            del self.executions[task.task_id]
            self.batches.leave(task)
            execution.uncancel()
        return outcome, execution.context.completed

    async def execute(self, execution: Execution) -> Outcome | None:
        """Run the handler in the coroutine of the execution; return the outcome, None if the task is lost.

        Where ``execution.context.completed`` is set, only the row tells whether the transaction of the handler was
        committed; the outcome is what came of the run if it was not. Raises CancelledError when the loop ends, and
        KeyboardInterrupt.
        """
        task = execution.task
        handler = self.handlers.get(task.type)
        unread = task.undecodable is not None and is_unread(task)
        if unread and handler is not None and execution.reason is None and not task.cancel_requested:
            whole = await self._read_blobs(execution)
            if not isinstance(whole, Task):
                execution.ended = True
                return whole
            task = whole
        if handler is None or execution.reason is not None or task.undecodable is not None or task.cancel_requested:
            return self._not_run(execution)
        if gate.open:
            log.task("start", task)
        if self._hooks.wanted and "started" in self._hooks:
            self._hooks.call("started", self._clock.now(), task)
        if handler.versioned:
            found = await self._of_version(execution, handler)
            if not isinstance(found, Handler):
                execution.ended = True
                return found
            handler = found
        timeout = handler.timeout_of(task)
        if timeout is not None and handler.batch is None:
            self._deadlines.add(timeout, execution, execution.began or self._clock.ticks())
        token = current.set(execution.context)
        # The commonest case does without the calls of `_invoke`, which benchmarks of small handlers show.
        direct = self._plain and handler.plain
        try:
            try:
                result = await (handler.function(**task.params) if direct else self._call(task))
            except (GeneratorExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                if (steps := execution.context.steps_begun) is not None:
                    await steps.close(interrupted=isinstance(error, asyncio.CancelledError))
                raise
            if (steps := execution.context.steps_begun) is not None:
                await steps.close()
        except BaseException as error:
            return _with_span(self._judge_error(execution, handler, error, direct), execution)
        finally:
            execution.ended = True
            current.reset(token)
            if timeout is not None:
                self._deadlines.cancel(execution)
        outcome = self._judge(execution, handler, result, steps)
        return outcome if execution.context.spans is None else _with_span(outcome, execution)

    def _not_run(self, execution: Execution) -> Outcome | None:
        """Return the outcome of a task that is not to be run here."""
        task = execution.task
        if execution.reason is not None:  # interrupted before it began
            return self._interrupted(execution)
        if task.undecodable is not None and not is_unread(task):
            return Failed(f"undecodable: {task.undecodable}", retryable=False)
        if task.cancel_requested:
            return Cancelled()
        return self._unknown(task)

    def _judge(self, execution: Execution, handler: Handler, result: Any, steps: RunSteps | None) -> Outcome | None:
        """Return the outcome of a handler that has returned."""
        if execution.abandoned:
            return None  # the worker has stopped; the lease ends by itself
        if execution.reason == "timeout":
            return self._interrupted(execution)  # a thread, or a coroutine that swallowed its cancel: too late
        if type(result) is CoroutineType:
            result.close()  # else the interpreter warns of it as well
            return Failed(NOT_AWAITED, retryable=False)
        if execution.context.completed:
            return Failed(NOT_COMMITTED, True, handler.backoff, random.random())
        if steps is not None:
            if steps.left is not None:
                return steps.left  # the handler has caught that
            steps.tell_unasked()
        return Completed(result) if self._objects or result is None else stored(result, handler)

    def _judge_error(
        self, execution: Execution, handler: Handler, error: BaseException, direct: bool
    ) -> Outcome | None:
        """Return the outcome of a handler that has raised; raise again what is meant for the loop or the program."""
        if isinstance(error, asyncio.CancelledError | ParentsUnread):
            return self._stopped_by(execution, error)
        if (snooze := only_in(error, SnoozeRequested)) is not None:
            return _snoozed(execution.task, handler, snooze.delay)
        if isinstance(error, BrokenExecutor):
            # This task or another one of the pool has killed a process: that counts as a crash of each. While the
            # worker stops it does not, since a process manager may signal all processes of a service.
            self.executors.renew_processes()
            return Released(STOPPED, ran=True) if self.stopping else LeaseExpired()
        if isinstance(error, KeyboardInterrupt):
            raise  # it is meant for the program
        steps = execution.context.steps_begun
        if steps is not None and steps.left is not None and is_suspension(error):
            return steps.left
        if isinstance(error, GeneratorExit) and not execution.is_current():
            raise  # this coroutine is closed, since its loop has ended
        if execution.reason == "timeout" and isinstance(error, TimeoutError):
            return self._interrupted(execution)
        if (refused := _refused(error, handler, execution.task, direct)) is not None:
            return refused
        # What came of a wait is stored: a retry would get the same.
        asked = only_in(error, Retry)
        retryable = (asked is not None or isinstance(error, handler.retry_on)) and only_in(error, EventTimeout) is None
        backoff = handler.backoff if asked is None or asked.after is None else make_backoff(asked.after)
        error.__traceback__ = application_frames(error.__traceback__)
        return Failed(describe(error), retryable, backoff, random.random(), error)

    @property
    def _loop_ends(self) -> bool:
        """Whether the end of the loop cancels its tasks, as ``asyncio.run`` does."""
        return self._sentinel is not None and (self._sentinel.cancelling() > 0 or self._sentinel.cancelled())

    def _interrupt_late(self, execution: Execution) -> None:
        self._hooks.call("timeout", self._clock.now(), execution.task)
        execution.interrupt("timeout")
        self.timed_out(execution)

    def _interrupted(self, execution: Execution) -> Outcome | None:
        match execution.reason:
            case "cancel":
                return Cancelled()
            case "shutdown":
                return Released(STOPPED, ran=True)
            case "fenced":  # released when the store answers again, unless another worker has taken it
                return Released(FENCED, ran=True)
            case "lost":
                return None
        task = execution.task
        handler = execution.handler or self.handlers[task.type]
        if execution.reason == "timeout":
            return TimedOut(handler.timeout_of(task) or 0.0, handler.backoff, random.random())
        error = "CancelledError: the handler was cancelled from within"
        return Failed(error, True, handler.backoff, random.random())

    def _unknown(self, task: Task) -> Outcome:
        now = self._clock.now()
        self._hooks.call("unknown", now, task)
        if now - due_since(task) > UNKNOWN_AFTER * SECOND:
            return Failed(f"unknown_task: no worker handles {printable(task.type)!r}", retryable=False)
        log.warning("{} is of an unknown type; it is passed on to other workers", named(task))
        return passed_on(task, "unknown type", now)

    def _stopped_by(self, execution: Execution, error: BaseException) -> Outcome | None:
        """Return the outcome of a task that was cancelled, or whose handler lacks what cannot be read now."""
        if isinstance(error, asyncio.CancelledError):
            if execution.abandoned or (execution.reason is None and self._loop_ends):
                raise error  # the lease ends by itself
            return self._interrupted(execution)
        log.warning("{} is passed on to other workers: {}", named(execution.task), error)
        return passed_on(execution.task, str(error), self._clock.now())

    async def _read_blobs(self, execution: Execution) -> Task | Outcome | None:
        """Return the task with what it has in blobs; the outcome if it cannot run now."""
        task = execution.task
        try:
            (found,) = await self._host.queue.backend.whole([task])
        except (asyncio.CancelledError, DatabaseUnavailable) as error:
            return self._stopped_by(execution, error)
        read = {name: getattr(found, name) for name in (*COLUMNS, "coded", "undecodable")}
        # The lease may have been marked meanwhile.
        execution.task = execution.context.task = execution.task.replace(**read)
        return execution.task

    async def _of_version(self, execution: Execution, handler: Handler) -> Handler | Outcome | None:
        """Return the version of a handler that a task with steps was begun with; the outcome if it cannot run here."""
        task = execution.task
        try:
            begun = None if task.fence == 1 else await execution.context.run_steps().begun()
        except (asyncio.CancelledError, DatabaseUnavailable) as error:
            return self._stopped_by(execution, error)
        except ValidationError as error:  # a step cannot be decoded
            return Failed(describe(error), True, handler.backoff, random.random(), error)
        if begun is None:
            begun = handler.version
        if (found := handler if begun == handler.version else handler.older.get(begun)) is not None:
            execution.handler = found
            execution.context.run_by(found.version)
            return found
        now, why = self._clock.now(), no_version(task, begun)
        self._hooks.call("unknown", now, task)
        log.warning("{}: {}; it is passed on to other workers", named(task), why)
        return passed_on(task, why, now)

    async def _invoke(self, task: Task) -> Any:
        handler = self.handlers[task.type]
        if handler.versioned:
            handler = self.executions[task.task_id].handler or handler
        params = task.params
        if handler.typed and not self._objects:
            try:
                params = handler.loaded(params)
            except ValidationError as error:
                raise unfitting(error, handler) from None
        if handler.batch is not None:
            if handler.parent is not None and handler.parent.name not in params:
                params = await self._parents(task, handler)
            return await self.batches.join(self.executions[task.task_id], params.get(handler.items))
        if handler.injected:
            params = {**self._injected(handler), **params}
        if handler.parent is not None and handler.parent.name not in params:
            params = {**params, **await self._parents(task, handler)}
        try:
            if handler.executor == "loop":
                return await handler.function(**params)
            return await self._outside(handler, params, self.executions[task.task_id])
        except TypeError as error:
            if (why := misfit(error, handler, params)) is not None:
                raise why from None
            raise

    async def _outside(self, handler: Handler, params: Mapping[str, Any], execution: Execution) -> Any:
        """Run a ``def`` handler in a thread or a process."""
        work = self.executors.start(handler, params)
        future = asyncio.wrap_future(work)
        while True:
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                # A thread cannot be interrupted: the task keeps its slot until it ends. Only work that still waits for
                # a process can be taken back, and a durable handler in a sleep can be left.
                if execution.abandoned or execution.reason is None or work.cancel():
                    raise
                execution.uncancel()
                if execution.reason == "shutdown" and (steps := execution.context.steps_begun) is not None:
                    steps.hurry()

    def _began(self, execution: Execution) -> None:
        """Let the timeout of a task of a batch begin, now that its handler is called."""
        timeout = self.handlers[execution.task.type].timeout_of(execution.task)
        if timeout is not None:
            self._deadlines.add(timeout, execution, self._clock.ticks())

    def _injected(self, handler: Handler) -> dict[str, Any]:
        try:
            return {name: self._resources[kind] for name, kind in handler.injected.items()}
        except KeyError:  # the handler was registered while the worker ran
            missing = next(name for name, kind in handler.injected.items() if kind not in self._resources)
            raise no_resource(handler, missing) from None

    async def _parents(self, task: Task, handler: Handler) -> dict[str, Any]:
        """Return the param that gets earlier tasks; none for a task without any, where the handler has a default."""
        declared = handler.parent
        assert declared is not None
        name = declared.name
        try:
            found = await self._host.queue.groups.parents(task)
        except DatabaseUnavailable as error:
            raise ParentsUnread(str(error)) from error
        called_back = task.flow is not None and task.flow.source is not None
        if not found and not (called_back and declared.many):  # a group may have no members
            if declared.needed:
                raise ParamsMisfit(f"{handler.name}() needs {name!r}, and the task has no parent")
            return {}
        if not declared.many and len(found) > 1:
            raise ParamsMisfit(
                f"{handler.name}() takes one {name!r}, and the task has {len(found)}; annotate it as list[Parent[…]]"
            )
        if name == RESULTS:
            rows: list[Any] = [each.result for each in found]
        else:
            rows = list(found) if self._objects else [each.as_params() for each in found]
        params = {name: rows if declared.many else rows[0]}
        try:
            return params if self._objects else handler.loaded(params)
        except ValidationError as error:
            raise unfitting(error, handler) from None


class ParentsUnread(Exception):
    """The store, or its blobs, cannot be reached, so that the handler gets no earlier tasks, and has not begun."""


def _with_span(outcome: Outcome | None, execution: Execution) -> Outcome | None:
    """Return the outcome with the span of the run, if other tasks wait for the end of the task."""
    spans, flow = execution.context.spans, execution.task.flow
    if spans is None or not spans.recorded or flow is None or not (flow.group or flow.children):
        return outcome
    if isinstance(outcome, Completed | Failed | TimedOut):
        return replace(outcome, span=spans.traceparent)
    return outcome


def stored(result: Any, handler: Handler) -> Outcome:
    """Return the outcome of a handler that returned this: the result in its JSON form."""
    try:
        return Completed(storable(result, handler.returns))
    except ValidationError as error:
        return unstorable(error)


def _snoozed(task: Task, handler: Handler, delay: int) -> Outcome:
    most = handler.max_snoozes
    if most is None or snoozes_of(task) < most:
        return Released(SNOOZED, delay, ran=True)
    return Failed(f"too_many_snoozes: it has snoozed {most} times, as often as max_snoozes allows", retryable=False)


def _refused(error: BaseException, handler: Handler, task: Task, direct: bool) -> Failed | None:
    """Return the outcome of a run that would fail again: what was given to the handler, or by it, is refused."""
    why = misfit(error, handler, task.params) if direct and isinstance(error, TypeError) else error
    try:
        handler.check(task.params)  # the push could not: its process had no handler
    except ValidationError as wrong:
        why = unfitting(wrong, handler)
    if isinstance(why, ParamsMisfit):
        return Failed(f"invalid_params: {why}", retryable=False, told=f"invalid_params: {why.told}")
    if isinstance(error, ParentDeleted):
        return Failed(f"missing_parent: {error}", retryable=False)
    if (unfit := misfit_in(error)) is not None:
        return Failed(f"invalid_step: {unfit}", retryable=False, told=f"invalid_step: {unfit.told}")
    if isinstance(error, BatchMisfit):
        return Failed(f"invalid_results: {error}", retryable=False)
    return None


async def _wrapped(middleware: Callable[[Task, RunCall], Awaitable[Any]], call_next: RunCall, task: Task) -> Any:
    return await middleware(task, call_next)
