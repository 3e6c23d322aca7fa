"""Side rows in SQL: one table for all kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, literal, or_, select

from aiotaskq.backends.side_rows import SideRow, SideRows
from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.insert import replace
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.models import SideRowModel

_S: Any = SideRowModel.__table__
c = _S.c


class SqlSideRows(SideRows):
    """The table ``aiotaskq_side``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        if rows:
            await self._database.write(lambda connection: _put(connection, kind, rows))

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        def body(connection: Connection) -> dict[str, str]:
            query = select(c.name, c.value).where(c.kind == kind, _live(now))
            return {
                name: text for part in chunks(names) for name, text in connection.execute(query.where(c.name.in_(part)))
            }

        found = await self._database.read(body)
        return [found.get(name) for name in names]

    async def range(
        self,
        kind: str,
        now: int,
        limit: int | None = None,
        *,
        prefix: str = "",
        after: str = "",
        before: str | None = None,
        newest: bool = False,
        texts: bool = True,
    ) -> list[SideRow]:
        columns = (c.name, c.value if texts else literal(""), c.expires_at)
        query = select(*columns).where(c.kind == kind, c.name > after, _live(now))
        query = query.order_by(c.name.desc() if newest else c.name)
        if before is not None:
            query = query.where(c.name < before)
        if prefix:
            query = query.where(*self._database.dialect.begins_with(c.name, prefix))
        if limit is not None:
            query = query.limit(limit)

        def body(connection: Connection) -> list[SideRow]:  # on the connection's thread, where it has one
            return [SideRow(*row) for row in connection.execute(query)]

        return await self._database.read(body)

    async def count(self, kind: str, now: int) -> int:
        # Two ranges of the index; for both in one condition every text would be read.
        of_kind = select(func.count()).where(c.kind == kind)
        query = select(sum((of_kind.where(each).scalar_subquery() for each in _live_ranges(now)), literal(0)))
        return await self._database.read(lambda connection: connection.execute(query).scalar()) or 0

    async def delete(self, kind: str, names: Sequence[str], now: int) -> list[bool]:
        def body(connection: Connection) -> set[str]:
            live: set[str] = set()
            for part in chunks(sorted(names)):
                which = (c.kind == kind, c.name.in_(part))
                # Locked, in the order of the names: of two calls at a time one finds the row.
                query = select(c.name).where(*which, _live(now)).order_by(c.name).with_for_update()
                live.update(connection.execute(query).scalars())
                connection.execute(delete(_S).where(*which))
            return live

        live = await self._database.write(body)
        return [name in live for name in names]

    async def swap(self, kind: str, gone: Sequence[str], rows: Sequence[SideRow]) -> bool:
        def body(connection: Connection) -> bool:
            ids = [which for part in chunks(sorted(gone)) for which in ((c.kind == kind, c.name.in_(part)),)]
            there = 0
            for which in ids:
                query = select(c.name).where(*which).order_by(c.name).with_for_update()
                there += len(connection.execute(query).all())
            if there < len(gone):
                return False
            for which in ids:
                connection.execute(delete(_S).where(*which))
            _put(connection, kind, rows)
            return True

        return await self._database.write(body)

    async def expire(self, kind: str, now: int, limit: int) -> int:
        # The names stay in the database. MySQL takes a LIMIT only in a derived table.
        old = (c.kind == kind, c.expires_at <= now)
        late = select(c.name).where(*old).order_by(c.expires_at).limit(limit).subquery()
        statement = delete(_S).where(*old, c.name.in_(select(late.c.name)))
        return await self._database.write(lambda connection: int(connection.execute(statement).rowcount))

    async def trim(self, kind: str, most: int) -> None:
        last = select(c.name).where(c.kind == kind).order_by(c.name.desc()).offset(most).limit(1)

        def body(connection: Connection) -> None:
            if (name := connection.execute(last).scalar()) is not None:
                connection.execute(delete(_S).where(c.kind == kind, c.name <= name))

        await self._database.write(body)

    async def clear(self, kind: str) -> None:
        await self._database.write(lambda connection: connection.execute(delete(_S).where(c.kind == kind)))


def _put(connection: Connection, kind: str, rows: Sequence[SideRow]) -> None:
    values = {row.name: {"kind": kind, "name": row.name, "value": row.text, "expires_at": row.until} for row in rows}
    if values:
        replace(connection, _S, list(values.values()))


def _live(now: int) -> Any:
    return or_(*_live_ranges(now))


def _live_ranges(now: int) -> tuple[Any, Any]:
    return c.expires_at.is_(None), c.expires_at > now
