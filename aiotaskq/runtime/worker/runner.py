"""Runs the handler of one task, and says what came of it as an outcome. Nothing is written here."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from types import CoroutineType
from typing import Any

from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.deadlines import Deadlines
from aiotaskq.core.outcome import (
    Cancelled,
    Completed,
    Failed,
    LeaseExpired,
    Outcome,
    Released,
    TimedOut,
    describe,
    storable,
    unstorable,
)
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import ValidationError
from aiotaskq.log import application_frames, gate, log, named, printable
from aiotaskq.runtime.context import SnoozeRequested, current
from aiotaskq.runtime.events import Events
from aiotaskq.runtime.handler import Executors, Handler, ParamsMisfit, misfit
from aiotaskq.runtime.worker.execution import Running

UNKNOWN_AFTER = 3600.0  # seconds that a task without a handler is passed around before it fails
STOPPED = "its worker was stopped"
CUT_OFF = "its worker was cut off from the store"
NOT_AWAITED = (
    "not_awaited: the handler returned a coroutine, which has not run; await it, and make the function, "
    "or the decorator around it, 'async def'"
)
RunCall = Callable[[Task], Awaitable[Any]]


class Runner:
    """Calls handlers within their timeouts, through the middleware, on the loop, in a thread or in a process."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        executors: Executors,
        clock: Clock,
        events: Events,
        running: Mapping[str, Running],
        *,
        durable: bool,
        timed_out: Callable[[Running], object],
        ending: Callable[[], bool],
    ) -> None:
        """Wire a runner.

        Args:
            running: the runs by task id, kept by the caller.
            durable: whether a result must be what JSON can hold.
            timed_out: called with a run that has passed its timeout; it is expected to interrupt it.
            ending: tells whether the loop is ending, so that a cancel is not the handler's own affair.
        """
        self._handlers = handlers
        self._executors = executors
        self._clock = clock
        self._events = events
        self._running = running
        self._durable = durable
        self._ending = ending
        self.deadlines = Deadlines(clock, timed_out)
        self.stopping = False
        """Whether the worker stops: a process that dies then was stopped as well."""
        self._resources: Mapping[Any, Any] = {}
        self._plain = True
        self._call: RunCall = self._invoke

    def prepare(
        self, middleware: Sequence[Callable[[Task, RunCall], Awaitable[Any]]], resources: Mapping[Any, Any]
    ) -> None:
        """Set the middleware, the outermost first, and the resources by type, before the first run."""
        self._resources = resources
        self._plain = not middleware
        self._call = self._invoke
        for each in reversed(middleware):
            self._call = functools.partial(_wrapped, each, self._call)

    async def run(self, running: Running) -> Outcome | None:
        """Run the handler in the running coroutine; return what came of it, or None if the task is no longer ours.

        Raises CancelledError when the loop ends.
        """
        task = running.task
        handler = self._handlers.get(task.type)
        if running.reason is not None:  # it was interrupted before it began
            return self._interrupted(running, None)
        if task.undecodable is not None:
            return Failed(f"undecodable: {task.undecodable}", retryable=False)
        if task.cancel_requested:
            return Cancelled()
        if handler is None:
            return self._unknown(task)
        if gate.open:
            log.task("start", task)
        if self._events.wanted and "started" in self._events:
            self._events.emit("started", self._clock.now(), task)
        timeout = task.timeout if task.timeout is not None else handler.timeout
        deadline = 0 if timeout is None else self.deadlines.add(timeout, running)
        token = current.set(running.context)
        try:
            if self._plain and handler.executor == "loop" and not handler.injected:
                result = await handler.function(**task.params)  # as `_invoke` does, in half the time
            else:
                result = await self._call(task)
        except asyncio.CancelledError:
            if running.abandoned or (running.reason is None and self._ending()):
                raise  # the lease ends by itself
            return self._interrupted(running, timeout)
        except SnoozeRequested as snooze:
            return Released("snoozed", snooze.delay)
        except BrokenProcessPool:
            # A process died, of this task or of one beside it: a crash, which is counted until it is poison; but a
            # process manager that stops a service may well signal all of its processes.
            self._executors.renew_processes()
            return Released(STOPPED) if self.stopping else LeaseExpired()
        except KeyboardInterrupt:
            raise  # the user's own end of the loop
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not running.is_current():
                raise  # this coroutine is being closed, since its loop has ended
            if running.reason == "timeout" and isinstance(error, TimeoutError):
                return self._interrupted(running, timeout)
            if isinstance(error, TypeError) and (wrong := self._misfit(error, handler, task)) is not None:
                return Failed(f"invalid_params: {wrong}", retryable=False)
            retryable = isinstance(error, handler.retry_on)
            error.__traceback__ = application_frames(error.__traceback__)
            return Failed(describe(error), retryable, handler.backoff, random.random(), error)
        finally:
            running.over()
            current.reset(token)
            if deadline:
                self.deadlines.cancel(deadline)
        if running.abandoned:
            return None  # its worker has stopped; the lease ends by itself
        if running.reason == "timeout":
            return self._interrupted(running, timeout)  # a thread, or a coroutine that swallowed its cancel: it is late
        if type(result) is CoroutineType:
            result.close()  # or the interpreter warns of it as well
            return Failed(NOT_AWAITED, retryable=False)
        return _stored(result) if self._durable else Completed(result)

    def _misfit(self, error: TypeError, handler: Handler, task: Task) -> str | None:
        """Return why the handler could not be called, or None where it was, and the error is its own."""
        if isinstance(error, ParamsMisfit):  # from `_invoke`, which knows the params: middleware may have changed them
            return str(error)
        direct = self._plain and handler.executor == "loop" and not handler.injected
        return misfit(error, handler, task.params) if direct else None

    def _interrupted(self, running: Running, timeout: float | None) -> Outcome | None:
        match running.reason:
            case "cancel":
                return Cancelled()
            case "shutdown":
                return Released(STOPPED)
            case "cut off":  # given back when the store is there again, unless somebody has taken it
                return Released(CUT_OFF)
            case "lost":
                return None
        backoff = self._handlers[running.task.type].backoff
        if running.reason == "timeout":
            return TimedOut(timeout or 0.0, backoff, random.random())
        return Failed("CancelledError: the handler was cancelled from within", True, backoff, random.random())

    def _unknown(self, task: Task) -> Outcome:
        due = task.run_at if task.due_at is None else task.due_at  # not since its push: it may have been delayed
        age = (self._clock.now() - due) / SECOND
        self._events.emit("unknown", self._clock.now(), task)
        if age > UNKNOWN_AFTER:
            return Failed(f"unknown_task: no worker handles {printable(task.type)!r}", retryable=False)
        log.warning("{} is of an unknown type; it is passed on to other workers", named(task))
        # Another process, or the next deploy, may know it: passed on, ever more slowly.
        return Released("unknown type", int(min(60.0, max(1.0, age)) * SECOND), put_off=True)

    async def _invoke(self, task: Task) -> Any:
        handler = self._handlers[task.type]
        params = task.params
        if handler.injected:
            params = {**{name: self._resource(kind) for name, kind in handler.injected.items()}, **params}
        try:
            if handler.executor == "loop":
                return await handler.function(**params)
            return await self._elsewhere(handler, params, self._running[task.task_id])
        except TypeError as error:
            if (wrong := misfit(error, handler, params)) is not None:
                raise ParamsMisfit(wrong) from None
            raise

    async def _elsewhere(self, handler: Handler, params: Mapping[str, Any], running: Running) -> Any:
        """Run a ``def`` handler in a thread or a process."""
        work = self._executors.start(handler, params)
        future = asyncio.wrap_future(work)
        while True:
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                # A thread cannot be interrupted: the slot stays taken, and the task ours, until it has ended; but what
                # waits for a process that others hold has not begun, and never will.
                if running.abandoned or running.reason is None or work.cancel():
                    raise
                running.take_back()

    def _resource(self, kind: Any) -> Any:
        if kind not in self._resources:
            raise ValidationError(
                f"no resource gives {getattr(kind, '__name__', kind)}; register one with @tq.resource"
            )
        return self._resources[kind]


def _stored(result: Any) -> Outcome:
    try:
        return Completed(storable(result))
    except ValidationError as error:
        return unstorable(error)


async def _wrapped(middleware: Callable[[Task, RunCall], Awaitable[Any]], call_next: RunCall, task: Task) -> Any:
    return await middleware(task, call_next)
