"""Groups and their members in SQL: the part of a transaction, and what is read of them.

A deadlock between parents and children, or between groups in groups, is resolved by the database, and the transaction
repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, delete, func, or_, select, true

from aiotaskq.backends.groups import GroupReads
from aiotaskq.backends.sql.connections import Transactions
from aiotaskq.backends.sql.dialects.base import Dialect, Tx
from aiotaskq.backends.sql.rows import GATES, GROUPS, LIVE, MEMBERS, TASKS, json_text, read_usage
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.core.gate import budget_gate
from aiotaskq.core.groups import GroupState, Member
from aiotaskq.core.task import Task
from aiotaskq.log import log

c, g, m = TASKS.c, GROUPS.c, MEMBERS.c
_template = msgspec.json.Decoder(Task).decode
_COUNTS = ("total", "remaining", "failed", "cancelled", "needed_by", "generation", "cancel_requested", "ended_at")
_CALLBACKS = ("then_task", "failure_task")
_SUMS = ("usage", "budget")
_OWN = ("group_id", "name", "parent_id", "created_at", *_COUNTS)
_NAMES = (*_OWN, *_CALLBACKS, "children", *_SUMS)
_children = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode


def to_group(row: Any) -> GroupState | None:
    """Return the group of a row; None where a callback cannot be read: that is logged, and the row stays."""
    names = ("group_id", "name", *_COUNTS, "parent_id", "created_at")
    sums: dict[str, Any] = {name: read_usage(text) or {} for name in _SUMS if (text := getattr(row, name)) is not None}
    values = {name: getattr(row, name) for name in names} | {"cancel_requested": bool(row.cancel_requested)}
    try:
        children = () if row.children is None else _children(row.children)
        then, on_failure = [None if text is None else _template(text) for text in (row.then_task, row.failure_task)]
    except msgspec.DecodeError as error:
        log.error("group {} cannot be read: {}", row.group_id, error)
        return None
    return GroupState(**values, **sums, then=then, on_failure=on_failure, children=children)


def _row(group: GroupState, callbacks: bool = True) -> tuple[Any, ...]:
    """Return the columns of a group: without ``callbacks`` those that its members change."""
    values = (*((group.then, group.on_failure, group.children) if callbacks else ()), group.usage, group.budget)
    return (*(getattr(group, name) for name in _OWN), *(json_text(found) if found else None for found in values))


class GroupRows(Tx):
    """Groups and their members, in the transaction of a connection."""

    def groups(self, ids: Sequence[str], lock: bool = True) -> dict[str, GroupState]:
        query = select(GROUPS).order_by(g.group_id).with_for_update() if lock else select(GROUPS)
        found = {row.group_id: to_group(row) for row in self.rows_in(query, g.group_id, ids)}
        self.unread_groups.update(group_id for group_id, group in found.items() if group is None)
        return {group_id: group for group_id, group in found.items() if group is not None}

    def add_groups(self, groups: Sequence[GroupState], members: Sequence[Member]) -> bool:
        for group in groups:
            if not self.insert_new(GROUPS, _NAMES, [_row(group)]) and group is groups[0]:
                return False
        self.add_members(members)
        return True

    def write_groups(self, groups: Sequence[GroupState], callbacks: bool = False) -> None:
        if groups:
            names = _NAMES if callbacks else (*_OWN, *_SUMS)  # a callback may be large, and rarely changes
            self.replace(GROUPS, names, [_row(group, callbacks) for group in groups])

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
            for group_id, number in self.rows_in(query.group_by(m.group_id), m.group_id, ids):
                live[group_id] += number
        return live

    def add_members(self, members: Sequence[Member]) -> None:
        rows = [(each.group_id, each.position, each.member_id, each.name, each.is_group) for each in members]
        if rows:
            self.insert_new(MEMBERS, ("group_id", "position", "member_id", "name", "is_group"), rows)

    def inner_groups(self, ids: Sequence[str]) -> list[str]:
        inner = select(m.member_id).where(m.is_group == true())
        return [row[0] for row in self.rows_in(inner, m.group_id, ids)]


class SqlGroupReads(GroupReads):
    """The groups of a database."""

    def __init__(self, database: Transactions, dialect: Dialect) -> None:
        self._database, self._dialect = database, dialect

    async def find(self, limit: int, *, after: str | None = None, ended: bool | None = None) -> list[GroupState]:
        def body(connection: Connection) -> list[GroupState]:
            query = select(GROUPS).order_by(g.created_at.desc(), g.group_id.desc()).limit(limit)
            if ended is not None:
                query = query.where(g.ended_at.is_not(None) if ended else g.ended_at.is_(None))
            if after is not None:
                last = connection.execute(select(g.created_at).where(g.group_id == after)).scalar()
                if last is None:
                    return []
                query = query.where(or_(g.created_at < last, and_(g.created_at == last, g.group_id < after)))
            return [group for row in connection.execute(query) if (group := to_group(row)) is not None]

        return await self._database.read(body)

    async def ids_with_prefix(self, prefix: str, limit: int) -> list[str]:
        begins = func.substr(g.group_id, 1, len(prefix)) == prefix
        query = select(g.group_id).where(begins).order_by(g.group_id).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        query = select(MEMBERS).where(m.group_id == group_id, m.position >= start).order_by(m.position).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).mappings().all())
        return [Member(**row) for row in rows]

    async def cancelling(self, limit: int) -> list[str]:
        query = select(g.group_id).where(g.ended_at.is_(None), g.cancel_requested == true()).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def over(self, before: int, limit: int) -> list[str]:
        where = (g.ended_at < before, g.needed_by == 0, g.parent_id.is_(None))
        query = select(g.group_id).where(*where).order_by(g.ended_at).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        waiting = (self._dialect.pending[-1], c.live_gate.is_(None), c.waits > 0, c.task_id > after)
        query = select(c.task_id).where(*waiting).order_by(c.task_id).limit(limit)
        ids = list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))
        return ids, ids[-1] if len(ids) == limit else ""
