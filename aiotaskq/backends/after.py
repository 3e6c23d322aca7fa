"""Tasks that were pushed after others, which were there already; ``core.groups`` has the rules.

Such a parent does not know of the child: it may run, in a worker that has read its row before. So the child has the
rules in its own row, and a side row of each parent names it. Once a parent has ended, a transaction looks at all
parents of the child. It locks the child first: of two at the same time the later one sees the ends that both look for.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from aiotaskq.backends.blobs import encoded_by
from aiotaskq.backends.flow.groups import edges_of, end_of, push_within, read_parents, tie, to_groups
from aiotaskq.backends.flow.transaction import rewrite
from aiotaskq.backends.side_rows import AFTER
from aiotaskq.core.coded import encoded_all
from aiotaskq.core.errors import NotFound
from aiotaskq.core.groups import after_own_parents, callback_id, own_rules
from aiotaskq.core.status import PENDING, Status
from aiotaskq.core.task import Task

if TYPE_CHECKING:
    from aiotaskq.backends.change import Room
    from aiotaskq.backends.flow.transaction import Store, Transaction
    from aiotaskq.core.codec import Codec

Edges = Mapping[str, Mapping[str, str]]
"""By child and parent, the end of the parent that the child knows of: see ``edges_of``."""
PAGE = 500  # parents that are looked at together, and children of one transaction


def push(tx: Transaction, tasks: Sequence[Task], now: int, room: Room | None) -> list[Task]:
    """Do as ``After.push``."""
    parents = {key for task in tasks for key in own_rules(task)}
    found = read_parents(tx, tx.look, parents, lock=False)
    if gone := parents - found.keys():
        there = tx.existing([task.task_id for task in tasks])
        for task in tasks:
            for key in gone & own_rules(task).keys() if task.task_id not in there else ():
                raise NotFound(f"after: there is no task and no group {key!r:.60}")
    new = [_named(task, found) for task in tasks]
    stored = push_within(tx, new, room)
    pushed = [row for task, row in zip(new, stored, strict=True) if row is task and own_rules(row)]
    tx.touched.followed.awaited += sorted({key for row in pushed for key in own_rules(row)})
    _judge(tx, tx.tasks(sorted(row.task_id for row in pushed)), found, {}, now)
    return [task if row is each else row for task, each, row in zip(tasks, new, stored, strict=True)]


def _named(task: Task, found: Mapping[str, Task]) -> Task:
    """Return a child with the types of its parents as their names."""
    if not own_rules(task):
        return task
    assert task.flow is not None
    parents = tuple((key, found[key].type if key in found else "") for key, _ in task.flow.parents)
    return task.replace(flow=replace(task.flow, parents=parents))


def settle(tx: Transaction, seen: Edges, now: int) -> list[str]:
    """Let the children of these edges go on, or end them, by what their parents are now; return those that ended."""
    rows = tx.tasks(sorted(seen))
    children = {key: row for key, row in rows.items() if row.waits and row.status is PENDING and own_rules(row)}
    for child_id in sorted(seen.keys() - children.keys()):  # it was cancelled or deleted, or has expired
        tie(tx, child_id, seen[child_id], {})
    parents = {key for child in children.values() for key in own_rules(child)}
    return _judge(tx, children, read_parents(tx, tx.look, parents, lock=False), edges_of(tx, parents), now)


def _judge(
    tx: Transaction, children: Mapping[str, Task], found: Mapping[str, Task], edges: Edges, now: int
) -> list[str]:
    changes = []
    for child in children.values():
        old, rules = edges.get(child.task_id, {}), own_rules(child)
        parents = {key: found.get(key) or _missing(tx, key, old.get(key, "")) for key in rules}
        each = [(parent, rules[key], old.get(key) == end_of(parent)) for key, parent in parents.items()]
        after = after_own_parents(child, each, now)
        new = {key: end_of(found[key]) if key in found else old.get(key, "-") for key in rules}
        tie(tx, child.task_id, old, new if after.waits and not after.final else {})
        if after is not child:
            changes.append((child, after))
    ended = [after for _, after in changes if after.final]
    if changes:
        rewrite(tx, changes)
        to_groups(tx, {}, ended, now)
    return [task.task_id for task in ended]


def _missing(tx: Transaction, key: str, known: str) -> Task:
    """Return what a parent counts as whose row is gone, or cannot be read, by the end of it that the child knows of."""
    if key in tx.unread_groups:
        return Task(task_id=key, type="group", status=Status.RUNNING)
    completed = known.startswith(Status.COMPLETED)
    return Task(task_id=key, type="deleted", status=Status.COMPLETED if completed else Status.CANCELLED)


def look(tx: Transaction, ids: Sequence[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the edges of those of these parents that have ended, or are gone, and what to hear of for the others.

    Those are ids of tasks and groups, each with that of the parent: a group has ended with its ``then``.
    """
    edges = edges_of(tx, ids)
    parents = {key for each in edges.values() for key in each}
    found = read_parents(tx, tx.look, parents, lock=False) if parents else {}
    live = [key for key, parent in found.items() if not parent.final] + sorted(tx.unread_groups)
    awaited = {key: key for key in live}
    for key, group in tx.groups(live, lock=False).items() if live else ():
        awaited[callback_id(group, "then")] = key
    over = {child: {key: end for key, end in each.items() if key not in live} for child, each in edges.items()}
    return {child: each for child, each in over.items() if each}, awaited


def _behind(tx: Transaction, after: str) -> Sequence[str]:
    return tx.side.owners(AFTER, PAGE, after=after)


class After:
    """The tasks of one store that were pushed after others."""

    codec: Codec | None = None
    """That of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def push(
        self,
        tasks: Sequence[Task],
        now: int,
        session: Any = None,
        committed: Callable[[], None] = lambda: None,
        room: Room | None = None,
    ) -> list[Task]:
        """``Backend.push``, or with a session ``push_with``, of tasks that wait for their own parents.

        What a parent that has ended means for its child is done in the same transaction. Raises NotFound, before
        anything is written, for a parent that does not exist.
        """
        sent = await encoded_by(self.codec, functools.partial(encoded_all, tasks), session is not None)
        if session is not None:
            stored = await self._store.transact_with(session, lambda tx: push(tx, sent, now, room), committed)
        else:
            stored = await self._store.transact(lambda tx: push(tx, sent, now, room), repeatable=True)
        return [task if row is each else row for task, each, row in zip(tasks, sent, stored, strict=True)]

    async def children(self, parent: str) -> list[str]:
        """Return the ids of the tasks that wait for a task, or a group, after which they were pushed."""
        return sorted(await self._store.look(functools.partial(edges_of, parents=[parent])))

    async def follow(self, parents: Sequence[str], now: int) -> dict[str, str]:
        """Let the children of those of these parents go on, or end, that have ended or are gone; ``now`` as elsewhere.

        Return the ids whose ends the other ones wait for, each with that of the parent.
        """
        awaited: dict[str, str] = {}
        left = list(parents)
        while left:
            page, left = left[:PAGE], left[PAGE:]
            awaited = {key: parent for key, parent in awaited.items() if parent not in page}  # it ended by this call
            edges, live = await self._store.look(functools.partial(look, ids=page))
            awaited |= live
            children = iter(edges.items())
            while part := dict(islice(children, PAGE)):
                left += await self._store.transact(functools.partial(settle, seen=part, now=now), repeatable=True)
        return awaited

    async def follow_all(self, now: int) -> dict[str, str]:
        """Do as ``follow`` for all parents."""
        awaited: dict[str, str] = {}
        async for ids in self._parents():
            awaited |= await self.follow(ids, now)
        return awaited

    async def copy_to(self, target: Store) -> None:
        """Write to another store what waits here, once the tasks are copied."""
        async for ids in self._parents():
            await self._copy(ids, target)

    async def _copy(self, parents: Sequence[str], target: Store) -> None:
        rows = await self._store.look(lambda tx: tx.side.of(AFTER, parents))
        await target.transact(lambda tx: tx.side.put(AFTER, rows), repeatable=True)

    async def _parents(self) -> AsyncIterator[Sequence[str]]:
        """Yield the ids of all parents, by pages."""
        last = ""
        while ids := await self._store.look(functools.partial(_behind, after=last)):
            yield ids
            last = ids[-1]
