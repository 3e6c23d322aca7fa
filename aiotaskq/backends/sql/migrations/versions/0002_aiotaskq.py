"""Adds the columns, tables and indexes of this package to the documented tables, and adopts the rows that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.migrations.adopt import Report, adopt
from aiotaskq.backends.sql.names import Tables
from aiotaskq.models import OUR_TABLES, Base, indexes_of

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0002_aiotaskq"
down_revision = "0001_documented"


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Add what the models have and the database lacks: MySQL commits each step, and ``create_all`` may have run before.

    A later revision that adds a column, too, finds it here in a new database, and adds it to an older one. Each added
    column may be NULL or has a server default, so that old software can still write.
    """
    connection = op.get_bind()
    inspector = Tables(connection)
    tables = [Base.metadata.tables[name] for name in OUR_TABLES]
    for table in tables:
        if not inspector.has_table(table.name):
            table.create(connection)
            continue
        there = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                op.add_column(table.name, column)
    adopt(connection, report, now)
    # After the rows were written: filling an index once is quicker. The unique ones cannot fail, all is NULL there.
    inspector.clear_cache()
    for table in tables:
        have = inspector.index_names(table.name)
        for index in indexes_of(table, dialect_of(connection).partial_indexes):
            if index.name not in have:
                index.create(connection)
    dialect_of(connection).tune_tasks(connection)
    dialect_of(connection).make_push(connection)
