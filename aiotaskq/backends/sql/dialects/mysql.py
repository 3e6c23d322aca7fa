"""MySQL and MariaDB, by asyncmy and pymysql."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Final

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Select,
    String,
    TextClause,
    bindparam,
    exc,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects.mysql import insert
from sqlalchemy.schema import CreateColumn
from sqlalchemy.sql.elements import ColumnElement

from aiotaskq.backends.sql import push_sql
from aiotaskq.backends.sql.claim_statements import PENDING, Head, heads_of_first_rows
from aiotaskq.backends.sql.connecting import CONNECT_TIMEOUT, DRIVER_TIMEOUT
from aiotaskq.backends.sql.dialects.base import NewRows, Open, Order, PerKey, S, ServerDialect, for_one_key
from aiotaskq.backends.sql.error_codes import ErrorCodes, is_one_of
from aiotaskq.backends.sql.names import Names, Tables
from aiotaskq.backends.sql.rows import TASKS
from aiotaskq.backends.sql.statement_size import parts
from aiotaskq.backends.sql.statements import Result, run_many, run_union
from aiotaskq.errors import DatabaseUnavailable, ValidationError
from aiotaskq.log import log
from aiotaskq.models import LongText, Name, mysql_collation

LOCK_TIMEOUT: Final = 5
"""Seconds to wait for a row lock; the server's own 50 are more than a caller waits for an answer."""
LEAST_PACKET: Final = 128 * 1024
"""Bytes below which ``max_allowed_packet`` leaves no room for tasks."""
MIGRATION_WAIT: Final = 60
"""Seconds to wait for another process's migration."""
BRANCHES: Final = 100
"""Queries in one UNION ALL: each opens the table again, of which the server's ``table_open_cache`` keeps some."""
_KNOWN_PACKET: Final = "aiotaskq_max_allowed_packet"
_DUPLICATE_KEY: Final = 1062
_DENIED: Final = {1044, 1142, 1227, 1370, 1419}
"""Errors of an account that may not create routines: ER_DBACCESS_DENIED_ERROR, ER_TABLEACCESS_DENIED_ERROR,
ER_SPECIFIC_ACCESS_DENIED_ERROR, ER_PROCACCESS_DENIED_ERROR, ER_BINLOG_CREATE_ROUTINE_NEED_SUPER."""

# Whatever the server has: a text that is too long must be refused, not cut. MariaDB's own setting, on since 11.6.2
# (MDEV-35124), makes a locking read fail with 1020 for a row that another transaction has changed since the statement
# began. Ours lock what is there now and check it by its fence, as on every other MySQL; busy claimers on one index
# would be refused again and again.
_SESSION: Final = (
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT}, "
    "sql_mode = CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_TRANS_TABLES')"
    " /*M!110602 , innodb_snapshot_isolation = OFF */"
)


@functools.cache
def _insert(table: str, names: tuple[str, ...], conflict: str) -> TextClause:
    values = ", ".join(f":{name}" for name in names)
    return text(f"INSERT INTO {table} (`{'`, `'.join(names)}`) VALUES ({values}){conflict}")  # noqa: S608 - our own names


@functools.cache
def _of_gates(query: PerKey, order: Order) -> Select[Any]:
    """Return the query for all of the ``keys`` in one statement: the rows gate by gate, with one limit for all."""
    at, keys = TASKS.c.live_gate, bindparam("keys", type_=String, expanding=True)
    every = query(at, bindparam("limit_")).where(at.in_(keys)).order_by(None).order_by(at, *order)
    return DIALECT.by_gate(every)


@functools.cache
def _by_gate(query: PerKey) -> Select[Any]:
    """Return a query for one gate by the index of gates, or by ids; for many rows it would read the whole table."""
    statement = for_one_key(query)
    return (DIALECT.by_gate if statement.get_final_froms() == [TASKS] else DIALECT.by_id)(statement)


class MysqlDialect(ServerDialect):
    """MySQL and MariaDB."""

    name = "mysql"
    async_driver = "asyncmy"
    sync_driver = "pymysql"
    extras: ClassVar = {"asyncmy": "mysql", "pymysql": "mysql"}
    options = frozenset(
        {
            *("unix_socket", "ssl_mode", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher"),
            "ssl_check_hostname",
        }
    )
    aliases: ClassVar = {"ssl-mode": "ssl_mode", "sslmode": "ssl_mode", "sslMode": "ssl_mode", "ssl": "ssl_mode"}
    ignored = frozenset(
        {
            *("charset", "collation", "use_unicode", "binary_prefix", "autocommit", "sql_mode"),
            *("connect_timeout", "read_timeout", "write_timeout"),
        }
    )
    codes = ErrorCodes(
        gave_way={1020, 1205, 1213, 1412},
        duplicate={_DUPLICATE_KEY},
        gone={1053, 1290, 1792, 1836, 1927, 4031},
        cancelled={1969, 3024},
        no_table={1146},
    )
    insert_into = staticmethod(insert)
    clock = "timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6))"
    lock_pushes = text("INSERT INTO aiotaskq_queue (name, paused) VALUES ('', false) ON DUPLICATE KEY UPDATE name = ''")
    partial_indexes = False
    in_push_order = TASKS.c.status == PENDING

    def sync_arguments(self, url: URL) -> tuple[URL, dict[str, Any]]:
        return self._arguments(url, int(CONNECT_TIMEOUT))

    def async_arguments(self, url: URL, own: bool) -> tuple[URL, dict[str, Any], Open]:
        return *self._arguments(url, DRIVER_TIMEOUT), _connect

    def _arguments(self, url: URL, timeout: float) -> tuple[URL, dict[str, Any]]:
        url, context = _tls(url)
        arguments: dict[str, Any] = {"charset": "utf8mb4", "init_command": _SESSION, "connect_timeout": timeout}
        return url, arguments | ({"ssl": context} if context else {})

    def check_server(self, connection: Connection) -> None:
        if (limit := self.statement_limit(connection)) < LEAST_PACKET:
            shown = connection.engine.url.set(query={}).render_as_string(hide_password=True)
            raise DatabaseUnavailable(
                f"{shown}: max_allowed_packet is {limit:,} bytes, and at least {LEAST_PACKET:,} are needed; raise it "
                "in the server's configuration (16M is usual)"
            )

    @contextmanager
    def limited(self, connection: Connection, seconds: float) -> Iterator[None]:
        mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
        name = "max_statement_time" if mariadb else "max_execution_time"
        connection.exec_driver_sql(f"SET SESSION {name} = {seconds if mariadb else round(seconds * 1000)}")
        try:
            yield
        finally:
            if not connection.invalidated:  # the setting has ended with it
                connection.exec_driver_sql(f"SET SESSION {name} = DEFAULT")

    def statement_limit(self, connection: Connection) -> int:
        """Return ``max_allowed_packet``, read once for each connection."""
        found: int | None = connection.info.get(_KNOWN_PACKET)
        if found is None:
            found = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
            connection.info[_KNOWN_PACKET] = found
        return found

    def heads(self, connection: Connection) -> Iterator[Head]:
        # No plan of its finds the first row "above" a value of another row by the index.
        return heads_of_first_rows(connection)

    def expired(self, now: int) -> list[Select[Any]]:
        # The columns between are NULL while a task is pending, unless another program has set its status.
        owner, until, expires = TASKS.c.lease_owner, TASKS.c.lease_until, TASKS.c.expires_at
        kinds = (
            (owner.is_(None), until.is_(None)),
            (owner.is_(None), until.is_not(None)),
            (owner.is_not(None),),
        )
        late = select(TASKS).where(TASKS.c.status == PENDING, expires <= now).order_by(owner, until, expires)
        late = late.with_hint(text="FORCE INDEX (ix_task_queue_overdue)", selectable=TASKS)
        return [late.where(*kind) for kind in kinds]

    def by_id(self, statement: S, table: Any = TASKS) -> S:
        # Else it reads a small table from end to end, and locks, or waits for, every row on its way.
        return statement.with_hint(text="FORCE INDEX (PRIMARY)", selectable=table)

    def by_gate(self, statement: S) -> S:
        return statement.with_hint(text="FORCE INDEX (ix_task_queue_gate)", selectable=TASKS)

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        return column.in_(bindparam(name, expanding=True))

    def run_among(
        self, connection: Connection, statement: Any, name: str, among: Sequence[str], values: Mapping[str, Any]
    ) -> Result:
        return connection.execute(statement, {name: list(among), **values})

    def each(self, connection: Connection, query: PerKey, limits: Mapping[str, int], order: Order = ()) -> list[Any]:
        if order and len(limits) > 1:
            # One range of the index: where few wait at each gate, it has all of them.
            most = sum(limits.values())
            rows = connection.execute(_of_gates(query, order), {"keys": list(limits), "limit_": most}).fetchall()
            if len(rows) < most:
                return list(rows)
        # MariaDB has no LATERAL.
        values = [{"key_": key, "limit_": limit} for key, limit in limits.items()]
        found: list[Any] = []
        for start in range(0, len(values), BRANCHES):
            part = values[start : start + BRANCHES]
            found += run_union(connection, _by_gate(query), part).fetchall()
        return found

    def insert(self, connection: Connection, new: NewRows, notify: tuple[str, str] | None = None) -> int:
        table, names, rows = new.table, new.names, list(zip(*new.columns, strict=True))
        try:
            # A conflict undoes this statement, not the transaction. No row count is asked: whether it means rows found
            # or rows changed is up to each client.
            run_many(connection, _insert(table.name, names, ""), names, rows)
            return len(rows)
        except exc.IntegrityError as error:
            if getattr(error.orig, "args", (0,))[0] != _DUPLICATE_KEY:
                raise
        # IGNORE would pass over every other fault, too. To set a key to itself changes nothing.
        key = table.primary_key.columns.keys()[0]
        conflict = f" ON DUPLICATE KEY UPDATE `{key}` = {table.name}.`{key}`"
        run_many(connection, _insert(table.name, names, conflict), names, rows)
        return 0

    def upsert(self, table: Any, keys: Sequence[str], others: Sequence[str]) -> Any:
        statement = self.insert_into(table)
        return statement.on_duplicate_key_update({name: statement.inserted[name] for name in others})

    def set_each(self, connection: Connection, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
        """Write many rows in one statement, since the driver sends updates one by one; it locks nothing but these.

        An insert that updates what is there would be shorter, and lock the gaps in each unique index.
        """
        for part in parts((*names, "b_id"), list(zip(*rows, strict=True)), self.statement_limit(connection)):
            ids = list(part[-1])
            cases = " ".join(["WHEN %s THEN %s"] * len(ids))
            assignments, values = [], []
            for name, column in zip(names, part, strict=False):
                if column == column[:1] * len(column):
                    assignments.append(f"`{name}` = %s")
                    values.append(column[0])
                else:
                    assignments.append(f"`{name}` = CASE task_id {cases} END")
                    values += [value for pair in zip(ids, column, strict=True) for value in pair]
            sql = (
                f"UPDATE task_queue FORCE INDEX (PRIMARY) SET {', '.join(assignments)} "  # noqa: S608 - our own names
                f"WHERE task_id IN ({', '.join(['%s'] * len(ids))})"
            )
            connection.exec_driver_sql(sql, tuple(values + ids))

    def compiler(self, scheme: str) -> Any:
        return make_url(f"{scheme}://").get_dialect()()  # MySQL and MariaDB name a collation differently

    @contextmanager
    def migration_lock(self, connection: Connection) -> Iterator[None]:
        if connection.execute(text(f"SELECT GET_LOCK('aiotaskq_migrate', {MIGRATION_WAIT})")).scalar() != 1:
            raise DatabaseUnavailable(
                f"another process has been migrating this database for {MIGRATION_WAIT} s; try again, or look for it "
                "in SHOW PROCESSLIST"
            )
        try:
            # A transaction there reads from a snapshot taken before the wait; the next statement begins a new one. DDL
            # commits on MySQL anyway, so every step is made to be repeated, and nothing of the caller's is cut in two.
            connection.execute(text("COMMIT"))
            yield
            # The stamp must be visible before the next process may look.
            connection.execute(text("COMMIT"))
        finally:
            with suppress(exc.SQLAlchemyError):  # a lost connection has released it, and why it was lost matters more
                connection.execute(text("SELECT RELEASE_LOCK('aiotaskq_migrate')"))

    def convert_table(self, connection: Connection, table: str, columns: Sequence[Column[Any]]) -> None:
        """Give the documented texts of a table the size and the collation that the contract needs, in one rebuild.

        As the guide's CREATE TABLE leaves them, "A" is "a", a trailing blank is nothing, and a text ends at 64 KB. What
        an old column has beside that (a larger width, a default, a comment) stays; so do other columns.
        """
        dialect = connection.dialect
        there = {column["name"]: column for column in Tables(connection).get_columns(table)}
        changes = []
        for column in columns:
            old = there[column.name]
            if not isinstance(column.type, String) or not isinstance(old["type"], String):
                continue
            long = isinstance(column.type, LongText)
            short = str(old["type"]).partition(" ")[0].upper() != "LONGTEXT"
            same = getattr(old["type"], "collation", None) == mysql_collation(dialect)
            if same and not (long and short):
                continue
            if not long and old["type"].length is None:
                continue  # a TEXT where the guide has VARCHAR: wider than ours, but it cannot be a key of ours
            width = max(column.type.length or 0, old["type"].length or 0)
            default = None if old["default"] is None else text(old["default"])
            new: Column[Any] = Column(
                column.name,
                LongText() if long else Name(width),
                nullable=old["nullable"],
                server_default=default,
                comment=old.get("comment"),
            )
            changes.append(f"MODIFY {CreateColumn(new).compile(dialect=dialect)}")
        if changes:
            connection.exec_driver_sql(f"ALTER TABLE {table} {', '.join(changes)}")

    routine = "DELIMITER //\n{}//\nDELIMITER ;\n\n"

    def push_sql(self, compiler: Any, names: Names | None) -> Sequence[str]:
        return push_sql.mysql(self.clock, LongText().compile(dialect=compiler))

    def make_push(self, connection: Connection) -> None:
        try:
            super().make_push(connection)
        except exc.DBAPIError as error:
            if not is_one_of(error.orig, _DENIED):  # the right to create tables is not that to create procedures
                raise
            log.info("{} was not made, so that SQL cannot push: {}", push_sql.NAME, error.orig)


async def _connect(**options: Any) -> Any:
    import asyncmy

    return await asyncmy.connect(**options)


def _tls(url: URL) -> tuple[URL, ssl.SSLContext | None]:
    """Take the TLS options out of a URL, since neither driver knows the modes of MySQL's own clients."""
    options = {name: str(value) for name, value in url.query.items() if name.startswith("ssl_")}
    url = url.difference_update_query(options)
    mode = options.get("ssl_mode", "").upper().replace("-", "_")
    authority = options.get("ssl_ca"), options.get("ssl_capath")
    if mode not in ("", "DISABLE", "DISABLED", "PREFERRED", "REQUIRE", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"):
        raise ValidationError(f"url: ssl_mode is DISABLED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY (got {mode[:40]!r})")
    if not options or mode in ("DISABLE", "DISABLED", "PREFERRED"):
        return url, None
    try:
        context = ssl.create_default_context(cafile=authority[0], capath=authority[1])
        verify = mode.startswith("VERIFY") or (not mode and any(authority))
        named = options.get("ssl_check_hostname", "true").lower() not in ("false", "0", "no")
        context.check_hostname = verify and mode != "VERIFY_CA" and named
        context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
        if "ssl_cert" in options:
            context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"))
        if "ssl_cipher" in options:
            context.set_ciphers(options["ssl_cipher"])
    except OSError as error:  # ssl.SSLError is one
        raise ValidationError(f"url: the TLS options cannot be used: {error}") from None
    return url, context


DIALECT = MysqlDialect()
