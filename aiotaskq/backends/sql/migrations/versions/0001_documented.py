"""Completes the two documented tables, where they exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.backends.sql.names import Tables
from aiotaskq.errors import ValidationError
from aiotaskq.models import Base

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.backends.sql.migrations.adopt import Report

revision = "0001_documented"
down_revision = None

ADDED = {"task_queue": "queue", "scheduler_task": "next_run_us"}
"""Of each table the first column that this package has added; the model has the documented ones before it."""


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Add documented columns that are missing. Raises ValidationError where one is required: it is another table.

    A table that does not exist is created by the next revision.
    """
    connection = op.get_bind()
    inspector = Tables(connection)
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for table in filter(inspector.has_table, ADDED):
        model = Base.metadata.tables[table].columns
        columns = list(model)[: model.keys().index(ADDED[table])]
        there = {column["name"] for column in inspector.get_columns(table)}
        missing = [column for column in columns if column.name not in there]
        if foreign := [column.name for column in missing if not column.nullable]:
            raise ValidationError(
                f"database: its table {table} has no column {', '.join(foreign)}, so it is not the documented one "
                "and stays as it is; give aiotaskq another database (or schema), or rename that table"
            )
        found[table] = columns, missing
    for table, (columns, missing) in found.items():
        for column in missing:
            op.add_column(table, column)
        dialect_of(connection).convert_table(connection, table, columns)
