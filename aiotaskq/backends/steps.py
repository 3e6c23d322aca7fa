"""The contract of durable steps and events; ``core.steps`` has the rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from aiotaskq.backends.change import Change
from aiotaskq.core.coded import from_stored, is_coded, to_stored
from aiotaskq.core.steps import answered
from aiotaskq.errors import NotSupported

if TYPE_CHECKING:
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.steps import EventValue, NewStep, Step
    from aiotaskq.core.task import Task


class Leave(msgspec.Struct, frozen=True):
    """A running task whose handler is left, since it sleeps or waits for events."""

    change: Change
    new: Sequence[NewStep]
    """The sleeps and waits that are to be stored; each wait names its event."""
    woken: Task | None = None
    """What the task becomes if one of the events is there; None where it waits for none."""

    @property
    def waits(self) -> list[NewStep]:
        """The waits among its steps."""
        return [each for each in self.new if each.step.kind == "wait"]

    def meets(
        self, event_of: Callable[[NewStep], EventValue | None], was_answered: Callable[[NewStep], bool]
    ) -> tuple[Change, list[NewStep], list[NewStep]]:
        """Return the change to write, the steps that events become which are there, and the waits that are left.

        ``event_of`` returns the event for a wait, ``was_answered`` whether one was stored since an earlier run.
        """
        found, left = [], []
        for wait in self.waits:
            if (event := event_of(wait)) is not None:
                found.append(answered(wait, event))
            elif not was_answered(wait):
                left.append(wait)
        if self.woken is None or len(left) == len(self.waits):
            return self.change, [], left
        return Change(self.change.before, self.woken), [each for each in found if each is not None], left


class Steps(ABC):
    """The steps of the tasks of one store, and the events that they wait for. Each method is atomic.

    Steps are deleted with their task. Of two writes of the same step, and of two events of the same key, the first one
    stays. All instants are in microseconds UTC.
    """

    codec: Codec | None = None
    """That of the backend: it encodes the texts."""
    mends = False
    """Whether a process that dies amid an ``emit`` may leave tasks to ``mend``."""
    used = False
    """Whether this process uses them: else it looks only now and then for what is to be deleted."""

    @abstractmethod
    async def read(self, task_id: str, seq: int) -> list[Step]:
        """Read the steps of a task that has this push stamp, in their order."""

    async def read_many(self, tasks: Sequence[Task]) -> list[list[Step]]:
        """Read the steps of several tasks, of each in their order."""
        return [await self.read(task.task_id, task.seq) for task in tasks]

    @abstractmethod
    async def add(self, new: Sequence[NewStep]) -> list[Step | None]:
        """Store steps; return for each the one that is there, None if the task does not run with this fence."""

    @abstractmethod
    async def put(self, new: Sequence[NewStep]) -> None:
        """Store the steps of tasks that are about to be pushed, whatever their fences; those that are there stay."""

    async def add_with(self, session: Any, new: NewStep) -> Step | None:
        """``add`` in the caller's transaction, which the caller commits. Raises as ``Backend.push_with``."""
        raise NotSupported("session: this store cannot join a transaction; call step() without it, or use a SQL store")

    @abstractmethod
    async def suspend(self, leaves: Sequence[Leave]) -> list[bool]:
        """``Backend.update`` of running tasks that sleep or wait, and store their steps; return which of them held.

        If one of the events of a task exists at the ``at`` of its step, ``woken`` is written instead, and its value is
        stored as ``core.steps.answered`` says. The task waits for the others, as long as it lives, until the next call
        for it. A wait is stored only once: that of an earlier run may have been answered by an event since.
        """

    @abstractmethod
    async def emit(self, events: Sequence[EventValue]) -> list[EventValue]:
        """Store events, each unless there is one of its key at its ``at``; return those that are there.

        The value of a new one is stored for each task that waits for it, as ``core.steps.answered`` says; if that is
        left since the same run, it becomes due, as ``core.steps.woken``. An edit, which raises the fence, does not end
        a wait: ``began_at`` tells the runs apart. No event is missed. Sends the hint ``ready`` if a task becomes due.
        """

    async def emit_with(
        self, session: Any, event: EventValue, committed: Callable[[], None] = lambda: None
    ) -> EventValue:
        """``emit`` one in the caller's transaction. Raises as ``Backend.push_with``."""
        raise NotSupported("session: this store cannot join a transaction; emit after the commit, or use a SQL store")

    @abstractmethod
    async def get_events(self, keys: Sequence[str], now: int) -> list[EventValue | None]:
        """Read events by key; None where there is none at ``now``."""

    async def event(self, key: str, now: int) -> EventValue | None:
        """Read the event of a key; None if there is none at ``now``."""
        return (await self.get_events([key], now))[0]

    @abstractmethod
    async def events(self, now: int, limit: int, *, prefix: str = "", after: str | None = None) -> list[EventValue]:
        """Read events, in the order of their keys, whose keys begin with ``prefix`` and are behind ``after``."""

    @abstractmethod
    async def waiting(self, keys: Sequence[str]) -> dict[str, int]:
        """Count the tasks that wait for each of these events."""

    @abstractmethod
    async def awaited(self, limit: int, *, prefix: str = "") -> dict[str, int]:
        """Count the tasks that wait for events, by the keys of the first ``limit`` of these that begin with ``prefix``.

        In the order of the keys; a key of which all tasks have gone on may count against the limit.
        """

    @abstractmethod
    async def expire(self, now: int, limit: int) -> int:
        """Delete up to ``limit`` events that do not exist at ``now`` any more; return how many were deleted."""

    @abstractmethod
    async def mend(self, now: int) -> int:
        """Make tasks due whose event has come, though they wait; return how many.

        For events whose transaction was committed by a process that died before it could let the tasks pass.
        """

    @abstractmethod
    async def orphans(self, limit: int) -> list[str]:
        """Return the ids of up to ``limit`` tasks that have steps and no row.

        Its row was deleted by another program, or is about to be pushed: ``put`` comes first.
        """

    @abstractmethod
    async def drop(self, ids: Sequence[str]) -> None:
        """Delete the steps and waits of those of these tasks that have no row."""

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        """Write the values of the steps of these tasks anew with the codec.

        Return how many were written, and which cannot be decoded and stay. Raises NotSupported where there is no codec.
        """
        raise NotSupported("recode: these steps have no codec; give the TaskQ one, on a durable store")

    async def recode_events(self, keys: Sequence[str]) -> tuple[int, list[str]]:
        """Write the values of these events anew; as ``recode``."""
        raise NotSupported("recode: these events have no codec; give the TaskQ one, on a durable store")

    def _stored(self, text: str) -> str:
        if self.codec is None or not text or is_coded(text):  # one that could not be decoded is coded still
            return text
        return to_stored(text.encode(), self.codec).decode()

    def _plain(self, text: str) -> tuple[str, str | None]:
        """Return a text as it was given; if it cannot be decoded, as it is stored, with the type of the error."""
        if not is_coded(text):
            return text, None
        try:
            return from_stored(text, self.codec).decode(), None
        except Exception as error:  # the codec is the application's, and may raise anything
            return text, type(error).__name__

    def _anew(self, text: str) -> str | None:
        """Return a stored text as the codec makes it now; None if it cannot be decoded."""
        plain, error = self._plain(text)
        return None if error is not None else self._stored(plain)

    def _plain_step(self, step: Step) -> Step:
        if not is_coded(step.text):
            return step
        text, error = self._plain(step.text)
        return replace(step, text=text, undecodable=error)

    def _stored_event(self, event: EventValue) -> EventValue:
        return event if self.codec is None else replace(event, text=self._stored(event.text))

    def _plain_event(self, event: EventValue) -> EventValue:
        if not is_coded(event.text):
            return event
        text, error = self._plain(event.text)
        return replace(event, text=text, undecodable=error)


def recoded(answers: Iterable[tuple[str, bool]]) -> tuple[int, list[str]]:
    """Return how many of these were written anew, and the names of the others."""
    found = list(answers)
    return sum(written for _, written in found), [name for name, written in found if not written]


def step_name(task_id: str, step: Step) -> str:
    """Return how a step is called in a list of what cannot be decoded."""
    return f"{task_id} {step.label}"
