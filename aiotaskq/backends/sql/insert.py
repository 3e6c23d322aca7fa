"""Inserts rows that conflict with no other, or in place of others, as many in one statement as fit."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.statement_size import Rows, parts


def insert_new(
    connection: Connection, table: Any, names: tuple[str, ...], rows: Rows, notify: tuple[str, str] | None = None
) -> int:
    """Insert the rows that conflict with no other. Return their number if it is all of them, else a smaller number.

    With ``notify`` (see ``Dialect.insert``) the rows must fit one statement.
    """
    dialect = dialect_of(connection)
    limit = dialect.statement_limit(connection)
    if notify is not None or (len(rows) == 1 and limit is None):
        return dialect.insert(connection, table, *_filled(names, rows), notify)
    return sum(dialect.insert(connection, table, *_filled(names, part)) for part in parts(names, rows, limit))


def _filled(names: tuple[str, ...], rows: Rows) -> tuple[tuple[str, ...], Rows]:
    """Leave out the columns that are NULL in all the rows: half of a task's, and half of SQLite's time for them."""
    if len(rows) == 1:
        pairs = [(name, value) for name, value in zip(names, rows[0], strict=True) if value is not None]
        return tuple([name for name, _ in pairs]), [tuple([value for _, value in pairs])]
    columns = list(zip(*rows, strict=True))
    none = (None,) * len(rows)
    kept = tuple(number for number, values in enumerate(columns) if values != none)
    return tuple([names[number] for number in kept]), list(zip(*[columns[number] for number in kept], strict=True))


def replace(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    """Insert the rows; one whose primary key is there already takes the place of the old one."""
    dialect = dialect_of(connection)
    key = table.primary_key.columns.keys()[0]
    statement = dialect.upsert(table, key, [name for name in rows[0] if name != key])
    # In the order of the keys, so that two writers of the same ones wait for each other in one direction only.
    values = [tuple(row.values()) for row in sorted(rows, key=lambda row: row[key])]
    for part in parts(list(rows[0]), values, dialect.statement_limit(connection)):
        connection.execute(statement, [dict(zip(rows[0], row, strict=True)) for row in part])
