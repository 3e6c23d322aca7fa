"""Guarded writes of tasks, and the bound of a push: arguments of the verbs of a backend."""

from __future__ import annotations

import msgspec

from aiotaskq.core.task import Task


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


class Room(msgspec.Struct, frozen=True):
    """The bound of a push: at most ``maxsize`` ready tasks, counted in the transaction of the push.

    Tasks count that are ready at ``now`` or, in a shared store, at the latest push stamp there if that is later, since
    the clocks of two hosts differ. ``instead`` settles ready tasks in the same transaction, to make room.
    """

    maxsize: int
    now: int
    instead: tuple[Change, ...] = ()
