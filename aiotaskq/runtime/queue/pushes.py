"""Pushes into a queue, and edits of what was pushed: ids and keys of the caller's, debounced calls, new values.

An id that has ended runs again or is refused, and is never ignored. A key that an expired task holds is free. A
debounced call that finds the task of its key waiting changes it; if that one runs, it makes the next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import is_not
from typing import TYPE_CHECKING, Any, TypedDict, cast

from aiotaskq.backends.change import Change
from aiotaskq.concurrency.batcher import Batcher
from aiotaskq.core.edit import Debounce, after_call, check_editable, edited
from aiotaskq.core.errors import check_id, check_params, check_seconds, check_storable, instant
from aiotaskq.core.outcome import Expired, Outcome, Rerun, settle
from aiotaskq.core.parking import any_waits
from aiotaskq.core.status import PENDING, Status
from aiotaskq.core.steps import EventValue
from aiotaskq.core.task import RUN_OPTIONS, SECOND, Task, is_late_holder, same_push
from aiotaskq.errors import DatabaseUnavailable, TaskConflict, ValidationError
from aiotaskq.log import gate, log, named, printable
from aiotaskq.runtime.hooks import Hooks
from aiotaskq.runtime.queue.after import AfterSweep
from aiotaskq.runtime.queue.capacity import Capacity, Waiters
from aiotaskq.runtime.queue.claims import Claimer, Claims, Taker, willing
from aiotaskq.runtime.queue.commit_hooks import CommitHooks
from aiotaskq.runtime.step_verbs import StepVerbs
from aiotaskq.runtime.task_log import log_outcome

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.backends.memory.backend import MemoryBackend
    from aiotaskq.concurrency.clock import Clock
    from aiotaskq.core.webhooks import Webhook
    from aiotaskq.runtime.handler import Handler

CALLED = frozenset({"pushed", "expired", "cancelled"})  # hooks of the methods of a queue
Push = Callable[[list[Task]], Awaitable[list[Task]]]


class TaskChanges(TypedDict, total=False):
    """Changes of a pending task; fields that are left out stay."""

    params: dict[str, Any]
    priority: int
    queue: str
    at: float | datetime
    delay: float | timedelta
    max_retries: int
    timeout: float | timedelta | None


class Pushes:
    """A queue but for its pops and the verbs of operators."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        hooks: Hooks | None,
        poll_interval: float | timedelta,
        maxsize: int,
        when_full: str,
        prepare: Callable[[Any, Any], Any] | None,
        gated: Callable[[Task], Task] | None,
        webhooks: Mapping[str, Webhook],
        version: str | None,
    ) -> None:
        """As ``Queue``."""
        self.backend = backend
        """The store of the tasks."""
        self.clock = clock
        """The clock of everything that acts on this queue."""
        self.hooks = hooks if hooks is not None else Hooks()
        self._prepare = prepare
        self.objects = not backend.suspends and cast("MemoryBackend", backend).objects
        """Whether params and results may be any Python objects."""
        self._gated = gated
        self.gated: Callable[[Task], Task] = (lambda task: task) if gated is None else gated
        """Returns a task, made from a dict or fired by a schedule, with the gates of its type."""
        self.subscribed: Callable[[EventValue, Any], list[Task]] = lambda _event, _value: []
        """Returns the tasks that an event with this value pushes."""
        self.wrapped: Callable[[Push], Push] = lambda push: push
        """Returns a push inside of the middleware of pushes."""
        self.webhooks = backend.groups.webhooks = webhooks
        """What tells of its ended tasks, by name."""
        self.handlers: Mapping[str, Handler] = {}
        """The registered handlers: results get the types of their return annotations."""
        self.version = version
        """That of the application."""
        self.step_verbs = StepVerbs(backend, clock, version)
        """The verbs on steps and events."""
        self.poll_interval = check_seconds("poll_interval", poll_interval, zero=False)
        self.waiters = Waiters(backend, clock, self.poll_interval)
        """What wakes coroutines that wait for hints of the store."""
        self.after_sweep = AfterSweep(backend, clock, self.poll_interval)
        """What lets tasks go on that were pushed after others."""
        self.capacity = Capacity(self.waiters, self.hooks, maxsize, when_full, self.told)
        suspends = backend.suspends or self.capacity.maxsize
        self._direct = None if suspends else cast("MemoryBackend", backend)
        self._pushes: Batcher[Task, Task] = Batcher(self._push, direct=True)
        self._updates: Batcher[Change, bool] = Batcher(backend.update)
        self._update = self._updates.add if backend.suspends else backend.update
        self._reads: Batcher[str, Task | None] = Batcher(backend.get)
        self.claims = Claims(backend, clock, bounded=bool(self.capacity.maxsize))
        self.takers: list[Taker] = []
        """The workers of this queue, which may claim a task in the transaction that pushes it."""
        self.local_workers: list[Claimer] = []
        """The workers of this process that claim from this store, of whatever kind it is."""
        self.commit_hooks = CommitHooks(backend, clock, self.hooks)

    async def add(self, tasks: Sequence[Task], session: Any = None) -> list[Task]:
        """Push in one transaction; return for each task the row that is there: the same object, or a conflicting one.

        With ``session`` that is the caller's transaction, which is not committed here. Raises ValidationError before
        anything is written (also for more than ``maxsize`` tasks), QueueFull (with a session also where it would wait),
        DatabaseUnavailable with the ids of the tasks, and NotSupported if the store cannot join the session.
        """
        self.check_storable(tasks)
        try:
            after = any_waits(tasks)
            if session is None and not self.capacity.maxsize and not after:
                stored = await (self._pushes.add(tasks) if self.backend.suspends else self.backend.push(tasks))
            else:
                stored = []
                committed = None if session is None else self.commit_hooks.at_commit(tasks, stored)
                if after:
                    await self.after_sweep.start()
                stored += await self.capacity.push(tasks, session, committed)
            if any(map(is_not, stored, tasks)):
                await self._free_expired_keys(tasks, stored, session)
            if session is None and (self.hooks.wanted or gate.open):
                self.commit_hooks.pushed(tasks, stored)
            return stored
        except DatabaseUnavailable as error:  # pushes that are written together share the error
            if session is not None:
                raise  # nothing is stored before the caller commits
            raise error.of_push(task.task_id for task in tasks) from error

    @property
    def immediate(self) -> bool:
        """Whether no method waits but for a task, for room or for an end, so that any thread may act without a loop.

        A method that has to wait asks for the running loop before it changes anything. Hooks need the loop, too.
        """
        return self._direct is not None and not (self.hooks.wanted and not CALLED.isdisjoint(self.hooks.hooks))

    def add_now(self, task: Task) -> bool:
        """Push a task that has a new id and no other key, unless the queue may have to wait: then return False.

        Raises as ``add``.
        """
        if self._direct is None or (self.hooks.wanted and not self.immediate):
            return False
        if not self.objects:
            check_storable("params", task.params)
        self._direct.insert(task)  # it never waits
        if gate.open:
            self.commit_hooks.pushed([task], [task])
        return True

    async def _free_expired_keys(self, tasks: Sequence[Task], stored: list[Task], session: Any) -> None:
        """Settle expired tasks whose unique keys conflicted with a push, and push again in their place."""
        now = self.clock.now()
        while places := [at for at, task in enumerate(tasks) if is_late_holder(stored[at], task, now)]:
            rows = {stored[at].task_id: stored[at] for at in places}.values()
            expired = [(row, settle(row, Expired(), now)) for row in rows]
            changes = [Change(row, after, self.told(after)) for row, after in expired]
            held = await self._change(changes, session)
            if session is None:
                for change, ok in zip(changes, held, strict=True):
                    if ok:
                        log_outcome(change.before, Expired(), change.after, now)
                        self.hooks.call("expired", now, change.after)
            elif not all(held):
                return  # another transaction has changed one, which this one may not see
            pushed = await self.capacity.push([tasks[at] for at in places], session, None)
            for at, row in zip(places, pushed, strict=True):
                stored[at] = row

    async def _change(
        self, changes: Sequence[Change], session: Any, committed: Callable[[], None] = lambda: None
    ) -> list[bool]:
        """Write changes, in the transaction of the session if there is one; return which have held."""
        if session is None:
            return await self._update(changes)
        return await self.backend.update_with(session, changes, committed)

    async def _push(self, tasks: Sequence[Task]) -> list[Task]:
        taker = willing(self.takers)
        return await (self.backend.push(tasks) if taker is None else taker.push(tasks))

    def check_storable(self, tasks: Sequence[Task]) -> None:
        """Raise ValidationError for tasks that this store cannot hold."""
        if self.objects:
            return
        for task in tasks:
            check_storable("params", task.params, self.backend.max_params)
            if task.extra:
                check_storable("task", task.extra)
        if not self.backend.durable:
            return
        for task in tasks:
            for field, name in (("on_success", task.on_success), ("on_failure", task.on_failure)):
                if name is not None and not isinstance(name, str):
                    raise ValidationError(f"{field}: a function cannot be stored; give the name of a task")

    async def settle(
        self,
        task: Task,
        outcome: Outcome,
        *,
        then: Callable[[Task], tuple[Task, ...]] | None = None,
        lease_over: bool = False,
        version: str | None = None,
    ) -> Task | None:
        """Write the next state of a task; return it, or None if the task has changed since it was read.

        ``then`` returns the tasks that are pushed in the same transaction; ``lease_over``: the lease has ended of a
        worker whose application has this ``version``. Otherwise it is the version of this queue's application.
        """
        while True:
            after = settle(task, outcome, self.clock.now(), version if lease_over else self.version)
            change = Change(task, after, then(after) if then is not None else self.told(after), lease_over)
            (held,) = await self._update([change])
            if held:
                self.commit_hooks.pushed(change.then, change.then)
                return after
            (row,) = await self.backend.get([task.task_id])
            # If only the cancel flag was set in between, the rules decide again.
            if row is None or lease_over or (row.status, row.fence) != (task.status, task.fence):
                # Only this delivery can have completed it: an answer of the store was lost.
                ours = row is not None and row.status is after.status is Status.COMPLETED and row.fence == task.fence
                return row if ours else None
            if row.cancel_requested == task.cancel_requested:
                return None
            task = row.replace(params=task.params, extra=task.extra)

    def told(self, after: Task) -> tuple[Task, ...]:
        """Return the messages of webhooks about a task, to be pushed by the transaction that writes its end."""
        if not (self.webhooks and after.final):
            return ()
        from aiotaskq.core.webhooks import messages

        return tuple(messages(self.webhooks, after, self.clock.now()))

    async def read(self, task_id: str) -> Task | None:
        """Return a task by id, None if there is none; reads of the same moment may share a statement.

        What of it is in blobs is not read.
        """
        check_id(task_id, any_id=not self.backend.durable)
        (task,) = await (self._reads.add([task_id]) if self.backend.suspends else self.backend.get([task_id]))
        return task

    async def push_event(
        self, event: EventValue, tasks: Sequence[Task], session: Any, patient: bool
    ) -> tuple[bool, list[Task]]:
        """Store an event unless there is one of its key, and push these tasks with it, also where the queue is full.

        Return whether it is there now, and for each task the row that is there: the same object if it was pushed.
        """
        self.check_storable(tasks)
        committed = (lambda: None) if session is None else self.commit_hooks.at_commit(tasks, tasks)
        emitted = await self.step_verbs.emit(event, session, patient, tasks, committed)
        if session is not None or not emitted:
            return emitted, [task if emitted else task.replace() for task in tasks]
        rows: Sequence[Task | None] = tasks
        # The event is stored. What was there before is left out of the hooks, where the store says it now.
        with contextlib.suppress(DatabaseUnavailable):
            rows = await self.backend.get([task.task_id for task in tasks])
        each = zip(tasks, rows, strict=True)
        stored = [task if row is not None and same_push(row, task) else task.replace() for task, row in each]
        self.commit_hooks.pushed(tasks, stored)
        return emitted, stored

    # ---- with ids of the caller's ----

    async def push_known(self, tasks: Sequence[Task], own_ids: Mapping[str, bool], session: Any = None) -> list[Task]:
        """Push, and return for each task the row that is there now, as ``Queue.add`` does.

        ``own_ids`` has the ids that the caller chose, and whether each may run again. Tasks that do are written after
        the others, in a transaction of their own unless a session is given. Raises TaskConflict for an id that has
        ended and may not run again, or not with these keys; then nothing was written.
        """
        if len(tasks) > 1:
            known = await self.backend.get(list(own_ids))
            rows = {row.task_id: row for row in known if row is not None}
            for task in tasks:
                if task.task_id in own_ids and task.task_id in rows:
                    _check(task, rows[task.task_id], own_ids[task.task_id])
        stored = await self.add(tasks, session)
        for number, (task, row) in enumerate(zip(tasks, stored, strict=True)):
            if row is not task and row.task_id == task.task_id and row.final:
                if len(tasks) == 1:
                    _check(task, row, own_ids.get(task.task_id, False))
                while own_ids.get(task.task_id) and row is not task and row.final:
                    if await self.run_again(row, task, session):
                        row = task
                    else:
                        (row,) = await self.add([task], session)
                stored[number] = row
        return stored

    async def run_again(self, ended: Task, new: Task, session: Any = None) -> bool:
        """Make the row of an ended task pending again, as ``new`` says; return False if it has changed meanwhile.

        Raises TaskConflict if ``new`` has other keys, or a newer task holds the unique key; with a session also if the
        row has changed, since its transaction may not see that.
        """
        _check(new, ended, retry=True)
        changes = [Change(ended, settle(ended, Rerun(new), self.clock.now()))]
        committed = (lambda: None) if session is None else self.commit_hooks.at_commit([new], [new])
        (held,) = await self._change(changes, session, committed)
        if held:
            if session is None:
                self.commit_hooks.pushed([new], [new])
            return True
        (row,) = await self.backend.get([new.task_id])
        if row is not None and (row.status, row.fence, row.seq) == (ended.status, ended.fence, ended.seq):
            raise TaskConflict(f"task_id: a newer task holds the unique key of {printable(new.task_id)}")
        if session is not None:
            raise TaskConflict(f"task_id: {printable(new.task_id)} was changed by another transaction; begin a new one")
        return False

    # ---- debounced ----

    async def push_debounced(
        self, tasks: list[Task], push: Push, rules: Mapping[str, Debounce], session: Any = None
    ) -> list[Task]:
        """Push, and return for each task the row that is there now, as ``push`` does.

        ``rules`` are those of the debounced tasks, by id. What their calls change is written after the others, in a
        transaction of its own unless a session is given. Raises TaskConflict if a key is held by a task of another
        type; with a session also if another transaction has changed the row.
        """
        stored = await push(tasks)
        conflicts = _conflicts(tasks, stored, range(len(tasks)), rules)
        while conflicts:
            now = self.clock.now()
            stored = await self.backend.whole(stored)
            ran = [row for at in conflicts if (row := stored[at]).status is PENDING and row.attempts]
            steps = await self.backend.steps.read_many(ran) if ran else []
            begun = {row.task_id for row, found in zip(ran, steps, strict=True) if found}
            before: dict[str, Task] = {}
            after: dict[str, Task] = {}
            for at in conflicts:
                row = stored[at]
                before.setdefault(row.task_id, row)
                rule, latest = rules[tasks[at].task_id], after.get(row.task_id, row)
                after[row.task_id] = after_call(latest, tasks[at], rule, now, row.task_id in begun)
            changes = [Change(row, new) for task_id, row in before.items() if (new := after[task_id]) is not row]
            held = await self._change(changes, session) if changes else []
            if session is not None and not all(held):
                raise TaskConflict("key: its task was changed by another transaction; begin a new one")
            written = {change.after.task_id for change, ok in zip(changes, held, strict=True) if ok}
            written |= {task_id for task_id, row in before.items() if after[task_id] is row}
            again = []
            for at in conflicts:
                row = after[stored[at].task_id]
                if row.task_id in written and row.status is PENDING and row.unique_key is not None:
                    said = "it waits already" if row is before[row.task_id] else "it waits already, and is changed"
                    log.debug("push {}: {}", named(row), said)
                    stored[at] = row
                else:  # the key is free now, or the row has changed since it was read
                    again.append(at)
            if again:
                for at, row in zip(again, await push([tasks[at] for at in again]), strict=True):
                    stored[at] = row
            conflicts = _conflicts(tasks, stored, again, rules)
        return stored

    # ---- edits ----

    async def edit_task(self, task: Task, changes: TaskChanges) -> Task:
        """Write the changes of a task that was just read; return what it is now. Raises as ``edit``."""
        wanted = self._checked_changes(task, changes)
        check_editable(task)
        after = edited(task, wanted, self.gated)
        self.check_storable([after])
        (held,) = await self._update([Change(task, after)])
        if not held:
            raise TaskConflict(f"task {printable(task.task_id)} changed meanwhile; read it again, and repeat the edit")
        log.task("edit", after)
        return after

    def _checked_changes(self, task: Task, changes: TaskChanges) -> dict[str, Any]:
        if not changes or (wrong := changes.keys() - TaskChanges.__annotations__.keys()):
            known = ", ".join(TaskChanges.__annotations__)
            raise ValidationError(
                f"edit: unknown {', '.join(sorted(wrong))}; use {known}" if changes else f"edit: give one of {known}"
            )
        found = {name: check(changes[name]) for name, check in RUN_OPTIONS.items() if name in changes}  # type: ignore[literal-required]
        if "params" in changes:
            params = check_params(changes["params"])
            found["params"] = params if self._prepare is None else check_params(self._prepare(task.type, params))
        if "at" in changes and "delay" in changes:
            raise ValidationError("delay, at: give one of the two")
        now = self.clock.now()
        if "at" in changes:
            found["due"] = max(instant("at", changes["at"]), now)
        if "delay" in changes:
            delay = changes["delay"]
            found["due"] = now + int(check_seconds("delay", delay) * SECOND)
        return found


def _check(task: Task, row: Task, retry: bool) -> None:
    """Raise TaskConflict if the row has ended, and the push neither repeats an earlier one nor may run it again."""
    if not row.final:
        return
    if not retry:
        if task.idempotency_key is None or task.idempotency_key != row.idempotency_key:
            raise TaskConflict(
                f"task_id: {printable(row.task_id)} is {row.status}; use another id, or if_ended='retry'"
            )
        return
    for field, mine, theirs in (
        ("unique_key", task.unique_key, row.unique_key),
        ("idempotency_key", task.idempotency_key, row.idempotency_key),
    ):
        if mine not in (None, theirs):
            raise TaskConflict(f"{field}: {printable(row.task_id)} was pushed with another one; use another id")


def _conflicts(
    tasks: Sequence[Task], stored: Sequence[Task], places: Sequence[int], rules: Mapping[str, Debounce]
) -> list[int]:
    """Return the places of the debounced tasks whose key another row has: that row is to be changed."""
    return [at for at in places if stored[at] is not tasks[at] and tasks[at].task_id in rules]
