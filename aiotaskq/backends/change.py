"""Arguments of the verbs of a backend: guarded writes, a handler that is left, a claim, and the bound of a push."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from aiotaskq.core.coded import COLUMNS, STATE, encoded
from aiotaskq.core.errors import queue_full
from aiotaskq.core.gate import PARKED
from aiotaskq.core.parking import slots
from aiotaskq.core.status import PENDING
from aiotaskq.core.steps import NewStep
from aiotaskq.core.task import Task

if TYPE_CHECKING:
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.schedule import Schedule


class Change(msgspec.Struct, frozen=True, gc=False):
    """A guarded write: the row is ``before``, as it was read, and becomes ``after``.

    ``then`` are follow-up tasks, pushed in the same transaction if and only if the guard holds. With ``lease_over`` the
    guard also requires the lease that was read: its end, or the owner of a worker's task, who may have marked it since.
    """

    # Not tracked by the garbage collector: changes are short-lived, and hundreds of them would start a collection.
    before: Task
    after: Task
    then: tuple[Task, ...] = ()
    lease_over: bool = False


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


GUARD: Final = ("version", "next_run_at", "next_run_us", "enabled", "run_count")
"""The fields of a schedule by which a write knows that it is as it was read.

The version rises with each write of this package; the other fields show the writes of other programs.
"""
_guard = attrgetter(*GUARD)


class ScheduleChange(msgspec.Struct, frozen=True):
    """A guarded write of a schedule, and the tasks that it fires, in one transaction."""

    before: Schedule
    after: Schedule
    tasks: tuple[Task, ...] = ()

    def holds(self, row: Any) -> bool:
        """Whether the guard holds for a row with the fields of ``GUARD``, None for no row."""
        return row is not None and bool(_guard(row) == _guard(self.before))


class Claim(NamedTuple):
    """What a claim is to return: see ``Backend.claim``."""

    owner: str
    now: int
    limit: int
    queues: Sequence[str] | None = None
    lease_until: int | None = None


class Room(msgspec.Struct, frozen=True):
    """The bound of a push: at most ``maxsize`` ready tasks, counted in the transaction of the push.

    Tasks count that are ready at ``now`` or, in a shared store, at the latest push stamp there if that is later, since
    the clocks of two hosts differ. ``instead`` settles ready tasks in the same transaction, to make room.
    """

    maxsize: int
    now: int
    instead: tuple[Change, ...] = ()

    @property
    def leaving(self) -> set[str]:
        """The ids of the tasks that make room."""
        return {change.before.task_id for change in self.instead}

    def new_of(self, tasks: Sequence[Task], rows: Iterable[Task | None], left: int) -> list[Task]:
        """Return those of these tasks that are new: in conflict with no task before them, and with no row that stays.

        ``rows`` are those with which each conflicts. Raises QueueFull for more new ones than are ``left``.
        """
        new: list[Task] = []
        names, leaving = set[tuple[str, str | None]](), self.leaving
        for task, row in zip(tasks, rows, strict=True):
            own = {("id", task.task_id), ("unique", task.unique_key), ("once", task.idempotency_key)}
            own -= {("unique", None), ("once", None)}
            if (row is None or row.task_id in leaving) and names.isdisjoint(own):
                names |= own
                new.append(task)
        if new and len(new) > left:
            raise queue_full(self.maxsize, len(new) - left)
        return new


def holds(row: Any, change: Change) -> bool:
    """Whether the guard of a change holds for a row with status, fence, owner, lease and cancel flag."""
    before = change.before
    return (
        (row.status, row.fence) == (before.status, before.fence)
        and not (change.lease_over and (row.lease_until, row.lease_owner) != (before.lease_until, before.lease_owner))
        # A cancel must not be lost with a task that goes on.
        and (change.after.final or bool(row.cancel_requested) == before.cancel_requested)
    )


def has_moved(row: Any, change: Change) -> bool:
    """Whether a change of a pending task would give it slots that its row, with run_at and gate, does not hold.

    To pass a gate, and to park at the first one again with a paused queue, does not raise the fence. A change to a
    place without slots is right wherever the task is by now.
    """
    after = change.after
    if change.before.status is not PENDING or not slots(after):
        return False
    if after.parked:
        return bool(row.run_at != PARKED or row.gate != after.gate)
    return bool(row.run_at == PARKED)


def encoded_changes(changes: Sequence[Change], codec: Codec | None) -> Sequence[Change]:
    """Return changes with the coded columns of their tasks as they are stored."""
    return changes if codec is None else [encoded_change(change, codec) for change in changes]


def encoded_change(change: Change, codec: Codec) -> Change:
    """Return a change with the coded columns of its tasks as they are stored."""
    before, after = change.before, change.after
    same = after.params is before.params and after.extra is before.extra  # then they are not written
    same = same and after.unique_key == before.unique_key  # a key that is given up may be beside them
    after = encoded(after, codec, STATE if same else COLUMNS)
    texts = after.coded or {}
    if before.attempts and change.after.attempts is before.attempts and "attempts" in texts:
        # With the same text, or it would look like another one and be written.
        before = replace(before, attempts=(), coded={**(before.coded or {}), "attempts": texts["attempts"]})
    return replace(change, before=before, after=after, then=tuple(encoded(task, codec) for task in change.then))
