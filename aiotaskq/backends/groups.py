"""The contract for groups, chains and graphs, and what every store does with them when tasks end.

``core.groups`` has the rules. A store that reads and writes in Python gives ``follow`` its ``Rows``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from aiotaskq.core.coded import anew, encoded
from aiotaskq.core.errors import NotSupported
from aiotaskq.core.groups import (
    Member,
    Tally,
    after_parents,
    callback_of,
    counted,
    group_of,
    grown,
    live_parents,
    outermost,
    stays,
    tally_of,
    waiting,
)
from aiotaskq.core.webhooks import messages

if TYPE_CHECKING:
    from aiotaskq.backends.change import Room
    from aiotaskq.core.codec import Codec
    from aiotaskq.core.groups import GroupState, Plan
    from aiotaskq.core.task import Task
    from aiotaskq.core.usage import Usage
    from aiotaskq.core.webhooks import Webhook

SCANNED = 1_000  # groups read at a time


class Followed(msgspec.Struct):
    """What followed in one transaction from ends of tasks, and from tasks that were brought back; all are ids."""

    ended: list[str] = []
    """The children that ended by it."""
    pushed: list[str] = []
    """The callbacks, and the messages of webhooks about those children."""
    ended_groups: list[str] = []
    counted: list[str] = []
    """The groups whose numbers have changed, ended or not."""

    def add(self, more: Followed) -> None:
        """Add what followed from another write of the same transaction."""
        self.ended += more.ended
        self.pushed += more.pushed
        self.ended_groups += more.ended_groups
        self.counted += more.counted

    @property
    def all_ended(self) -> list[str]:
        """The names of the hint ``ended``."""
        return self.ended + self.ended_groups


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


class Changed(Protocol):
    """A change of a task, as it was read and as it becomes."""

    @property
    def before(self) -> Task: ...
    @property
    def after(self) -> Task: ...


C = TypeVar("C", bound=Changed)


class Rows(Protocol):
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


def add_tasks(rows: Rows, group_id: str, tasks: Sequence[Task]) -> int | None:
    """Do as ``Groups.add``."""
    group = rows.groups([group_id]).get(group_id)
    if group is None or group.ended_at is not None or group.cancel_requested:
        return None
    # A push into the group holds its lock: a row that exists now was added by an earlier call or run.
    there = rows.existing([task.task_id for task in tasks])
    new = [task for task in tasks if task.task_id not in there]
    rows.insert(new, refused=True)
    places = enumerate(new, group.total)
    rows.add_members([Member(group_id=group_id, position=at, member_id=task.task_id) for at, task in places])
    rows.write([grown(group, len(new))])
    return len(new)


def flag_cancelled(rows: Rows, group_id: str) -> bool:
    """Do as ``Groups.request_cancel``."""
    level = [group_id]
    found = False
    while level:
        live = [group for group in rows.groups(sorted(level)).values() if group.ended_at is None]
        rows.write([replace(group, cancel_requested=True) for group in live])
        found = found or bool(live)
        level = rows.inner_groups([group.group_id for group in live])
    return found


def replace_budget(rows: Rows, group_id: str, budget: Usage, now: int) -> GroupState | None:
    """Do as ``Groups.set_budget``."""
    group = rows.groups([group_id]).get(group_id)
    if group is None or not group.budget:
        return None
    group = replace(group, budget=budget)
    rows.budget_changed(group, now)
    return group


def around(groups: Mapping[str, GroupState], known: Container[str]) -> list[str]:
    """Return the ids of the groups that these are in, without those that are known, sorted."""
    return sorted({up for each in groups.values() if (up := each.parent_id) is not None and up not in known})


def staying(rows: Rows, tasks: Iterable[Task], before: int | None) -> set[str]:
    """Return the ids of those of these ended tasks that a purge leaves, since they are members of groups that stay.

    ``before`` is the time in epoch seconds before which they have to have ended, None for any.
    """
    members = [(task, task.flow.group) for task in tasks if task.flow is not None and task.flow.group]
    found: dict[str, GroupState] = {}
    level = sorted({group_id for _, group_id in members})
    while level:
        found |= (groups := rows.groups(level))
        level = around(groups, found)
    top = outermost(found)
    return {task.task_id for task, group_id in members if stays(task, top.get(group_id), before)}


def concerns(before: Task, after: Task) -> bool:
    """Whether a change of a task is one that ``follow`` has to know of."""
    return before.final != after.final and is_tied(after)


def is_tied(task: Task) -> bool:
    """Whether something follows from the end of a task: it is a member or a callback of a group.

    One with children is a member.
    """
    return group_of(task) is not None


def waits_again(before: Task, after: Task) -> bool:
    """Whether a change brings a child back, which then has to wait for some of its parents: ``live_parents``."""
    return before.final and not after.final and after.flow is not None and bool(after.flow.parents)


def order_of(changes: Sequence[Changed]) -> list[int] | None:
    """Return the places of changes with those that bring a child back behind the others, parents before children.

    None if they are in such an order.
    """
    late = [place for place, change in enumerate(changes) if waits_again(change.before, change.after)]
    if not late:
        return None
    late.sort(key=lambda place: changes[place].before.seq)
    known = set(late)
    order = [*(place for place in range(len(changes)) if place not in known), *late]
    return None if order == [*range(len(changes))] else order


def in_places(order: Sequence[int], held: Sequence[bool]) -> list[bool]:
    """Return what holds in the order in which the changes were given; ``held`` is in that of ``order``."""
    found = dict(zip(order, held, strict=True))
    return [found[place] for place in range(len(order))]


def parents_first(changes: Sequence[C], update: Callable[[Sequence[C]], list[bool]]) -> list[bool]:
    """Call ``update`` with those that bring a child back behind the others, in push order: parents before children."""
    order = order_of(changes)
    return update(changes) if order is None else in_places(order, update([changes[place] for place in order]))


def again(after: Task, rows: Rows) -> Task:
    """Return a child that is brought back: parked, if it has to wait for some of its parents."""
    assert after.flow is not None
    found = rows.tasks(sorted({task_id for task_id, _ in after.flow.parents}))
    live = live_parents(after.task_id, found.values())
    return waiting(after, live, after.due) if live else after


class Ends(NamedTuple):
    """What follows from changes of tasks for the groups of their members, and the tasks that it ended."""

    tallies: dict[str, Tally]
    gone: list[Task]


def to_children(rows: Rows, changes: Sequence[tuple[Task, Task]], now: int) -> Ends:
    """Do what follows from changes of tasks, which are written already, to their children, and to those of these.

    A task that had ended and was deleted is given with what it counts as: see ``core.groups.deleted``.
    """
    tallies: dict[str, Tally] = {}
    gone: list[Task] = []
    level = list(changes)
    while level:
        ends: dict[str, list[tuple[Task, Task, str]]] = {}
        for before, after in level:
            flow = after.flow
            if flow is None or not (before.final or after.final):
                continue
            if (group_id := group_of(after)) is not None:
                tally_of(before, after, tallies.setdefault(group_id, Tally()))
            for child_id, rule in flow.children:
                ends.setdefault(child_id, []).append((before, after, rule))
        level = []
        found = rows.tasks(sorted(ends)) if ends else {}
        for child_id, parents in ends.items():  # in the order of the edges: the first end that counts decides
            if (child := found.get(child_id)) is not None:
                after = after_parents(child, parents, now)
                if after is not child:
                    level.append((child, after))
        if level:
            rows.rewrite(level)
            gone += [after for _, after in level if after.final]
    return Ends(tallies, gone)


def to_groups(rows: Rows, ends: Ends, now: int) -> Followed:
    """Do what follows for groups, and for those that they are members of; return all that followed."""
    tallies, gone = ends
    followed = Followed(ended=[task.task_id for task in gone])
    pushed = rows.messages(gone, now) if gone else []
    while tallies:
        above: dict[str, Tally] = {}
        written = []
        followed.counted += [group_id for group_id, tally in tallies.items() if tally.counts]
        for group_id, group in rows.groups(sorted(tallies)).items():
            new = counted(group, tallies[group_id], now)
            turned = (group.ended_at is None) != (new.ended_at is None)
            if turned and new.ended_at is not None:
                followed.ended_groups.append(group_id)
                if (callback := callback_of(new, now)) is not None:
                    pushed.append(callback)
                    new = replace(new, needed_by=new.needed_by + 1)
            written.append(new)
            if group.parent_id is not None and (turned or new.needed_by != group.needed_by):
                tally = above.setdefault(group.parent_id, Tally())
                tally.needed_by += new.needed_by - group.needed_by
                if turned:
                    tally.add(*((new.status, 1) if new.ended_at is not None else (group.status, -1)))
        rows.write(written)
        tallies = above
    if pushed:
        rows.insert(pushed)
    followed.pushed = [task.task_id for task in pushed]
    return followed


def follow(rows: Rows, changes: Sequence[tuple[Task, Task]], now: int) -> Followed:
    """Do what follows from changes of tasks that are written already: to children, then to groups."""
    return to_groups(rows, to_children(rows, changes, now), now)
