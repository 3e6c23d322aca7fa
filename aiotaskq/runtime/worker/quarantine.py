"""Runs a suspect task alone in the process, so that if the process dies again, it is clear which task killed it.

The poison rule (``core.outcome``) fails a task when its process has died under it ``MAX_CRASHES`` times, the last time
while no other task ran there: only the death of a process with a mark in the task's row (``marked``) ends it. For that
rule the worker has to do this, and no more:

- A suspect is a task that one more crash makes poison. It starts alone: the mark is true only if nothing else runs, and
  if no outcome of an earlier run is still to be written, since that run would be lost, and counted, with the process.
- Nothing else starts while the mark is there. What is claimed and has not started is released, so that the death of
  this process is not counted against it.
- No suspect starts beside another one: each would keep the other from being alone, and neither would ever be judged.
- Both waits end after one lease, since a run may take hours. A suspect that could not be alone by then runs beside the
  others without a mark, as any task does. One that runs alone for longer loses its mark before others start beside it.

Nothing is kept apart without a mark: the death of a process in which several tasks run is held against none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiotaskq.backends.base import Backend, Change
from aiotaskq.concurrency.clock import Clock
from aiotaskq.core.outcome import MAX_CRASHES, Released, marked, unmarked
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.log import log, named
from aiotaskq.runtime.worker.execution import NEVER_STARTED, Host

if TYPE_CHECKING:
    from aiotaskq.runtime.worker.fetcher import Fetcher

RETRY = 1.0  # seconds between tries to take a mark back
SUSPECT = MAX_CRASHES - 1  # crashes of a task that one more makes poison


class Quarantine:
    """Keeps the other tasks of a worker away from a suspect, for at most one lease before and one while it runs."""

    def __init__(self, worker: Host, fetcher: Fetcher, backend: Backend, clock: Clock) -> None:
        self._worker = worker
        self._fetcher = fetcher
        self._backend = backend
        self._clock = clock

    def admit(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return the claimed tasks that may be buffered; start the quarantine of the first suspect among them.

        The others are released, other suspects with a delay, so that they are not claimed again at once.
        """
        if not any(task.crashes >= SUSPECT for task in tasks):
            return tasks
        here = [execution.task for execution in self._worker.executions.values()] + list(self._fetcher.buffer)
        suspect = None
        if not any(task.crashes >= SUSPECT for task in here):
            suspect = next(task for task in tasks if task.crashes >= SUSPECT)
            self._fetcher.pause()
            self._worker.chore(self._run())
        admitted = []
        for task in tasks:
            if task is suspect or (suspect is None and task.crashes < SUSPECT):
                admitted.append(task)
            else:
                self._fetcher.put(task, Released(NEVER_STARTED, SECOND if task.crashes >= SUSPECT else 0))
        return admitted

    async def _run(self) -> None:
        try:
            if await self._worker.until_idle(self._worker.lease):
                for suspect in tuple(self._fetcher.buffer):  # none if it was cancelled, lost or released meanwhile
                    await self._run_alone(suspect)
        finally:
            self._fetcher.resume()

    async def _run_alone(self, task: Task) -> None:
        after, is_marked = marked(task), False
        try:
            is_marked = await self._write(task, after)
        finally:
            for suspect in self._fetcher.take(lambda each: each is task):
                if is_marked:
                    self._worker.start_run(after)
                else:
                    self._fetcher.put(suspect, Released(NEVER_STARTED))
        if await self._worker.until_idle(self._worker.lease):
            return
        while (execution := self._worker.executions.get(task.task_id)) is not None and execution.reason != "lost":
            before = execution.task.replace(cancel_requested=execution.context.cancel_requested)
            after = unmarked(before)
            if await self._write(before, after):
                execution.task = after
                return
            await self._clock.sleep(RETRY)

    async def _write(self, before: Task, after: Task) -> bool:
        """Write another owner of a running task; return whether the row was as expected."""
        if not self._backend.shared:
            return True
        try:
            return (await self._backend.update([Change(before, after)]))[0]
        except DatabaseUnavailable as error:
            log.warning("{}: whether it runs alone cannot be written: {}", named(after), error)
            return False
