"""Inline mode: each task runs in the caller before its push returns, by the rules of a worker."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiotaskq.app.taskq import TaskQ
from aiotaskq.concurrency.clock import VirtualClock
from aiotaskq.core.instants import instant
from aiotaskq.core.outcome import Released
from aiotaskq.core.task import Status, Task
from aiotaskq.errors import TaskFailed
from aiotaskq.runtime.worker.worker import Worker
from aiotaskq.testing.harness import START, Harness, PushCall, RunCall, opened, seconds
from aiotaskq.testing.recorder import Pushes

INLINE = "aiotaskq.inline"  # the queue of the worker, which claims nothing by itself
CLAIM_LIMIT = 10_000  # tasks claimed at a time


class Inline(Harness):
    """A ``TaskQ`` whose pushes run the handler: ``tq``, its ``clock``, and what was ``pushed``."""

    OPTIONS = frozenset({"retries", "raise_errors"})

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
                outcome = await self._worker.runner.run(task)
                await self._worker.settle(task, outcome)
                left = outcome.suspended if isinstance(outcome, Released) else None
                if left is not None and left.new[0].step.kind == "sleep":
                    await self.clock.advance(seconds(max(0, left.until - self.clock.now())))
            elif row.status is Status.PENDING and row.retry_count and self._retries and row.run_at > self.clock.now():
                await self.clock.advance(seconds(row.run_at - self.clock.now()))
            elif (at := await self._passes_at(row)) is not None:
                await self.clock.advance(seconds(max(0, at - self.clock.now())))
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
