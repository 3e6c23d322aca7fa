"""Collects what the tasks that run here note and use up, and writes it in batches, that of a task before its end."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.core.notes import MAX_NOTES, MAX_SIZE, NewNote, NewNotes
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.usage import added, risen
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.log import log, named, printable
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.worker.tally import Tally

if TYPE_CHECKING:
    from aiotaskq.backends.notes import Notes
    from aiotaskq.runtime.context import TaskContext

INTERVAL = 0.2  # seconds between two writes
PATIENCE = 5.0  # seconds for which the end of a task waits for a store that cannot be reached

Key = tuple[str, int]
Work = Callable[[], Coroutine[Any, Any, None]]


class _Unwritten:
    """The notes of one run that are not written yet; the oldest go, as they would in the store."""

    def __init__(self, context: TaskContext) -> None:
        self.context = context
        self.notes: deque[NewNote] = deque()
        self.spent = False
        """Whether the task has used up more than is written."""
        self._size = 0

    def append(self, note: NewNote) -> None:
        self.notes.append(note)
        self._size += note.size
        self._trim()

    def put_back(self, notes: Sequence[NewNote], spent: bool) -> None:
        self.spent = self.spent or spent
        self.notes.extendleft(reversed(notes))
        self._size += sum(note.size for note in notes)
        self._trim()

    def _trim(self) -> None:
        while len(self.notes) > MAX_NOTES or self._size > MAX_SIZE:
            self._size -= self.notes.popleft().size


class NoteWriter:
    """The notes of one worker. Nothing runs here until a handler writes one."""

    def __init__(
        self,
        notes: Notes,
        clock: Clock,
        begin: Callable[[Work], None],
        hooks: Hooks,
        tally: Tally | None = None,
    ) -> None:
        """``begin`` starts a coroutine function in the worker's loop; it is called from any thread.

        What a task has used up is emitted, and told to ``tally``, once it is written.
        """
        self._notes, self._clock, self._begin, self._hooks, self._tally = notes, clock, begin, hooks, tally
        self._unwritten: dict[Key, _Unwritten] = {}
        self._lock = threading.Lock()  # handlers in threads write notes, too
        self._writing = asyncio.Lock()
        self._awake = False
        self._written_at = -int(INTERVAL * SECOND)  # ticks

    def add(self, context: TaskContext, note: NewNote) -> None:
        """Take a note of a task that runs here, to be written soon; from any thread."""
        with self._lock:
            self._of(context).append(note)
            first, self._awake = not self._awake, True
        if first:
            self._begin(self._rounds)

    def spend(self, context: TaskContext, amounts: Mapping[str, Any]) -> None:
        """Add to what a task that runs here has used up, as ``add``. Raises ValidationError."""
        with self._lock:
            context.used_up = added(context.used_up or context.task.usage, amounts)
            self._of(context).spent = True
            first, self._awake = not self._awake, True
        if first:
            self._begin(self._rounds)

    def _of(self, context: TaskContext) -> _Unwritten:
        key = (context.task.task_id, context.task.fence)
        if (unwritten := self._unwritten.get(key)) is None:
            unwritten = self._unwritten[key] = _Unwritten(context)
        return unwritten

    async def _rounds(self) -> None:
        """Write at intervals until nothing is left."""
        failures = 0
        while True:
            due = self._written_at + int(INTERVAL * SECOND) - self._clock.ticks()
            if due > 0 or failures:
                await self._clock.sleep(max(due / SECOND, backoff(failures, 0.1, 2.0) if failures else 0.0))
            with self._lock:
                if not self._unwritten:
                    self._awake = False
                    return
            try:
                await self._write(None)
                failures = 0
            except DatabaseUnavailable as error:
                failures += 1
                if failures == 1:
                    log.warning("task log: not written yet: {}", error)

    async def finish(self, task: Task) -> None:
        """Write what is left of a run that is about to end, or that has completed in a transaction of its own.

        If the store cannot be reached for a while, notes are dropped; what was used up waits as the outcome does.
        """
        key = (task.task_id, task.fence)
        failures, until = 0, self._clock.ticks() + int(PATIENCE * SECOND)
        while True:
            try:
                await self._write(key)
                return
            except DatabaseUnavailable as error:
                failures += 1
                if self._clock.ticks() >= until and not self._unwritten[key].spent:
                    log.warning("{}: the last entries of its log are lost: {}", named(task), error)
                    self._take(key)
                    return
            await self._clock.sleep(backoff(failures, 0.1, 1.0))

    def _take(self, key: Key | None) -> dict[Key, tuple[TaskContext, NewNotes]]:
        with self._lock:
            keys = [*self._unwritten] if key is None else [key] if key in self._unwritten else []
            found = {}
            for each in keys:
                unwritten = self._unwritten.pop(each)
                used_up = unwritten.context.used_up if unwritten.spent else None
                found[each] = unwritten.context, NewNotes(*each, tuple(unwritten.notes), used_up)
            return found

    def _put_back(self, key: Key, context: TaskContext, new: NewNotes) -> None:
        with self._lock:
            self._unwritten.setdefault(key, _Unwritten(context)).put_back(new.notes, new.usage is not None)

    async def _write(self, key: Key | None) -> None:
        """Write the notes of one run, or of all. Raises DatabaseUnavailable; then they are kept."""
        async with self._writing:  # so that they are written in their order
            taken = self._take(key)
            if not taken:
                return
            new = [notes for _, notes in taken.values()]
            try:
                held = await self._notes.add(new, last=key is not None)
            except (DatabaseUnavailable, asyncio.CancelledError):
                for each, (context, notes) in taken.items():
                    self._put_back(each, context, notes)
                raise
            except Exception:
                held = await self._write_each(new, last=key is not None)
            finally:
                self._written_at = self._clock.ticks()
            for ok, (each, (context, notes)) in zip(held, taken.items(), strict=True):
                if ok is None:
                    self._put_back(each, context, notes)
                elif not ok:
                    context.lost = True
                elif notes.usage is not None:
                    _, more = risen(context.written or context.task.usage, notes.usage)
                    context.written = notes.usage
                    self._hooks.call("used", self._clock.now(), context.task, usage=more)
                    if self._tally is not None:
                        self._tally.used(context.task, more)

    async def _write_each(self, new: Sequence[NewNotes], last: bool) -> list[bool | None]:
        """Write each alone: what is wrong with the notes of one task must not lose those of others."""
        held: list[bool | None] = []
        for each in new:
            try:
                held += await self._notes.add([each], last=last)
            except DatabaseUnavailable:
                held.append(None)
            except Exception as error:
                log.error("task {}: entries of its log are lost", printable(each.task_id), cause=error)
                held.append(True)
        return held
