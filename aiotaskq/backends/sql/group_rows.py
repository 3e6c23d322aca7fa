"""The part of a transaction in SQL that reads and writes groups and their members.

A deadlock between parents and children, or between groups in groups, is resolved by the database, and the transaction
repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, func, select, true, update

from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import GATES, GROUPS, LIVE, MEMBERS, TASKS, json_text, read_usage
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.task import Task
from aiotaskq.core.usage import budget_gate

g, m = GROUPS.c, MEMBERS.c
_template = msgspec.json.Decoder(Task).decode
_COUNTS = ("total", "remaining", "failed", "cancelled", "needed_by", "generation", "cancel_requested", "ended_at")
_CALLBACKS = ("then_task", "failure_task")
_CALL = update(GROUPS).where(g.group_id == bindparam("b_id")).values({name: bindparam(name) for name in _CALLBACKS})
_SUMS = ("usage", "budget")
_STATE = (*_COUNTS, *_SUMS)
_WRITE = update(GROUPS).where(g.group_id == bindparam("b_id")).values({name: bindparam(name) for name in _STATE})
_NAMES = ("group_id", "name", "parent_id", "created_at", *_CALLBACKS, *_STATE)


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


def _texts(group: GroupState) -> list[str | None]:
    return [None if task is None else json_text(task) for task in (group.then, group.on_failure)]


def _state(group: GroupState) -> tuple[Any, ...]:
    counts = (getattr(group, name) for name in _COUNTS)
    return (*counts, *(json_text(found) if (found := getattr(group, name)) else None for name in _SUMS))


class GroupRows(Tx):
    """Groups and their members, in the transaction of a connection."""

    def groups(self, ids: Sequence[str], lock: bool = True) -> dict[str, GroupState]:
        found: dict[str, GroupState] = {}
        for part in chunks(ids):
            query = select(GROUPS).where(g.group_id.in_(part))
            if lock:
                query = query.order_by(g.group_id).with_for_update()
            found |= {row.group_id: to_group(row) for row in self.connection.execute(query)}
        return found

    def add_groups(self, groups: Sequence[GroupState], members: Sequence[Member]) -> bool:
        for group in groups:
            row = (group.group_id, group.name, group.parent_id, group.created_at, *_texts(group), *_state(group))
            if not self.insert_new(GROUPS, _NAMES, [row]) and group is groups[0]:
                return False
        self.add_members(members)
        return True

    def write_groups(self, groups: Sequence[GroupState], callbacks: bool = False) -> None:
        if groups:
            rows = [{"b_id": each.group_id, **dict(zip(_STATE, _state(each), strict=True))} for each in groups]
            self.connection.execute(_WRITE, rows)
        if groups and callbacks:
            rows = [{"b_id": each.group_id, **dict(zip(_CALLBACKS, _texts(each), strict=True))} for each in groups]
            self.connection.execute(_CALL, rows)

    def drop_groups(self, ids: Sequence[str]) -> None:
        for part in chunks(ids):
            self.connection.execute(delete(MEMBERS).where(m.group_id.in_(part)))
            self.connection.execute(delete(GATES).where(GATES.c.key.in_(list(map(budget_gate, part)))))
            self.connection.execute(delete(GROUPS).where(g.group_id.in_(part)))

    def count_live(self, ids: Sequence[str]) -> dict[str, int]:
        live = dict.fromkeys(ids, 0)
        count = select(m.group_id, func.count())
        tasks = count.join(TASKS, TASKS.c.task_id == m.member_id).where(TASKS.c.status.in_(LIVE))
        inner = GROUPS.alias()
        nested = count.join(inner, inner.c.group_id == m.member_id).where(m.is_group == true())
        for query in (tasks, nested.where(inner.c.ended_at.is_(None))):
            for part in chunks(ids):
                found = self.connection.execute(query.where(m.group_id.in_(part)).group_by(m.group_id))
                for group_id, number in found:
                    live[group_id] += number
        return live

    def add_members(self, members: Sequence[Member]) -> None:
        rows = [(each.group_id, each.position, each.member_id, each.name, each.is_group) for each in members]
        if rows:
            self.insert_new(MEMBERS, ("group_id", "position", "member_id", "name", "is_group"), rows)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        inner = select(m.member_id).where(m.is_group == true())
        return [row[0] for part in chunks(ids) for row in self.connection.execute(inner.where(m.group_id.in_(part)))]
