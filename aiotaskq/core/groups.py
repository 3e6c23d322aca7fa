"""Groups of tasks, and tasks that wait for others: what a group becomes by the ends of its members, a child by that of
a parent.

A group counts the members that have not ended, and pushes a task when there is none left: its callback. Its id follows
from the group and from how often the group has ended, so that however often that is written, there is one. A *child*
waits for its *parents*, parked at no gate, with a count of those that hold it up: that have not ended, and, after an
operator has brought the child back, those whose failure had ended it. Everything here is pure: a backend reads and
locks what a rule needs, and writes what it returns (``backends.flow.groups``).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from aiotaskq.core.errors import ValidationError, guess, shown
from aiotaskq.core.gate import PARKED, Flow
from aiotaskq.core.ids import next_seq
from aiotaskq.core.instants import utc, utc_or_none
from aiotaskq.core.outcome import Cancelled, settle
from aiotaskq.core.parking import parked
from aiotaskq.core.status import FINAL, PENDING, Status
from aiotaskq.core.task import SECOND, Task
from aiotaskq.core.usage import Usage, is_used_up

CANCEL, FAIL, RUN = "cancel", "fail", "run"
RULES = (CANCEL, FAIL, RUN)
"""What becomes of a child when a parent ends without completing: it is cancelled, it fails, or it runs all the same."""
MAX_MEMBERS = 10_000
"""Tasks of one push of a group."""
MAX_PARENTS = 1_000
"""Parents of one task, and children of one: their ids are in its row."""

CallbackKind: TypeAlias = Literal["then", "on_failure"]
"""Which task a group pushes: when all members have completed, or when all have ended and not all have completed."""

_NAMESPACE = uuid.UUID("5b5b5b0c-6d3c-5b0e-9a3e-0d6b6f3e9c41")


class GroupState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A group as it is stored. Instants are microseconds UTC."""

    group_id: str
    name: str | None = None
    total: int = 0
    """Its members: tasks, and groups in it."""
    remaining: int = 0
    """Those that have not ended."""
    failed: int = 0
    cancelled: int = 0
    """Those that were cancelled, have expired, or were deleted before their end."""
    needed_by: int = 0
    """How many tasks keep it and its members though it has ended: see ``keeps``. Those of groups in it count, too."""
    children: tuple[tuple[str, str], ...] = ()
    """The tasks that wait for its end and that of its ``then``, as ``Flow.children``."""
    generation: int = 1
    """The number of its run, from 1: the retry of a member of an ended group begins the next one."""
    parent_id: str | None = None
    """The group whose member it is."""
    then: Task | None = None
    """The task that is pushed when all members have completed."""
    on_failure: Task | None = None
    """The task that is pushed when all members have ended, and not all have completed."""
    usage: Usage = {}
    """What its members have used up, and those of the groups in it; it stays when they are deleted."""
    budget: Usage = {}
    """How much of that they may use up before no further one starts."""
    cancel_requested: bool = False
    """Whether it was cancelled: then it pushes no task, and takes no new members."""
    created_at: int = 0
    ended_at: int | None = None

    created = utc("created_at")
    ended = utc_or_none("ended_at")

    @property
    def completed(self) -> int:
        """How many members have completed."""
        return self.total - self.remaining - self.failed - self.cancelled

    @property
    def used_up(self) -> bool:
        """Whether its budget is used up."""
        return is_used_up(self.budget, self.usage)

    @property
    def status(self) -> Status:
        """``running`` until the last member has ended; then the worst that any member came to."""
        if self.ended_at is None:
            return Status.RUNNING
        if self.failed:
            return Status.FAILED
        return Status.CANCELLED if self.cancelled or self.cancel_requested else Status.COMPLETED


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a group: a task, or a group."""

    group_id: str
    position: int
    """From 0, in the order of the calls."""
    member_id: str
    name: str | None = None
    is_group: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a push of a group writes: the group itself, then those in it; and the tasks, parents before children."""

    groups: tuple[GroupState, ...]
    members: tuple[Member, ...]
    tasks: tuple[Task, ...]

    @property
    def entering(self) -> list[Task]:
        """Its tasks that wait for no others."""
        return [task for task in self.tasks if not task.waits]

    @property
    def used_up(self) -> list[str]:
        """The ids of its groups whose budgets are used up from the beginning: one of 0 is. None where it has no tasks,
        as a copy from another store, which copies gates, too."""
        return [group.group_id for group in self.groups if group.used_up] if self.tasks else []


class Tally(msgspec.Struct):
    """The ends of members of one group in one write; less than 0 where members were brought back."""

    ended: int = 0
    failed: int = 0
    cancelled: int = 0
    needed_by: int = 0
    """The change of ``GroupState.needed_by``."""

    @property
    def counts(self) -> bool:
        """Whether the numbers of members change."""
        return bool(self.ended or self.failed or self.cancelled)

    def merge(self, other: Tally) -> None:
        """Count what the other one has counted."""
        self.ended += other.ended
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.needed_by += other.needed_by

    def add(self, status: Status, count: int = 1) -> None:
        """Count a member that ended so."""
        self.ended += count
        if status is Status.FAILED:
            self.failed += count
        elif status is not Status.COMPLETED:
            self.cancelled += count


# ---- what becomes of a group --------------------------------------------------------------------------------------


def group_of(task: Task) -> str | None:
    """Return the id of the group of which a task is a member, or the callback."""
    return None if task.flow is None else task.flow.group or task.flow.source


def kept_by(task: Task) -> str | None:
    """Return the id of the group that keeps a task though it has ended: as a member, or for what waits for its end."""
    flow = task.flow
    return None if flow is None else flow.group or (flow.source if flow.children else None)


def keeps(task: Task) -> bool:
    """Whether a task keeps its group with the results of all members, even after its end.

    A dead letter does: it may be retried, and others may follow it then. A callback does that reads these results.
    """
    return task.status is Status.FAILED or (task.flow is not None and task.flow.source is not None and not task.final)


def tally_of(before: Task, after: Task, tally: Tally) -> None:
    """Count the change of one member, or of a callback."""
    tally.needed_by += keeps(after) - keeps(before)
    if after.flow is None or after.flow.group is None:
        return
    if after.final and not before.final:
        tally.add(after.status)
    elif before.final and not after.final:
        tally.add(before.status, -1)


def counted(group: GroupState, tally: Tally, now: int) -> GroupState:
    """Return the group after these ends at ``now``, in microseconds UTC.

    A group that has ended, and to which members are brought back, runs again: in its next generation.
    """
    remaining = max(0, group.remaining - tally.ended)
    runs_again = group.ended_at is not None and remaining > 0
    ended_at = None if remaining else group.ended_at if group.ended_at is not None else now
    return replace(
        group,
        remaining=remaining,
        failed=max(0, group.failed + tally.failed),
        cancelled=max(0, group.cancelled + tally.cancelled),
        needed_by=max(0, group.needed_by + tally.needed_by),
        generation=group.generation + runs_again,
        ended_at=ended_at,
        cancel_requested=group.cancel_requested and not runs_again,
    )


def grown(group: GroupState, count: int) -> GroupState:
    """Return the group with ``count`` more members."""
    return replace(group, total=group.total + count, remaining=group.remaining + count)


def callback_id(group: GroupState, kind: CallbackKind) -> str:
    """Return the id of its callback in this generation, whether or not the group has ended, or has such a callback."""
    return derived_id(group.group_id, kind, group.generation)


def callback_of(group: GroupState, now: int) -> Task | None:
    """Return the task that an ended group pushes at ``now``, None if it pushes none."""
    if group.ended_at is None or group.cancel_requested:
        return None
    kind: CallbackKind = "on_failure" if group.failed or group.cancelled else "then"
    template: Task | None = getattr(group, kind)
    if template is None:
        return None
    first = template.due_us
    due = now + max(0, first - template.seq)  # with the delay that its call asked for
    expires = None if template.expires_at is None else due + template.expires_at - first
    task = template.replace(
        task_id=callback_id(group, kind),
        created_at=now // SECOND,
        run_at=due,
        seq=next_seq(now),
        expires_at=expires,
        flow=replace(template.flow or Flow(), source=group.group_id, children=group.children if kind == "then" else ()),
    )
    return parked(task, due)


def as_parent(group: GroupState, then: Task | None = None) -> Task | None:
    """Return what a group is for the tasks that wait for it: a task that has ended with it, and with its ``then``.

    ``then`` is that task, which counts once the group has completed; None if there is none any more.
    """
    status, ended_at, run = group.status, group.ended_at, group.generation
    if status is Status.COMPLETED and group.then is not None:
        if then is None:
            return None
        status, ended_at, run = then.status, then.ended_at, run + then.fence
    flow = Flow(children=group.children)
    return Task(task_id=group.group_id, type="group", status=status, ended_at=ended_at, fence=run, flow=flow)


def derived_id(*parts: object) -> str:
    """Return the id that always follows from these parts."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(map(str, parts))))


def around(groups: Mapping[str, GroupState], known: Container[str]) -> list[str]:
    """Return the ids of the groups that these are in, without those that are known, sorted."""
    return sorted({up for each in groups.values() if (up := each.parent_id) is not None and up not in known})


def outermost(groups: Mapping[str, GroupState]) -> dict[str, GroupState]:
    """Return the outermost group around each of these, or it itself, by their ids; all of those around are given."""
    above = {}
    for group_id, group in groups.items():
        while (parent := group.parent_id) is not None and parent in groups:
            group = groups[parent]
        above[group_id] = group
    return above


def stays(member: Task, outermost: GroupState | None, before: int | None = None) -> bool:
    """Whether a member that has ended is kept: until the outermost group around it has ended, and no task keeps that.

    With ``before``, in epoch seconds, until that has ended earlier. A dead letter is kept until it has ended. None:
    there is no such group any more.
    """
    if outermost is None:
        return False
    ended_at = outermost.ended_at
    if ended_at is None or (before is not None and ended_at // SECOND >= before):
        return True
    return outermost.needed_by > 0 and member.status is not Status.FAILED


# ---- what becomes of a child --------------------------------------------------------------------------------------


def waiting(task: Task, parents: int, due: int) -> Task:
    """Return a task that waits for so many parents; ``due`` in microseconds UTC."""
    return task.replace(run_at=PARKED, due_at=due, gate=None, waits=parents)


def holds_up(parent: Task, rule: str | None) -> bool:
    """Whether a child waits for a parent with this rule: until that has completed, or with the rule ``run`` has ended.

    The end of a parent that has not completed ends a child with another rule. So only one that was brought back alone
    waits for such a parent. A rule of None: the parent does not know of the child (any more).
    """
    if rule is None:
        return False
    return not parent.final or (parent.status is not Status.COMPLETED and rule != RUN)


def own_rules(child: Task) -> dict[str, str]:
    """Return the rules of the parents that do not know of a child, by their ids: it was pushed after them."""
    flow = child.flow
    return {} if flow is None else dict(zip((key for key, _ in flow.parents), flow.rules, strict=False))


def live_parents(child: Task, parents: Iterable[Task]) -> int:
    """Return for how many of its parents, as they are now, a child has to wait that is brought back."""
    own = own_rules(child)
    if own:
        return sum(holds_up(parent, own.get(parent.task_id)) for parent in parents)
    return sum(holds_up(parent, dict(parent.flow.children).get(child.task_id)) for parent in parents if parent.flow)


def after_parents(child: Task, changes: Sequence[tuple[Task, Task, str]], now: int) -> Task:
    """Return what a child becomes by these changes of parents, each as before and after and with its rule.

    They have ended, were brought back, or were deleted. That may be itself: a child that waits for none any more is not
    held up by a parent that is brought back.
    """
    if child.status is not PENDING or not child.waits:
        return child
    for _, parent, rule in changes:
        if (ended := ended_by(child, parent, rule, now)) is not None:
            return ended
    waits = child.waits + sum(holds_up(after, rule) - holds_up(before, rule) for before, after, rule in changes)
    if waits == child.waits:
        return child
    return child.replace(waits=waits) if waits > 0 else released(child)


def ended_by(child: Task, parent: Task, rule: str, now: int) -> Task | None:
    """Return a child as the end of a parent has ended it; None where that does not end it, or has not come."""
    if not parent.final or parent.status is Status.COMPLETED or rule == RUN:
        return None
    reason = f"not started: task {parent.task_id} ({parent.type}), for which it waits, {_WORDS[parent.status]}"
    ended = settle(child, Cancelled(reason), now)
    return ended if rule == CANCEL else ended.replace(status=Status.FAILED)


def after_own_parents(child: Task, parents: Iterable[tuple[Task, str, bool]], now: int) -> Task:
    """Return what a waiting child becomes that was pushed after these parents: all of them, as they are now.

    Each is given with its rule, and with whether its end is one that the child knows of: that ends it no more, but a
    child that was brought back waits for another end.
    """
    waits = 0
    for parent, rule, known in parents:
        if not known and (ended := ended_by(child, parent, rule, now)) is not None:
            return ended
        waits += holds_up(parent, rule)
    if waits == child.waits:
        return child
    return child.replace(waits=waits) if waits else released(child)


_WORDS = {Status.FAILED: "failed", Status.CANCELLED: "was cancelled", Status.EXPIRED: "expired"}


def released(child: Task) -> Task:
    """Return a child that waits for no parent any more: at its first gate, or to be claimed from its due time on."""
    free = child.replace(waits=0, run_at=child.due_us, due_at=None)
    return free if free.flow is None else parked(free, child.due_us)  # None: it could not be decoded


def deleted(task: Task, now: int) -> Task:
    """Return what a task that is deleted counts as for its group and its children: cancelled, if it did not complete.

    A child that was brought back alone may wait for one that has ended.
    """
    if task.status in FINAL:
        return task if task.status is Status.COMPLETED else task.replace(status=Status.CANCELLED)
    return settle(task, Cancelled("deleted before its end"), now)


def check_rule(field: str, rule: object) -> None:
    """Raise ValidationError for what is no rule of a child."""
    if rule not in RULES:
        raise ValidationError(f"{field}: {shown(rule)} is unknown; use {', '.join(RULES)}")


# ---- graphs -------------------------------------------------------------------------------------------------------


def in_order(parents: Mapping[str, Collection[str]]) -> list[str]:
    """Return the names of a graph, parents first, else in the given order.

    Raises ValidationError for a name that is not there, or a cycle, whose names are in the error.
    """
    for name, after in parents.items():
        for parent in after:
            if parent not in parents:
                meant = guess(parent, parents)
                raise ValidationError(f"after: {name!r} waits for {parent!r}, which is no name of this workflow{meant}")
    import graphlib

    graph = graphlib.TopologicalSorter(dict.fromkeys(parents, ()))
    for name, after in parents.items():
        graph.add(name, *after)
    try:
        return list(graph.static_order())
    except graphlib.CycleError as error:
        raise ValidationError(f"after: these wait for each other: {' → '.join(error.args[1])}") from None
