"""The groups, chains and graphs of a store; ``core.groups`` has the rules, and ``backends.flow`` what follows."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aiotaskq.backends.blobs import encoded_by
from aiotaskq.backends.flow.groups import mend_children, mend_groups
from aiotaskq.backends.flow.transaction import NOT_USED_UP, USED_UP, push
from aiotaskq.core.coded import anew, encoded, encoded_all, no_codec
from aiotaskq.core.errors import queue_full
from aiotaskq.core.gate import Gate, budget_gate
from aiotaskq.core.groups import Member, grown
from aiotaskq.core.usage import USED_UP_UNTIL

if TYPE_CHECKING:
    from aiotaskq.backends.change import Room
    from aiotaskq.backends.flow.transaction import Followed, Store, Transaction
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.groups import GroupState, Plan
    from aiotaskq.core.task import Task
    from aiotaskq.core.usage import Usage
    from aiotaskq.core.webhooks import Webhook

SCANNED = 1_000  # groups read at a time
MENDED = 500  # groups, or children, that are mended in one transaction
MEMBERS = 10_000  # members that are counted in one transaction, beside those of one group


class GroupReads(ABC):
    """What a store reads of groups and their members, outside of transactions and without locks."""

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
    async def cancelling(self, limit: int) -> list[str]:
        """Return ids of groups that were cancelled and have not ended."""

    @abstractmethod
    async def over(self, before: int, limit: int) -> list[str]:
        """Return ids of groups that ended before an instant, are in no other one, and that no task needs."""

    @abstractmethod
    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        """Return ids of tasks that wait for others, and where to go on: ``""`` at the end, and to begin."""


class Groups:
    """The groups of one backend. Each method that writes is atomic, but for ``mend``.

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

    def __init__(self, store: Store, reads: GroupReads) -> None:
        self._store, self._reads = store, reads
        self.find, self.members = reads.find, reads.members
        self.ids_with_prefix, self.cancelling = reads.ids_with_prefix, reads.cancelling

    async def get(self, ids: Sequence[str]) -> list[GroupState | None]:
        """Read groups by id; None where there is none."""
        found = await self._store.look(lambda tx: tx.groups(ids, lock=False))
        return [found.get(group_id) for group_id in ids]

    async def unread(self, ids: Sequence[str]) -> set[str]:
        """Return those of these ids of groups that are there and cannot be read."""

        def body(tx: Transaction) -> set[str]:
            tx.groups(ids, lock=False)
            return tx.unread_groups

        return await self._store.look(body)

    def messages(self, ended: Sequence[Task], now: int) -> list[Task]:
        """Return the messages about children that have ended; ``now`` in microseconds UTC."""
        if not self.webhooks:
            return []
        from aiotaskq.core.webhooks import messages

        return [message for task in ended for message in messages(self.webhooks, task, now)]

    def note(self, followed: Followed) -> None:
        """Take note of what has followed from a write of this process, after its commit."""
        self.used = True
        if self.heard is not None:
            self.heard(followed)

    async def push(
        self,
        plan: Plan,
        session: Any = None,
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> bool:
        """Write a plan in one transaction; return False, and write nothing, if there is a group with that id.

        ``session``, with ``committed``, as for ``Backend.push_with``, ``room`` as for ``Backend.push``: it is for the
        tasks that wait for no others. The gates of ``plan.used_up`` are closed. Sends the hint ``ready``.
        """
        self.used = True
        plan = await encoded_by(self.codec, functools.partial(encoded_plan, plan), session is not None)
        if session is not None:
            return await self._store.transact_with(session, lambda tx: _push_plan(tx, plan, room), committed)
        return await self._store.transact(lambda tx: _push_plan(tx, plan, room), repeatable=True)

    async def add(self, group_id: str, tasks: Sequence[Task], now: int) -> int | None:
        """Push tasks as further members of a group that has not ended; return how many did not exist before.

        None if there is no such group, or it has ended, or was cancelled; then nothing is written.
        """

        tasks = await encoded_by(self.codec, functools.partial(encoded_all, tasks))

        def body(tx: Transaction) -> int | None:
            group = tx.groups([group_id]).get(group_id)
            if group is None or group.ended_at is not None or group.cancel_requested:
                return None
            # A push into the group holds its lock: a row that exists now was added by an earlier call or run.
            there = tx.existing([task.task_id for task in tasks])
            new = [task for task in tasks if task.task_id not in there]
            push(tx, new)
            places = enumerate(new, group.total)
            tx.add_members([Member(group_id=group_id, position=at, member_id=task.task_id) for at, task in places])
            tx.write_groups([grown(group, len(new))])
            return len(new)

        return await self._store.transact(body)

    async def set_budget(self, group_id: str, budget: Usage, now: int) -> GroupState | None:
        """Give a group another budget; return it then, None if there is no such group, or it never had one.

        In the same transaction its gate opens, and its tasks pass at ``now``, in microseconds UTC, or closes: see
        ``Notes.add``.
        """

        def body(tx: Transaction) -> GroupState | None:
            group = tx.groups([group_id]).get(group_id)
            if group is None or not group.budget:
                return None
            group = replace(group, budget=budget)
            tx.write_groups([group])
            tx.touched.changed(budget_gate(group_id), USED_UP if group.used_up else NOT_USED_UP, now)
            return group

        return await self._store.transact(body)

    async def request_cancel(self, group_id: str) -> bool:
        """Mark a group, and the groups in it, as cancelled; return False if it has ended, or there is none."""

        def body(tx: Transaction) -> bool:
            level, found = [group_id], False
            while level:
                live = [group for group in tx.groups(sorted(level)).values() if group.ended_at is None]
                tx.write_groups([replace(group, cancel_requested=True) for group in live])
                found = found or bool(live)
                level = tx.inner_groups([group.group_id for group in live])
            return found

        return await self._store.transact(body)

    async def purge(self, before: int, limit: int) -> int:
        """Delete up to ``limit`` groups that ended before that instant, and that no task needs, each with the groups in
        it, and their lists of members; return how many groups. A group in another one goes with that.
        """
        ids = await self._reads.over(before, limit)

        def body(tx: Transaction) -> int:
            found = tx.groups(sorted(ids)).values()
            # One that was brought back meanwhile stays.
            over = [each for each in found if each.parent_id is None and not each.needed_by]
            gone = level = [each.group_id for each in over if each.ended_at is not None and each.ended_at < before]
            while level := list(tx.groups(sorted(tx.inner_groups(level)))):
                gone = gone + level
            tx.drop_groups(gone)
            return len(gone)

        return await self._store.transact(body) if ids else 0

    async def recode(self, ids: Sequence[str]) -> tuple[int, list[str]]:
        """Write the callbacks of these groups anew with the codec.

        Return of how many groups they were written, and the ids of those of which one cannot be decoded: they stay.
        Raises NotSupported where there is no codec.
        """
        if (codec := self.codec) is None:
            raise no_codec()

        def body(tx: Transaction) -> tuple[int, list[str]]:
            written, left = [], []
            for group in tx.groups(sorted(ids)).values():
                stored = {name: task for name in ("then", "on_failure") if (task := getattr(group, name)) is not None}
                new = {name: anew(task, codec) for name, task in stored.items()}
                if None in new.values():
                    left.append(group.group_id)
                elif new:
                    written.append(replace(group, **new))
            tx.write_groups(written, callbacks=True)
            return len(written), left

        return await self._store.transact(body, repeatable=True)

    async def mend(self, now: int) -> int:
        """Recount the unfinished members of each group, and parents of each child; return how many counts were wrong.

        For rows that other programs deleted. What ends by it ends as if the missing tasks had been cancelled.
        """
        wrong, after, goes_on = 0, "", True
        while goes_on:
            ids, after = await self._reads.children(MENDED, after)
            wrong += await self._store.transact(functools.partial(mend_children, ids=ids, now=now))
            goes_on = after != ""
        last: str | None = None
        while groups := await self._reads.find(SCANNED, after=last, ended=False):
            last = groups[-1].group_id
            for part in _parts(groups):
                wrong += await self._store.transact(functools.partial(mend_groups, ids=part, now=now))
        return wrong


def _push_plan(tx: Transaction, plan: Plan, room: Room | None) -> bool:
    """Do as ``Groups.push``."""
    if plan.groups[0].group_id in tx.groups([group.group_id for group in plan.groups], lock=False):
        # This very push has made it, if the first of its tasks is there.
        first = next(iter(plan.tasks), None)
        known = None if first is None else tx.look([first.task_id]).get(first.task_id)
        return first is not None and known is not None and known.seq == first.seq
    if room is not None:
        tx.check_room(plan.entering, room)
    tx.check_push(plan.tasks)
    if not tx.add_groups(plan.groups, plan.members):
        return False
    if room is not None and not all(tx.update(room.instead)):
        raise queue_full(room.maxsize, 0)
    # The tasks of a budget that is used up do not pass.
    tx.add_gates([Gate(key=budget_gate(group_id), closed_until=USED_UP_UNTIL) for group_id in plan.used_up])
    push(tx, plan.tasks)
    return True


def _parts(groups: Sequence[GroupState]) -> Iterator[list[str]]:
    """Yield the ids of groups in parts that have not too many members."""
    part: list[str] = []
    size = 0
    for group in groups:
        if part and (len(part) == MENDED or size + group.total > MEMBERS):
            yield part
            part, size = [], 0
        part.append(group.group_id)
        size += group.total
    if part:
        yield part


def encoded_plan(plan: Plan, codec: Codec | None) -> Plan:
    """Return a plan with the coded columns of its tasks and callbacks as they are stored."""
    if codec is None:
        return plan

    def coded(task: Task | None) -> Task | None:
        return None if task is None else encoded(task, codec)

    groups = (replace(group, then=coded(group.then), on_failure=coded(group.on_failure)) for group in plan.groups)
    return replace(plan, groups=tuple(groups), tasks=tuple(encoded(task, codec) for task in plan.tasks))
