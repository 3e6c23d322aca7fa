"""What follows from ends of tasks for their groups and children, and what else is done with groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from aiotaskq.backends.change import Change, Room
from aiotaskq.backends.flow.transaction import USED_UP, Transaction, push, rewrite
from aiotaskq.backends.side_rows import AFTER, SideRow
from aiotaskq.core.errors import queue_full
from aiotaskq.core.gate import Flow, budget_gate
from aiotaskq.core.groups import (
    CANCEL,
    GroupState,
    Tally,
    after_parents,
    around,
    as_parent,
    callback_id,
    callback_of,
    counted,
    deleted,
    group_of,
    kept_by,
    live_parents,
    outermost,
    own_rules,
    stays,
    tally_of,
    waiting,
)
from aiotaskq.core.ids import next_seq
from aiotaskq.core.notes import NewNotes
from aiotaskq.core.status import FINAL, Status
from aiotaskq.core.task import Task
from aiotaskq.core.usage import Usage, risen, summed


def push_within(tx: Transaction, tasks: Sequence[Task], room: Room | None) -> list[Task]:
    """Do as ``Backend.push`` in a transaction."""
    if room is not None:
        tx.check_room([task for task in tasks if not task.waits], room)
        tx.check_push(tasks)
        if not all(tx.update(room.instead)):
            raise queue_full(room.maxsize, 0)
    return push(tx, tasks)


def mend_children(tx: Transaction, ids: Sequence[str], now: int) -> int:
    """End those of these tasks that wait for parents which are gone; return how many."""
    lost = _lost(tx, tx.look(ids).values())
    if lost:
        # Again with the rows locked: a parent may have ended, and been subtracted, between the two reads. From now on
        # one that has not been subtracted counts as live, since its end is not committed yet.
        lost = _lost(tx, tx.tasks(sorted(lost)).values())
        to_groups(tx, *to_children(tx, [_cancelled(*each) for each in lost.items()], now), now)
    return len(lost)


def _lost(tx: Transaction, tasks: Iterable[Task]) -> dict[str, str]:
    """Return, by the id of a child, a parent that is gone, where fewer parents than it waits for hold it up."""
    children = [
        (task, [parent for parent, _ in task.flow.parents])
        for task in tasks
        if task.flow and not task.flow.rules and task.waits and task.parked
    ]
    known = read_parents(tx, tx.look, {parent for _, parents in children for parent in parents})
    lost = {}
    for child, parents in children:
        gone = next((parent for parent in parents if parent not in known), None)
        there = [known[parent] for parent in parents if parent in known]
        if gone is not None and live_parents(child, there) < child.waits:
            lost[child.task_id] = gone
    return lost


def read_parents(
    tx: Transaction, read: Callable[[Sequence[str]], dict[str, Task]], ids: Iterable[str], *, lock: bool = True
) -> dict[str, Task]:
    """Read the parents of children by id: tasks, and groups, locked or not, as the tasks that they count as."""
    wanted = sorted(ids)
    found = read(wanted)
    if missing := [each for each in wanted if each not in found]:
        groups = tx.groups(missing, lock)
        callbacks = {key: callback_id(group, "then") for key, group in groups.items() if group.then is not None}
        pushed = read(sorted(callbacks.values())) if callbacks else {}
        for key, group in groups.items():
            if (parent := as_parent(group, pushed.get(callbacks.get(key, "")))) is not None:
                found[key] = parent
    return found


def _cancelled(child_id: str, gone: str) -> tuple[Task, Task]:
    """Return a change for ``to_children``, as if the parent that is gone had been cancelled, for one child."""
    after = Task(task_id=gone, type="deleted", status=Status.CANCELLED, flow=Flow(children=((child_id, CANCEL),)))
    return after.replace(status=Status.RUNNING), after


def mend_groups(tx: Transaction, ids: Sequence[str], now: int) -> int:
    """Correct the numbers of unfinished members of these groups; return how many were wrong."""
    # First the groups: an end of a member that is not committed yet has not been subtracted, and counts as live.
    groups = {key: group for key, group in tx.groups(sorted(ids)).items() if group.ended_at is None}
    live = tx.count_live(list(groups))
    missing = {key: by for key, group in groups.items() if (by := group.remaining - live[key])}
    tallies = {key: Tally(ended=by, cancelled=max(0, by)) for key, by in missing.items()}
    to_groups(tx, tallies, [], now)
    return len(tallies)


def spend(tx: Transaction, more: Mapping[str, Usage]) -> None:
    """Add to what the members of groups have used up, and of those around; close the gates of budgets that it ends."""
    while more:
        groups = tx.groups(sorted(more)).values()
        spent = [replace(group, usage=summed(group.usage, more[group.group_id])) for group in groups]
        tx.write_groups(spent)
        above: dict[str, Usage] = {}
        for group in spent:
            if group.used_up:
                tx.touched.changed(budget_gate(group.group_id), USED_UP)
            if group.parent_id is not None:
                above[group.parent_id] = summed(above.get(group.parent_id, {}), more[group.group_id])
        more = above


def spend_reported(tx: Transaction, new: Sequence[NewNotes]) -> None:
    """Store what tasks report that they have used up, whose rows are locked, and add it to the sums of their groups."""
    rows = tx.tasks([each.task_id for each in new])
    usages: dict[str, Usage] = {}
    by_group: dict[str, Usage] = {}
    for each in new:
        row = rows[each.task_id]
        usage, more = risen(row.usage, each.usage)
        if more:
            usages[row.task_id] = usage
            if row.flow is not None and (group_id := row.flow.group) is not None:
                by_group[group_id] = summed(by_group.get(group_id, {}), more)
    if usages:
        tx.write_usage(usages)
    spend(tx, by_group)


def staying(tx: Transaction, tasks: Collection[Task], before: int | None) -> set[str]:
    """Return the ids of those of these ended tasks that a purge leaves, since they are members of groups that stay.

    Members of a group that cannot be read stay, too: whether it has ended is not known; and so do those of ``unseen``.
    ``before`` is the time in epoch seconds before which they have to have ended, None for any.
    """
    members = [(task, group_id) for task in tasks if (group_id := kept_by(task)) is not None]
    found: dict[str, GroupState] = {}
    level = sorted({group_id for _, group_id in members})
    while level:
        found |= (groups := tx.groups(level))
        level = around(groups, found)
    top, unread = outermost(found), tx.unread_groups
    stay = unseen(tx, [task.task_id for task in tasks if task.status is Status.COMPLETED])
    return stay | {
        task.task_id
        for task, group_id in members
        if stays(task, group := top.get(group_id), before) or (group_id if group is None else group.parent_id) in unread
    }


def unseen(tx: Transaction, completed: Collection[str]) -> set[str]:
    """Return those of these completed tasks whose end is not known yet to a task that was pushed after them."""
    if not completed or not tx.side.owners(AFTER, 1):
        return set()
    rows = tx.side.of(AFTER, sorted(completed), texts=False)
    return {row.owner for row in rows if not row.name.startswith(Status.COMPLETED)}


def concerns(before: Task, after: Task) -> bool:
    """Whether a change of a task is one that ``follow`` has to know of."""
    return is_tied(after) and before.final != after.final


def is_tied(task: Task) -> bool:
    """Whether something follows from the end of a task: it is a member or a callback of a group.

    One with children is a member.
    """
    flow = task.flow
    return flow is not None and (flow.group is not None or flow.source is not None)


def waits_again(before: Task, after: Task) -> bool:
    """Whether a change brings a child back, which then has to wait for some of its parents: ``live_parents``."""
    return before.status in FINAL and after.status not in FINAL and after.flow is not None and bool(after.flow.parents)


def parents_first(changes: Sequence[Change], update: Callable[[Sequence[Change]], list[bool]]) -> list[bool]:
    """Call ``update`` with those that bring a child back behind the others, in push order: parents before children.

    Return what it returns, in the order of ``changes``.
    """
    if not any(waits_again(change.before, change.after) for change in changes):
        return update(changes)
    late = [change.before.seq if waits_again(change.before, change.after) else -1 for change in changes]
    order = sorted(range(len(changes)), key=late.__getitem__)
    held = dict(zip(order, update([changes[place] for place in order]), strict=True))
    return [held[place] for place in range(len(changes))]


def again(tx: Transaction, after: Task) -> Task:
    """Return a child that is brought back: parked, if it has to wait for some of its parents."""
    assert after.flow is not None
    found = read_parents(tx, tx.tasks, {task_id for task_id, _ in after.flow.parents})
    live = live_parents(after, found.values())
    if live and after.flow.rules:
        old = edges_of(tx, own_rules(after)).get(after.task_id, {})
        # One that is gone holds it up no more, nor ends it: the operator has brought it back.
        gone = dict.fromkeys(own_rules(after).keys() - found.keys() - tx.unread_groups, f"{Status.COMPLETED}@")
        tie(tx, after.task_id, old, gone | {key: end_of(parent) for key, parent in found.items()})
        tx.touched.followed.awaited += own_rules(after)
    return waiting(after, live, after.due_us) if live else after


def edges_of(tx: Transaction, parents: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return by child what waits for these parents that was pushed after them, and which end of each it knows of.

    Each is a side row of its parent, and only a transaction that has locked the child writes it.
    """
    found: dict[str, dict[str, str]] = {}
    for row in tx.side.of(AFTER, sorted(parents), texts=False):
        end, child_id = row.name.split(" ", 1)
        found.setdefault(child_id, {})[row.owner] = end
    return found


def tie(tx: Transaction, child_id: str, old: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Write which parents a child waits for, each with the end of it that the child knows of, in place of others."""
    for parent in sorted(key for key, end in old.items() if new.get(key) != end):
        tx.side.delete(AFTER, parent, [f"{old[parent]} {child_id}"])
    changed = sorted(key for key, end in new.items() if old.get(key) != end)
    tx.side.put(AFTER, [SideRow(f"{new[key]} {child_id}", "-", None, key) for key in changed])


def end_of(parent: Task) -> str:
    """Return what tells the end of a parent apart from its other ones."""
    return f"{parent.status}@{parent.ended_at}.{parent.fence}" if parent.final else "-"


def to_children(tx: Transaction, changes: Sequence[tuple[Task, Task]], now: int) -> tuple[dict[str, Tally], list[Task]]:
    """Do what follows from changes of tasks, which are written already, to their children, and to those of these.

    Return what that counts for groups, and the tasks that it ended. A task that had ended and was deleted is given with
    what it counts as: see ``core.groups.deleted``.
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
        found = tx.tasks(sorted(ends)) if ends else {}
        for child_id, parents in ends.items():  # in the order of the edges: the first end that counts decides
            if (child := found.get(child_id)) is not None:
                after = after_parents(child, parents, now)
                if after is not child:
                    level.append((child, after))
        if level:
            rewrite(tx, level)
            gone += [after for _, after in level if after.final]
    return tallies, gone


def to_groups(tx: Transaction, tallies: dict[str, Tally], gone: Sequence[Task], now: int) -> None:
    """Do what follows for groups, and for those that they are members of; ``gone`` are the tasks that ended by it."""
    followed = tx.touched.followed
    followed.ended += [task.task_id for task in gone]
    pushed = tx.messages(gone, now) if gone else []
    while tallies:
        above: dict[str, Tally] = {}
        written = []
        ends: list[tuple[Task, Task]] = []  # of groups that tasks wait for
        followed.counted += [group_id for group_id, tally in tallies.items() if tally.counts]
        for group_id, group in tx.groups(sorted(tallies)).items():
            new = counted(group, tallies[group_id], now)
            turned = (group.ended_at is None) != (new.ended_at is None)
            if turned and new.ended_at is not None:
                followed.ended_groups.append(group_id)
                if (callback := callback_of(new, now)) is not None:
                    pushed.append(callback)
                    new = replace(new, needed_by=new.needed_by + 1)
            if turned and group.children and (before := as_parent(group)) and (after := as_parent(new)):
                ends.append((before, after))
            written.append(new)
            if group.parent_id is not None and (turned or new.needed_by != group.needed_by):
                tally = above.setdefault(group.parent_id, Tally())
                tally.needed_by += new.needed_by - group.needed_by
                if turned:
                    tally.add(*((new.status, 1) if new.ended_at is not None else (group.status, -1)))
        tx.write_groups(written)
        if ends:
            of_children, ended = to_children(tx, ends, now)
            followed.ended += [task.task_id for task in ended]
            pushed += tx.messages(ended, now) if ended else []
            for group_id, tally in of_children.items():
                above.setdefault(group_id, Tally()).merge(tally)
        tallies = above
    if pushed:
        push(tx, pushed, refused=False)
    followed.pushed += [task.task_id for task in pushed]


def follow(tx: Transaction, changes: Sequence[tuple[Task, Task]]) -> None:
    """Do what follows from changes of tasks that are written already: to children, then to groups."""
    found = [(before, after) for before, after in changes if concerns(before, after)]
    if found:
        now = max(0, *[after.due_us if after.ended_at is None else after.ended_at for _, after in found])
        to_groups(tx, *to_children(tx, found, now), now)


def follow_deletes(tx: Transaction, tasks: Sequence[Task]) -> None:
    """Do what follows from deletes of tasks."""
    tx.touched.deleted([task for task in tasks if not task.final])
    tied = [task for task in tasks if is_tied(task)]
    if tied:
        now = max(next_seq(0), *[max(task.seq, task.began_at or 0) for task in tied])
        changes = [(task, after) for task in tied if (after := deleted(task, now)) is not task]
        to_groups(tx, *to_children(tx, changes, now), now)
