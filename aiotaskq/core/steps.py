"""Durable steps: what a handler has done, slept and waited for, as rows beside its task; and events.

A run of the task reads what earlier runs have stored, and does only the rest. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import replace

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.instants import utc
from aiotaskq.core.status import PENDING

if TYPE_CHECKING:
    from aiotaskq.core.task import Task

Kind = Literal["step", "sleep", "wake", "wait", "event"]

END: dict[str, Kind] = {"sleep": "wake", "wait": "event"}
"""By the kind of a step that waits, the kind of the step that ends it before its time."""
NEVER = 221_845_392_000_000_000
"""The ``run_at`` of a task that waits for an event without a timeout: the year 9000, which every calendar has."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is stored."""

    name: str
    number: int = 1
    """Its number among the steps of this name and kind in the run, from 1."""
    n: int = 1
    """Its place among all steps of the task."""
    kind: Kind = "step"
    """``step``: a function has returned. ``sleep``: the task sleeps, or slept, until an instant. ``wake``: an operator
    has ended the sleep of this name before that. ``wait``: the task waits, or waited, for the event of this name.
    ``event``: that event has come, or the time for it was up."""
    text: str = ""
    """JSON: what the function returned, the instant in microseconds UTC, or the value of the event. Of a ``wait`` the
    end of its timeout, NEVER without one. Empty where the time for an event was up, and of a ``wake``."""
    at: int = 0
    """When it was written, in microseconds UTC."""
    version: int = 1
    """That of the handler which made it: every later run of the task has the same code."""
    span: str = ""
    """The span of the run that made it, as W3C's ``traceparent``; empty without tracing."""
    undecodable: str | None = None
    """The type of the error of its codec, where it could not be decoded: the text is as it is stored then."""

    @property
    def timed_out(self) -> bool:
        """Whether the time for the event was up before it came."""
        return self.kind == "event" and not self.text

    @property
    def value(self) -> Any:
        """The value of the text; None where the time for an event was up. Raises ValidationError if undecodable."""
        if self.undecodable is not None:
            raise undecodable(f"step {self.label}", self.undecodable)
        return msgspec.json.decode(self.text) if self.text else None

    @property
    def until(self) -> int:
        """When a sleep or a wait ends, in microseconds UTC. Raises ValidationError if undecodable."""
        if self.undecodable is not None:
            raise undecodable(f"step {self.label}", self.undecodable)
        return int(self.text)

    @property
    def label(self) -> str:
        """The name, and for a later one of the same name its number: ``charge#2``."""
        return step_label(self.name, self.number)

    def __repr__(self) -> str:
        return f"<Step {self.kind} {self.label}>"


def step_label(name: str, number: int) -> str:
    """Return the label of the step of this name and number."""
    return name if number == 1 else f"{name}#{number}"


class NewStep(msgspec.Struct, frozen=True):
    """A step to store for a running task.

    ``seq`` is the push stamp of the task: one that was pushed again under its id, as new work, has no steps.
    """

    task_id: str
    seq: int
    fence: int
    step: Step


class Suspension(msgspec.Struct, frozen=True):
    """Why, and until when, a handler has left its task before its end."""

    until: int
    """When the first of its sleeps and waits ends, in microseconds UTC."""
    new: tuple[NewStep, ...]
    """The sleeps and waits that have begun and not ended, the first that ends first. They are stored with it."""


class EventValue(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was emitted: the first value of its key."""

    key: str
    text: str = "null"
    """The value, as JSON."""
    at: int = 0
    """When it was emitted, in microseconds UTC."""
    expires_at: int | None = None
    """From when on it does not exist, in microseconds UTC; None for never."""
    undecodable: str | None = None
    """The type of the error of its codec, where it could not be decoded: the text is as it is stored then."""

    time = utc("at")

    @property
    def value(self) -> Any:
        """The value. Raises ValidationError if undecodable."""
        if self.undecodable is not None:
            raise undecodable(f"event {self.key}", self.undecodable)
        return msgspec.json.decode(self.text)

    def there(self, now: int) -> bool:
        """Whether it exists at ``now``, in microseconds UTC."""
        return self.expires_at is None or self.expires_at > now

    def __repr__(self) -> str:
        return f"<EventValue {self.key}>"


def undecodable(what: str, error: str) -> ValidationError:
    """Return the error for a value whose codec raised an error of this type."""
    return ValidationError(f"{what} cannot be decoded ({error}): the codec or its key is another")


def in_order(steps: Iterable[Step]) -> list[Step]:
    """Return the steps of a task by their places; an event comes behind the wait for it, which has the same place."""
    return sorted(steps, key=lambda step: (step.n, step.kind == "event"))


def open_steps(steps: Sequence[Step]) -> list[Step]:
    """Return the sleeps that nobody has ended early, and the waits whose event has not come; those that are decodable.

    Whether the time of a sleep or a wait is over is not looked at.
    """
    ended = {(step.kind, step.name, step.number) for step in steps if step.kind in END.values()}
    return [
        step
        for step in steps
        if step.kind in END and step.undecodable is None and (END[step.kind], step.name, step.number) not in ended
    ]


def left_at(task: Task, steps: Sequence[Step]) -> Step | None:
    """Return the sleep or the wait until whose end the handler has left a pending task; None if it has not."""
    return next((step for step in reversed(open_steps(steps)) if step.until == task.due_us), None)


def answered(wait: NewStep, event: EventValue) -> NewStep | None:
    """Return the step that an event becomes for a task that waits for it; None if it came behind the timeout."""
    if wait.step.until < event.at:
        return None
    return replace(wait, step=replace(wait.step, kind="event", text=event.text, at=event.at))


def awakened(task: Task, sleep: Step, steps: Sequence[Step], now: int) -> NewStep:
    """Return the step that ends a sleep of a task before its time; ``now`` in microseconds UTC."""
    last = max(step.n for step in steps)
    return NewStep(task.task_id, task.seq, task.fence, replace(sleep, kind="wake", n=last + 1, text="", at=now))


def woken(task: Task, now: int) -> Task | None:
    """Return a task that waits for an event as it is when that comes; None if it is due, or does not wait."""
    if task.status is not PENDING or task.due_us <= now:
        return None
    # One with gates passes them again: it is parked at the first one.
    return replace(task, due_at=now) if task.parked else replace(task, run_at=now, due_at=None)
