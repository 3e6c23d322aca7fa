"""The steps of one run of a handler: what earlier runs have stored, and what this one adds."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

import msgspec

from aiotaskq.core.conversion import Conversion, storable
from aiotaskq.core.errors import check_key, check_seconds
from aiotaskq.core.outcome import Released, passed_on
from aiotaskq.core.steps import NEVER, Kind, NewStep, Step, Suspension, undecodable
from aiotaskq.core.task import SECOND, Task
from aiotaskq.errors import EventTimeout, LeaseLost, ValidationError
from aiotaskq.log import log, named, printable
from aiotaskq.runtime.handler import result_conversion

if TYPE_CHECKING:
    from aiotaskq.runtime.step_verbs import StepVerbs

E = TypeVar("E", bound=BaseException)

QUIET = 10
"""Iterations of the loop without a step, after which a handler is left. A coroutine that waits for several others goes
on two iterations after one of them has ended; so five of them may wait one for the other."""
NAMED = 3
"""Sleeps and waits that are named where it is told for what a handler was left."""


MOST_TOLD = 20
"""Stored steps that are named where a handler has not asked for them."""


class Suspended(BaseException):
    """Raised to leave a handler that sleeps, or waits for an event; the worker puts the task back.

    No ``Exception``: a handler that catches these for its own errors still sleeps.
    """


def only_in(error: BaseException, kind: type[E]) -> E | None:
    """Return an error of a kind: this one, or the first of a group of them, as ``asyncio.TaskGroup`` raises it."""
    if isinstance(error, BaseExceptionGroup) and error.split(kind)[1] is None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    return error if isinstance(error, kind) else None


def is_suspension(error: BaseException) -> bool:
    """Whether an error leaves a handler: a suspension, or a group of them."""
    return only_in(error, Suspended) is not None


class _Pause:
    """A sleep, or a wait for an event, that has begun in this run and not ended."""

    def __init__(self, new: NewStep, stored: bool, long: bool) -> None:
        self.new, self.stored, self.long = new, stored, long
        self.woken = asyncio.Event()
        self.left = False
        """Whether it is to leave the handler."""


class RunSpans(Protocol):
    """What traces one run of a task."""

    traceparent: str
    """The span of the run, as W3C's ``traceparent``."""
    recorded: bool
    """Whether it is recorded, so that others may link to it."""

    def step(self, label: str) -> AbstractContextManager[object]:
        """Return the span of a step, which is open while the step is under way; from any thread."""

    def replayed(self, step: Step) -> None:
        """Tell of a step that an earlier run has done."""


class RunSteps:
    """The steps of one run of a task. It is used in the worker's loop only.

    A handler may do several things at once. It is left when one of them has to wait for long, and no step is under way:
    the task is claimed again, and would do that step a second time, beside the first.
    """

    def __init__(self, task: Task, verbs: StepVerbs, version: int = 1, spans: RunSpans | None = None) -> None:
        _ = verbs.store  # reading it marks the store as one with steps, so that the sweep looks there
        self._task, self._verbs, self._clock = task, verbs, verbs.clock
        self._spans = spans
        self.version = version
        """That of the handler."""
        self._stored: dict[tuple[Kind, str, int], Step] | None = {} if task.fence == 1 else None
        self._begun: int | None = None
        self._reading = asyncio.Lock()
        self._counts: dict[tuple[Kind, str], int] = {}
        self._functions: dict[str, Any] = {}
        self._last = 0
        self._session: Any = None  # that of the last step which had one
        self._passed_on: Released | None = None
        self._pauses: dict[tuple[Kind, str, int], _Pause] = {}
        self._busy = self._turns = 0  # calls under way that do not wait for time or an event; calls until now
        self._looks = False  # whether it is to be seen soon if the handler can be left
        self._under_way = 0  # steps whose functions were called and are not stored
        self._inside: WeakSet[asyncio.Task[Any]] = WeakSet()  # the asyncio tasks that have called them
        self._ended: asyncio.Future[None] | None = None
        self._hurried = False  # whether no sleep is short

    @property
    def pausing(self) -> bool:
        """Whether the handler is in short sleeps, for which it is not left, and in no step."""
        return bool(self._pauses) and not self._busy and not any(pause.long for pause in self._pauses.values())

    # ---- leaving the handler ----

    @property
    def left(self) -> Released | None:
        """Why the handler is left; None if it is not. It may catch that: ``gather(…, return_exceptions=True)`` does."""
        if self._passed_on is not None:
            return self._passed_on
        if not any(pause.left for pause in self._pauses.values()):
            return None
        new = sorted((pause.new for pause in self._pauses.values()), key=lambda new: new.step.until)
        return Released(why(new), ran=True, suspended=Suspension(new[0].step.until, tuple(new)))

    def _enter(self) -> None:
        if self._ended is not None:
            raise LeaseLost(f"task {self._task.task_id}: its handler has ended; stop working on it")
        self._busy += 1
        self._turns += 1

    def _exit(self) -> None:
        self._busy -= 1
        self._look_soon()

    def _look_soon(self) -> None:
        if self._busy:
            return
        if self._ended is not None:
            if not self._ended.done():
                self._ended.set_result(None)
        elif self._pauses and not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_soon(self._look, 0, self._turns)

    def hurry(self) -> None:
        """Have the handler left for each sleep from now on, however short it is: a thread cannot be cancelled in it."""
        self._hurried = True
        for pause in self._pauses.values():
            pause.long = True
        self._look_soon()

    def _look(self, quiet: int, turns: int) -> None:
        """Leave the handler once nothing of it was under way for some iterations of the loop."""
        self._looks = False
        if self._busy or self._ended is not None or not any(pause.long for pause in self._pauses.values()):
            return
        if quiet < QUIET:
            self._looks = True
            quiet = quiet + 1 if turns == self._turns else 0
            asyncio.get_running_loop().call_soon(self._look, quiet, self._turns)
            return
        log.debug("{} is left by its handler", named(self._task))
        for pause in self._pauses.values():
            pause.left = True
            pause.woken.set()

    async def close(self, interrupted: bool = False) -> None:
        """Wait, behind the end of the handler, until its last step has ended; no other one begins.

        Steps are cancelled if the handler was ``interrupted``, or as soon as the caller is. Of a second cancel of the
        caller, the steps are left alone.
        """
        self._ended = asyncio.get_running_loop().create_future()
        is_left = self.left is not None
        for pause in self._pauses.values():
            pause.left = is_left
            pause.woken.set()
        cancelled: asyncio.CancelledError | None = None
        while self._busy:
            if interrupted or cancelled is not None:
                for each in self._inside:
                    each.cancel()
            try:
                await asyncio.shield(self._ended)
            except asyncio.CancelledError as error:
                if cancelled is not None:
                    raise
                cancelled = error
        if cancelled is not None:
            raise cancelled

    # ---- what is stored ----

    def tell_unasked(self) -> None:
        """Log which stored steps the handler, which has returned, has not asked for."""
        counted: dict[Kind, Kind] = {"wake": "sleep", "wait": "event"}
        names = {
            step.label: None
            for step in (self._stored or {}).values()
            if step.number > self._counts.get((counted.get(step.kind, step.kind), step.name), 0)
        }
        if names:
            told = ", ".join(map(printable, list(names)[:MOST_TOLD]))
            more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
            log.info("{} has ended without asking for what is stored of {}{}", named(self._task), told, more)

    def number(self, kind: Kind, name: str) -> int:
        """Return the number of a new step among those of its name, in the order of the calls."""
        number = self._counts[kind, name] = self._counts.get((kind, name), 0) + 1
        return number

    async def find(self, kind: Kind, name: str, number: int) -> Step | None:
        """Return what is stored of a step, None if it has not been done."""
        stored = self._stored if self._stored is not None else await self._read()
        if (version := self._begun) is not None and version != self.version:
            # A process of an older deploy, whose handler was registered without a version.
            self._passed_on = passed_on(self._task, no_version(self._task, version), self._clock.now())
            raise Suspended(self._passed_on.reason)
        return stored.get((kind, name, number))

    async def begun(self) -> int | None:
        """Return the version of the handler that has begun the task; None if it has no steps."""
        if self._stored is None:
            await self._read()
        return self._begun

    async def _read(self) -> dict[tuple[Kind, str, int], Step]:
        async with self._reading:
            if self._stored is None:
                found = await self._verbs.read(self._task)
                self._last = max((step.n for step in found), default=0)
                self._begun = found[0].version if found else None
                self._stored = {(step.kind, step.name, step.number): step for step in found}
        return self._stored

    def new(self, kind: Kind, name: str, number: int, text: str, n: int | None = None) -> NewStep:
        """Return a step to store, at a place of its own or at ``n``."""
        if n is None:
            n = self._last = self._last + 1
        now = self._clock.now()
        span = self._spans.traceparent if self._spans is not None and self._spans.recorded else ""
        step = Step(name=name, number=number, n=n, kind=kind, text=text, at=now, version=self.version, span=span)
        return self._as_new(step)

    async def _add(self, new: NewStep, session: Any = None) -> Step:
        if session is not None:
            self._session = session
        elif self._session is not None and self._verbs.one_writer and self._session.in_transaction():
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
        """Begin a step; return its number, and what an earlier run has stored of it.

        If nothing is, the step is under way from now on until ``over`` is called.
        """
        known = self._functions.setdefault(check_key("name", name), function)
        if known is not function and identity(known) != identity(function):
            raise ValidationError(f"step: {name!r} names another function in this task; give each a name of its own")
        number = self.number("step", name)
        self._enter()
        begins = False
        try:
            found = await self.find("step", name, number)
            if found is None:
                if self._pauses:
                    await asyncio.gather(*map(self._keep, self._pauses.values()))
                begins = True
            elif self._spans is not None:
                self._spans.replayed(found)
        finally:
            if not begins:
                self._exit()
        if begins:
            self._under_way += 1
            self._inside.add(cast("asyncio.Task[Any]", asyncio.current_task()))
        return number, found

    async def end(self, name: str, number: int, value: Any, conversion: Conversion | None, session: Any = None) -> Step:
        """Store what a step has returned; return what is stored, by this run or another one.

        Raises ValidationError for what JSON cannot hold.
        """
        try:
            plain = storable(value, conversion)
        except ValidationError as error:
            raise ValidationError(f"step {name}: {error}") from None
        return await self._add(self.new("step", name, number, msgspec.json.encode(plain).decode()), session)

    async def over(self) -> None:
        """Tell that a step is not under way any more, whether or not it is stored; events are looked for again."""
        self._under_way -= 1
        self._inside.discard(cast("asyncio.Task[Any]", asyncio.current_task()))
        for pause in self._pauses.values():
            if pause.new.step.kind == "wait":
                pause.woken.set()
        self._exit()

    # ---- sleeps and waits ----

    async def sleep_for(self, name: str, seconds: float) -> None:
        """Sleep for so long, or until the instant that is stored."""
        await self.sleep_until(name, self._clock.now() + int(seconds * SECOND))

    async def sleep_until(self, name: str, until: int) -> None:
        """Sleep until an instant, or until the one that is stored."""
        number = self.number("sleep", check_key("name", name))
        self._enter()
        try:
            found = await self.find("sleep", name, number)
            if found is not None:
                if await self.find("wake", name, number) is not None:
                    return
                until = found.until
            left = until - self._clock.now()
            if left <= 0:
                return
            new = self.new("sleep", name, number, str(until)) if found is None else self._as_new(found)
            pause = _Pause(new, found is not None, self._hurried or left / SECOND > self._verbs.short)
            if not pause.long:
                await self._keep(pause)
            await self._pause(pause)
        finally:
            self._exit()

    async def wait_event(self, key: str, timeout: float | timedelta | None) -> Any:
        """Return the value of an event; leave the handler until it comes. Raises EventTimeout."""
        number = self.number("event", check_key("key", key))
        span = None if timeout is None else int(check_seconds("timeout", timeout) * SECOND)
        self._enter()
        try:
            found = await self.find("event", key, number)
            if found is None:
                found = await self._event(key, number, span)
        finally:
            self._exit()
        if found.timed_out:
            raise EventTimeout(f"event {key} did not come in time")
        return found.value

    async def _event(self, key: str, number: int, span: int | None) -> Step:
        """Return the step that the event becomes, or the end of the time for it."""
        waited = await self.find("wait", key, number)
        until = waited.until if waited is not None else NEVER if span is None else self._clock.now() + span
        pause = None if waited is None else _Pause(self._as_new(waited), True, True)
        while True:
            now = self._clock.now()
            event = await self._verbs.event(key, patient=True)
            # Also where the timeout was over before the event, and the handler could not run in between.
            if event is not None and pause is not None and until <= now and until < event.at:
                event = None
            if event is not None or until <= now:
                break
            pause = pause or _Pause(self.new("wait", key, number, str(until)), False, True)
            await self._pause(pause)
        if event is not None and event.undecodable is not None:
            raise undecodable(f"event {key}", event.undecodable)
        place = None if pause is None else pause.new.step.n
        return await self._add(self.new("event", key, number, "" if event is None else event.text, place))

    def _as_new(self, step: Step) -> NewStep:
        return NewStep(self._task.task_id, self._task.seq, self._task.fence, step)

    async def _keep(self, pause: _Pause) -> None:
        """Store a sleep or a wait, so that it has begun whatever becomes of this run."""
        if not pause.stored:
            pause.stored = True
            await self._add(pause.new)

    async def _pause(self, pause: _Pause) -> None:
        """Return when the time of a sleep or a wait is over, or an event may have come. Raises Suspended."""
        step = pause.new.step
        if self._under_way:
            await self._keep(pause)
        self._pauses[step.kind, step.name, step.number] = pause
        self._exit()
        try:
            if step.until >= NEVER:
                await pause.woken.wait()
            else:
                await self._clock.wait(pause.woken, max(0.0, (step.until - self._clock.now()) / SECOND))
        finally:
            self._busy += 1  # the caller's own call goes on
            if not pause.left:  # else it is part of what the handler is left for
                del self._pauses[step.kind, step.name, step.number]
        if pause.left:
            raise Suspended(why([pause.new]))
        if self._ended is not None:  # nothing waits for this coroutine any more
            raise asyncio.CancelledError
        pause.woken.clear()


def why(new: Sequence[NewStep]) -> str:
    """Return for what a handler is left."""
    words = {"sleep": "sleeps:", "wait": "waits for the event"}
    named = [f"{words[each.step.kind]} {each.step.name}" for each in new[:NAMED]]
    return "; ".join([*named, f"and {len(new) - NAMED} more sleeps or events"] if len(new) > NAMED else named)


def no_version(task: Task, version: int) -> str:
    """Return why a task is passed on that was begun by a version of its handler which is not here."""
    return f"no worker has version {version} of {printable(task.type)}"


def identity(function: Callable[..., Any]) -> Any:
    """Return what is the same for each function object of one ``def`` or ``lambda``."""
    while (inner := getattr(function, "func", None)) is not None and callable(inner):
        function = inner  # functools.partial
    function = getattr(inspect.unwrap(function), "__func__", inspect.unwrap(function))
    return getattr(function, "__code__", function)


class StepMisfit(ValidationError):
    """The stored value of a step does not fit the return annotation of its function; a retry would not change that.

    ``told`` is what the log says: without the value.
    """

    def __init__(self, error: ValidationError, label: str) -> None:
        super().__init__(
            f"{error}; the stored value does not fit the return annotation of the step: correct that, or register the "
            "changed handler with another version="
        )
        self.told = f"the stored value of step {label} does not fit its return annotation"


def misfit_in(error: BaseException) -> StepMisfit | None:
    """Return the first error of this kind that an error is, or has in it as a group."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := misfit_in(each)) is not None), None)
    return error if isinstance(error, StepMisfit) else None


def loaded(step: Step, conversion: Conversion | None) -> Any:
    """Return the value of a step as its function returned it. Raises StepMisfit if it does not fit."""
    value = step.value
    try:
        return value if conversion is None else conversion.load(f"step {step.label}", value)
    except ValidationError as error:
        raise StepMisfit(error, step.label) from None


_conversions: WeakKeyDictionary[CodeType, tuple[Any, Conversion | None]] = WeakKeyDictionary()
"""By the code of a function: its return annotation, and the conversion. It is looked up at each run of each step."""


def returned_by(function: Callable[..., Any]) -> Conversion | None:
    """Return the conversion of what a step returns."""
    code = identity(function)
    if not isinstance(code, CodeType):
        return result_conversion(function, checked=True)
    annotation = getattr(function, "__annotations__", {}).get("return")
    known = _conversions.get(code)
    if known is None or known[0] is not annotation:  # functions made by another one share their code
        known = _conversions[code] = annotation, result_conversion(function, checked=True)
    return known[1]
