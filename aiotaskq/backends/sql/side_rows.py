"""Side rows in SQL: one table for all kinds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, func, literal, or_, select

from aiotaskq.backends.flow.transaction import Holder
from aiotaskq.backends.side_rows import OwnedRows, Range, SideRow, SideRows
from aiotaskq.backends.sql.connections import Transactions
from aiotaskq.backends.sql.dialects.base import Dialect, NewRows, PerKey, Tx
from aiotaskq.backends.sql.statement_size import chunks
from aiotaskq.backends.sql.statements import run
from aiotaskq.models import SideRowModel

_S: Any = SideRowModel.__table__
c = _S.c
_KEY = ("kind", "owner", "name")
LOCK = 0
"""When rows expire that are only there to be locked."""
_COLUMNS = (*_KEY, "value", "expires_at")


class SqlSideRows(SideRows):
    """The table ``aiotaskq_side``."""

    def __init__(self, database: Transactions) -> None:
        self._database = database

    async def get(self, kind: str, names: Sequence[str], now: int) -> list[str | None]:
        def body(connection: Connection) -> dict[str, str]:
            query = select(c.name, c.value).where(*_of(kind), _live(now))
            return {
                name: text for part in chunks(names) for name, text in connection.execute(query.where(c.name.in_(part)))
            }

        found = await self._database.read(body)
        return [found.get(name) for name in names]

    async def read(self, wanted: Range) -> list[SideRow]:
        kind, now, limit, prefix, after, before, newest, texts, owner = wanted
        columns = (c.name, c.value if texts else literal(""), c.expires_at, c.owner)
        query = select(*columns).where(*_of(kind, owner), c.name > after, _live(now))
        query = query.order_by(c.name.desc() if newest else c.name)
        if before is not None:
            query = query.where(c.name < before)
        if prefix:
            query = query.where(c.name >= prefix, c.name < prefix + "\U0010ffff")
        if limit is not None:
            query = query.limit(limit)

        def body(connection: Connection) -> list[SideRow]:  # on the connection's thread, where it has one
            return [SideRow(*row) for row in connection.execute(query)]

        return await self._database.read(body)

    async def count(self, kind: str, now: int) -> int:
        # A range of each index; for what is live every text would be read.
        every = select(func.count()).where(*_of(kind))
        query = select(every.scalar_subquery() - every.where(c.expires_at <= now).scalar_subquery())
        return await self._database.read(lambda connection: connection.execute(query).scalar()) or 0

    async def expire(self, kind: str, now: int, limit: int) -> int:
        def body(connection: Connection) -> int:
            deleted = 0  # of the second range: the rows of the first are locks, which no caller has stored
            for first, last in ((LOCK - 1, LOCK), (LOCK, now)):
                # The names stay in the database. MySQL takes a LIMIT only in a derived table.
                old = (*_of(kind), c.expires_at > first, c.expires_at <= last)
                late = select(c.name).where(*old).order_by(c.expires_at).limit(limit).subquery()
                deleted = connection.execute(delete(_S).where(*old, c.name.in_(select(late.c.name)))).rowcount
            return deleted

        return await self._database.write(body)


class SqlOwnedRows(OwnedRows):
    """The same rows in the transaction of a connection."""

    def __init__(self, tx: Tx, locks: bool = True) -> None:
        """``locks``: whether what ``of`` reads is locked, so that it is the newest whatever a caller's isolation is."""
        self._tx, self._connection, self._locks = tx, tx.connection, locks

    def of(self, kind: str, owners: Sequence[str], *, texts: bool = True) -> list[SideRow]:
        statement = _rows_of(kind, texts, self._locks and texts)
        if len(owners) == 1:
            found = run(self._connection, _of_one(statement), {"b_owner": owners[0]}).fetchall()
        else:
            found = self._tx.rows_for(_among(self._tx.dialect, statement), owners, {})
        return [SideRow(name, text, None, owner) for owner, name, text in found]

    def owners(self, kind: str, limit: int, *, prefix: str = "", after: str = "") -> list[str]:
        query = select(c.owner).distinct().where(c.kind == kind, c.owner > after).order_by(c.owner).limit(limit)
        if prefix:
            query = query.where(*self._tx.dialect.begins_with(c.owner, prefix))
        return list(self._connection.execute(query).scalars())

    def lock(self, kind: str, names: Sequence[str], owner: str = "") -> dict[str, str]:
        dialect = self._tx.dialect
        found: dict[str, str] = {}
        for part in chunks(sorted(set(names))):
            if not dialect.single_writer:
                # Nothing is changed where there is a row, and it is locked.
                rows = [dict(zip(_COLUMNS, (kind, owner, name, "", LOCK), strict=True)) for name in part]
                self._connection.execute(dialect.upsert(_S, _KEY, ["kind"]), rows)
            texts = self._connection.execute(_LOCKED, {"b_kind": kind, "b_owner": owner, "names": part})
            found |= {name: text for name, text in texts if text}
        return found

    def put(self, kind: str, rows: Sequence[SideRow]) -> None:
        values = {(row.owner, row.name): (kind, row.owner, row.name, row.text, row.until) for row in rows}
        if values:
            self._tx.replace(_S, _COLUMNS, list(values.values()))

    def delete_of(self, kind: str, owners: Sequence[str]) -> None:
        for part in chunks(owners):
            self._connection.execute(delete(_S).where(c.kind == kind, c.owner.in_(part)))

    def last(self, kind: str, owners: Sequence[str]) -> dict[str, str]:
        rows = self._tx.dialect.each(self._connection, _last_of(kind), dict.fromkeys(owners, 1))
        return {owner: name for owner, name in rows}  # noqa: C416 - rows of a database

    def add(self, kind: str, rows: Sequence[SideRow]) -> None:
        self.insert(kind, rows)

    def insert(self, kind: str, rows: Sequence[SideRow]) -> int:
        """Do as ``add``; return the number of rows if all are new, else a smaller one."""
        values = [(kind, row.owner, row.name, row.text, row.until) for row in rows]
        return self._tx.insert_new(_S, _COLUMNS, values) if values else 0

    def delete(self, kind: str, owner: str, names: Sequence[str]) -> None:
        for part in chunks(names):
            self._connection.execute(delete(_S).where(*_of(kind, owner), c.name.in_(part)))


def insert_held(tx: Tx, kind: str, rows: Sequence[SideRow], holders: Sequence[Holder]) -> tuple[int, list[bool]] | None:
    """Insert rows of tasks that run so: see ``Dialect.insert_held``."""
    values = [(kind, row.owner, row.name, row.text) for row in rows]
    own = [(row.owner, seq, fence) for row, (fence, seq) in zip(rows, holders, strict=True)]
    columns, runs = list(zip(*values, strict=True)), list(zip(*own, strict=True))
    return tx.dialect.insert_held(tx.connection, NewRows(_S, _COLUMNS[:4], columns), runs)


_NAMED = select(c.name, c.value).where(c.kind == bindparam("b_kind"), c.owner == bindparam("b_owner"))
_LOCKED = _NAMED.where(c.name.in_(bindparam("names", expanding=True))).order_by(c.name).with_for_update()


@functools.cache
def _rows_of(kind: str, texts: bool, locked: bool) -> Select[Any]:
    query = select(c.owner, c.name, c.value if texts else literal("")).where(c.kind == kind)
    return query.with_for_update(read=True) if locked else query


@functools.cache
def _of_one(query: Select[Any]) -> Select[Any]:
    return query.where(c.owner == bindparam("b_owner")).order_by(c.name)


@functools.cache
def _among(dialect: Dialect, query: Select[Any]) -> Select[Any]:
    return query.where(dialect.among(c.owner, "keys")).order_by(c.owner, c.name)


@functools.cache
def _last_of(kind: str) -> PerKey:
    """Return the query for the last names of an owner."""

    def query(owner: ColumnElement[str], limit: ColumnElement[int]) -> Select[Any]:
        return select(c.owner, c.name).where(c.kind == kind, c.owner == owner).order_by(c.name.desc()).limit(limit)

    return query


def _of(kind: str, owner: str = "") -> tuple[Any, Any]:
    return c.kind == kind, c.owner == owner


def _live(now: int) -> Any:
    return or_(c.expires_at.is_(None), c.expires_at > now)
