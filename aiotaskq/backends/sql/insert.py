"""Inserts rows that conflict with no other, or in place of others, as many in one statement as fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.rows import DEFAULTS
from aiotaskq.backends.sql.statement_size import parts


def insert_new(
    connection: Connection,
    table: Any,
    names: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    notify: tuple[str, str] | None = None,
) -> int:
    """Insert the rows that conflict with no other. Return their number if it is all of them, else a smaller number.

    With ``notify`` (see ``Dialect.insert``) the rows must fit one statement.
    """
    dialect = dialect_of(connection)
    kept, columns = filled(names, rows)
    pieces = [columns] if notify is not None else parts(kept, columns, dialect.statement_limit(connection))
    return sum([dialect.insert(connection, table, kept, piece, notify) for piece in pieces])


def filled(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the columns that are not what they are by default in all the rows, as most of a task's are."""
    found = zip(names, zip(*rows, strict=True), strict=True)
    kept = [(name, values) for name, values in found if values != (DEFAULTS.get(name),) * len(rows)]
    return tuple([name for name, _ in kept]), [values for _, values in kept]


def replace(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    """Insert the rows; one whose primary key is there already takes the place of the old one."""
    dialect = dialect_of(connection)
    keys = table.primary_key.columns.keys()
    statement = dialect.upsert(table, keys, [name for name in rows[0] if name not in keys])
    # In the order of the keys, so that two writers of the same ones wait for each other in one direction only.
    values = [tuple(row.values()) for row in sorted(rows, key=lambda row: [row[key] for key in keys])]
    for part in parts(list(rows[0]), list(zip(*values, strict=True)), dialect.statement_limit(connection)):
        connection.execute(statement, [dict(zip(rows[0], row, strict=True)) for row in zip(*part, strict=True)])
