"""From the outline of a group, with groups in it and edges between its tasks, to the rows that its push writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from aiotaskq.core.errors import ValidationError
from aiotaskq.core.gate import Flow
from aiotaskq.core.groups import MAX_MEMBERS, MAX_PARENTS, GroupState, Member, Plan, callback_of, in_order, waiting
from aiotaskq.core.ids import next_seq
from aiotaskq.core.parking import with_budgets
from aiotaskq.core.task import SECOND, Task, trace_of
from aiotaskq.core.usage import Usage


class Node(msgspec.Struct, frozen=True):
    """A task in the outline of a group, or a group in it: its name is unique there.

    ``after`` has the names of its parents, and their rules. Of a group, its tasks without parents wait for these.
    """

    name: str
    what: Task | Outline
    after: Mapping[str, str] = {}


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """A group that is not pushed yet. With ``named`` its members have the names of their nodes."""

    group_id: str
    nodes: tuple[Node, ...]
    name: str | None = None
    named: bool = False
    then: Task | None = None
    on_failure: Task | None = None
    budget: Usage = {}


def plan(outline: Outline, now: int) -> Plan:
    """Return what the push of a group at ``now`` writes; the latest push stamps go to the tasks, parents first.

    Raises ValidationError for a name that no task has, a cycle, a group without members that waits for others, and more
    members or parents than the limits.
    """
    groups: list[GroupState] = []
    members: list[Member] = []
    tasks: list[Task] = []
    over: set[str] = set()  # groups that nothing has to wait for, also not what is in another group

    def add(
        outline: Outline,
        parent_id: str | None,
        budgets: tuple[str, ...],
        before: tuple[tuple[str, str], ...] = (),
        followers: Sequence[tuple[str, str]] = (),
    ) -> GroupState:
        if outline.budget:
            budgets = (*budgets, outline.group_id)
        nodes = {node.name: node for node in outline.nodes}
        order = in_order({name: node.after for name, node in nodes.items()})
        children = _children(nodes)
        place = len(groups)
        groups.append(GroupState(group_id=outline.group_id))
        live = needed_by = 0
        for name in order:
            what = nodes[name].what
            parents = tuple((_id(nodes[parent]), parent) for parent in nodes[name].after) or before
            if isinstance(what, Outline):
                if parents and not what.nodes:
                    raise ValidationError(f"after: {name!r} is a group without members, which cannot wait for others")
                inner = add(what, outline.group_id, budgets, parents, children[name])
                live += inner.ended_at is None
                needed_by += inner.needed_by
                if inner.ended_at is not None and inner.then is None:
                    over.add(inner.group_id)
            else:
                live += 1
                flow = replace(
                    what.flow or Flow(), group=outline.group_id, parents=parents, children=tuple(children[name])
                )
                task = with_budgets(what.replace(flow=flow, seq=next_seq(now)), budgets)
                waits = sum(parent not in over for parent, _ in parents)
                tasks.append(waiting(task, waits, task.due_us) if waits else task)
        members.extend(
            Member(
                group_id=outline.group_id,
                position=position,
                member_id=_id(node),
                name=node.name if outline.named else None,
                is_group=isinstance(node.what, Outline),
            )
            for position, node in enumerate(outline.nodes)
        )
        group = GroupState(
            group_id=outline.group_id,
            name=outline.name,
            total=len(nodes),
            remaining=live,
            parent_id=parent_id,
            children=tuple(followers),
            budget=outline.budget,
            then=outline.then,
            on_failure=outline.on_failure,
            created_at=now,
            ended_at=None if live else now,
        )
        if (callback := callback_of(group, now)) is not None:
            tasks.append(callback)
            needed_by += 1
        groups[place] = group = replace(group, needed_by=needed_by)
        return group

    add(outline, None, ())
    if len(members) > MAX_MEMBERS:
        raise ValidationError(
            f"group: {len(members):,} members are more than {MAX_MEMBERS:,} of one push; add the others later"
        )
    return Plan(groups=tuple(groups), members=tuple(members), tasks=tuple(tasks))


def _children(nodes: Mapping[str, Node]) -> dict[str, list[tuple[str, str]]]:
    children: dict[str, list[tuple[str, str]]] = {name: [] for name in nodes}
    for name, node in nodes.items():
        if len(node.after) > MAX_PARENTS:
            raise ValidationError(
                f"after: {name!r} waits for {len(node.after):,} tasks, more than {MAX_PARENTS:,}; make a group of them"
            )
        for parent, rule in node.after.items():
            children[parent] += [(entry, rule) for entry in _entries(node)]
    for name, found in children.items():
        if len(found) > MAX_PARENTS:
            raise ValidationError(
                f"after: {len(found):,} tasks wait for {name!r}, more than {MAX_PARENTS:,}; put a task in between"
            )
    return children


def _entries(node: Node) -> list[str]:
    """Return the ids of the tasks with which a node begins: its own, or those of a group that wait for no others."""
    if not isinstance(node.what, Outline):
        return [node.what.task_id]
    return [entry for inner in node.what.nodes if not inner.after for entry in _entries(inner)]


def _id(node: Node) -> str:
    return node.what.group_id if isinstance(node.what, Outline) else node.what.task_id


def as_pushed(plan: Plan, tasks: Sequence[Task]) -> Plan:
    """Return the plan with its tasks as middleware has made them; its callbacks belong to their trace."""
    extra = trace_of(tasks[0]) if tasks else {}
    if not extra:
        return replace(plan, tasks=tuple(tasks))

    def traced(task: Task | None) -> Task | None:
        return None if task is None else task.replace(extra={**task.extra, **extra})

    groups = [replace(each, then=traced(each.then), on_failure=traced(each.on_failure)) for each in plan.groups]
    return replace(plan, groups=tuple(groups), tasks=tuple(tasks))


def in_group(task: Task, group_id: str, task_id: str, now: int, budgets: Sequence[str] = ()) -> Task:
    """Return a task that is added to a group under this id; ``budgets`` as for ``with_budgets``."""
    flow = replace(task.flow or Flow(), group=group_id)
    return with_budgets(task.replace(task_id=task_id, flow=flow, created_at=now // SECOND), budgets)
