"""Reads the notes of a task as they come, until it has ended; also when another process runs it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from aiotaskq.backends.listeners import ENDED, NOTED
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.wakeup import LoopWakeup, Wakeup
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.task import SECOND, Task

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend

PAGE = 200  # notes read at a time


class Noted(Protocol):
    """What is asked: the queue of a TaskQ."""

    backend: Backend
    clock: Clock
    poll_interval: float

    async def get(self, task_id: str) -> Task:
        """Return a task. Raises NotFound."""


async def next_notes(queue: Noted, task_id: str, after: int, timeout: float | None = None) -> list[LogEntry]:
    """Wait for notes of a task with a number greater than ``after``; return some of them, in their order.

    Where there are none and the task has ended, that is a note of the kind ``end``, with the number ``after``. An empty
    list after ``timeout`` seconds. Raises NotFound once the task is deleted.
    """
    end = None if timeout is None else queue.clock.ticks() + int(timeout * SECOND)
    read = queue.backend.notes.read
    with _woken(queue.backend, task_id) as wakeup:
        await queue.backend.watch()
        while True:
            wakeup.clear()
            if found := await read(task_id, after, PAGE):
                return found
            task = await queue.get(task_id)
            if task.final:
                # Those that were written between the two reads.
                return await read(task_id, after, PAGE) or [_end(task, after, queue.clock)]
            left = queue.poll_interval
            if end is not None:
                left = min(left, (end - queue.clock.ticks()) / SECOND)
                if left <= 0:
                    return []
            await queue.clock.wait(wakeup, left)


async def note_stream(queue: Noted, task_id: str, after: int = 0) -> AsyncIterator[LogEntry]:
    """Yield the notes of a task, the last one of the kind ``end``. Raises as ``next_notes``."""
    while True:
        for note in await next_notes(queue, task_id, after):
            yield note
            if note.kind == "end":
                return
            after = note.n


def _end(task: Task, after: int, clock: Clock) -> LogEntry:
    at = task.ended_at if task.ended_at is not None else clock.now()
    return LogEntry(after, at, "end", str(task.status))


@contextlib.contextmanager
def _woken(backend: Backend, task_id: str) -> Iterator[Wakeup]:
    wakeup = LoopWakeup()

    def hear(_kind: str, names: Sequence[str]) -> None:
        if not names or task_id in names:
            wakeup()

    stop = backend.listeners.listen(hear, NOTED, ENDED)
    try:
        yield wakeup
    finally:
        stop()
