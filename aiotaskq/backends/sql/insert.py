"""Inserts rows that conflict with no other, or in place of others, in the SQL of each database.

Only a conflict of keys is passed over; any other fault of a row raises, and none of the call is stored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Boolean, Connection, Float, Integer, String, exc
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from aiotaskq.backends.sql.packet import fits, packet, room, sizes
from aiotaskq.backends.sql.prepared import place
from aiotaskq.backends.sql.rows import json_text
from aiotaskq.core.task import MAX_PAYLOAD

# Rows in one statement. Enough to make the round trip cheap, few enough to end well within a statement's patience.
CHUNK = 500
SIZE = 4_000_000  # characters of their params

Rows = Sequence[tuple[Any, ...]]


def insert_new(
    connection: Connection, table: Any, names: tuple[str, ...], rows: Rows, notify: tuple[str, str] | None = None
) -> int:
    """Insert the rows that conflict with no other. Return their number if it is all of them, else a smaller number.

    On PostgreSQL the same statement sends ``notify``, a channel and a message, if a row is new; the rows must fit it.
    """
    if notify is not None:
        return _postgresql(connection, table, *_filled(names, rows), notify)
    put = _WAYS[connection.dialect.name]
    limit = packet(connection)
    if len(rows) == 1 and limit is None:
        return put(connection, table, *_filled(names, rows))
    return sum(put(connection, table, *_filled(names, part)) for part in parts(names, rows, limit))


def small_enough(rows: int, payloads: Iterable[Any]) -> bool:
    """Whether so many rows, with these values as JSON, go in one statement."""
    if rows > CHUNK:
        return False
    return rows * MAX_PAYLOAD <= SIZE or sum(len(json_text(value)) for value in payloads) <= SIZE


def parts(names: Sequence[str], rows: Rows, limit: int | None = None) -> Iterator[Rows]:
    """Cut into pieces that fit one statement.

    ``limit`` is what ``packet`` returned. Raises ValidationError for a row that does not fit, before the first piece.
    """
    most = SIZE
    if limit is None or fits(limit, names, rows):
        large = next((names.index(name) for name in ("params", "result", "value") if name in names), 0)
        lengths = [len(row[large] or "") for row in rows]
    else:
        lengths, most = sizes(limit, names, rows), min(SIZE, room(limit))
    if len(rows) <= CHUNK and sum(lengths) <= most:
        yield rows
        return
    part: list[tuple[Any, ...]] = []
    size = 0
    for row, length in zip(rows, lengths, strict=True):
        if part and (len(part) == CHUNK or size + length > most):
            yield part
            part, size = [], 0
        part.append(row)
        size += length
    yield part


def _filled(names: tuple[str, ...], rows: Rows) -> tuple[tuple[str, ...], Rows]:
    """Leave out the columns that are NULL in all the rows: half of a task's, and half of SQLite's time for them."""
    if len(rows) == 1:
        pairs = [(name, value) for name, value in zip(names, rows[0], strict=True) if value is not None]
        return tuple([name for name, _ in pairs]), [tuple([value for _, value in pairs])]
    columns = list(zip(*rows, strict=True))
    none = (None,) * len(rows)
    kept = tuple(number for number, values in enumerate(columns) if values != none)
    return tuple([names[number] for number in kept]), list(zip(*[columns[number] for number in kept], strict=True))


@functools.cache
def _values(table: str, names: tuple[str, ...], value: str) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join([value] * len(names))})"  # noqa: S608


def _many(rows: Rows) -> Any:
    """One row as one, since that is a plain statement."""
    return rows[0] if len(rows) == 1 else rows


def _sqlite(connection: Connection, table: Any, names: tuple[str, ...], rows: Rows) -> int:
    words = f"{_values(table.name, names, place(connection))} ON CONFLICT DO NOTHING"
    return connection.exec_driver_sql(words, _many(rows)).rowcount


# All rows as one JSON text: one statement with the same words for any number of them, where VALUES lists would have
# thousands of parameters, executemany has no count, and arrays make asyncpg look up their types on each new connection.
# Strings are not cast to their width: that would cut them.
_KINDS = ((String, "text"), (Boolean, "boolean"), (Float, "double precision"), (Integer, "bigint"))


def record(table: Any, names: Sequence[str]) -> str:
    """Return the columns with their types, as PostgreSQL's ``json_to_recordset`` wants them told."""
    kinds = [next(kind for python, kind in _KINDS if isinstance(table.c[name].type, python)) for name in names]
    return ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))


@functools.cache
def _postgresql_words(table: Any, names: tuple[str, ...], value: str, notify: bool) -> str:
    key = table.primary_key.columns.keys()[0]
    insert = (
        f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608 - our own names
        f"SELECT * FROM json_to_recordset({value}::text::json) AS r({record(table, names)}) "
        f"ON CONFLICT DO NOTHING RETURNING {key}"
    )
    # The server sends one of equal notifications of a transaction.
    return f"WITH new AS ({insert}) SELECT {key}, pg_notify($2, $3) FROM new" if notify else insert  # noqa: S608


def _postgresql(
    connection: Connection, table: Any, names: tuple[str, ...], rows: Rows, notify: tuple[str, str] | None = None
) -> int:
    values = json_text([dict(zip(names, row, strict=True)) for row in rows])
    words = _postgresql_words(table, names, place(connection), notify is not None)
    return len(connection.exec_driver_sql(words, (values, *(notify or ()))).all())


def _mysql(connection: Connection, table: Any, names: tuple[str, ...], rows: Rows) -> int:
    words = _values(table.name, names, place(connection))
    try:
        # A conflict undoes this statement, not the transaction. No row count is asked: whether it means rows found or
        # rows changed is up to each client (C4).
        connection.exec_driver_sql(words, _many(rows))
        return len(rows)
    except exc.IntegrityError as error:
        if getattr(error.orig, "args", (0,))[0] != 1062:  # not a duplicate key
            raise
    # IGNORE would pass over every other fault, too. To set a key to itself changes nothing.
    key = table.primary_key.columns.keys()[0]
    connection.exec_driver_sql(f"{words} ON DUPLICATE KEY UPDATE {key} = {table.name}.{key}", _many(rows))
    return 0


_WAYS: dict[str, Callable[[Connection, Any, tuple[str, ...], Rows], int]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "mariadb": _mysql,
}


def replace(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
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
    values = [tuple(row.values()) for row in sorted(rows, key=lambda row: row[key])]
    for part in parts(list(rows[0]), values, packet(connection)):
        connection.execute(statement, [dict(zip(rows[0], row, strict=True)) for row in part])
