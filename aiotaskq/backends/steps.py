"""The contract of durable steps and events; ``core.steps`` has the rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from aiotaskq.core.coded import from_stored, is_coded, to_stored
from aiotaskq.errors import NotSupported

if TYPE_CHECKING:
    from aiotaskq.backends.change import Change
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.steps import EventValue, NewStep, Step
    from aiotaskq.core.task import Task


class Wait(msgspec.Struct, frozen=True):
    """A wait for an event."""

    key: str
    woken: Task
    """What the task becomes if the event is there."""


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
    async def suspend(self, change: Change, new: NewStep, wait: Wait | None = None) -> bool:
        """``Backend.update`` of one running task that sleeps or waits, and store the step; return whether it held.

        With ``wait``: if its event exists at the ``at`` of the step, ``wait.woken`` is written instead. Else the task
        waits for it until it is claimed again; no other wait of the task counts any more. An edit, which raises the
        fence, does not end the wait: ``began_at`` tells the runs apart. No event that is emitted meanwhile is missed.
        """

    @abstractmethod
    async def emit(self, event: EventValue) -> EventValue:
        """Store an event, unless there is one of its key at its ``at``; return the one that is there.

        Tasks that wait for it become due, as ``core.steps.woken``. Sends the hint ``ready`` then.
        """

    async def emit_with(
        self, session: Any, event: EventValue, committed: Callable[[], None] = lambda: None
    ) -> EventValue:
        """``emit`` in the caller's transaction. Raises as ``Backend.push_with``."""
        raise NotSupported("session: this store cannot join a transaction; emit after the commit, or use a SQL store")

    @abstractmethod
    async def event(self, key: str, now: int) -> EventValue | None:
        """Read the event of a key; None if there is none at ``now``."""

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
        """Make tasks due whose event exists, though they wait; return how many.

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

    def _stored_step(self, step: Step) -> Step:
        return step if self.codec is None else replace(step, text=self._stored(step.text))

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
