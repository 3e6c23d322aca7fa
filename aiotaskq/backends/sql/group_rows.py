"""The rows of groups and their members in a transaction, and what follows there from the ends of tasks.

The locks of a transaction are taken in one order: tasks, then groups, then gates. A deadlock between parents and
children, or between groups in groups, is resolved by the database, and the transaction repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, select, true, update

from aiotaskq.backends.base import Change
from aiotaskq.backends.flow.groups import Followed, again, concerns, follow, is_tied, waits_again
from aiotaskq.backends.sql.admission import Admitted, Touched
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.insert import insert_new
from aiotaskq.backends.sql.rows import GROUPS, MEMBERS, TASKS, json_text, read_usage, to_task
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.usage import Known, write_budget
from aiotaskq.core.groups import GroupState, Member, deleted
from aiotaskq.core.ids import next_seq
from aiotaskq.core.task import Task

Push = Callable[..., list[Task]]

c, g, m = TASKS.c, GROUPS.c, MEMBERS.c
_template = msgspec.json.Decoder(Task).decode
_COUNTS = ("total", "remaining", "failed", "cancelled", "needed_by", "generation", "cancel_requested", "ended_at")
_WRITE = update(GROUPS).where(g.group_id == bindparam("b_id")).values({name: bindparam(name) for name in _COUNTS})
_CALLBACKS = ("then_task", "failure_task")
_CALL = update(GROUPS).where(g.group_id == bindparam("b_id")).values({name: bindparam(name) for name in _CALLBACKS})
_PLACE = ("waits", "run_at", "due_at", "gate", "live_gate")
_MOVE = update(TASKS).where(c.task_id == bindparam("b_id")).values({name: bindparam(name) for name in _PLACE})
_SUMS = ("usage", "budget")
_NAMES = ("group_id", "name", *_COUNTS, "parent_id", *_CALLBACKS, "created_at", *_SUMS)


def to_group(row: Any) -> GroupState:
    """Return the group of a row."""
    names = ("group_id", "name", *_COUNTS, "parent_id", "created_at")
    sums: dict[str, Any] = {name: read_usage(text) or {} for name in _SUMS if (text := getattr(row, name)) is not None}
    values = {name: getattr(row, name) for name in names} | {"cancel_requested": bool(row.cancel_requested)}
    return GroupState(
        **values,
        **sums,
        then=None if row.then_task is None else _template(row.then_task),
        on_failure=None if row.failure_task is None else _template(row.failure_task),
    )


def add_group(connection: Connection, group: GroupState) -> bool:
    """Insert a group; return False if there is one with its id."""
    counts = (getattr(group, name) for name in _COUNTS)
    sums = (json_text(found) if (found := getattr(group, name)) else None for name in _SUMS)
    row = (group.group_id, group.name, *counts, group.parent_id, *_texts(group), group.created_at, *sums)
    return insert_new(connection, GROUPS, _NAMES, [row]) == 1


def write_callbacks(connection: Connection, groups: Sequence[GroupState]) -> None:
    """Write the callbacks of groups anew."""
    if groups:
        rows = [{"b_id": each.group_id, **dict(zip(_CALLBACKS, _texts(each), strict=True))} for each in groups]
        connection.execute(_CALL, rows)


def _texts(group: GroupState) -> list[str | None]:
    return [None if task is None else json_text(task) for task in (group.then, group.on_failure)]


def add_members(connection: Connection, members: Iterable[Member]) -> None:
    """Insert members."""
    rows = [(each.group_id, each.position, each.member_id, each.name, each.is_group) for each in members]
    if rows:
        insert_new(connection, MEMBERS, ("group_id", "position", "member_id", "name", "is_group"), rows)


class GroupRows:
    """The rows that ``backends.flow`` reads and writes."""

    def __init__(self, connection: Connection, touched: Touched, push: Push) -> None:
        """``push`` inserts tasks in the transaction; ``touched`` notes what they mean for gates."""
        self._connection, self._touched, self._push = connection, touched, push
        self.admitted: Admitted | None = None
        """What is left to do after a change of a budget has opened its gate."""
        self.freed: Known = {}
        """Gates whose slots are free after a change of a budget has closed its gate; see ``SqlGates.follow_up``."""

    def tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        found: dict[str, Task] = {}
        for part in chunks(ids):
            query = select(TASKS).where(c.task_id.in_(part)).order_by(c.task_id).with_for_update()
            rows = self._connection.execute(dialect_of(self._connection).by_id(query))
            found |= {row.task_id: to_task(row) for row in rows}
        return found

    def rewrite(self, changes: Sequence[tuple[Task, Task]]) -> None:
        ended = [Change(before, after) for before, after in changes if after.final]
        if ended:
            dialect_of(self._connection).write(self._connection, ended)
        moved = [
            {
                "b_id": after.task_id,
                "waits": after.waits or None,
                "run_at": after.run_at,
                "due_at": after.due_at,
                "gate": after.gate,
                "live_gate": after.gate,
            }
            for _, after in changes
            if not after.final
        ]
        if moved:
            self._connection.execute(_MOVE, moved)
        self._touched.written(self._connection, changes)

    def groups(self, ids: Sequence[str]) -> dict[str, GroupState]:
        found: dict[str, GroupState] = {}
        for part in chunks(ids):
            query = select(GROUPS).where(g.group_id.in_(part)).order_by(g.group_id).with_for_update()
            found |= {row.group_id: to_group(row) for row in self._connection.execute(query)}
        return found

    def write(self, groups: Sequence[GroupState]) -> None:
        if groups:
            rows = [{"b_id": each.group_id, **{name: getattr(each, name) for name in _COUNTS}} for each in groups]
            self._connection.execute(_WRITE, rows)

    def insert(self, tasks: Sequence[Task], refused: bool = False) -> None:
        if tasks:
            self._push(self._connection, tasks, touched=self._touched, refused=refused)

    def existing(self, ids: Sequence[str]) -> set[str]:
        queries = (select(c.task_id).where(c.task_id.in_(part)) for part in chunks(ids))
        return {row[0] for query in queries for row in self._connection.execute(query)}

    def add_members(self, members: Sequence[Member]) -> None:
        add_members(self._connection, members)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        inner = select(m.member_id).where(m.is_group == true())
        return [row[0] for part in chunks(ids) for row in self._connection.execute(inner.where(m.group_id.in_(part)))]

    def budget_changed(self, group: GroupState, now: int) -> None:
        self.admitted, self.freed = write_budget(self._connection, group, now)

    def messages(self, ended: Sequence[Task], now: int) -> list[Task]:
        return self._touched.messages(ended, now)

    # ---- what follows ----

    def waiting_again(self, change: Change) -> Change:
        """Return a change that brings a child back: it is parked if it has to wait for some of its parents."""
        if not waits_again(change.before, change.after):
            return change
        return msgspec.structs.replace(change, after=again(change.after, self))

    def changed(self, changes: Sequence[tuple[Task, Task]]) -> None:
        """Do what follows from changes that are written already."""
        found = [(before, after) for before, after in changes if concerns(before, after)]
        if found:
            self.followed(follow(self, found))

    def followed(self, more: Followed) -> None:
        """Note what followed, for what is done after the commit."""
        self._touched.followed.add(more)
        self._touched.grouped = True

    def deleted(self, tasks: Sequence[Task]) -> None:
        """Do what follows from the deletion of tasks."""
        now = max((max(task.seq, task.began_at or 0) for task in tasks), default=0)
        now = max(next_seq(0), now)
        changes = [(task, after) for task in tasks if is_tied(task) and (after := deleted(task, now)) is not task]
        if changes:
            self.followed(follow(self, changes, now))
