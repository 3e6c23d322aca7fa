"""The contract for groups, chains and graphs; ``core.groups`` has the rules, ``backends.flow`` applies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aiotaskq.core.coded import anew, encoded
from aiotaskq.core.errors import NotSupported
from aiotaskq.core.webhooks import messages

if TYPE_CHECKING:
    from aiotaskq.backends.change import Room
    from aiotaskq.backends.flow.touched import Followed
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.groups import GroupState, Member, Plan
    from aiotaskq.core.task import Task
    from aiotaskq.core.usage import Usage
    from aiotaskq.core.webhooks import Webhook

SCANNED = 1_000  # groups read at a time


class Groups(ABC):
    """The groups of one backend.

    The verbs on tasks do their part in the transaction that writes the tasks, for tasks whose flow says so:

    - An update in which a member ends subtracts from what remains of its group; if nothing is left, the group has
      ended, and its callback is pushed. One that brings a member back adds one.
    - An update in which a parent ends counts down its children, and un-parks or ends them by their rules; those that
      end are parents, too. One that brings a parent back adds one to its children that still wait for others. One that
      brings a child back parks it for its parents that have not ended, or have not completed where the rule is another
      than to run.
    - To delete a task that has not completed counts as its cancellation.
    - A purge leaves the members of a group until the outermost group around it has ended, and no task needs that any
      more; if it is for tasks that have ended before a time, until that has ended before it.

    The hint ``ended`` has the ids of ended groups, too. What follows from ends is told to ``heard`` of the process that
    wrote them. Children that end are told of by the ``webhooks`` of that process: the transaction pushes the messages.
    """

    codec: Codec | None = None
    """That of the backend."""
    webhooks: Mapping[str, Webhook] = MappingProxyType({})
    """What tells of children that end by writes of this process, by name; may change later."""
    heard: Callable[[Followed], None] | None = None
    """Called with what followed from a write of this process, after its commit; from any thread, and must be quick."""
    used = False
    """Whether this process has pushed or cancelled a group, or ended a member: else it looks for none."""

    def messages(self, ended: Sequence[Task], now: int) -> list[Task]:
        """Return the messages about children that have ended, as they are to be stored; ``now`` in microseconds UTC."""
        if not self.webhooks:
            return []
        told = [message for task in ended for message in messages(self.webhooks, task, now)]
        return told if (codec := self.codec) is None else [encoded(message, codec) for message in told]

    @abstractmethod
    async def push(
        self,
        plan: Plan,
        session: Any = None,
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> bool:
        """Write a plan in one transaction; return False, and write nothing, if there is a group with that id.

        ``session`` and ``committed`` as for ``Backend.push_with``, ``room`` as for ``Backend.push``: it is for the
        tasks that wait for no others. The gates of ``plan.used_up`` are closed. Sends the hint ``ready``.
        """

    @abstractmethod
    async def add(self, group_id: str, tasks: Sequence[Task], now: int) -> int | None:
        """Push tasks as further members of a group that has not ended; return how many did not exist before.

        None if there is no such group, or it has ended, or was cancelled; then nothing is written.
        """

    @abstractmethod
    async def get(self, ids: Sequence[str]) -> list[GroupState | None]:
        """Read groups by id; None where there is none."""

    @abstractmethod
    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        """Read groups, the newest first, behind the id ``after``; ``ended`` selects those that have ended, or not."""

    async def ids_with_prefix(self, prefix: str, limit: int) -> list[str]:
        """Return up to ``limit`` ids that begin so. This one reads all groups."""
        found: list[str] = []
        last: str | None = None
        while len(found) < limit and (page := await self.find(SCANNED, after=last)):
            found += [group.group_id for group in page if group.group_id.startswith(prefix)]
            last = page[-1].group_id
        return found[:limit]

    @abstractmethod
    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        """Read up to ``limit`` members of a group from a position on, in their order."""

    @abstractmethod
    async def set_budget(self, group_id: str, budget: Usage, now: int) -> GroupState | None:
        """Give a group another budget; return it then, None if there is no such group, or it never had one.

        In the same transaction its gate opens, and its tasks pass at ``now``, in microseconds UTC, or closes: see
        ``Notes.add``.
        """

    @abstractmethod
    async def request_cancel(self, group_id: str) -> bool:
        """Mark a group, and the groups in it, as cancelled; return False if it has ended, or there is none."""

    @abstractmethod
    async def cancelling(self, limit: int) -> list[str]:
        """Return ids of groups that were cancelled and have not ended."""

    @abstractmethod
    async def purge(self, before: int, limit: int) -> int:
        """Delete up to ``limit`` groups that ended before that instant, and that no task needs, each with the groups in
        it, and their lists of members; return how many groups. A group in another one goes with that.
        """

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        """Write the callbacks of these groups anew with the codec.

        Return of how many groups they were written, and the ids of those of which one cannot be decoded: they stay.
        Raises NotSupported where there is no codec.
        """
        raise NotSupported("recode: these groups have no codec; give the TaskQ one, on a durable store")

    @abstractmethod
    async def mend(self, now: int) -> int:
        """Recount the unfinished members of each group, and parents of each child; return how many counts were wrong.

        For rows that other programs deleted. What ends by it ends as if the missing tasks had been cancelled.
        """


def recoded_group(group: GroupState, codec: Codec) -> GroupState | None:
    """Return a group with its callbacks written anew with the codec; None if one cannot be decoded."""
    then = None if group.then is None else anew(group.then, codec)
    on_failure = None if group.on_failure is None else anew(group.on_failure, codec)
    lost = (group.then is not None and then is None) or (group.on_failure is not None and on_failure is None)
    return None if lost else replace(group, then=then, on_failure=on_failure)


def encoded_plan(plan: Plan, codec: Codec | None) -> Plan:
    """Return a plan with the coded columns of its tasks and callbacks as they are stored."""
    if codec is None:
        return plan

    def coded(task: Task | None) -> Task | None:
        return None if task is None else encoded(task, codec)

    groups = (replace(group, then=coded(group.then), on_failure=coded(group.on_failure)) for group in plan.groups)
    return replace(plan, groups=tuple(groups), tasks=tuple(encoded(task, codec) for task in plan.tasks))
