"""What is read of groups in SQL: the tables ``aiotaskq_group`` and ``aiotaskq_member``."""

from __future__ import annotations

from sqlalchemy import Connection, and_, func, or_, select, true

from aiotaskq.backends.groups import GroupReads
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.group_rows import to_group
from aiotaskq.backends.sql.rows import GROUPS, MEMBERS, TASKS
from aiotaskq.core.groups import GroupState, Member

c, g, m = TASKS.c, GROUPS.c, MEMBERS.c


class SqlGroupReads(GroupReads):
    """The groups of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
            return [to_group(row) for row in connection.execute(query)]

        return await self._database.read(body)

    async def ids_with_prefix(self, prefix: str, limit: int) -> list[str]:
        begins = func.substr(g.group_id, 1, len(prefix)) == prefix
        query = select(g.group_id).where(begins).order_by(g.group_id).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def members(self, group_id: str, limit: int, *, start: int = 0) -> list[Member]:
        query = select(MEMBERS).where(m.group_id == group_id, m.position >= start).order_by(m.position).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [
            Member(
                group_id=row.group_id,
                position=row.position,
                member_id=row.member_id,
                name=row.name,
                is_group=bool(row.is_group),
            )
            for row in rows
        ]

    async def cancelling(self, limit: int) -> list[str]:
        query = select(g.group_id).where(g.ended_at.is_(None), g.cancel_requested == true()).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def over(self, before: int, limit: int) -> list[str]:
        where = (g.ended_at < before, g.needed_by == 0, g.parent_id.is_(None))
        query = select(g.group_id).where(*where).order_by(g.ended_at).limit(limit)
        return list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))

    async def children(self, limit: int, after: str) -> tuple[list[str], str]:
        waiting = (self._database.dialect.pending[-1], c.live_gate.is_(None), c.waits > 0, c.task_id > after)
        query = select(c.task_id).where(*waiting).order_by(c.task_id).limit(limit)
        ids = list(await self._database.read(lambda connection: connection.execute(query).scalars().all()))
        return ids, ids[-1] if len(ids) == limit else ""
