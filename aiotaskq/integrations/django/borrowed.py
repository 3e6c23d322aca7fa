"""Django's connection as a SQLAlchemy session: what is written through it is part of Django's transaction.

Django begins, commits and closes; SQLAlchemy only executes statements. So the dialects here do nothing where others
commit, roll back or close, and leave a connection as Django has set it up.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.transaction import TransactionManagementError
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mysql.mysqldb import MySQLDialect_mysqldb
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.orm import Session

from aiotaskq.backends.sql.dialects import dialect_named
from aiotaskq.backends.sql.migrations import up_to_date
from aiotaskq.backends.url import SQL, has_tables, scheme_of
from aiotaskq.errors import DatabaseUnavailable
from aiotaskq.integrations.django.framework import ImproperlyConfigured

__all__ = ["advising_migrate", "alias_of", "in_transaction", "may_join", "refuse_own_lock", "session", "url_of"]

_PORTS = {"postgresql": 5432, "mysql": 3306}
_LOCAL = {"", "localhost", "127.0.0.1", "::1"}
_NO_DDL = re.compile("permission denied for (schema|database)|CREATE command denied")
_MYSQL_SSL = ("ca", "capath", "cert", "key", "cipher")


# ---- the place of a database --------------------------------------------------------------------------------------


def url_of(alias: str) -> str:
    """Return the URL of a database of Django's settings. Raises ImproperlyConfigured where there can be none."""
    connection = connections[alias]
    settings, vendor = connection.settings_dict, connection.vendor
    if vendor not in SQL:
        raise ImproperlyConfigured(
            f"aiotaskq cannot keep tasks in {vendor}, the database {alias!r}; give OPTIONS['url'] of another store"
        )
    if vendor == "sqlite":
        if connection.is_in_memory_db():
            raise ImproperlyConfigured(
                f"the database {alias!r} is in memory, where no worker can read it; name a file, "
                "or give OPTIONS['url']; in tests use Django's own backends, or a file as TEST['NAME']"
            )
        url = URL.create("sqlite", database=os.path.abspath(settings["NAME"]))
    else:
        url = _server(vendor, settings)
    return url.render_as_string(hide_password=False)


def _server(vendor: str, settings: Mapping[str, Any]) -> URL:
    known = dialect_named(vendor).options or frozenset()
    given = settings.get("OPTIONS") or {}
    query = {name: str(value) for name, value in given.items() if name in known and isinstance(value, str | int)}
    ssl = given.get("ssl")
    if vendor == "mysql" and isinstance(ssl, Mapping):
        query |= {f"ssl_{name}": str(ssl[name]) for name in _MYSQL_SSL if ssl.get(name)}
    host = str(settings.get("HOST") or "")
    if host.startswith("/"):
        query["host" if vendor == "postgresql" else "unix_socket"] = host
        host = ""
    return URL.create(
        vendor,
        username=settings.get("USER") or None,
        password=settings.get("PASSWORD") or None,
        host=host or ("localhost" if vendor == "mysql" and "unix_socket" not in query else None),
        port=int(settings["PORT"]) if settings.get("PORT") else None,
        database=settings.get("NAME") or None,
        query=query,
    )


def alias_of(url: str) -> str | None:
    """Return Django's default database if a store is the same one, else None."""
    if not has_tables(url):
        return None
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor != SQL[scheme_of(url)] or (connection.vendor == "sqlite" and connection.is_in_memory_db()):
        return None
    return DEFAULT_DB_ALIAS if _place(make_url(url)) == _place(make_url(url_of(DEFAULT_DB_ALIAS))) else None


def may_join(url: str, alias: str) -> bool:
    """Whether a store may be a database of Django's; a pooler may stand at another address."""
    vendor = connections[alias].vendor
    if not has_tables(url) or vendor != SQL[scheme_of(url)]:
        return False
    return dialect_named(vendor).same_database(make_url(url_of(alias)), make_url(url))


def _place(url: URL) -> tuple[object, ...]:
    kind = SQL[scheme_of(url.drivername + "://")]
    if kind == "sqlite":
        return (os.path.realpath(url.database or ""),)
    host = str(url.query.get("host") or url.query.get("unix_socket") or url.host or "")
    return "localhost" if host in _LOCAL else host, url.port or _PORTS[kind], url.database


# ---- the connection -------------------------------------------------------------------------------------------------


def in_transaction(alias: str) -> bool:
    """Whether what this thread writes to a database of Django's is committed later, by Django or by its user."""
    connection = connections[alias]
    return bool(connection.in_atomic_block or not connection.get_autocommit())


def session(using: str = DEFAULT_DB_ALIAS) -> Session:
    """Return a SQLAlchemy session on Django's connection: what is pushed in it is part of Django's transaction.

    ``tq.push("report", session=session())`` in ``atomic()``; ``using`` is the alias of the database, in which the tasks
    must be. Django commits, and that wakes the workers. Raises TransactionManagementError outside of a transaction, and
    where it is broken already.
    """
    if not in_transaction(using):
        raise TransactionManagementError(f"session: {using!r} is in no transaction; call it in transaction.atomic()")
    joined = _joined(using)
    # Its commit wakes the workers; after a rollback it is not called. Without autocommit Django tells of no commit, and
    # workers find the task by polling.
    if transaction.get_connection(using).in_atomic_block:
        transaction.on_commit(joined.commit, using=using, robust=True)
    return joined


_READING = (
    "attempts close count find find_keys get get_event get_public get_queue_size get_store_size get_ttl groups health "
    "history is_empty list list_events list_keys log next_log open paused preview progress result stats status "
    "steps task tasks usage wait_for_end"
)
_PUSHING = "group push push_call push_many start"


def refuse_own_lock(url: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise if a call would wait for the lock of this thread's own transaction on the same SQLite file.

    A call that writes is refused in every transaction: after its commit, one that has only read could write no more.
    Calls that read are refused while they would have to create tables or switch the journal.
    """
    calls = args[0] if args and isinstance(args[0], list | tuple) else args
    sessions = (kwargs, *(getattr(call, "options", {}) for call in calls))
    if any(each.get("session") is not None for each in sessions) or (alias := _transaction_on(url)) is None:
        return
    if name not in _READING.split():
        raise TransactionManagementError(
            f"{name}: on SQLite it would wait for the lock of this transaction ({alias!r}); "
            + (
                "give it session=session() of aiotaskq.integrations.django"
                if name in _PUSHING.split()
                else "call it after the commit, by transaction.on_commit(…)"
            )
        )
    connection = _joined(alias).connection()
    if not up_to_date(connection) or connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
        raise ImproperlyConfigured(
            f"{name}: the store of aiotaskq in the database {alias!r} cannot be opened in a transaction, which has the "
            "lock that is needed to prepare it; run `manage.py migrate` before"
        )


@contextlib.contextmanager
def advising_migrate() -> Iterator[None]:
    """Say in the error about a role that cannot create the tables what creates them."""
    try:
        yield
    except DatabaseUnavailable as error:
        if _NO_DDL.search(str(error)):
            error.args = (f"{error}; run `manage.py migrate` as a role that can create tables",)
        raise


def _transaction_on(url: str) -> str | None:
    """Return the alias of a transaction of this thread on the SQLite file of a store."""
    if not has_tables(url) or SQL[scheme_of(url)] != "sqlite":
        return None
    for each in connections.all(initialized_only=True):
        on_file = each.vendor == "sqlite" and not each.is_in_memory_db() and in_transaction(each.alias)
        if on_file and _place(make_url(url_of(each.alias))) == _place(make_url(url)):
            return str(each.alias)
    return None


def _joined(alias: str) -> Session:
    connection = connections[alias]
    connection.validate_no_broken_transaction()
    connection.ensure_connection()
    driver = connection.Database.__name__.partition(".")[0].lower()
    joined = Session(_engine(alias, url_of(alias), driver))
    joined.connection()  # taken in this thread, since Django's connections belong to their threads
    return joined


@functools.cache
def _engine(alias: str, url: str, driver: str) -> Engine:
    place = make_url(url)
    return create_engine(
        URL.create(f"{place.drivername}+django_{driver}", host=place.host, database=place.database),
        creator=lambda: connections[alias].connection,
        poolclass=NullPool,
        **({"use_native_hstore": False} if place.drivername == "postgresql" else {}),
    )


class _Borrowed:
    def on_connect(self) -> Any:
        """Leave the connection as it is: Django has set it up."""
        return None

    def do_commit(self, dbapi_connection: Any) -> None:
        """Leave it to Django."""

    do_rollback = do_close = do_terminate = do_commit


_DIALECTS: dict[str, type[Any]] = {
    "sqlite.django_sqlite3": SQLiteDialect_pysqlite,
    "postgresql.django_psycopg": PGDialect_psycopg,
    "postgresql.django_psycopg2": PGDialect_psycopg2,
    "mysql.django_mysqldb": MySQLDialect_mysqldb,
    "mysql.django_pymysql": MySQLDialect_pymysql,
}
for _name, _base in _DIALECTS.items():
    globals()[_name] = type("Borrowed", (_Borrowed, _base), {"supports_statement_cache": True})
    registry.register(_name, __name__, _name)
