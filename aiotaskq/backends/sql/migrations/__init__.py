"""Brings a database's tables to the form that this version needs, and adopts the documented tables where they are.

Alembic does the steps, but costs 0.3 s to import, so it is imported only when a step must really run; a database that
is up to date costs one look at ``aiotaskq_version``. That table is ours alone: an application's own Alembic is not
disturbed. Alembic's environment (``env.py``, and the ``op`` of its scripts) is a set of module globals: two databases
opened by one event loop would migrate each other. So the revisions get their operations as an argument, and there is
neither environment nor configuration. A new one begins as ``ScriptDirectory(folder).generate_revision(id, message)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sqlalchemy import Column, Connection, MetaData, String, Table, exc, inspect, make_url, text

from aiotaskq.backends.base import InvalidRow
from aiotaskq.backends.sql.migrations.adopt import LIMIT, Report, examine
from aiotaskq.backends.sql.statement_watch import PATIENCE
from aiotaskq.concurrency.clock import SystemClock
from aiotaskq.errors import DatabaseUnavailable, SchemaTooNew, ValidationError

__all__ = [
    "HEAD",
    "OUR_TABLES",
    "VERSION_TABLE",
    "current",
    "invalid_rows",
    "is_ours",
    "make_missing",
    "missing",
    "sql_ddl",
    "up_to_date",
    "upgrade",
]

REVISIONS: Final = ("0001_documented", "0002_leases", "0003_scale", "0004_outbox", "0005_keys", "0006_due")
HEAD: Final = REVISIONS[-1]
VERSION_TABLE: Final = "aiotaskq_version"
OUR_TABLES: Final = ("task_queue", "scheduler_task", "aiotaskq_public", "aiotaskq_queue")
"""An application may have tables of its own on ``Base``; they are its own business."""

# As Alembic makes it, but for a name of the primary key, of which MySQL warns that it is ignored.
_VERSION: Final = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))
_PG_LOCK: Final = 0x61696F7461736B71  # "aiotaskq" in ASCII
_MYSQL_WAIT: Final = 60  # seconds
_PATIENCE: Final = 600.0  # seconds for one step, such as an index over millions of rows


def current(connection: Connection) -> str | None:
    """Return the revision that the database is stamped with, or None before the first migration."""
    # Asked first, since on PostgreSQL a failed SELECT would spoil the caller's transaction.
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def is_ours(table: str | None) -> bool:
    """Return whether a table of this name is one of aiotaskq's, of this version or another."""
    return table is not None and (table in OUR_TABLES or table.startswith("aiotaskq_"))


def missing(connection: Connection) -> list[str]:
    """Return those of our tables that are not there."""
    found = inspect(connection)
    return [name for name in (*OUR_TABLES, VERSION_TABLE) if not found.has_table(name)]


def make_missing(connection: Connection) -> list[str]:
    """Make our tables that are missing in a database at ``HEAD``, empty, and return their names.

    ``upgrade`` does not see that they are gone: on a database at ``HEAD`` it looks no further.
    """
    from aiotaskq.models import Base

    gone = missing(connection)
    Base.metadata.create_all(connection, [Base.metadata.tables[name] for name in gone if name in OUR_TABLES])
    return gone


def upgrade(connection: Connection, now: int | None = None) -> list[InvalidRow]:
    """Bring the database to ``HEAD`` within the caller's transaction; return the invalid rows found in adopted tables.

    On SQLite the transaction must have begun IMMEDIATE. Any number of processes may call this at once: one migrates,
    the others wait and find it done (F18). ``now`` in microseconds, for schedules that have no next run yet.

    Raises SchemaTooNew if a newer aiotaskq was here before, ValidationError if a table of ours is somebody else's, and
    DatabaseUnavailable if another process holds the migration lock for a minute. Nothing was written then.
    """
    if up_to_date(connection):
        return []
    connection.execution_options(**{PATIENCE: _PATIENCE})
    with _locked(connection):
        if up_to_date(connection):
            return []
        report = Report()
        _migrate(connection, report, SystemClock().now() if now is None else now)
    report.log()
    return report.rows()


def invalid_rows(connection: Connection, limit: int = LIMIT, now: int | None = None) -> list[InvalidRow]:
    """Report rows that do not mean what their columns say: at most ``limit``, and one more that counts the rest.

    Writes nothing. On a database that is not adopted yet this is the rehearsal of the adoption.
    """
    report = Report(limit)
    adopting = current(connection) in (None, REVISIONS[0])
    examine(connection, report, now=SystemClock().now() if now is None else now, write=False, adopting=adopting)
    return report.rows()


def sql_ddl(dialect_name: str) -> str:
    """Return the SQL that makes every table in an empty database, for who may not let an application do it.

    Raises ValidationError for a dialect other than ``sqlite``, ``postgresql``, ``mysql`` and ``mariadb``.
    """
    from sqlalchemy.schema import CreateIndex, CreateTable

    from aiotaskq.models import Base

    if dialect_name not in ("sqlite", "postgresql", "mysql", "mariadb"):
        raise ValidationError(f"dialect: use sqlite, postgresql, mysql or mariadb (got {dialect_name!r:.40})")
    dialect = make_url(f"{dialect_name}://").get_dialect()()
    statements = []
    for table in [*(Base.metadata.tables[name] for name in OUR_TABLES), _VERSION]:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=dialect)).strip() for index in indexes]
    statements.append(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('{HEAD}')")
    return "".join(f"{statement};\n\n" for statement in statements)


def _migrate(connection: Connection, report: Report, now: int) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(__file__).parent))
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    operations = Operations(context)
    # All in the caller's transaction: killed at any point, the database is as before (F21).
    for revision in reversed(list(scripts.iterate_revisions(HEAD, current(connection) or "base"))):
        scripts.get_revision(revision.revision).module.upgrade(operations, report, now)
        # Not before: MySQL keeps it, and a database that is refused shall stay as it is.
        _VERSION.create(connection, checkfirst=True)
        context.stamp(scripts, revision.revision)


def up_to_date(connection: Connection) -> bool:
    """Whether nothing is to be done; raises SchemaTooNew for a revision that this version does not know (F19)."""
    found = current(connection)
    if found is not None and found not in REVISIONS:
        raise SchemaTooNew(
            f"the database is at revision {found!r:.60}, which this aiotaskq does not know (it knows up to {HEAD!r}): "
            "a newer aiotaskq has migrated it. Upgrade aiotaskq here to at least the version of the other processes, "
            "or restore a backup from before; nothing was changed"
        )
    return found == HEAD


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """Keep other processes from migrating the same database at the same time."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_PG_LOCK})"))  # ends with the transaction
        yield
    elif dialect in ("mysql", "mariadb"):
        if connection.execute(text(f"SELECT GET_LOCK('aiotaskq_migrate', {_MYSQL_WAIT})")).scalar() != 1:
            raise DatabaseUnavailable(
                f"another process has been migrating this database for {_MYSQL_WAIT} s; try again, or look for it in "
                "SHOW PROCESSLIST"
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
    else:
        yield  # SQLite: the caller's transaction began IMMEDIATE, which is the lock
