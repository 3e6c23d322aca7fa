"""The part of a transaction in SQL that reads and writes groups and their members.

A deadlock between parents and children, or between groups in groups, is resolved by the database, and the transaction
repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, select, true, update

from aiotaskq.backends.sql.dialects.base import Tx
from aiotaskq.backends.sql.rows import GROUPS, MEMBERS, json_text, read_usage
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.task import Task

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


def write_callbacks(connection: Connection, groups: Sequence[GroupState]) -> None:
    """Write the callbacks of groups anew."""
    if groups:
        rows = [{"b_id": each.group_id, **dict(zip(_CALLBACKS, _texts(each), strict=True))} for each in groups]
        connection.execute(_CALL, rows)


def _texts(group: GroupState) -> list[str | None]:
    return [None if task is None else json_text(task) for task in (group.then, group.on_failure)]


def _state(group: GroupState) -> tuple[Any, ...]:
    counts = (getattr(group, name) for name in _COUNTS)
    return (*counts, *(json_text(found) if (found := getattr(group, name)) else None for name in _SUMS))


class GroupRows(Tx):
    """Groups and their members, in the transaction of a connection."""

    def groups(self, ids: Sequence[str]) -> dict[str, GroupState]:
        found: dict[str, GroupState] = {}
        for part in chunks(ids):
            query = select(GROUPS).where(g.group_id.in_(part)).order_by(g.group_id).with_for_update()
            found |= {row.group_id: to_group(row) for row in self.connection.execute(query)}
        return found

    def add_groups(self, groups: Sequence[GroupState], members: Sequence[Member]) -> bool:
        for group in groups:
            row = (group.group_id, group.name, group.parent_id, group.created_at, *_texts(group), *_state(group))
            if not self.insert_new(GROUPS, _NAMES, [row]) and group is groups[0]:
                return False
        self.add_members(members)
        return True

    def write_groups(self, groups: Sequence[GroupState]) -> None:
        if groups:
            rows = [{"b_id": each.group_id, **dict(zip(_STATE, _state(each), strict=True))} for each in groups]
            self.connection.execute(_WRITE, rows)

    def add_members(self, members: Sequence[Member]) -> None:
        rows = [(each.group_id, each.position, each.member_id, each.name, each.is_group) for each in members]
        if rows:
            self.insert_new(MEMBERS, ("group_id", "position", "member_id", "name", "is_group"), rows)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        inner = select(m.member_id).where(m.is_group == true())
        return [row[0] for part in chunks(ids) for row in self.connection.execute(inner.where(m.group_id.in_(part)))]
