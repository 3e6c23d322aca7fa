"""The steps of one run of a handler: what earlier runs have stored, and what this one adds."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.base import Backend, Change
from aiotaskq.backends.steps import Steps, Wait
from aiotaskq.concurrency.batcher import Batcher
from aiotaskq.concurrency.clock import Clock
from aiotaskq.concurrency.failure_backoff import backoff
from aiotaskq.core.conversion import Conversion
from aiotaskq.core.outcome import Released, passed_on, settle
from aiotaskq.core.serialize import storable
from aiotaskq.core.steps import NEVER, EventValue, Kind, NewStep, Step, Suspension, undecodable
from aiotaskq.core.task import SECOND, Task, new_task
from aiotaskq.core.validation import check_int, check_json, check_key, check_seconds
from aiotaskq.errors import DatabaseUnavailable, EventTimeout, LeaseLost, NotFound, NotSupported, ValidationError
from aiotaskq.log import log, named, printable
from aiotaskq.runtime.handler import result_conversion

SHORT = 60.0
"""Seconds: a sleep that is no longer keeps its slot."""
EVENT_AGE = 30 * 86_400.0
"""Seconds for which an event is kept by default."""


class Suspended(BaseException):
    """Raised to leave a handler that sleeps, or waits for an event; the worker puts the task back.

    No ``Exception``: a handler that catches these for its own errors still sleeps.
    """

    def __init__(self, outcome: Released) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def suspended_in(error: BaseException) -> Suspended | None:
    """Return the first suspension in a group of errors, as ``asyncio.TaskGroup`` raises it, if all of it are some."""
    if not isinstance(error, BaseExceptionGroup) or error.split(Suspended)[1] is not None:
        return None
    first: BaseException = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, Suspended) else None


class StepVerbs:
    """The steps and events of one store."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._backend, self.clock = backend, clock
        self.short = SHORT
        """Seconds: a sleep that is no longer keeps its slot."""
        self._batch: Batcher[NewStep, Step | None] = Batcher(self._add)

    @property
    def single_writer(self) -> bool:
        """As ``Backend.single_writer``."""
        return self._backend.single_writer

    @property
    def store(self) -> Steps:
        """Where they are. Raises NotSupported where the store cannot hold any."""
        if self._backend.steps is None:
            raise NotSupported(
                f"steps: {self._backend.name} cannot hold steps and events; use a SQL database, or memory://"
            )
        self._backend.steps.used = True
        return self._backend.steps

    async def _add(self, new: list[NewStep]) -> list[Step | None]:
        return await self.store.add(new)

    async def add(self, new: NewStep, session: Any = None) -> Step | None:
        """Store a step; return the one that is there, None if the task is no longer this worker's.

        While the store cannot be reached it is tried again, since what the step is about has been done. Raises
        DatabaseUnavailable where a database with one writer stays locked, perhaps by the handler itself.
        """
        if session is not None:
            return await self.store.add_with(session, new)
        failures = 0
        while True:
            try:
                return (await (self._batch.add([new]) if self._backend.grouped else self._add([new])))[0]
            except DatabaseUnavailable as error:
                failures += 1
                if failures > 1 and self.single_writer and "locked" in str(error):
                    raise DatabaseUnavailable(
                        f"step {new.step.label}: the database stays locked; if the handler has written in a "
                        "transaction of its own, commit that before the step, or pass it as session="
                    ) from error
                if failures == 1:
                    log.warning("task {}: step {} is not stored yet: {}", new.task_id, new.step.label, error)
            await self.clock.sleep(backoff(failures, 0.1, 2.0))

    async def suspend(self, task: Task, outcome: Released) -> Task | None:
        """Write that a task sleeps, or waits for an event; return it then.

        None if it has changed since it was read, or the store cannot be reached: what is written then is up to others.
        """
        suspended, now = outcome.suspended, self.clock.now()
        assert suspended is not None
        after = settle(task, outcome, now)
        if after.final:  # it was cancelled
            return None
        new = replace(suspended.new, step=replace(suspended.new.step, at=now))
        wait = None
        if suspended.key is not None:
            at_once = replace(outcome, suspended=replace(suspended, until=now))
            wait = Wait(suspended.key, settle(task, at_once, now))
        try:
            return after if await self.store.suspend(Change(task, after), new, wait) else None
        except DatabaseUnavailable as error:
            log.warning("{}: its sleep is not stored: {}", named(task), error)
            return None

    async def emit(self, key: str, value: Any, expires: float | None, session: Any) -> bool:
        """Store an event unless there is one of this key; return whether this one is there now."""
        text = check_json("value", value).decode()
        now = self.clock.now()
        end = None if expires is None else now + int(check_seconds("expires", expires, zero=False) * SECOND)
        event = EventValue(key=check_key("key", key), text=text, at=now, expires_at=end)
        store = self.store
        there = await (store.emit(event) if session is None else store.emit_with(session, event))
        return there == event

    async def event(self, key: str) -> EventValue | None:
        """Return the event of a key, None if there is none."""
        return await self.store.event(check_key("key", key), self.clock.now())

    async def events(self, prefix: str = "", limit: int = 1_000, after: str | None = None) -> list[EventValue]:
        """Return events in the order of their keys."""
        limit = check_int("limit", limit, 1)
        return await self.store.events(self.clock.now(), limit, prefix=prefix, after=after)

    async def forked(self, task: Task, label: str) -> Task:
        """Return a new task that is to go on before a step of another one, and store the steps before that for it.

        Raises NotFound if the other one has no step of this name.
        """
        steps = await self.steps_of(task)
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

    async def steps_of(self, task: Task) -> list[Step]:
        """Return the steps of a task."""
        return await self.store.read(task.task_id, task.seq)


class RunSteps:
    """The steps of one run of a task. It is used in the worker's loop only."""

    def __init__(self, task: Task, verbs: StepVerbs, version: int = 1) -> None:
        self._store = verbs.store  # it raises before anything is done
        self._task, self._verbs, self._clock = task, verbs, verbs.clock
        self.version = version
        """That of the handler."""
        self._stored: dict[tuple[Kind, str, int], Step] | None = {} if task.fence == 1 else None
        self._begun: int | None = None
        self._reading = asyncio.Lock()
        self._counts: dict[tuple[Kind, str], int] = {}
        self._functions: dict[str, Any] = {}
        self._last = 0
        self._session: Any = None  # that of the last step which had one
        self.left: Released | None = None
        """Set once the handler was to leave: it may have caught that, as ``gather(…, return_exceptions=True)`` does."""

    def number(self, kind: Kind, name: str) -> int:
        """Return the how manieth of its name this one is: in the order of the calls, whatever they wait for."""
        number = self._counts[kind, name] = self._counts.get((kind, name), 0) + 1
        return number

    async def find(self, kind: Kind, name: str, number: int) -> Step | None:
        """Return what is stored of a step, None if it has not been done."""
        stored = self._stored if self._stored is not None else await self._read()
        if (version := self._begun) is not None and version != self.version:
            # A process of an older deploy, whose handler was registered without a version.
            self.left = passed_on(self._task, no_version(self._task, version), self._clock.now())
            raise Suspended(self.left)
        return stored.get((kind, name, number))

    async def begun(self) -> int | None:
        """Return the version of the handler that has begun the task; None if it has no steps."""
        if self._stored is None:
            await self._read()
        return self._begun

    async def _read(self) -> dict[tuple[Kind, str, int], Step]:
        async with self._reading:
            if self._stored is None:
                found = await self._store.read(self._task.task_id, self._task.seq)
                self._last = max((step.n for step in found), default=0)
                self._begun = found[0].version if found else None
                self._stored = {(step.kind, step.name, step.number): step for step in found}
        return self._stored

    def new(self, kind: Kind, name: str, number: int, text: str) -> NewStep:
        """Return a step to store."""
        self._last += 1
        now = self._clock.now()
        step = Step(name=name, number=number, n=self._last, kind=kind, text=text, at=now, version=self.version)
        return NewStep(self._task.task_id, self._task.seq, self._task.fence, step)

    async def _add(self, new: NewStep, session: Any = None) -> Step:
        if session is not None:
            self._session = session
        elif self._session is not None and self._verbs.single_writer and self._session.in_transaction():
            raise ValidationError(
                f"{new.step.kind} {new.step.label}: the transaction of an earlier step is open, and keeps this "
                "database from being written; pass its session= here, too, or commit it first"
            )
        stored = await self._verbs.add(new, session)
        if stored is None:
            raise LeaseLost(f"task {self._task.task_id} is no longer run here; stop working on it")
        return stored

    # ---- step ----

    async def begin(self, name: str, function: Callable[..., Any]) -> tuple[int, Step | None]:
        """Begin a step; return its number, and what an earlier run has stored of it."""
        known = self._functions.setdefault(check_key("name", name), function)
        if known is not function and identity(known) != identity(function):
            raise ValidationError(f"step: {name!r} names another function in this task; give each a name of its own")
        number = self.number("step", name)
        return number, await self.find("step", name, number)

    async def end(self, name: str, number: int, value: Any, conversion: Conversion | None, session: Any = None) -> Step:
        """Store what a step has returned; return what is stored, by this run or another one.

        Raises ValidationError for what JSON cannot hold.
        """
        try:
            plain = storable(value, conversion)
        except ValidationError as error:
            raise ValidationError(f"step {name}: {error}") from None
        return await self._add(self.new("step", name, number, msgspec.json.encode(plain).decode()), session)

    # ---- sleeps and waits ----

    async def sleep_for(self, name: str, seconds: float) -> None:
        """Sleep for so long, or until the instant that is stored."""
        await self.sleep_until(name, self._clock.now() + int(seconds * SECOND))

    async def sleep_until(self, name: str, until: int) -> None:
        """Sleep until an instant, or until the one that is stored."""
        number = self.number("sleep", check_key("name", name))
        found = await self.find("sleep", name, number)
        if found is not None:
            if await self.find("wake", name, number) is not None:
                return
            until = found.until
        left = (until - self._clock.now()) / SECOND
        if left <= 0:
            return
        if left > self._verbs.short:
            self._leave(f"sleeps: {name}", until, self.new("sleep", name, number, str(until)))
        if found is None:
            found = await self._add(self.new("sleep", name, number, str(until)))
            left = max(0.0, (found.until - self._clock.now()) / SECOND)
        await self._clock.sleep(left)

    async def wait_event(self, key: str, timeout: float | None) -> Any:
        """Return the value of an event; leave the handler until it comes. Raises EventTimeout."""
        number = self.number("event", check_key("key", key))
        span = None if timeout is None else int(check_seconds("timeout", timeout) * SECOND)
        found = await self.find("event", key, number)
        if found is None:
            now = self._clock.now()
            waited = await self.find("wait", key, number)
            until = waited.until if waited is not None else NEVER if span is None else now + span
            event = await self._store.event(key, now)
            # Also where the timeout was over before the event, and the handler could not run in between.
            if event is not None and waited is not None and until <= now and until < event.at:
                event = None
            if event is None and until > now:
                self._leave(f"waits for {key}", until, self.new("wait", key, number, str(until)), key)
            if event is not None and event.undecodable is not None:
                raise undecodable(f"event {key}", event.undecodable)
            found = await self._add(self.new("event", key, number, "" if event is None else event.text))
        if found.timed_out:
            raise EventTimeout(f"event {key} did not come in time")
        return found.value

    def _leave(self, reason: str, until: int, new: NewStep, key: str | None = None) -> None:
        log.debug("{} {}", named(self._task), reason)
        self.left = Released(reason, ran=True, suspended=Suspension(until, new, key))
        raise Suspended(self.left)


def no_version(task: Task, version: int) -> str:
    """Return why a task is passed on that was begun by a version of its handler which is not here."""
    return f"no worker has version {version} of {printable(task.type)}"


def identity(function: Callable[..., Any]) -> Any:
    """Return what is the same for each function object of one ``def`` or ``lambda``."""
    while (inner := getattr(function, "func", None)) is not None and callable(inner):
        function = inner  # functools.partial
    function = getattr(inspect.unwrap(function), "__func__", inspect.unwrap(function))
    return getattr(function, "__code__", function)


def loaded(step: Step, conversion: Conversion | None) -> Any:
    """Return the value of a step as its function returned it. Raises ValidationError if it does not fit any more."""
    return step.value if conversion is None else conversion.load(f"step {step.label}", step.value)


_conversions: WeakKeyDictionary[CodeType, tuple[Any, Conversion | None]] = WeakKeyDictionary()
"""By the code of a function: its return annotation, and the conversion. It is looked up at each run of each step."""


def returned_by(function: Callable[..., Any]) -> Conversion | None:
    """Return the conversion of what a step returns."""
    code = identity(function)
    if not isinstance(code, CodeType):
        return result_conversion(function)
    annotation = getattr(function, "__annotations__", {}).get("return")
    known = _conversions.get(code)
    if known is None or known[0] is not annotation:  # functions made by another one share their code
        known = _conversions[code] = annotation, result_conversion(function)
    return known[1]
