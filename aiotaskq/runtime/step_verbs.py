"""The steps and events of one store, for the runs of handlers and for operators."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from aiotaskq.backends.change import Change, Leave
from aiotaskq.concurrency.batcher import Batcher
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.core.errors import check_json, check_key, check_seconds
from aiotaskq.core.outcome import Released, settle
from aiotaskq.core.steps import EventValue, NewStep, Step
from aiotaskq.core.task import SECOND, Task, new_task
from aiotaskq.errors import DatabaseUnavailable, NotFound
from aiotaskq.log import log, named

if TYPE_CHECKING:
    from aiotaskq.backends.base import Backend
    from aiotaskq.backends.steps import Steps

I = TypeVar("I")  # noqa: E741 - item
R = TypeVar("R")
T = TypeVar("T")
One = Callable[[I], Awaitable[R]]
SHORT = 60.0
"""Seconds: a sleep that is no longer keeps its slot."""
EVENT_AGE = 30 * 86_400.0
"""Seconds for which an event is kept by default."""


class StepVerbs:
    """The steps and events of one store."""

    def __init__(self, backend: Backend, clock: Clock, version: str | None = None) -> None:
        """``version`` is that of the application."""
        self._backend, self.clock, self._version = backend, clock, version
        self.short = SHORT
        """Seconds: a sleep that is no longer keeps its slot."""
        self._add: One[NewStep, Step | None] = self._together(lambda new: self.store.add(new))
        self._suspend: One[Leave, bool] = self._together(lambda leaves: self.store.suspend(leaves))
        self._emit: One[EventValue, EventValue] = self._together(lambda events: self.store.emit(events))
        self._event: One[str, EventValue | None] = self._together(
            lambda keys: self.store.get_events(keys, self.clock.now())
        )
        self._read: One[Task, list[Step]] = self._together(lambda tasks: self.store.read_many(tasks))

    @property
    def one_writer(self) -> bool:
        """Whether a transaction that writes keeps all others from it."""
        return self._backend.shared == "host"

    @property
    def store(self) -> Steps:
        """Where they are."""
        self._backend.steps.used = True
        return self._backend.steps

    def _together(self, verb: Callable[[list[I]], Awaitable[list[R]]]) -> One[I, R]:
        """Return a verb for one item: what is asked for at the same time goes to the store in one call of ``verb``."""
        batcher = Batcher(verb)

        async def one(item: I) -> R:
            return (await (batcher.add([item]) if self._backend.suspends else verb([item])))[0]

        return one

    async def add(self, new: NewStep, session: Any = None) -> Step | None:
        """Store a step; return the one that is there, None if the task is no longer this worker's.

        Raises DatabaseUnavailable as ``outlast``.
        """
        if session is not None:
            return await self.store.add_with(session, new)
        return await self.outlast(f"step {new.step.label}", lambda: self._add(new))

    async def read(self, task: Task) -> list[Step]:
        """Return the steps of a task; wait for the store."""
        return await self.outlast(named(task), lambda: self._read(task))

    async def outlast(
        self, what: str, verb: Callable[[], Awaitable[T]], patient: Callable[[], bool] = lambda: True
    ) -> T:
        """Await a verb of the store, again and again while that cannot be reached, as long as it is ``patient``.

        Raises DatabaseUnavailable where a database with one writer stays locked, perhaps by the handler itself.
        """
        failures = 0
        while True:
            try:
                return await verb()
            except DatabaseUnavailable as error:
                failures += 1
                if failures > 1 and self.one_writer and "locked" in str(error):
                    raise DatabaseUnavailable(
                        f"{what}: the database stays locked; if the handler has written in a transaction of its own, "
                        "commit that before, or pass it as session="
                    ) from error
                if not patient():
                    raise
                if failures == 1:
                    log.warning("{} waits for the store: {}", what, error)
            await self.clock.sleep(backoff(failures, 0.1, 2.0))

    async def suspend(self, task: Task, outcome: Released, patient: Callable[[], bool] = lambda: True) -> Task | None:
        """Write that a task sleeps, or waits for an event; return it then. ``patient`` as of ``outlast``.

        None if it has changed since it was read, or it was not written: what is written then is up to others.
        """
        suspended, now = outcome.suspended, self.clock.now()
        assert suspended is not None
        after = settle(task, outcome, now, self._version)
        if after.final:  # it was cancelled
            return None
        new = [replace(each, step=replace(each.step, at=now)) for each in suspended.new]
        woken = settle(task, replace(outcome, suspended=replace(suspended, until=now)), now, self._version)
        leave = Leave(Change(task, after), new, woken if any(each.step.kind == "wait" for each in new) else None)
        try:
            return after if await self.outlast(named(task), lambda: self._suspend(leave), patient) else None
        except DatabaseUnavailable as error:
            log.warning("{}: its sleep is not stored: {}", named(task), error)
            return None

    def new_event(self, key: str, value: Any, expires: float | timedelta | None) -> EventValue:
        """Return an event of now, to be emitted. Raises ValidationError."""
        text = check_json("value", value).decode()
        now = self.clock.now()
        end = None if expires is None else now + int(check_seconds("expires", expires, zero=False) * SECOND)
        return EventValue(key=check_key("key", key), text=text, at=now, expires_at=end)

    async def emit(
        self,
        event: EventValue,
        session: Any,
        patient: bool = False,
        then: Sequence[Task] = (),
        committed: Callable[[], None] = lambda: None,
    ) -> bool:
        """Store an event, and push tasks ``then``, unless there is one of its key; return whether it is there now.

        ``committed`` is called when the transaction of the session has committed.
        """
        store = self.store
        if session is not None:
            return await store.emit([event], then, session, committed) == [event]

        async def emit() -> EventValue:
            return (await store.emit([event], then))[0] if then else await self._emit(event)

        return await self.outlast(f"event {event.key}", emit, lambda: patient) == event

    async def event(self, key: str, patient: bool = False) -> EventValue | None:
        """Return the event of a key, None if there is none."""
        check_key("key", key)
        return await self.outlast(f"event {key}", lambda: self._event(key), lambda: patient)

    async def forked(self, task: Task, label: str) -> Task:
        """Return a new task that is to go on before a step of another one, and store the steps before that for it.

        Raises NotFound if the other one has no step of this name.
        """
        steps = await self.store.read(task.task_id, task.seq)
        first = next((step.n for step in steps if step.label == label), None)
        if first is None:
            known = ", ".join(dict.fromkeys(step.label for step in steps))
            raise NotFound(f"from_step: task {task.task_id} has no step {label!r:.60}; there is: {known or 'none'}")
        new = new_task(
            task.type,
            task.params,
            now=self.clock.now(),
            priority=task.priority,
            queue=task.queue,
            max_retries=task.max_retries,
            timeout=task.timeout,
            extra=task.extra,
            kind=type(task),
        ).replace(fence=1)  # its first run reads steps
        kept = [NewStep(new.task_id, new.seq, new.fence, step) for step in steps if step.n < first]
        await self.store.put(kept)
        return new

    async def forget(self, task: Task) -> None:
        """Delete the steps of a task whose push has failed; if that fails, too, the sweep does it."""
        with contextlib.suppress(DatabaseUnavailable):
            await self.store.drop([task.task_id])
