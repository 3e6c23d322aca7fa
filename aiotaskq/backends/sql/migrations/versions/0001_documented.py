"""Creates the two tables of the documented guide as they were, unless they are there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from aiotaskq.errors import ValidationError
from aiotaskq.models import LongText, Name, mysql_collation

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.backends.sql.migrations.adopt import Report

revision = "0001_documented"
down_revision = None


def documented() -> dict[str, list[sa.Column[object]]]:
    """Return the columns of both tables; written out here, since the models go on and this revision must not."""
    return {
        "task_queue": [
            sa.Column("task_id", Name(36), primary_key=True),
            sa.Column("task_type", Name(100), nullable=False),
            sa.Column("params", LongText()),
            sa.Column("status", Name(20), server_default="pending"),
            sa.Column("priority", sa.Integer(), server_default=sa.text("0")),
            sa.Column("retry_count", sa.Integer(), server_default=sa.text("0")),
            sa.Column("max_retries", sa.Integer(), server_default=sa.text("3")),
            sa.Column("created_at", sa.BigInteger(), nullable=False),
            sa.Column("started_at", sa.BigInteger()),
            sa.Column("completed_at", sa.BigInteger()),
            sa.Column("error_message", LongText()),
            sa.Column("scheduler_task_id", Name(36)),
        ],
        "scheduler_task": [
            sa.Column("task_id", Name(36), primary_key=True),
            sa.Column("name", Name(255), nullable=False),
            sa.Column("task_type", Name(100), nullable=False),
            sa.Column("params", LongText()),
            sa.Column("schedule_type", Name(20), nullable=False),
            sa.Column("interval_seconds", sa.Integer()),
            sa.Column("cron_expression", Name(100)),
            sa.Column("execute_at", sa.BigInteger()),
            sa.Column("last_run_at", sa.BigInteger()),
            sa.Column("next_run_at", sa.BigInteger()),
            sa.Column("run_count", sa.Integer(), server_default=sa.text("0")),
            sa.Column("max_runs", sa.Integer(), server_default=sa.text("0")),
            sa.Column("enabled", sa.Boolean(), server_default=sa.true()),
            sa.Column("created_at", sa.BigInteger(), nullable=False),
            sa.Column("updated_at", sa.BigInteger(), nullable=False),
            sa.Column("description", LongText()),
        ],
    }


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Create what is missing. A table that lacks a column without which a row means nothing is somebody else's."""
    connection = op.get_bind()
    inspector = sa.inspect(connection)
    missing = {}
    for table, columns in documented().items():
        if inspector.has_table(table):
            there = {column["name"] for column in inspector.get_columns(table)}
            missing[table] = [column for column in columns if column.name not in there]
            if foreign := [column.name for column in missing[table] if not column.nullable]:
                raise ValidationError(
                    f"database: its table {table} has no column {', '.join(foreign)}, so it is not the documented one "
                    "and stays as it is; give aiotaskq another database (or schema), or rename that table"
                )
    for table, columns in documented().items():
        if table not in missing:
            op.create_table(table, *columns)
            continue
        for column in missing[table]:
            op.add_column(table, column)
        if connection.dialect.name in ("mysql", "mariadb"):
            _convert(connection, table, columns)


def _convert(connection: sa.Connection, table: str, columns: list[sa.Column[object]]) -> None:
    """Give the documented texts of a MySQL table the size and the collation that the contract needs, in one rebuild.

    As the guide's CREATE TABLE leaves them, "A" is "a", a trailing blank is nothing, and a text ends at 64 KB. What an
    old column has beside that (a larger width, a default, a comment) stays; so do columns that are not documented.
    """
    dialect = connection.dialect
    there = {column["name"]: column for column in sa.inspect(connection).get_columns(table)}
    changes = []
    for column in columns:
        old = there[column.name]
        if not isinstance(column.type, sa.String) or not isinstance(old["type"], sa.String):
            continue
        long = isinstance(column.type, LongText)
        if getattr(old["type"], "collation", None) == mysql_collation(dialect) and not (long and _short(old["type"])):
            continue
        if not long and old["type"].length is None:
            continue  # a TEXT where the guide has VARCHAR: wider than ours, but it cannot be a key of ours; as it is
        width = max(column.type.length or 0, old["type"].length or 0)
        default = None if old["default"] is None else sa.text(old["default"])
        new: sa.Column[object] = sa.Column(
            column.name,
            LongText() if long else Name(width),
            nullable=old["nullable"],
            server_default=default,
            comment=old.get("comment"),
        )
        changes.append(f"MODIFY {sa.schema.CreateColumn(new).compile(dialect=dialect)}")
    if changes:
        connection.exec_driver_sql(f"ALTER TABLE {table} {', '.join(changes)}")


def _short(kind: object) -> bool:
    return str(kind).partition(" ")[0].upper() != "LONGTEXT"
