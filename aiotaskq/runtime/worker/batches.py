"""Gathers the tasks of handlers with ``batch``, and calls such a handler once with the items of many tasks.

Each task of a batch is run like any other: it has an execution, which is interrupted, times out and is settled by its
own rules. In place of the handler it awaits its part of a call that it shares with others. A batch of tasks, gathered
or being run, takes one slot.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import CoroutineType, TracebackType
from typing import Any

import msgspec

from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.loop_bound import running_loop_or_none
from aiotaskq.core.task import Task
from aiotaskq.errors import BatchFailed
from aiotaskq.runtime.current import batch as contexts_of_batch
from aiotaskq.runtime.handler import Handler
from aiotaskq.runtime.worker.execution import Execution, retrieve

Start = Callable[[Handler, Mapping[str, Any]], "Future[Any]"]


class BatchMisfit(Exception):
    """What a handler returned, or raised as BatchFailed, does not fit its items; a retry would not change that."""


class _Raised(msgspec.Struct, frozen=True):
    error: BaseException
    at: TracebackType | None
    """Each task raises the error anew, which would add to its traceback."""


class _Member(msgspec.Struct, eq=False):
    execution: Execution
    item: Any = None
    result: asyncio.Future[Any] | None = None
    """The result of its item; None until its run has come to the call."""
    interrupted: bool = False
    """Whether it was interrupted."""


class Batch(msgspec.Struct, eq=False):
    """Tasks whose items one call of the handler gets."""

    handler: Handler
    members: dict[str, _Member] = {}
    """By task id, until their runs have ended."""
    closed: bool = False
    """Whether no more tasks join it."""
    call: asyncio.Task[None] | None = None
    forget_timer: Callable[[], None] = lambda: None


class Batches:
    """The batches of one worker. All of it is called on the worker's loop."""

    def __init__(
        self,
        clock: Clock,
        handlers: Mapping[str, Handler],
        start: Start,
        resources: Callable[[Handler], dict[str, Any]],
        began: Callable[[Execution], None],
        loop_ends: Callable[[], bool],
    ) -> None:
        """Wire the batches.

        Args:
            start: starts a ``def`` handler in a thread or a process.
            resources: returns the resources of a handler, by the names of its parameters.
            began: called with each execution whose item is given to the handler.
            loop_ends: whether the end of the loop cancels its tasks.
        """
        self._clock = clock
        self._handlers = handlers
        self._start = start
        self._resources = resources
        self._began = began
        self._loop_ends = loop_ends
        self._gathered: dict[str, Batch] = {}  # by task type
        self._batches: dict[str, Batch] = {}  # by task id
        self._context = contextvars.Context()
        self.without_slot = 0
        """How many executions take no slot, since each batch takes one for all of its executions."""
        self.used = False
        """Whether there is a handler with ``batch``; ``enter`` need not be called before."""
        self.on_used: Callable[[Batches], object] = lambda _batches: None
        """Called when it is known that there is a handler with ``batch``, and when a batch may have freed a slot."""
        self.holds: Callable[[Task], bool] = lambda _task: True
        """Whether the lease of a task lasts."""

    @property
    def wanted(self) -> int:
        """How many more tasks the batches could take that are gathered now."""
        return sum((batch.handler.batch or 0) - len(batch.members) for batch in self._gathered.values())

    @property
    def gathers(self) -> bool:
        """Whether a batch waits for more tasks."""
        return bool(self._gathered)

    @property
    def outside(self) -> list[asyncio.Task[None]]:
        """The calls in threads and processes."""
        batches = {id(batch): batch for batch in self._batches.values() if batch.handler.executor != "loop"}
        return [batch.call for batch in batches.values() if batch.call is not None]

    def call_of(self, task: Task) -> asyncio.Task[None] | None:
        """Return the call that has the item of a task; None where there is none yet. From any thread."""
        batch = self._batches.get(task.task_id)
        return None if batch is None else batch.call

    def open(self) -> None:
        """Let calls run in a copy of the present context."""
        self._context = contextvars.copy_context()
        if any(handler.batch is not None for handler in self._handlers.values()):
            self._use()

    def _use(self) -> None:
        self.used = True
        self.on_used(self)

    def close(self) -> None:
        """Gather no longer: call with what there is."""
        for batch in list(self._gathered.values()):
            self._close(batch)

    def joins(self, task: Task) -> bool:
        """Whether the task joins a batch that has a slot already."""
        return task.type in self._gathered

    def is_batched(self, task: Task) -> bool:
        """Whether the handler of the task has ``batch``."""
        handler = self._handlers.get(task.type)
        return handler is not None and handler.batch is not None

    def enter(self, execution: Execution, alone: bool = False) -> None:
        """Add an execution that has begun to a batch, if its handler has ``batch``."""
        task = execution.task
        handler = self._handlers.get(task.type)
        if handler is None or handler.batch is None:
            return
        batch = None if alone else self._gathered.get(task.type)
        if batch is None:
            batch = Batch(handler)
            if not alone:
                self._gathered[task.type] = batch
                made = batch
                batch.forget_timer = self._clock.call_later(handler.within, lambda: self._close(made))
        else:
            self.without_slot += 1
        batch.members[task.task_id] = _Member(execution)
        self._batches[task.task_id] = batch
        if alone or len(batch.members) >= handler.batch:
            self._close(batch)

    def leave(self, task: Task) -> None:
        """Remove an execution that has ended; idempotent."""
        batch = self._batches.pop(task.task_id, None)
        if batch is None:
            return
        del batch.members[task.task_id]
        if batch.members:
            self.without_slot -= 1
            self._call_if_complete(batch)
        else:
            self._close(batch)

    async def join(self, execution: Execution, item: Any) -> Any:
        """Return the result of an item, or raise what the handler has raised for it."""
        task_id = execution.task.task_id
        if task_id not in self._batches:  # the handler was registered after the worker had started
            self.enter(execution)
            self._use()  # once it has left its slot to a batch that is gathered, another task may have it
        batch = self._batches[task_id]
        member = batch.members[task_id]
        member.item, member.result = item, asyncio.get_running_loop().create_future()
        self._call_if_complete(batch)
        try:
            part = await member.result
        except asyncio.CancelledError:
            member.interrupted = True
            if batch.call is None:
                self._call_if_complete(batch)
            elif all(each.interrupted for each in batch.members.values()):
                await self._end(batch.call, execution)
            raise
        if isinstance(part, _Raised):
            raise part.error.with_traceback(part.at)
        return part

    async def _end(self, call: asyncio.Task[None], execution: Execution) -> None:
        """Cancel a call that no task waits for any more; its slot is taken until it ends."""
        while not call.done():
            call.cancel()
            try:
                await asyncio.wait({call})
            except asyncio.CancelledError:
                if execution.abandoned or self._loop_ends():
                    raise

    def _close(self, batch: Batch) -> None:
        batch.forget_timer()
        if self._gathered.get(batch.handler.name) is batch:
            del self._gathered[batch.handler.name]
        batch.closed = True
        self._call_if_complete(batch)

    def _call_if_complete(self, batch: Batch) -> None:
        """Call the handler when no more tasks join the batch, and the runs of all have come here."""
        if not batch.closed or batch.call is not None:
            return
        members = [each for each in batch.members.values() if not each.interrupted]
        if members and all(each.result is not None for each in members):
            for each in members:
                if not self.holds(each.execution.task):  # suspended while it was gathered: others may have the task
                    each.interrupted = True
                    each.execution.interrupt("fenced")
            members = [each for each in members if not each.interrupted]
            if not members:
                return
            work = self._run(batch.handler, members)
            batch.call = asyncio.create_task(work, name="aiotaskq-batch", context=self._context.copy())

    # ---- the call ----

    async def _run(self, handler: Handler, members: Sequence[_Member]) -> None:
        parts: Sequence[Any]
        for member in members:
            self._began(member.execution)
        try:
            parts = results_of(await self._called(handler, members), len(members))
        except BatchFailed as failed:
            parts = _parts_of(failed, len(members))
        except asyncio.CancelledError as error:
            parts = [_Raised(error, None)] * len(members)
        except KeyboardInterrupt:  # it is meant for the program, and it is raised once
            for member in members:
                if member.result is not None:
                    member.result.cancel()
            call = asyncio.current_task()
            assert call is not None
            call.add_done_callback(retrieve)
            raise
        except BaseException as error:
            if isinstance(error, GeneratorExit) and running_loop_or_none() is None:
                raise  # this coroutine is closed, since its loop has ended
            parts = [_Raised(error, error.__traceback__)] * len(members)
        for member, part in zip(members, parts, strict=True):
            if member.result is not None and not member.result.done():
                member.result.set_result(part)

    async def _called(self, handler: Handler, members: Sequence[_Member]) -> Any:
        contexts_of_batch.set(tuple(member.execution.context for member in members))
        params = {**self._resources(handler), handler.items: [member.item for member in members]}
        if handler.executor == "loop":
            return await handler.function(**params)
        work = self._start(handler, params)
        future = asyncio.wrap_future(work)
        while True:
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                # A thread cannot be interrupted. Only work that still waits for a process can be taken back.
                if future.done() or self._loop_ends() or work.cancel():
                    raise


def results_of(returned: Any, count: int) -> Sequence[Any]:
    """Return the results of so many items. Raises BatchMisfit if it is another number of results."""
    if returned is None or type(returned) is CoroutineType:  # one that was not awaited is reported for each task
        return [returned] * count
    if not isinstance(returned, list | tuple):
        raise BatchMisfit(f"the handler returned {type(returned).__name__} and not a list of results")
    if len(returned) != count:
        raise BatchMisfit(f"the handler returned {len(returned)} results for {count} items")
    return returned


def _parts_of(failed: BatchFailed, count: int) -> Sequence[Any]:
    try:
        parts = list(results_of(failed.results, count))
        for index, error in failed.errors.items():
            if not isinstance(error, BaseException) or type(index) is not int or not 0 <= index < count:
                raise BatchMisfit(f"BatchFailed: an exception for an index below {count} is needed (got {index!r:.40})")
            parts[index] = _Raised(error, error.__traceback__)
    except BatchMisfit as error:
        return [_Raised(error, None)] * count
    return parts
