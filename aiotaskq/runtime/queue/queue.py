"""The queue over any backend: pushes, pops by hand, settles, and what an operator does with tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiotaskq.backends.change import Change, Claim
from aiotaskq.backends.listeners import ENDED, NOTED
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.loop_bound import NEEDS_LOOP
from aiotaskq.concurrency.uninterrupted import uninterrupted
from aiotaskq.concurrency.wakeup import Wakeup
from aiotaskq.core.errors import check_seconds
from aiotaskq.core.notes import LogEntry
from aiotaskq.core.outcome import POP_OWNER, Completed, Failed, HandedBack, Released, settle
from aiotaskq.core.status import Status
from aiotaskq.core.task import SECOND, Task, TaskOfObjects, same_content
from aiotaskq.errors import DatabaseUnavailable, LeaseLost, NotFound, ResultTimeout, TaskConflict
from aiotaskq.log import gate, log, named, printable
from aiotaskq.runtime.clock_steps import StepLog
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.owner import fresh_owner
from aiotaskq.runtime.queue.groups import GroupVerbs
from aiotaskq.runtime.queue.operations import Operations
from aiotaskq.runtime.queue.pushes import Pushes
from aiotaskq.runtime.queue.reaper import LimitSweep, Reaper
from aiotaskq.runtime.queue.unacked import Unacked
from aiotaskq.runtime.task_log import log_outcome
from aiotaskq.runtime.waiting import unserved

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.core.webhooks import Webhook
from aiotaskq.core.errors import INT32, MAX_ID, MAX_NAME, ValidationError, check_key, shown
from aiotaskq.core.ids import new_id, next_seq
from aiotaskq.core.task import new_task

T = TypeVar("T")

PAGE = 200  # entries of a log that one read returns
WARN_AFTER = 5.0  # seconds of a wait for a task that nothing runs
REAP_INTERVAL = 15.0  # the longest time in seconds between two looks for overdue tasks, by pops


class Queue(Pushes, Operations[Task]):
    """The tasks of one store."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        hooks: Hooks | None = None,
        visibility: float | timedelta = 300.0,
        poll_interval: float | timedelta = 1.0,
        maxsize: int = 0,
        when_full: str = "wait",
        prepare: Callable[[Any, Any], Any] | None = None,
        gated: Callable[[Task], Task] | None = None,
        webhooks: Mapping[str, Webhook] = MappingProxyType({}),
        version: str | None = None,
    ) -> None:
        """Make the queue of a backend; options as of ``TaskQ``, durations in seconds. Raises ValidationError.

        ``prepare`` returns the params of a type as they are stored, for a task given as a dict; None takes them as they
        are. ``gated`` returns a new task with the gates of its type. Both raise ValidationError. ``webhooks`` is what
        tells of its ended tasks, by name; it may change later. ``version`` is that of the application.
        """
        super().__init__(backend, clock, hooks, poll_interval, maxsize, when_full, prepare, gated, webhooks, version)
        self._kind = TaskOfObjects if self.objects else Task
        self._visibility = check_seconds("visibility", visibility, zero=False)
        self.unacked = Unacked()
        """Its popped tasks that are not settled."""
        self.step_log = StepLog()
        self.groups = GroupVerbs(self)
        """The verbs on groups."""
        self._next_reap = 0  # ticks
        self.reaper = Reaper(self, self.groups.resume_cancels)
        self.limit_sweep = LimitSweep(self)
        self._pop_owner = fresh_owner(POP_OWNER)

    async def push_task(self, task: Mapping[str, Any], priority: int = 0) -> str:
        """Add a task given as a dict (``type``, ``params``, optional ``task_id``), which is not changed; return its id.

        In memory an id may be any hashable value, on a durable store it is a string of at most 36 characters. A running
        task with that id becomes pending with the new fields, an ended one runs again, and a pending one with the same
        content stays. Raises ValidationError, and TaskConflict if the id is pending with other content, or has ended
        and a newer task holds its unique key.
        """
        new = self._made_from(task, priority)
        while True:
            (stored,) = await self.add([new])
            if stored is new:
                return new.task_id
            if stored.status is Status.RUNNING:
                if await self.settle(stored, HandedBack(new)) is not None:
                    self.unacked.given_back(stored)
                    log.task("push", new)
                    return new.task_id
            elif stored.final:
                if await self.run_again(stored, new):
                    return new.task_id
            elif same_content(stored, new):
                log.debug("push {}: it is pending already", named(new))
                return new.task_id
            else:
                raise TaskConflict(
                    f"task_id: {printable(new.task_id)} is {stored.status} with other content; use another id"
                )

    def push_now(self, task: Mapping[str, Any], priority: int = 0) -> str:
        """Do what ``push_task`` does, from any thread and without a loop; return NEEDS_LOOP where that cannot be done.

        That is where the queue may wait, and for a task with an id of its own. The thread itself takes no
        lock: in the main thread a signal handler may raise at any moment, or push, too.
        """
        direct = self._direct
        if direct is None or (self.hooks.wanted and not self.immediate):
            return NEEDS_LOOP  # type: ignore[no-any-return]
        if type(task) is not dict or "task_id" in task:
            return NEEDS_LOOP  # type: ignore[no-any-return]
        new = self._made_from(task, priority)
        if new.flow is None:
            direct.enqueue(new)
        else:
            uninterrupted(lambda: direct.insert(new))  # its gates need the lock
        if gate.open:
            log.task("push", new)
        return new.task_id

    def _made_from(self, task: Mapping[str, Any], priority: int) -> Task:
        if self._prepare is not None and isinstance(task, Mapping) and "type" in task:
            prepared = self._prepare(task["type"], params := task.get("params"))
            if prepared is not params:
                task = {**task, "params": prepared}
        now, any_id = self.clock.now(), not self.backend.durable
        made = task_from_dict(task, priority, now, any_id=any_id, kind=self._kind)
        return made if self._gated is None else self._gated(made)

    # ---- popping by hand ----

    async def pop_task(
        self, timeout: float | timedelta | None = None, *, visibility: float | timedelta | None = None
    ) -> dict[str, Any] | None:
        """Take the next task as a dict; wait ``timeout`` seconds (None for ever, 0 looks once), then return None.

        On a durable store the pop is a lease of ``visibility`` seconds (default that of the queue): a task that is not
        settled by then is retried. For ``task_done`` the task belongs to the asyncio task that calls this, or without a
        loop to the thread. ``asyncio.wait_for`` makes a task of its own on Python 3.11: use ``timeout`` instead. Raises
        ValidationError for a negative timeout.
        """
        wait = None if timeout is None else check_seconds("timeout", timeout)
        seconds = self._visibility if visibility is None else check_seconds("visibility", visibility, zero=False)
        task = await self._pop_one(seconds)
        if task is None and wait != 0:
            tasks = self.waiters.woken_by_tasks()
            task = await self.waiters.until(tasks, lambda: self._pop_one(seconds), wait, self._until_due)
        if task is None:
            return None
        await self._remember(task)
        if gate.open:
            log.task("pop", task)
        return task_to_dict(task)

    async def _until_due(self) -> float:
        """Return the seconds until a task or a gate may be due, or until the next look."""
        now = self.clock.now()
        pause = self.poll_interval if self.backend.shared else 60.0
        for at in (await self.backend.next_run_at(now), self.limit_sweep.next_at):
            if at is not None:
                pause = min(pause, max(0.0, (at - now) / SECOND))
        return pause

    async def _pop_one(self, visibility: float) -> Task | None:
        if self.backend.durable and self.clock.ticks() >= self._next_reap:
            # There may be no worker, so pops look for overdue tasks as well.
            self._next_reap = self.clock.ticks() + int(min(REAP_INTERVAL, visibility / 4) * SECOND)
            await self.reaper.reap()
        await self.limit_sweep.sweep_if_due()
        now = self.clock.now()
        lease = now + int(visibility * SECOND) if self.backend.durable else None
        _, tasks = await self.claims.exchange((), Claim(self._pop_owner, now, 1, None, lease))
        if tasks and tasks[0].undecodable is not None:
            try:
                tasks = await self.backend.whole(tasks)
            except DatabaseUnavailable:
                self.claims.give_back(tasks)
                raise
        if tasks and tasks[0].undecodable is not None:
            undecodable = Failed(f"undecodable: {tasks[0].undecodable}", retryable=False)
            log_outcome(tasks[0], undecodable, await self.settle(tasks[0], undecodable), now)
            return await self._pop_one(visibility)
        return tasks[0] if tasks else None

    async def _remember(self, task: Task) -> None:
        if self.backend.durable and (former := self.unacked.left_open()) is not None:
            log.warning("{} was popped and not settled; it comes back after its visibility timeout", named(former))
        forgotten = self.unacked.add(task)
        if forgotten is not None and forgotten.given_back is None and not self.backend.durable:
            await self.backend.delete([forgotten.task.task_id])  # without a lease it would never end

    async def task_done(self, task_id: str | None = None) -> None:
        """Complete a popped task: the one named, or the newest unsettled one of this asyncio task (or thread).

        If that has none, it is the oldest unsettled one of any. A task that was pushed again since its pop is settled
        already; then nothing is written. Raises NoOpenTask if there is no unsettled task, LeaseLost if the visibility
        timeout has passed and the task was taken over. After any other error the task is still unsettled.
        """
        pop = self.unacked.take(task_id)
        if gate.open:
            log.task("task_done", pop.task)
        if pop.given_back is not None:
            return
        try:
            after = await self.settle(pop.task, Completed())
        except BaseException:
            self.unacked.put_back(pop)  # else the next call would complete an older task, which may have failed
            raise
        if after is None:
            raise LeaseLost(
                f"task {pop.task.task_id} was not settled within its visibility timeout and is no longer yours"
            )

    def adopt(self, other: Queue) -> None:
        """Take over the unsettled tasks of another queue object of the same store, which is used no more."""
        self.unacked = other.unacked

    async def give_back(self, task_id: str) -> None:
        """Put a popped task back as if it had not been popped, because the caller left before it got the task."""
        pop = self.unacked.take(task_id)
        if pop.given_back is None:
            await self.settle(pop.task, Released("its caller left"))
            log.task("release", pop.task)

    def pop_now(
        self, timeout: float | timedelta | None = None, *, visibility: float | timedelta | None = None
    ) -> dict[str, Any] | None:
        """Do what ``pop_task`` does, from any thread and without a loop; return NEEDS_LOOP where it has to wait."""
        if self._direct is None or visibility is not None or not self.limit_sweep.idle:
            return NEEDS_LOOP  # type: ignore[no-any-return]
        wait = None if timeout is None else check_seconds("timeout", timeout)
        task = self._direct.step(self._pop_owner, self.clock.now())
        if task is None:
            return None if wait == 0 else NEEDS_LOOP
        forgotten = self.unacked.add(task)
        if forgotten is not None and forgotten.given_back is None:
            with contextlib.suppress(StopIteration):
                self._direct.delete([forgotten.task.task_id]).send(None)  # it never suspends
        if gate.open:
            log.task("pop", task)
        return task_to_dict(task)

    def done_now(self, task_id: str | None = None) -> None:
        """Do what ``task_done`` does, from any thread and without a loop; return NEEDS_LOOP where it may wait."""
        if self._direct is None or self.webhooks:
            return cast(None, NEEDS_LOOP)
        pop = self.unacked.take(task_id)
        if pop.given_back is None:
            now = self.clock.now()
            try:
                self._direct.step("", now, (), pop.task, settle(pop.task, Completed(), now))
            except LeaseLost:
                self.unacked.put_back(pop)
                return cast(None, NEEDS_LOOP)
        if gate.open:
            log.task("task_done", pop.task)
        return None

    # ---- settling ----

    async def complete_with(
        self, session: Any, task: Task, result: Any, *, then: Callable[[Task], tuple[Task, ...]]
    ) -> Task | None:
        """Complete a running task in the caller's transaction; return its new state, None if it was taken over."""
        self.commit_hooks.bind()
        after = settle(task, Completed(result), self.clock.now())
        (held,) = await self.backend.update_with(session, [Change(task, after, then(after))])
        return after if held else None

    # ---- reading ----

    async def get_queue_size(self) -> int:
        """Return how many tasks are ready to be popped."""
        ready = await self.backend.count_ready(self.clock.now())
        log.debug("queue size: {}", ready)
        return ready

    async def is_empty(self) -> bool:
        """Return whether no task is ready to be popped."""
        return not await self.get_queue_size()

    @property
    def _operated(self) -> Queue:
        return self

    def _retried(self, task: Task) -> Task:
        return task

    async def wait_for_end(self, task_id: str, timeout: float | timedelta | None = None) -> Task:
        """Wait until a task has ended, here or in another process; return it. Raises ResultTimeout, NotFound.

        After a few seconds a warning says so where nothing will run the task as things are.
        """
        seconds = None if timeout is None else check_seconds("timeout", timeout)
        task: Task

        async def ended() -> Task | None:
            nonlocal task
            try:
                task = await self._row(task_id)
            except NotFound as error:
                if not self.backend.durable:
                    raise
                raise NotFound(f"{error}; if it was pushed with session=, commit that first") from None
            return task if task.final else None

        found = await self._watched(task_id, lambda: self.waiters.woken_at_end(task_id), ended, seconds)
        if found is None:
            said = f"task {task_id} ({task.type}) is {task.status} after {seconds:g} s"
            raise ResultTimeout(said + await unserved(self, task))
        return (await self.backend.whole([task]))[0]

    async def _watched(
        self,
        task_id: str,
        woken: Callable[[], contextlib.AbstractContextManager[Wakeup]],
        look: Callable[[], Awaitable[T | None]],
        seconds: float | None,
    ) -> T | None:
        """Wait as ``Waiters.until`` does. After a few seconds a warning says so where nothing will run the task."""
        first = WARN_AFTER if seconds is None else min(WARN_AFTER, seconds)
        found = await self.waiters.until(woken(), look, first)
        if found is not None or first == seconds:
            return found
        task = await self._row(task_id)
        if why := await unserved(self, task):
            log.warning("task {} ({}) is waited for{}", task_id, task.type, why)
        return await self.waiters.until(woken(), look, None if seconds is None else seconds - first)

    async def wait_for_log(self, task_id: str, after: int, timeout: float | timedelta | None = None) -> list[LogEntry]:
        """Wait for log entries behind ``after`` and return some; none after ``timeout`` seconds. Raises NotFound.

        The end of the task is an entry, too. Without ``timeout`` a warning comes as in ``wait_for_end``.
        """

        async def come() -> list[LogEntry] | None:
            if found := await self.backend.notes.read(task_id, after, PAGE):
                return found
            task = await self._row(task_id)
            if not task.final:
                return None
            at = task.ended_at if task.ended_at is not None else self.clock.now()
            # Those that were written between the two reads.
            return await self.backend.notes.read(task_id, after, PAGE) or [LogEntry(after, at, "end", str(task.status))]

        seconds = None if timeout is None else check_seconds("timeout", timeout)
        if seconds is not None:  # the caller may wait again and again
            return await self.waiters.until(self.waiters.woken_by(NOTED, ENDED, name=task_id), come, seconds) or []
        return await self._watched(task_id, lambda: self.waiters.woken_by(NOTED, ENDED, name=task_id), come, None) or []


_READ = (
    "task_id",
    "type",
    "params",
    "priority",
    "retry_count",
    "max_retries",
    "queue",
    "scheduler_task_id",
    "timeout",
)
_KNOWN = frozenset(_READ) | {"created_at"}  # a popped dict that is pushed again has it; a push sets its own


def task_from_dict(
    source: Mapping[str, Any], priority: object, now: int, *, any_id: bool = False, kind: type[Task] = Task
) -> Task:
    """Return a task made from the documented dict, which is not changed; unknown keys go to ``extra``.

    Its params are a copy, so that the caller may go on with its own; the values in it are those of the caller.

    A ``priority`` other than 0 replaces that of the dict, so that a popped task that is pushed again keeps its own.
    ``any_id`` and ``kind`` as for ``new_task``. Raises ValidationError naming the field.
    """
    if type(source) is dict and len(source) == 2 and type(priority) is int:
        # The usual dict, a type and params, is checked in one expression, since the checks below take longer than the
        # rest of a push into memory. Those find what is wrong where this one finds that something is.
        name, params = source.get("type"), source.get("params")
        wrong = type(name) is not str or not name.isprintable() or not name.strip() or len(name) > MAX_NAME
        if not wrong and type(params) is dict and -INT32 <= priority <= INT32:
            return kind(
                task_id=new_id(),
                type=name,  # type: ignore[arg-type]  # a str, or it would be wrong
                params=params.copy(),
                priority=priority,
                created_at=now // SECOND,
                run_at=now,
                seq=next_seq(now),
            )
    if not isinstance(source, Mapping):
        raise ValidationError(f"task: a dict is needed (got {type(source).__name__})")
    if "type" not in source:
        raise ValidationError("type: missing; a task is a dict with at least 'type' (a non-empty string)")
    known = {name: source[name] for name in _READ if name in source and name != "params"}
    if priority != 0 or isinstance(priority, bool):
        known["priority"] = priority
    extra: dict[str, Any] = {}
    for key, value in source.items():
        if not isinstance(key, str):
            raise ValidationError(f"task: key {shown(key)} is {type(key).__name__}; keys are strings")
        if key not in _KNOWN:
            extra[key] = value
    scheduler_task_id = known.pop("scheduler_task_id", None)
    if scheduler_task_id is not None:
        check_key("scheduler_task_id", scheduler_task_id, MAX_ID)
    return new_task(
        known.pop("type"),
        params.copy() if type(params := source.get("params")) is dict else params,
        now=now,
        scheduler_task_id=scheduler_task_id,
        extra=extra,
        any_id=any_id,
        kind=kind,
        **known,
    )


def task_to_dict(task: Task) -> dict[str, Any]:
    """Return the documented dict of a popped task: a new one, its params as well, with the keys of ``extra``."""
    known: dict[str, Any] = {
        "task_id": task.task_id,
        "type": task.type,
        "params": task.params.copy(),
        "priority": task.priority,
        "retry_count": task.retry_count,
        "max_retries": task.max_retries,
        "created_at": task.created_at,
    }
    if task.scheduler_task_id is not None:
        known["scheduler_task_id"] = task.scheduler_task_id
    if task.queue != "default":
        known["queue"] = task.queue
    if task.timeout is not None:
        known["timeout"] = task.timeout
    return {**task.extra, **known} if task.extra else known
