"""The running task from inside its handler, ``current_task()``: its progress, snooze, and completion in a session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from aiotaskq.core.errors import check_int, check_seconds, clip
from aiotaskq.core.firing_record import SCHEDULED_FOR
from aiotaskq.core.foreign_names import Hinted
from aiotaskq.core.instants import to_datetime
from aiotaskq.core.notes import NewNote, data_note, log_note
from aiotaskq.core.task import SECOND, TRACE, Task
from aiotaskq.errors import LeaseLost, NotFound
from aiotaskq.runtime.current import apart, batch, current

if TYPE_CHECKING:
    from aiotaskq.runtime.queue.groups import MemberResult
    from aiotaskq.runtime.queue.queue import Queue
    from aiotaskq.runtime.run_steps import RunSpans, RunSteps
else:
    RunSpans = RunSteps = Any  # imported on use; ``help`` and ``inspect.signature`` evaluate the fields of a struct


class SnoozeRequested(Exception):
    """Raised by ``snooze()`` to leave the handler; the worker puts the task back. ``delay`` in microseconds."""

    def __init__(self, delay: int) -> None:
        super().__init__(f"snooze for {delay / SECOND:g} s")
        self.delay = delay


class TaskHost(Protocol):
    """What the context of a task needs of the worker that runs it."""

    loop: asyncio.AbstractEventLoop
    """The worker's loop; a ``def`` handler runs in a thread beside it."""
    queue: Queue

    def note(self, context: TaskContext, note: NewNote) -> None:
        """Take an entry of the log of a running task, to be written soon; from any thread."""

    def spend(self, context: TaskContext, amounts: Mapping[str, Any]) -> None:
        """Add to what a running task has used up. Raises ValidationError; from any thread."""

    async def report(self, task: Task, value: dict[str, Any]) -> bool:
        """Store the progress of a running task; return whether it is still this worker's."""

    async def complete(self, task: Task, session: Any, result: Any) -> bool:
        """Complete a running task in the caller's transaction; return whether it is still this worker's."""


class TaskContext(msgspec.Struct, Hinted, eq=False):
    """The running task, from inside its handler."""

    _place: ClassVar[str] = "context"

    task: Task
    """The frozen task as it was claimed; ``task.fence`` tells this delivery from others."""
    _host: TaskHost
    cancel_requested: bool = False
    """Whether the task was asked to stop; an ``async def`` handler is cancelled as well."""
    completed: bool = False
    """Whether ``complete`` was called; the worker then reads whether that transaction was committed."""
    unfinished: bool = False
    """Whether the worker has to do more after this run than to write its outcome: there are log entries, steps, or
    ``complete`` was called."""
    lost: bool = False
    """Whether log entries were refused, since the task is no longer this worker's."""
    version: int = 1
    """That of the handler."""
    used_up: dict[str, float] | None = None
    """What the task has used up in all, with its earlier runs, once this run has used anything."""
    written: dict[str, float] | None = None
    """What of that is written."""
    steps_begun: RunSteps | None = None
    """The steps of this run; None where its handler has not asked for any."""
    spans: RunSpans | None = None
    """The spans of this run; None without tracing."""
    _added: int = 0  # the members that it has added to its group

    def __repr__(self) -> str:
        return f"<TaskContext {self.task.task_id}>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the worker; a ``def`` handler runs in a thread beside it."""
        return self._host.loop

    @property
    def scheduled_for(self) -> datetime | None:
        """The due time, in UTC, for which a schedule fired the task, however late it runs; None for other tasks."""
        due = self.task.extra.get(SCHEDULED_FOR)
        return to_datetime(due) if type(due) is int else None

    async def progress(self, done: int, total: int | None = None, message: str | None = None) -> None:
        """Store how far the task is, for ``handle.progress()``. Raises LeaseLost if it is no longer this worker's."""
        value: dict[str, Any] = {"done": check_int("done", done, 0)}
        if total is not None:
            value["total"] = check_int("total", total, 0)
        if message is not None:
            value["message"] = clip(str(message)[:500])
        if not await self._host.report(self.task, value):
            raise LeaseLost(f"task {self.task.task_id} is no longer run here; stop working on it")

    def log(self, text: object, /, **fields: object) -> None:
        """Write a line into the task's own log, with ``name=value`` for each field; from any thread, without waiting.

        It is stored within a fraction of a second, and before the task's end: read it by ``handle.stream()`` or
        ``handle.log()``. A task keeps its newest 1,000 entries, of together 256 KB; a line of more than 4 KB is cut.
        Raises LeaseLost once it is known that the task is no longer this worker's.
        """
        self._note(log_note(self._host.queue.clock.now(), text, fields))

    def stream(self, data: Any) -> None:
        """Send JSON data to the followers of the task, as tokens of an answer; stored and bounded as ``log``.

        Raises ValidationError for what JSON cannot hold, and for more than 4 KB. Raises LeaseLost as ``log``.
        """
        self._note(data_note(self._host.queue.clock.now(), data))

    def usage(self, **amounts: float) -> None:
        """Add what the task has used up, as ``usage(tokens=1200, cost=0.018)``; from any thread, without waiting.

        The names are your own. The sums are written within a fraction of a second, and before the task's end: those of
        the task, with all of its runs, those of its group and of the groups around it, and those of the history. They
        are what a group's ``budget`` is about. Raises ValidationError for a value that is no finite number of at least
        0, and for more than 20 names of one task. Raises LeaseLost as ``log``.
        """
        self._check_held()
        self._host.spend(self, amounts)
        self.unfinished = True

    def _note(self, note: NewNote) -> None:
        self._check_held()
        self.unfinished = True
        self._host.note(self, note)

    def _check_held(self) -> None:
        if self.lost:
            raise LeaseLost(f"task {self.task.task_id} is no longer run here; stop working on it")

    def snooze(self, seconds: float | timedelta) -> None:
        """Leave the handler now, and run the task again after ``seconds``; that costs no retry.

        With ``max_snoozes`` of its handler the task fails at one snooze too many. To count it as a retry: ``Retry``.
        """
        raise SnoozeRequested(int(check_seconds("seconds", seconds) * SECOND))

    async def pause_limit(self, key: str, seconds: float | timedelta) -> None:
        """Let no task pass a limit for so long, as after an HTTP 429; one that is paused for longer stays so.

        ``key`` as in ``tq.limits``: ``openai``, ``tenant:42``. This task continues: ``snooze`` it to repeat it.
        """
        await self._host.queue.limits.pause_for(key, seconds)

    async def charge(self, key: str, tokens: int) -> None:
        """Take tokens from the rate of a limit in addition, as what was used less what was estimated; may be negative.

        Raises ValidationError.
        """
        await self._host.queue.limits.charge(key, tokens)

    async def complete(self, session: Any, result: Any = None) -> None:
        """Complete the task in the caller's own transaction: exactly-once effects inside one database.

        ``session`` is a SQLAlchemy session or connection of the tasks' database. Commit it, then return from the
        handler. After a rollback the task is still running: an error of the handler, or a return without a commit, then
        counts as a failure. On SQLite, which has one writer, aiotaskq cannot write anything else before that commit.

        Raises LeaseLost if the task is no longer this worker's: roll back then. Raises NotSupported if the store is not
        SQL, ValidationError for a session of another database or a result that cannot be stored.
        """
        if not await self._host.complete(self.task, session, result):
            raise LeaseLost(f"task {self.task.task_id} is no longer run here; roll back what was done for it")
        self.completed = self.unfinished = True

    @property
    def group_id(self) -> str | None:
        """The id of the group whose member the task is, or whose end has pushed it; None if there is none."""
        flow = self.task.flow
        return None if flow is None else flow.group or flow.source

    async def results(self, start: int = 0, limit: int | None = None) -> list[MemberResult]:
        """Return what came of the task's parents or, in the callback of a group, of the group's members.

        In the order of the calls; a page of them with the place ``start``, from 0, and ``limit``. A result has the type
        of its handler's return annotation. A task that was deleted is there with the status ``cancelled``, and an error
        that says so.
        """
        stop = None if limit is None else check_int("start", start, 0) + check_int("limit", limit, 1)
        return await self._host.queue.groups.outcomes_for(self.task, start, stop)

    async def add_to_group(self, calls: Iterable[Any]) -> int:
        """Push further members of the task's group, as ``f.call(…)``; return how many were new.

        The group does not end before they have. In a second run of the task, after a failure, its first call is taken
        for the first one of the run before, and so on: it is not pushed twice. Raises NotFound for a task of no group,
        TaskConflict for a group that was cancelled, ValidationError.
        """
        if self.task.flow is None or self.task.flow.group is None:
            raise NotFound(f"add_to_group: task {self.task.task_id} is in no group")
        tasks = [self._host.queue.groups.make(call) for call in calls]
        if self.spans is not None:
            trace = {TRACE[0]: self.spans.traceparent}
            tasks = [task.replace(extra={**task.extra, **trace}) for task in tasks]
        first, self._added = self._added, self._added + len(tasks)
        return await self._host.queue.groups.add(self.task.flow.group, tasks, self.task.task_id, first)

    def run_by(self, version: int) -> None:
        """Take note of the version of the handler that runs the task."""
        self.version = version
        if self.steps_begun is not None:
            self.steps_begun.version = version

    def run_steps(self) -> RunSteps:
        """Return the steps of this run, for ``step`` and its like."""
        if self.steps_begun is None:
            from aiotaskq.runtime.run_steps import RunSteps

            self.steps_begun = RunSteps(self.task, self._host.queue.step_verbs, self.version, self.spans)
            self.unfinished = True
        return self.steps_begun


def current_batch() -> tuple[TaskContext, ...]:
    """Return the contexts of the tasks whose items a handler with ``batch`` got, in the order of the items.

    Raises NotFound outside of such a handler.
    """
    contexts: tuple[TaskContext, ...] | None = batch.get()
    if contexts is None:
        raise NotFound("current_batch(): no batch runs here; call it from a handler with batch=…")
    return contexts


def current_task() -> TaskContext:
    """Return the context of the task whose handler runs here.

    Raises NotFound outside of a handler, and in one with ``batch``: there is ``current_batch()``.
    """
    return context_for("current_task()")


def context_for(what: str) -> TaskContext:
    """Return the context of the running task. Raises NotFound, naming what was called."""
    context: TaskContext | None = current.get()
    if context is None:
        if apart.get():
            raise NotFound(f"{what}: there is no task in a process of its own; let an async def handler call it")
        if batch.get() is not None:
            raise NotFound(f"{what}: a batch of tasks runs here, and has no steps; use current_batch()")
        raise NotFound(f"{what}: no task runs here; call it from a handler")
    return context
