"""What a dialect has to say: URLs and drivers, connections, and the statements that databases spell differently.

The defaults suit a server with MVCC and ``FOR UPDATE SKIP LOCKED``.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple, TypeVar

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Engine,
    Select,
    String,
    TextClause,
    Update,
    bindparam,
    create_engine,
    func,
    make_url,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.change import Change
from aiotaskq.backends.flow.transaction import Transaction
from aiotaskq.backends.listeners import Listeners
from aiotaskq.backends.sql.changes import groups
from aiotaskq.backends.sql.claim_statements import PENDING, Head, claimable, heads_by_spans
from aiotaskq.backends.sql.connecting import STATEMENT_TIMEOUT, connected, create, in_time, keep_alive
from aiotaskq.backends.sql.connections import Connections, Notifier, Transactions
from aiotaskq.backends.sql.error_codes import ErrorCodes
from aiotaskq.backends.sql.names import Names, names_of
from aiotaskq.backends.sql.rows import DEFAULTS, TASKS, json_text, to_task
from aiotaskq.backends.sql.server_connections import ServerConnections
from aiotaskq.backends.sql.statement_size import Columns, chunks, parts
from aiotaskq.backends.sql.statements import Result, run, run_many
from aiotaskq.core.task import Task

S = TypeVar("S", Select[Any], Update)
Open = Callable[..., Awaitable[Any]]


PerKey = Callable[[ColumnElement[str], ColumnElement[int]], Select[Any]]
"""A query for a key, with a limit."""


class NewRows(NamedTuple):
    """Rows to insert, column by column."""

    table: Any
    names: tuple[str, ...]
    columns: Columns


Order = Sequence[ColumnElement[Any]]
"""Columns of ``task_queue`` by which a query for a key sorts its rows; empty if it does not."""


@functools.cache
def for_one_key(query: PerKey) -> Select[Any]:
    """Return the query for the parameters ``key_`` and ``limit_``."""
    return query(bindparam("key_", type_=String), bindparam("limit_", type_=BigInteger))


@functools.cache
def _on_one(dialect: Dialect, update: Update) -> Update:
    return dialect.by_id(update.where(TASKS.c.task_id == bindparam("b_id")))


@functools.cache
def _on_ids(dialect: Dialect, update: Update) -> Update:
    return dialect.by_id(update.where(dialect.among(TASKS.c.task_id, "ids")))


@functools.cache
def _replacing(dialect: Dialect, table: Any, names: tuple[str, ...]) -> Any:
    keys = table.primary_key.columns.keys()
    statement = dialect.upsert(table, keys, [name for name in names if name not in keys])
    return statement.values({name: bindparam(name) for name in names})


@functools.cache
def _set_by_id(names: tuple[str, ...]) -> TextClause:
    assignments = ", ".join(f"{name} = :{name}" for name in names)
    return text(f"UPDATE task_queue SET {assignments} WHERE task_id = :b_id")  # noqa: S608 - our own names


class Dialect(ABC):
    """One SQL database. Its objects keep no state."""

    # ---- URLs and drivers ----

    name: ClassVar[str]
    """The name of the database in SQLAlchemy's ``drivername``, and in error messages."""
    async_driver: ClassVar[str]
    sync_driver: ClassVar[str]
    extras: ClassVar[Mapping[str, str]] = {}
    """The extra of this package that installs a driver, by the driver's module; none for one that is always there."""
    options: ClassVar[frozenset[str] | None] = None
    """The options in the query of a URL that the drivers know; None for all."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Options under the names of other drivers, and their names here."""
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Options that are left out, since this package decides them."""
    codes: ClassVar[ErrorCodes]

    def __str__(self) -> str:
        return self.name

    def file(self, url: URL) -> str | None:
        """Return the path of the file that holds the database, None for a server."""
        return None

    def check_url(self, url: URL, shown: str) -> None:  # noqa: B027 - there may be nothing to do
        """Raise ValidationError for a URL that cannot be used; ``shown`` is the URL without its password."""

    def same_database(self, one: URL, other: URL) -> bool:
        """Whether two URLs of this dialect may lead to the same database: a pooler may stand at another address."""
        return (one.database or other.database) == other.database

    # ---- connections ----

    autocommit: ClassVar[bool] = False
    """Whether a single statement without BEGIN and COMMIT saves round trips; then ``claim_first`` is there, ``claim``
    writes the rows that it returns, and ``insert`` and ``write`` put many rows in one statement."""
    ids_by_bytes: ClassVar[bool] = True
    """Whether ids are in the order of their bytes, so that those with one prefix lie next to each other."""
    keeps_entries: ClassVar[bool] = False
    """Whether an index keeps an entry of each row as it was before, until the table is cleaned up."""
    single_writer: ClassVar[bool] = False
    """Whether a transaction locks the whole database, so that another connection waits for the caller's own."""

    @abstractmethod
    def sync_engine(self, url: URL, **options: Any) -> Engine:
        """Return a synchronous engine for a parsed URL. Raises MissingExtra."""

    @abstractmethod
    def async_engine(self, url: URL, own: bool = False, **options: Any) -> AsyncEngine:
        """Return an asynchronous engine for a parsed URL, which only this package uses if ``own``.

        Raises MissingExtra.
        """

    @abstractmethod
    def connections(self, database: Transactions, options: Mapping[str, Any]) -> Connections:
        """Return the connections of a database for the running loop, with these options; nothing is opened yet."""

    def notifier(self, database: Transactions, listeners: Listeners, given: URL) -> Notifier:
        """Return what passes hints between processes; ``given`` is the URL with all of its options."""
        return Notifier()

    def check_server(self, connection: Connection) -> None:  # noqa: B027 - there may be nothing to do
        """Raise DatabaseUnavailable for a server whose settings make it useless."""

    def tidy(self, connection: Connection) -> None:  # noqa: B027
        """Give back disk space that is not needed any more."""

    # ---- statements ----

    clock: ClassVar[str]
    """The expression for the server's time in microseconds UTC, whatever the session's time zone."""
    insert_into: ClassVar[Any]
    """SQLAlchemy's insert with the conflicts of the database."""
    lock_pushes: ClassVar[TextClause]
    """Takes a lock until the end of the transaction, so that no other process pushes into a bounded queue.

    It is a statement of its own: a statement that waits for a lock counts by a snapshot from before the wait.
    """
    partial_indexes: ClassVar[bool] = True
    """Whether there are indexes over some of the rows, such as the ended ones."""
    in_push_order: ClassVar[ColumnElement[bool]] = true()
    """Which rows are in the index in the order of pushes, if not all; ended ones are in another one, by status.

    Where it is all rows, the pending ones are in none by themselves: those of the index in claim order are sorted,
    which has the columns that are sorted by.
    """
    pending: ClassVar[Sequence[ColumnElement[bool]]] = (TASKS.c.status == PENDING,)
    """Conditions that part the pending rows so that an index has those of each; the last one is true of parked rows."""

    def statement_limit(self, connection: Connection) -> int | None:
        """Return how many bytes one statement may have, None for any number."""
        return None

    def heads(self, connection: Connection) -> Iterator[Head]:
        """Yield the first pending row of each priority, in order, without reading the rows between."""
        return heads_by_spans(connection)

    def claim(self, bare: bool, queues: int | None) -> Select[Any] | Update:
        """Return the statement of a claim in one priority: see :mod:`~aiotaskq.backends.sql.claim_statements`."""
        return claimable(bare, queues)

    def claim_first(self, queues: int | None) -> Update | None:
        """Return the statement that claims in the first priority, and returns last whether there is another one.

        None where a claim is more than one statement: without ``autocommit``.
        """
        return None

    def whole(self, connection: Connection, rows: Sequence[Any]) -> list[Task]:
        """Return the tasks of rows that a claim has read, and written, whose other columns are not all empty."""
        found: list[Task] = []
        for part in chunks([row[0] for row in rows]):
            found += map(to_task, connection.execute(self.by_id(select(TASKS).where(TASKS.c.task_id.in_(part)))))
        return found

    def expired(self, now: int) -> list[Select[Any]]:
        """Return queries for the pending tasks that have expired, of which each reads no others."""
        late = (TASKS.c.status == PENDING, TASKS.c.expires_at <= now)
        return [select(TASKS).where(*late).order_by(TASKS.c.expires_at)]

    def by_id(self, statement: S, table: Any = TASKS) -> S:
        """Make a statement that locks the rows of a list of ids read, and lock, no other rows."""
        return statement

    def by_gate(self, statement: S) -> S:
        """Make a statement of the tasks at one gate read no others."""
        return statement

    def set_on(self, connection: Connection, update: Update, ids: Sequence[str], values: Mapping[str, Any]) -> None:
        """Execute an update of ``task_queue`` on the rows with these ids, and touch no others."""
        if len(ids) == 1:
            run(connection, _on_one(self, update), {"b_id": ids[0], **values})
            return
        for part in chunks(ids):
            self.run_among(connection, _on_ids(self, update), "ids", part, values)

    def set_each(self, connection: Connection, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        """Set columns of ``task_queue``; each row has their values, and at its end the id. The rows are locked."""
        run_many(connection, _set_by_id(names), (*names, "b_id"), rows)

    def begins_with(self, column: ColumnElement[Any], prefix: str) -> list[ColumnElement[bool]]:
        """Return the conditions that a text begins with another one; where it can be, a range of an index."""
        begins = func.substr(column, 1, len(prefix)) == prefix
        # They lie next to each other, up to the largest character; in the order of a language there is no such range.
        return [column >= prefix, column < prefix + "\U0010ffff", begins] if self.ids_by_bytes else [begins]

    def by_bytes(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return a text as it is ordered by the code points of its characters."""
        return column

    @abstractmethod
    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """Return the condition that a column has one of the values of a parameter, for ``run_among``."""

    def run_among(
        self, connection: Connection, statement: Any, name: str, among: Sequence[str], values: Mapping[str, Any]
    ) -> Result:
        """Execute a statement with a condition of ``among``, which is kept for ever.

        The values are one JSON text: one statement for any number of them.
        """
        return run(connection, statement, {name: json_text(list(among)), **values})

    def each(self, connection: Connection, query: PerKey, limits: Mapping[str, int], order: Order = ()) -> list[Any]:
        """Return the rows of a query for each key with its limit; with an ``order`` perhaps more of a key."""
        statement = for_one_key(query)
        return [
            row
            for key, limit in limits.items()
            for row in run(connection, statement, {"key_": key, "limit_": limit}).fetchall()
        ]

    @abstractmethod
    def insert(self, connection: Connection, new: NewRows, notify: tuple[str, str] | None = None) -> int:
        """Insert the rows that conflict with no other. Return their number if it is all of them, else a smaller one.

        Only a conflict of keys is passed over; any other fault of a row raises, and none is stored. ``notify`` is the
        channel and the message of a notification to send with new rows, where ``notifier`` made one.
        """

    def insert_held(self, connection: Connection, new: NewRows, runs: Columns) -> tuple[int, list[bool]] | None:
        """Insert rows of tasks that run so and conflict with no other, in one statement.

        Return their number, and of each row whether its task does. None where one statement does not tell both: then
        some of the rows may be there. ``runs`` are the ids, the push stamps and the fences of the tasks, which stay
        locked until the transaction ends.
        """
        return None

    def upsert(self, table: Any, keys: Sequence[str], others: Sequence[str]) -> Any:
        """Return the insert of rows with these columns that replaces the row with the same primary key."""
        statement = self.insert_into(table)
        return statement.on_conflict_do_update(
            index_elements=keys, set_={name: statement.excluded[name] for name in others}
        )

    def write_guarded(self, connection: Connection, changes: Sequence[Change]) -> list[bool] | None:
        """Write each change whose guard holds, and return which did; None, and nothing is written, if unknown.

        There is at most one change for each row, and none whose guard is the lease.
        """
        return None

    def write(self, connection: Connection, changes: Sequence[Change]) -> None:
        """Write changes whose guard is known to hold: the rows are locked."""
        for group in groups(changes):
            written_by_id = group.columns[: len(group.names) + 1]
            self.set_each(connection, group.names, list(zip(*written_by_id, strict=True)))

    def clock_set(self, connection: Connection, anchor: int, back: int, now: int) -> bool:
        """Do what ``Backend.clock_set`` says for tasks and workers where the database has no clock.

        Return whether rows were moved: then the gates are to be moved as well.
        """
        return False

    # ---- migrations ----

    def compiler(self, scheme: str) -> Any:
        """Return a SQLAlchemy dialect object that compiles statements for the scheme of a URL."""
        return make_url(f"{self.name}://").get_dialect()()

    def migration_lock(self, connection: Connection) -> AbstractContextManager[None]:
        """Keep other processes from migrating the same database at the same time."""
        return nullcontext()

    def convert_table(  # noqa: B027 - there may be nothing to do
        self, connection: Connection, table: str, columns: Sequence[Column[Any]]
    ) -> None:
        """Give the documented columns of an adopted table the types of this package where theirs lose data."""

    def tune_tasks(self, connection: Connection) -> None:  # noqa: B027 - there may be nothing to do
        """Set the storage options of an adopted ``task_queue``."""

    routine: ClassVar[str] = "{};\n\n"
    """A statement of ``push_sql`` in a script for the database's own client."""

    def push_sql(self, compiler: Any, names: Names | None) -> Sequence[str]:
        """Return the statements that make ``aiotaskq_push``, also where it is; ``compiler`` as from that method."""
        return ()

    def make_push(self, connection: Connection) -> None:
        """Make ``aiotaskq_push``, also where it is."""
        for statement in self.push_sql(connection.dialect, names_of(connection)):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})  # it has percent signs

    def raw(self, connection: Connection, table: str) -> tuple[str, str, str]:
        """Return how an adopted table is read as it is stored: the column that finds a row again, the expression for a
        value, with ``{0}`` for its column, and the encoding of the texts that it returns as bytes.
        """
        return "task_id", "{0}", "UTF-8"


class ServerDialect(Dialect):
    """One database server."""

    def sync_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        """Return the URL and the arguments of a connection for the synchronous driver."""
        return url, {}

    @abstractmethod
    def async_arguments(self, url: URL, own: bool) -> tuple[URL, dict[str, Any], Open]:
        """Return the URL and the arguments of a connection for SQLAlchemy, and what opens one of the async driver.

        ``own`` is whether only this package uses the connection.
        """

    def sync_engine(self, url: URL, **options: Any) -> Engine:
        url, arguments = self.sync_arguments(url)
        # A connection that a restarted server has forgotten must not surface in code that does not retry.
        options = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED", "connect_args": arguments, **options}
        return create(create_engine, url, self.extras, **options)

    def async_engine(self, url: URL, own: bool = False, **options: Any) -> AsyncEngine:
        url, arguments, open_one = self.async_arguments(url, own)

        async def creator(**given: Any) -> Any:
            driver = await in_time(open_one(**given))
            keep_alive(driver)
            if own:
                connected(driver)
            return driver

        arguments["async_creator_fn"] = creator
        options = {"isolation_level": "READ COMMITTED", "connect_args": arguments, **options}
        return create(create_async_engine, url, self.extras, **options)

    def connections(self, database: Transactions, options: Mapping[str, Any]) -> Connections:
        options = {"pool_timeout": STATEMENT_TIMEOUT, "pool_size": 5, "max_overflow": 5, **options}
        engine = self.async_engine(database.url, True, **options)
        return ServerConnections(engine, database.shown, self.codes, self.autocommit, self.limited, database.patience)

    def limited(self, connection: Connection, seconds: float) -> AbstractContextManager[None]:
        """Let the server cancel, within this block, each statement of the transaction that takes longer."""
        return nullcontext()


class Tx(Transaction):
    """The transaction of a connection, with the dialect of its database."""

    def __init__(self, connection: Connection, dialect: Dialect) -> None:
        self.connection, self.dialect = connection, dialect
        self.new = set[str]()
        """The ids of tasks that it has inserted."""

    def rows_in(self, query: Any, column: ColumnElement[Any], values: Sequence[str]) -> Iterator[Any]:
        """Yield the rows of a query whose column has one of these values."""
        for part in chunks(values):
            yield from self.connection.execute(query.where(column.in_(part)))

    def rows_for(self, statement: Any, keys: Sequence[str], values: Mapping[str, Any]) -> list[Any]:
        """Return the rows of a statement with the condition ``Dialect.among`` on ``keys``, for these keys or ids."""
        return [
            row
            for part in chunks(keys)
            for row in self.dialect.run_among(self.connection, statement, "keys", part, values).fetchall()
        ]

    def distinct(
        self, column: ColumnElement[Any], *where: ColumnElement[bool], above: str | None = None
    ) -> Iterator[str]:
        """Yield the values of an indexed column in these rows, without reading the rows, up to the first NULL."""
        query, execute = select(column).where(*where).order_by(column).limit(1), self.connection.execute
        while (above := execute(query if above is None else query.where(column > above)).scalar()) is not None:
            yield above

    def insert_new(
        self, table: Any, names: Sequence[str], rows: Sequence[tuple[Any, ...]], notify: tuple[str, str] | None = None
    ) -> int:
        """Insert the rows that conflict with no other. Return their number if it is all of them, else a smaller number.

        With ``notify`` (see ``Dialect.insert``) the rows must fit one statement.
        """
        # Without the columns that are what they are by default in all of the rows, as most of a task's are.
        found = zip(names, zip(*rows, strict=True), strict=True)
        kept = {name: values for name, values in found if values != (DEFAULTS.get(name),) * len(rows)}
        names, columns = tuple(kept), list(kept.values())
        limit = self.dialect.statement_limit(self.connection)
        pieces = [columns] if notify is not None else parts(names, columns, limit)
        return sum([self.dialect.insert(self.connection, NewRows(table, names, piece), notify) for piece in pieces])

    def replace(self, table: Any, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert the rows; one whose primary key is there already takes the place of the old one."""
        places = [names.index(column.name) for column in table.primary_key]
        # In the order of the keys, so that two writers of the same ones wait for each other in one direction only.
        values = sorted(rows, key=lambda row: [row[place] for place in places])
        statement = _replacing(self.dialect, table, names)
        for part in parts(names, list(zip(*values, strict=True)), self.dialect.statement_limit(self.connection)):
            run_many(self.connection, statement, names, list(zip(*part, strict=True)))
