"""What a store gives to the functions of this package: the rows of one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from aiotaskq.backends.side_rows import OwnedRows
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.notes import NewNotes
from aiotaskq.core.task import Status, Task

T = TypeVar("T")


class Transaction(Protocol):
    """The rows of a store inside a transaction."""

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        """Read tasks by id, and lock them until the transaction ends."""

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        """Write tasks that were read so: each is given as it was, and as it is from now on."""

    def groups(self, ids: Sequence[str]) -> dict[str, GroupState]:
        """Read groups by id, and lock them until the transaction ends."""

    def write(self, groups: Sequence[GroupState]) -> None:
        """Write groups that were read so."""

    def insert(self, tasks: Sequence[Task], refused: bool = False) -> None:
        """Push tasks; one that exists stays. ``refused``: raise QueueFull where too many would wait at a gate."""

    def existing(self, ids: Sequence[str]) -> Collection[str]:
        """Return those of these ids of tasks that there are."""

    def add_members(self, members: Sequence[Member]) -> None:
        """Write members of groups that are there."""

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        """Return the ids of the groups that are members of these."""

    def budget_changed(self, group: GroupState, now: int) -> None:
        """Write a group with another budget, and close its gate if that is used up, else open it at ``now``."""

    def messages(self, ended: Sequence[Task], now: int) -> list[Task]:
        """As ``Groups.messages``."""


class Run(NamedTuple):
    """Which run has a task, or had it."""

    status: Status
    fence: int
    taken: bool = False
    """Whether another transaction has locked the row of the task."""


class Beside(Protocol):
    """The rows beside tasks inside a transaction, and what they depend on."""

    @property
    def side(self) -> OwnedRows:
        """The side rows."""

    def runs(self, ids: Sequence[str], *, wait: bool = True) -> Mapping[str, Run]:
        """Read which runs have these tasks, by id, and lock the tasks until the transaction ends.

        Without ``wait`` those that another transaction has locked are read only, and are ``taken``.
        """

    def spend(self, new: Sequence[NewNotes]) -> None:
        """Store what these tasks report that they have used up, whose rows are locked: see ``Notes.add``."""


class Store(Protocol):
    """What runs transactions."""

    async def transact(self, body: Callable[[Beside], T]) -> T:
        """Run ``body`` in one transaction, perhaps more than once; then send the hints of what it has written."""
