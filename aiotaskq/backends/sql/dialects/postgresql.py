"""PostgreSQL, by asyncpg and psycopg."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Final

import msgspec
from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Boolean,
    Connection,
    Float,
    Integer,
    Select,
    String,
    Text,
    TextClause,
    Update,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    null,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.change import Change
from aiotaskq.backends.listeners import READY, Listeners
from aiotaskq.backends.sql import push_sql
from aiotaskq.backends.sql.changes import GUARD, groups, hoisted
from aiotaskq.backends.sql.claim_statements import (
    CLAIMED,
    EMPTY,
    PENDING,
    READ,
    first,
    not_parked,
    ready_from,
    ready_from_head,
)
from aiotaskq.backends.sql.connecting import CONNECT_TIMEOUT, DRIVER_TIMEOUT
from aiotaskq.backends.sql.connections import Notifier, Transactions
from aiotaskq.backends.sql.dialects.base import NewRows, Open, Order, PerKey, ServerDialect
from aiotaskq.backends.sql.error_codes import ErrorCodes
from aiotaskq.backends.sql.names import Names
from aiotaskq.backends.sql.postgresql_notifier import Notifications, channel, messages
from aiotaskq.backends.sql.rows import CLAIM, TASKS, json_text, to_task
from aiotaskq.backends.sql.statement_size import Columns, parts
from aiotaskq.backends.sql.statements import run
from aiotaskq.core.gate import PARKED
from aiotaskq.core.status import RUNNING
from aiotaskq.core.task import Task
from aiotaskq.errors import ValidationError

_MIGRATION_LOCK: Final = 0x61696F7461736B71  # "aiotaskq" in ASCII
# Sweep up after some thousand tasks, not only when a fifth of all rows are dead: a claim has to pass them by.
_VACUUM: Final = "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000"

_WHOLE: Final = case((EMPTY, null()), else_=cast(func.to_json(literal_column("task_queue.*")), Text))
_PLACE: Final[ColumnElement[Any]] = literal_column("task_queue.ctid")


def _claim_of(ready: Select[Any]) -> Update:
    """Claim by the place in the table: no plan can take another way to the rows, whatever the statistics say."""
    picked = ready.cte("picked")
    places = func.array(select(picked.c.place).scalar_subquery())
    statement: Any = update(TASKS).where(_PLACE.op("=")(func.any(places))).values(CLAIMED)
    return statement.returning(*READ[:-1], _WHOLE)  # type: ignore[no-any-return]


@compiles(not_parked, "postgresql")
def _not_parked(element: not_parked, compiler: Any, **options: Any) -> str:
    return f"{compiler.process(element.clauses, **options)} < {PARKED}"


def _unknown(parameter: ColumnElement[int]) -> ColumnElement[int]:
    """Return a parameter whose value is not known when a plan is made.

    Else the plan for certain values looks cheaper than one for any, the more so the more tasks wait: the statement
    would be planned anew each time that it is executed, which takes about as long as to execute it.
    """
    return select(parameter).scalar_subquery()


@functools.cache
def _claim(bare: bool, queues: int | None) -> Update:
    return _claim_of(ready_from_head(bare, queues, _PLACE.label("place"), given=_unknown))


@functools.cache
def _claim_first(queues: int | None) -> Update:
    lowest, higher, bare = (TASKS.alias(name) for name in ("lowest", "higher", "bare"))
    head = first(lowest).with_only_columns(lowest.c.priority, lowest.c.run_at, lowest.c.seq).cte("head")
    priority, run_at, seq = (select(column).scalar_subquery() for column in head.c)
    ready = ready_from(TASKS.c.priority == priority, run_at, seq, queues, _PLACE.label("place"), given=_unknown)
    # As the first in an order, which is found by the index: EXISTS would be looked for in the table.
    above = first(higher, higher.c.priority > priority).with_only_columns(higher.c.task_id).scalar_subquery()
    without = first(bare, bare.c.priority.is_(None)).with_only_columns(bare.c.task_id).scalar_subquery()
    statement: Any = _claim_of(ready)
    return statement.returning(func.coalesce(above, without).is_not(None))  # type: ignore[no-any-return]


@functools.cache
def _lateral(query: PerKey) -> Select[Any]:
    limits = func.json_to_recordset(cast(bindparam("limits", type_=Text), JSON))
    keys = limits.table_valued(column("key_", Text), column("limit_", BigInteger)).render_derived(with_types=True)
    found = query(keys.c.key_, keys.c.limit_).lateral("found")
    return select(found).select_from(keys.join(found, true()))


# ---- many rows in one statement ----

# The rows as one JSON text: one statement for any number of them. VALUES lists would have thousands of parameters,
# executemany has no count, and for arrays asyncpg looks up their types on each new connection. What is the same in all
# rows is a parameter. Strings are not cast to their width: that would cut them.
_TYPES: Final = ((String, "text"), (Boolean, "boolean"), (Float, "double precision"), (Integer, "bigint"))
_OTHER_TYPES: Final = {
    **dict(zip(GUARD, ("text", "text", "bigint", "boolean", "boolean"), strict=True)),
    "b_task": "text",
    "b_seq": "bigint",
}
HOLDER: Final = ("b_task", "b_seq", "b_fence")
"""The columns of ``insert_held_statement`` that say which run of which task a row is of; they are in each row."""


class Source:
    """Where a statement takes its values from: ``names``, of which those in ``varying`` are in the rows."""

    def __init__(self, table: Any, names: Sequence[str], varying: Sequence[str]) -> None:
        types = {name: _OTHER_TYPES.get(name) or _type(table.c[name].type) for name in names}
        self.values = {name: f"r.{name}" if name in varying else f"CAST(:{name} AS {types[name]})" for name in names}
        record = ", ".join(f"{name} {types[name]}" for name in varying)
        self.rows = f"json_to_recordset(CAST(CAST(:rows AS text) AS json)) AS r({record})" if varying else ""
        self.from_rows = f"FROM {self.rows}" if varying else ""


def _type(column: Any) -> str:
    return next(sql for python, sql in _TYPES if isinstance(column, python))


def varying_values(varying: Sequence[str], columns: Columns) -> dict[str, Any]:
    """Return the parameter of the rows, which have these columns."""
    return {"rows": json_text([dict(zip(varying, row, strict=True)) for row in zip(*columns, strict=True)])}


@functools.cache
def insert_statement(table: Any, names: tuple[str, ...], varying: tuple[str, ...], notify: bool) -> TextClause:
    source = Source(table, names, varying)
    new = (
        f"INSERT INTO {table.name} ({', '.join(names)}) "
        f"SELECT {', '.join(source.values.values())} {source.from_rows} ON CONFLICT DO NOTHING"
    )
    told = ", CASE WHEN count(*) > 0 THEN pg_notify(:channel, :message) END" if notify else ""
    return text(f"WITH new AS ({new} RETURNING 1) SELECT count(*){told} FROM new")  # noqa: S608


# The rows must be locked in the order in which they are given, or two writers might wait for each other. They are if
# the plan reads the table into a hash, and looks up one given row after the other. A plan that begins with the table
# locks in the order of its pages. Its estimated cost is the same where the index is large for its rows, as a backlog
# leaves it, unless many given rows are expected. The planner expects 100 from JSON, and 1,000 from a series of unknown
# length: a join of both is expected to have 100,000, and has as many as the JSON.
_ESTIMATED_AS_MANY = "generate_series(1, (SELECT 1))"


@functools.cache
def set_statement(names: tuple[str, ...], guard: tuple[str, ...], varying: tuple[str, ...]) -> TextClause:
    source = Source(TASKS, names + guard, varying)
    b_id, *others = [source.values[name] for name in guard]
    each, among = "", f"t.task_id = {b_id}"
    if "b_id" in varying:
        each = f"r AS MATERIALIZED (SELECT r.* FROM {source.rows}, {_ESTIMATED_AS_MANY}), "  # noqa: S608
        # As an array, too: a plan that was made while the table was small would read all of it, for a join.
        among += " AND t.task_id = ANY (ARRAY(SELECT b_id FROM r))"
    if others:
        b_status, b_fence, b_final, b_cancel = others
        # The status as an expression, or all running rows might be read by their index, and locked in its order.
        among += f" AND t.status || '' = {b_status} AND t.fence = {b_fence}"
        among += f" AND ({b_final} OR t.cancel_requested = {b_cancel})"
    write = (
        f"UPDATE task_queue AS t SET {', '.join(f'{name} = {source.values[name]}' for name in names)} "  # noqa: S608
        f"{'FROM r' if each else source.from_rows} WHERE {among} RETURNING t.task_id"
    )
    # The ids only if not all rows were written: nearly always all are, and an answer with ids takes longer.
    some = "CASE WHEN count(*) < CAST(:count AS bigint) THEN coalesce(CAST(json_agg(task_id) AS text), '[]') END"
    return text(f"WITH {each}written AS ({write}) SELECT {some} FROM written")  # noqa: S608 - our own names


@functools.cache
def insert_held_statement(table: Any, names: tuple[str, ...], varying: tuple[str, ...]) -> TextClause:
    """Insert the rows of tasks that run with these fences; one that conflicts with another stays out.

    The answer is their number and, unless it is all, which runs have their task. A task is locked before its row is
    compared: one that another transaction has is waited for, and compared as that leaves it.
    """
    source = Source(table, (*names, *HOLDER), HOLDER + varying)
    held = (
        "SELECT t.task_id, t.seq, t.fence FROM task_queue AS t WHERE t.task_id = ANY (ARRAY(SELECT b_task FROM r)) "  # noqa: S608
        # A shared lock: a handler's own transaction may have one as well, by a step of it.
        f"AND t.status || '' = '{RUNNING.value}' ORDER BY t.task_id FOR SHARE"
    )
    mine = "r JOIN held ON held.task_id = r.b_task AND held.seq = r.b_seq AND held.fence = r.b_fence"
    new = (
        f"INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608 - our own names
        f"SELECT {', '.join(source.values[name] for name in names)} FROM {mine} ON CONFLICT DO NOTHING RETURNING 1"
    )
    which = f"SELECT coalesce(json_agg(json_build_array(r.b_task, r.b_seq, r.b_fence)), '[]') FROM {mine}"  # noqa: S608
    return text(
        f"WITH r AS MATERIALIZED (SELECT * FROM {source.rows}), held AS MATERIALIZED ({held}), new AS ({new}) "  # noqa: S608
        f"SELECT count(*), CASE WHEN count(*) < CAST(:count AS bigint) THEN CAST(({which}) AS text) END FROM new"
    )


# ---- the dialect ----


async def _connect(dsn: str, prepare: bool = True, settings: str = "") -> Any:
    """Return an asyncpg connection, for a ``postgresql://`` URL as libpq takes it. Raises OSError.

    ``prepare`` is whether prepared statements are kept from one call to the next; ``settings`` is executed first.
    """
    import asyncpg

    options = {} if prepare else {"statement_cache_size": 0}
    connection = await asyncpg.connect(dsn, timeout=DRIVER_TIMEOUT, **options)
    ready = False
    try:
        if settings:
            await connection.execute(settings)
        ready = True
    finally:
        if not ready:  # nothing else knows of it
            connection.terminate()
    return connection


async def _nothing(_connection: object) -> None:
    pass


class PostgresqlDialect(ServerDialect):
    """PostgreSQL."""

    name = "postgresql"
    async_driver = "asyncpg"
    sync_driver = "psycopg"
    extras: ClassVar = {"psycopg": "postgres"}
    options = frozenset(
        {
            *("host", "port", "user", "password", "passfile", "service", "application_name", "options", "krbsrvname"),
            *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "target_session_attrs"),
            *("ssl_min_protocol_version", "ssl_max_protocol_version", "pooler"),
        }
    )
    aliases: ClassVar = {"ssl": "sslmode"}
    ignored = frozenset(
        {
            *("connect_timeout", "command_timeout", "client_encoding", "tcp_user_timeout", "async_fallback"),
            *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
            *("statement_cache_size", "prepared_statement_cache_size", "notify"),
        }
    )
    codes = ErrorCodes(
        gave_way={"40001", "40P01"},
        gave_way_text="cached statement plan is invalid",
        duplicate={"23505"},
        gone={"25006", "57P01", "57P02", "57P03"},
        cancelled={"57014"},
        no_table={"42P01"},
        unprepared={"26000", "42P05"},
    )
    autocommit = True
    ids_by_bytes = False  # the order is that of the database's language
    in_push_order = TASKS.c.status == PENDING
    keeps_entries = True
    insert_into = staticmethod(insert)
    clock = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"
    lock_pushes = text(
        # By the number of the table: each schema has one of its own, whatever it is called by.
        "SELECT pg_advisory_xact_lock(hashtext('aiotaskq.push'), hashtext('task_queue'::regclass::oid::text))"
    )
    session_settings = "SET enable_seqscan = off; SET jit = off; SET max_parallel_workers_per_gather = 0"
    """The settings of the package's own connections.

    A prepared plan from when the table was small scans all of it until the statistics are renewed, so scans are
    disabled: each of our statements has an index. Before PostgreSQL 18 a scan that is used all the same, such as that
    of the paused queues, adds 1e10 to the plan's cost, and JIT would compile each such plan. Parallel workers take
    longer to start than these statements to run.
    """

    def check_url(self, url: URL, shown: str) -> None:
        pooler = str(url.query.get("pooler", "transaction"))
        if pooler != "transaction":
            raise ValidationError(f"url: pooler can only be 'transaction' (got {pooler[:40]!r})")

    def sync_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        arguments: dict[str, Any] = {"connect_timeout": int(CONNECT_TIMEOUT)}
        if "pooler" in url.query:
            arguments["prepare_threshold"] = None
        return url.difference_update_query(["pooler"]), arguments

    def async_arguments(self, url: URL, own: bool) -> tuple[URL, dict[str, Any], Open]:
        # Behind a pooler the next transaction is on another connection: prepared statements get no name there and are
        # not kept, and settings of the session would reach the sessions of others.
        pooled = "pooler" in url.query
        url = url.difference_update_query(["pooler"])
        settings = self.session_settings if own and not pooled else ""
        dsn = self._dsn(url)

        async def open_one(**_arguments: Any) -> Any:
            return await _connect(dsn, not pooled, settings)

        unprepared = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
        return url, unprepared if pooled else {}, open_one

    def async_engine(self, url: URL, own: bool = False, **options: Any) -> AsyncEngine:
        made = super().async_engine(url, own, **options)
        if own:
            # They cost each new connection two round trips; no column of ours is JSON to PostgreSQL.
            for name in ("setup_asyncpg_json_codec", "setup_asyncpg_jsonb_codec"):
                setattr(made.dialect, name, _nothing)
        return made

    def _dsn(self, url: URL) -> str:
        return url.set(drivername="postgresql").render_as_string(hide_password=False)

    @contextmanager
    def limited(self, connection: Connection, seconds: float) -> Iterator[None]:
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(seconds * 1000)}")
        yield

    def notifier(self, database: Transactions, listeners: Listeners, given: URL) -> Notifier:
        notify = given.query.get("notify", "on")
        if notify not in ("on", "off"):
            raise ValidationError(f"url: notify is on or off (got {notify!r:.40})")
        if notify == "off" or "pooler" in given.query:  # LISTEN needs a session of its own
            return Notifier()
        return Notifications(database, listeners, partial(_connect, self._dsn(database.url)))

    def claim(self, bare: bool, queues: int | None) -> Update:
        return _claim(bare, queues)

    def claim_first(self, queues: int | None) -> Update:
        return _claim_first(queues)

    def whole(self, connection: Connection, rows: Sequence[Any]) -> list[Task]:
        # Not read by a second statement: each of these may go without a transaction.
        found = [msgspec.json.decode(row[len(CLAIM)]) for row in rows]
        return [to_task([values[column.name] for column in TASKS.columns]) for values in found]

    def by_bytes(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return column.collate("C")

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        values = select(func.json_array_elements_text(cast(bindparam(name, type_=Text), JSON)))
        # As an array: no plan can join, and read all rows for it.
        return column.op("=")(func.any(func.array(values.scalar_subquery())))

    def each(self, connection: Connection, query: PerKey, limits: Mapping[str, int], order: Order = ()) -> list[Any]:
        rows = json_text([{"key_": key, "limit_": limit} for key, limit in limits.items()])
        return list(run(connection, _lateral(query), {"limits": rows}).fetchall())

    def insert(self, connection: Connection, new: NewRows, notify: tuple[str, str] | None = None) -> int:
        values, varying, columns = hoisted(new.names, new.columns)
        values |= varying_values(varying, columns)
        if notify is not None:
            values |= {"channel": notify[0], "message": notify[1]}
        statement = insert_statement(new.table, new.names, varying, notify is not None)
        return int(run(connection, statement, values).fetchall()[0][0])

    def insert_held(self, connection: Connection, new: NewRows, runs: Columns) -> tuple[int, list[bool]]:
        inserted, held = 0, [True] * len(runs[0])
        start = 0
        for part in parts(new.names, new.columns, None):
            count = len(part[0])
            values, varying, rest = hoisted(new.names, part)
            holders = [column[start : start + count] for column in runs]
            values |= varying_values(HOLDER + varying, [*holders, *rest]) | {"count": count}
            statement = insert_held_statement(new.table, new.names, varying)
            ((some, which),) = run(connection, statement, values).fetchall()
            inserted += some
            if which is not None:
                found = {tuple(each) for each in msgspec.json.decode(which)}
                held[start : start + count] = [each in found for each in zip(*holders, strict=True)]
            start += count
        return inserted, held

    def write_guarded(self, connection: Connection, changes: Sequence[Change]) -> list[bool]:
        """Write them; a locked row is waited for, and its guard is read again afterwards."""
        held: set[str] = set()
        # In the order of the ids, so that two writers of the same rows wait for each other in one direction only.
        for group in groups(sorted(changes, key=lambda change: change.before.task_id)):
            held.update(self._set(connection, group.names, GUARD, group.columns))
        return [change.before.task_id in held for change in changes]

    def set_each(self, connection: Connection, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        self._set(connection, names, GUARD[:1], list(zip(*rows, strict=True)))

    def _set(
        self, connection: Connection, names: tuple[str, ...], guard: tuple[str, ...], columns: Columns
    ) -> list[str]:
        """Set columns of the rows whose guard holds, and return their ids; ``columns`` are the values of both."""
        held: list[str] = []
        for part in parts(names + guard, columns, None):
            values, varying, rest = hoisted(names + guard, part)
            values |= varying_values(varying, rest) | {"count": len(part[0])}
            ((some,),) = run(connection, set_statement(names, guard, varying), values).fetchall()
            held += part[len(names)] if some is None else msgspec.json.decode(some)
        return held

    @contextmanager
    def migration_lock(self, connection: Connection) -> Iterator[None]:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))  # ends with the transaction
        yield

    def tune_tasks(self, connection: Connection) -> None:
        own = connection.execute(text("SELECT reloptions FROM pg_class WHERE oid = 'task_queue'::regclass")).scalar()
        if own is None:  # else its owner has decided
            connection.execute(text(f"ALTER TABLE task_queue SET ({_VACUUM})"))

    def push_sql(self, compiler: Any, names: Names | None) -> Sequence[str]:
        return push_sql.postgresql(self.clock, channel(names), next(messages("sql", READY, ())))


DIALECT = PostgresqlDialect()
