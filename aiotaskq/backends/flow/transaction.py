"""What a store gives to the functions of this package: the rows of one transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.task import Task


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
