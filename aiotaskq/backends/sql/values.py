"""Public values in SQL, as JSON text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, func, literal, or_, select

from aiotaskq.backends.sql.database import Database
from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.insert import replace
from aiotaskq.backends.sql.rows import json_text
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.values import Values
from aiotaskq.log import log, printable
from aiotaskq.models import PublicValue

_V: Any = PublicValue.__table__
c = _V.c


class SqlValues(Values):
    """Values in the table ``aiotaskq_public``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, items: Sequence[tuple[str, Any, int | None]]) -> None:
        rows = {key: {"key": key, "value": json_text(value), "expires_at": until} for key, value, until in items}

        def body(connection: Any) -> None:
            if rows:
                replace(connection, _V, list(rows.values()))

        await self._database.write(body)

    async def get(self, keys: Sequence[str], now: int) -> list[tuple[Any] | None]:
        def body(connection: Any) -> dict[str, str]:
            return {
                row.key: row.value
                for part in chunks(keys)
                for row in connection.execute(select(c.key, c.value).where(c.key.in_(part), *_live(now)))
            }

        found = await self._database.read(body)
        return [_decoded(key, found[key]) if key in found else None for key in keys]

    async def delete(self, keys: Sequence[str], now: int) -> list[bool]:
        def body(connection: Any) -> set[str]:
            live: set[str] = set()
            for part in chunks(keys):
                live.update(r.key for r in connection.execute(select(c.key).where(c.key.in_(part), *_live(now))))
                connection.execute(delete(_V).where(c.key.in_(part)))
            return live

        live = await self._database.write(body)
        return [key in live for key in keys]

    async def keys(self, now: int) -> list[str]:
        rows = await self._database.read(lambda conn: conn.execute(select(c.key).where(*_live(now))).all())
        return sorted(row.key for row in rows)

    async def page(self, now: int, limit: int, *, prefix: str = "", after: str | None = None) -> list[str]:
        def body(connection: Any) -> list[str]:
            query = select(c.key).where(*_live(now)).order_by(c.key).limit(limit)
            if prefix:
                query = query.where(*dialect_of(connection).begins_with(c.key, prefix))
            if after is not None:
                query = query.where(c.key > after)
            return list(connection.execute(query).scalars())

        return await self._database.read(body)

    async def count(self, now: int) -> int:
        # Two ranges of the index; for both in one condition every value would be read.
        ranges = (select(func.count()).where(condition).scalar_subquery() for condition in _live_ranges(now))
        query = select(sum(ranges, literal(0)))
        return await self._database.read(lambda conn: conn.execute(query).scalar()) or 0

    async def expire(self, now: int, limit: int) -> int:
        # The keys stay in the database. MySQL takes a LIMIT only in a derived table.
        late = select(c.key).where(c.expires_at <= now).order_by(c.expires_at).limit(limit).subquery()
        statement = delete(_V).where(c.key.in_(select(late.c.key)), c.expires_at <= now)

        def body(connection: Any) -> int:
            return int(connection.execute(statement).rowcount)

        return await self._database.write(body)

    async def clear(self) -> None:
        await self._database.write(lambda connection: connection.execute(delete(_V)))


def _live(now: int) -> tuple[Any, ...]:
    return (or_(*_live_ranges(now)),)


def _live_ranges(now: int) -> tuple[Any, Any]:
    return c.expires_at.is_(None), c.expires_at > now


def _decoded(key: str, text: str) -> tuple[Any] | None:
    try:
        return (msgspec.json.decode(text),)
    except msgspec.DecodeError:
        log.warning("public value {} is not JSON; it is kept and not readable", printable(key))
        return None
