"""SQLite, by aiosqlite and the standard library's driver."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Select,
    TextClause,
    and_,
    bindparam,
    event,
    exc,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.change import Change
from aiotaskq.backends.listeners import Listeners
from aiotaskq.backends.side_rows import WORKER
from aiotaskq.backends.sql import push_sql
from aiotaskq.backends.sql.changes import ENDING, GATED_ENDING, GUARD, Group, groups, hoisted
from aiotaskq.backends.sql.claim_statements import PENDING, READY, not_parked
from aiotaskq.backends.sql.connecting import create
from aiotaskq.backends.sql.connections import Connections, Notifier, Transactions
from aiotaskq.backends.sql.dialects.base import Dialect, NewRows, Order, PerKey
from aiotaskq.backends.sql.error_codes import ErrorCodes
from aiotaskq.backends.sql.names import Names
from aiotaskq.backends.sql.rows import TASKS, json_text
from aiotaskq.backends.sql.sqlite_connections import SqliteConnections, is_store_writer
from aiotaskq.backends.sql.sqlite_file import (
    WAL_LIMIT,
    SqliteFile,
    on_connect,
    prepare_file,
    quiet_aiosqlite,
    sqlite_engine,
)
from aiotaskq.backends.sql.sqlite_notifier import FileWatch
from aiotaskq.backends.sql.statement_size import parts
from aiotaskq.backends.sql.statements import command, run, run_many
from aiotaskq.core.firing import CLOCKS_DIFFER
from aiotaskq.core.gate import PARKED
from aiotaskq.core.steps import NEVER
from aiotaskq.core.task import SECOND
from aiotaskq.errors import ValidationError
from aiotaskq.models import SQLITE_AT_GATE, SQLITE_READY

INSERTED: Final = 20
"""Rows of one insert. SQLite opens each index of the table once for a statement. More rows gain little, and would have
more parameters than older versions take, which is 999."""


@functools.cache
def insert_statement(table: str, names: tuple[str, ...], rows: int) -> tuple[TextClause, tuple[str, ...]]:
    """Return the insert of so many rows, and the names of its parameters, row by row."""
    parameters = [[f"{name}_{number}" for name in names] for number in range(rows)]
    values = ", ".join(f"(:{', :'.join(row)})" for row in parameters)
    statement = text(f"INSERT INTO {table} ({', '.join(names)}) VALUES {values} ON CONFLICT DO NOTHING")  # noqa: S608
    return statement, tuple(chain.from_iterable(parameters))


@functools.cache
def guarded_statement(names: tuple[str, ...]) -> TextClause:
    assignments = ", ".join(f"{name} = :{name}" for name in names)
    guard = "status = :b_status AND fence = :b_fence AND (:b_final OR cancel_requested = :b_cancel)"
    return text(f"UPDATE task_queue SET {assignments} WHERE task_id = :b_id AND {guard}")  # noqa: S608 - our own names


@functools.cache
def ending_statement(names: tuple[str, ...], varying: tuple[str, ...]) -> TextClause:
    """Return the update of runs that have completed, whose values are JSON by id, if they are not the same in all."""
    values = {name: f":{name}" for name in names + GUARD}
    values |= {name: f"j.value ->> {place}" for place, name in enumerate(varying)}
    assignments = ", ".join(f"{name} = {values[name]}" for name in names)
    # Without the plus it may read all running rows once for each id.
    guard = f"task_id = j.key AND +status = :b_status AND fence = {values['b_fence']}"
    return text(f"UPDATE task_queue SET {assignments} FROM json_each(:rows) AS j WHERE {guard}")  # noqa: S608


@functools.cache
def _of_keys(query: PerKey, order: Order) -> Select[Any]:
    """Return a query of rows of ``task_queue`` for all of the JSON ``keys``, each with the same limit."""
    keys = func.json_each(bindparam("keys")).table_valued("key", "value", name="wanted")
    own = query(keys.c.value, bindparam("limit_"))
    rows = TASKS.alias("rows")
    ids = own.with_only_columns(TASKS.c.task_id).correlate(keys)
    columns = [rows.c[column.name] for column in own.selected_columns if column.name != "key_"]
    query_ = select(keys.c.value.label("key_"), *columns).select_from(keys.join(rows, rows.c.task_id.in_(ids)))
    return query_.order_by(keys.c.key, *(rows.c[column.name] for column in order))


@compiles(not_parked, "sqlite")
def _not_parked(element: not_parked, compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)} < {PARKED}"


_IS_PARKED: Final = TASKS.c.run_at >= literal_column(str(PARKED))


# Rows written between a step of the clock and its discovery have the new time already. They must not be over after the
# move.
_CLOCK_LEFT: Final = 60 * SECOND
_CLOCK_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS aiotaskq_clock (id INTEGER PRIMARY KEY CHECK (id = 1), anchor BIGINT NOT NULL)"
)
_LEASE: Final = "json_extract(value, '$.lease_until')"  # of a worker
# OR ROLLBACK: the statement keeps no journal of its own in memory, where very many rows may move.
_CLOCK_MOVES: Final = (
    "UPDATE OR ROLLBACK task_queue SET run_at = run_at - :back, due_at = due_at - :back "  # noqa: S608 - our own names
    f"WHERE status = 'pending' AND {SQLITE_READY} AND run_at > :now AND run_at < {NEVER}",
    f"UPDATE OR ROLLBACK task_queue SET run_at = MAX(run_at - :back, {PARKED}), due_at = due_at - :back "  # noqa: S608
    f"WHERE status = 'pending' AND {SQLITE_AT_GATE} AND run_at >= {PARKED} AND due_at > :now AND due_at < {NEVER}",
    "UPDATE OR ROLLBACK task_queue SET expires_at = MAX(expires_at - :back, :left) "
    "WHERE status = 'pending' AND expires_at IS NOT NULL AND expires_at > :left",
    "UPDATE task_queue SET lease_until = MAX(lease_until - :back, :left) "
    "WHERE status = 'running' AND lease_until > :left",
    f"UPDATE aiotaskq_side SET value = json_set(value, '$.lease_until', MAX({_LEASE} - :back, :left)) "  # noqa: S608
    f"WHERE kind = '{WORKER}' AND owner = '' AND expires_at IS NULL AND {_LEASE} > :left",
)


class SqliteDialect(Dialect):
    """A SQLite file."""

    name = "sqlite"
    async_driver = "aiosqlite"
    sync_driver = "pysqlite"
    codes = ErrorCodes(
        no_table_text="no such table: ",  # SQLite has no code of its own for it
        remedies={
            "file is not a database": "it belongs to another program, or is encrypted: name another path",
            "readonly database": "check the rights of the file and of its folder, in which SQLite writes, too",
        },
    )
    pending = (and_(*READY), and_(TASKS.c.status == PENDING, text(SQLITE_AT_GATE), _IS_PARKED))
    single_writer = True
    clock = "NULL"
    insert_into = staticmethod(insert)
    # A statement that writes takes the write lock, though it finds no row: no queue has the empty name.
    lock_pushes = text("UPDATE aiotaskq_queue SET paused = paused WHERE name = ''")

    def file(self, url: URL) -> str:
        return str(url.database)

    def check_url(self, url: URL, shown: str) -> None:
        if url.host:
            raise ValidationError(
                f"url: {shown} names a host; write a file after three slashes, as in sqlite:///app.db"
            )
        if (url.database or ":memory:").endswith(":memory:") or url.query.get("mode") == "memory":
            raise ValidationError(
                "url: an in-memory SQLite database is lost with its connection; use memory:// or a file"
            )

    def same_database(self, one: URL, other: URL) -> bool:
        return _file(one) == _file(other)

    def sync_engine(self, url: URL, **options: Any) -> Engine:
        made = sqlite_engine(url, **options)
        event.listen(made, "connect", on_connect)
        return made

    def async_engine(self, url: URL, own: bool = False, **options: Any) -> AsyncEngine:
        prepare_file(url)
        quiet_aiosqlite()
        made = create(create_async_engine, url, self.extras, **options)
        event.listen(made.sync_engine, "connect", on_connect)
        return made

    def connections(self, database: Transactions, options: Mapping[str, Any]) -> Connections:
        return SqliteConnections(database)

    def notifier(self, database: Transactions, listeners: Listeners, given: URL) -> Notifier:
        watch = FileWatch(str(database.url.database), listeners)
        database.writing, database.written = watch.writing, watch.written
        return watch

    def tidy(self, connection: Connection) -> None:
        """Empty the write-ahead log if it is larger than WAL_LIMIT and no reader needs it."""
        if SqliteFile(str(connection.engine.url.database)).wal_size() > WAL_LIMIT:
            # The first one blocks no writer while it copies; the second has the lock, and nothing left to copy.
            busy, frames, copied = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
            if not busy and frames == copied:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        return column.in_(text(f"SELECT value FROM json_each(:{name})"))  # noqa: S608

    def each(self, connection: Connection, query: PerKey, limits: Mapping[str, int], order: Order = ()) -> list[Any]:
        if not order or len(limits) < 2:
            return super().each(connection, query, limits)
        # One statement for the keys of each limit: it cannot be a column.
        keys: dict[int, list[str]] = {}
        for key, limit in limits.items():
            keys.setdefault(limit, []).append(key)
        return [
            row
            for limit, some in keys.items()
            for row in run(connection, _of_keys(query, order), {"keys": json_text(some), "limit_": limit}).fetchall()
        ]

    def insert(self, connection: Connection, new: NewRows, notify: tuple[str, str] | None = None) -> int:
        rows = list(zip(*new.columns, strict=True))
        full = len(rows) - len(rows) % INSERTED
        count = 0
        if full:
            many = [tuple(chain.from_iterable(rows[at : at + INSERTED])) for at in range(0, full, INSERTED)]
            count = run_many(connection, *insert_statement(new.table.name, new.names, INSERTED), many).rowcount
        if full < len(rows):
            count += run_many(connection, *insert_statement(new.table.name, new.names, 1), rows[full:]).rowcount
        return count

    def write_guarded(self, connection: Connection, changes: Sequence[Change]) -> list[bool] | None:
        """Write them. Only how many held is known for many; so if one did not, all is taken back.

        Many only in a transaction of our own: in another's, a savepoint may begin, and its end commit, one.
        """
        many = len(changes) > 1
        if many and not is_store_writer(connection):
            return None
        if many:
            command(connection, "SAVEPOINT aiotaskq_write")
        held = sum(_write_guarded(connection, group) for group in groups(changes)) == len(changes)
        if many:
            if not held:
                command(connection, "ROLLBACK TO aiotaskq_write")
            command(connection, "RELEASE aiotaskq_write")
        return [held] * len(changes) if held or not many else None

    def clock_set(self, connection: Connection, anchor: int, back: int, now: int) -> bool:
        connection.exec_driver_sql(_CLOCK_TABLE)
        known = connection.exec_driver_sql("SELECT anchor FROM aiotaskq_clock").scalar()
        if known is not None and abs(known - anchor) <= CLOCKS_DIFFER:
            return False  # another process has done it
        connection.exec_driver_sql("INSERT OR REPLACE INTO aiotaskq_clock VALUES (1, ?)", (anchor,))
        for words in _CLOCK_MOVES if back else ():
            connection.exec_driver_sql(words, {"back": back, "now": now, "left": now + _CLOCK_LEFT})
        return back > 0

    def push_sql(self, compiler: Any, names: Names | None) -> Sequence[str]:
        return push_sql.sqlite()

    def raw(self, connection: Connection, table: str) -> tuple[str, str, str]:
        key = "rowid"  # a primary key of text may be NULL, or no text
        try:
            connection.execute(text(f"SELECT rowid FROM {table} LIMIT 0"))  # noqa: S608 - our own names
        except exc.OperationalError:
            key = "task_id"  # the table was made WITHOUT ROWID
        # The driver raises for text that is not UTF-8; a blob it returns.
        value = "CASE typeof({0}) WHEN 'text' THEN CAST({0} AS BLOB) ELSE {0} END"
        return key, value, str(connection.execute(text("PRAGMA encoding")).scalar())


def _write_guarded(connection: Connection, group: Group) -> int:
    """Write the changes whose guard holds, and return their number."""
    names = group.names + GUARD
    if group.names not in (ENDING, GATED_ENDING) or len(group.columns[0]) == 1:
        return run_many(connection, guarded_statement(group.names), names, group.rows).rowcount
    count = 0
    for part in parts(names, group.columns, None):
        values, varying, columns = hoisted(names, part)
        ids = columns[varying.index("b_id")]
        rows = zip(ids, zip(*columns, strict=True), strict=True) if len(varying) > 1 else [(i, 0) for i in ids]
        values["rows"] = json_text(dict(rows))
        count += run(connection, ending_statement(group.names, varying), values).rowcount
    return count


def _file(url: URL) -> Path:
    return Path((url.database or "").removeprefix("file:").partition("?")[0]).resolve()


DIALECT = SqliteDialect()
