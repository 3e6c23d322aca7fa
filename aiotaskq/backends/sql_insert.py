"""Inserts rows that are in nobody's way, or in place of others: in each database's own words.

Only a conflict of keys is passed over; any other fault of a row raises, and none of the call is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Boolean, Connection, Float, Integer, String, exc, insert, text
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from aiotaskq.backends.sql_rows import json_text

# Rows in one statement. Enough to make the round trip cheap, few enough to end well within a statement's patience.
CHUNK = 500
SIZE = 4_000_000  # characters of their params

Rows = list[dict[str, Any]]


def insert_new(connection: Connection, table: Any, rows: Rows) -> int:
    """Insert the rows that are in nobody's way; return how many were, if it is all of them, or a smaller number."""
    put = _WAYS[connection.dialect.name]
    return sum(put(connection, table, part) for part in _parts(rows))


def _parts(rows: Rows) -> Iterator[Rows]:
    part: Rows = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(row.get("params") or "")
        if len(part) == CHUNK or size > SIZE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _sqlite(connection: Connection, table: Any, rows: Rows) -> int:
    return connection.execute(sqlite_insert(table).on_conflict_do_nothing(), rows).rowcount


# All rows as one JSON text: one statement with the same words for any number of them, where VALUES lists would have
# thousands of parameters, executemany has no count, and arrays make asyncpg look up their types on each new connection.
# Strings are not cast to their width: that would cut them.
_KINDS = ((String, "text"), (Boolean, "boolean"), (Float, "double precision"), (Integer, "bigint"))


def _postgresql(connection: Connection, table: Any, rows: Rows) -> int:
    names = list(rows[0])
    kinds = [next(kind for python, kind in _KINDS if isinstance(table.c[name].type, python)) for name in names]
    record = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
    key = table.primary_key.columns.keys()[0]
    statement = text(
        f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608 - our own names
        f"SELECT * FROM json_to_recordset(CAST(CAST(:rows AS text) AS json)) AS r({record}) "
        f"ON CONFLICT DO NOTHING RETURNING {key}"
    )
    return len(connection.execute(statement, {"rows": json_text(rows)}).all())


def _mysql(connection: Connection, table: Any, rows: Rows) -> int:
    try:
        # A conflict undoes this statement, not the transaction. No row count is asked: whether it means rows found or
        # rows changed is up to each client (C4).
        connection.execute(insert(table), rows)
        return len(rows)
    except exc.IntegrityError as error:
        if getattr(error.orig, "args", (0,))[0] != 1062:  # not a duplicate key
            raise
    # IGNORE would pass over every other fault, too. To set a key to itself changes nothing.
    key = table.primary_key.columns.keys()[0]
    statement: Any = mysql_insert(table)
    connection.execute(statement.on_duplicate_key_update({key: table.c[key]}), rows)
    return 0


_WAYS: dict[str, Callable[[Connection, Any, Rows], int]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
}


def replace(connection: Connection, table: Any, rows: Rows) -> None:
    """Insert the rows; one whose primary key is there already takes the place of the old one."""
    key = table.primary_key.columns.keys()[0]
    others = [name for name in rows[0] if name != key]
    statement: Any
    if connection.dialect.name in ("mysql", "mariadb"):
        statement = mysql_insert(table)
        statement = statement.on_duplicate_key_update({name: statement.inserted[name] for name in others})
    else:
        statement = (sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert)(table)
        statement = statement.on_conflict_do_update(
            index_elements=[key], set_={name: statement.excluded[name] for name in others}
        )
    # In the order of the keys, so that two writers of the same ones wait for each other in one direction only.
    rows = sorted(rows, key=lambda row: row[key])
    for start in range(0, len(rows), CHUNK):
        connection.execute(statement, rows[start : start + CHUNK])
