"""Creates the two documented tables, unless they exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from aiotaskq.backends.sql.dialects import dialect_of
from aiotaskq.errors import ValidationError
from aiotaskq.models import LongText, Name

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.backends.sql.migrations.adopt import Report

revision = "0001_documented"
down_revision = None


def documented() -> dict[str, list[sa.Column[object]]]:
    """Return the columns of both tables; written out here, since the models change and this revision does not."""
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
    """Create what is missing. Raises ValidationError for a table that lacks a required column: it is another one."""
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
        dialect_of(connection).convert_table(connection, table, columns)
