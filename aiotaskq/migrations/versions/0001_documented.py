"""Creates the two tables of the documented guide as they were, unless they are there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from aiotaskq.errors import ValidationError

if TYPE_CHECKING:
    from alembic.operations import Operations

    from aiotaskq.migrations.adopt import Report

revision = "0001_documented"
down_revision = None


def documented() -> dict[str, list[sa.Column[object]]]:
    """Return the columns of both tables; written out here, since the models go on and this revision must not."""
    return {
        "task_queue": [
            sa.Column("task_id", sa.String(36), primary_key=True),
            sa.Column("task_type", sa.String(100), nullable=False),
            sa.Column("params", sa.Text()),
            sa.Column("status", sa.String(20), server_default="pending"),
            sa.Column("priority", sa.Integer(), server_default=sa.text("0")),
            sa.Column("retry_count", sa.Integer(), server_default=sa.text("0")),
            sa.Column("max_retries", sa.Integer(), server_default=sa.text("3")),
            sa.Column("created_at", sa.BigInteger(), nullable=False),
            sa.Column("started_at", sa.BigInteger()),
            sa.Column("completed_at", sa.BigInteger()),
            sa.Column("error_message", sa.Text()),
            sa.Column("scheduler_task_id", sa.String(36)),
        ],
        "scheduler_task": [
            sa.Column("task_id", sa.String(36), primary_key=True),
            sa.Column("name", sa.String(255), nullable=False),
            sa.Column("task_type", sa.String(100), nullable=False),
            sa.Column("params", sa.Text()),
            sa.Column("schedule_type", sa.String(20), nullable=False),
            sa.Column("interval_seconds", sa.Integer()),
            sa.Column("cron_expression", sa.String(100)),
            sa.Column("execute_at", sa.BigInteger()),
            sa.Column("last_run_at", sa.BigInteger()),
            sa.Column("next_run_at", sa.BigInteger()),
            sa.Column("run_count", sa.Integer(), server_default=sa.text("0")),
            sa.Column("max_runs", sa.Integer(), server_default=sa.text("0")),
            sa.Column("enabled", sa.Boolean(), server_default=sa.true()),
            sa.Column("created_at", sa.BigInteger(), nullable=False),
            sa.Column("updated_at", sa.BigInteger(), nullable=False),
            sa.Column("description", sa.Text()),
        ],
    }


def upgrade(op: Operations, report: Report, now: int) -> None:
    """Create what is missing. A table that lacks a column without which a row means nothing is somebody else's."""
    inspector = sa.inspect(op.get_bind())
    for table, columns in documented().items():
        if not inspector.has_table(table):
            op.create_table(table, *columns)
            continue
        there = {column["name"] for column in inspector.get_columns(table)}
        missing = [column for column in columns if column.name not in there]
        if foreign := [column.name for column in missing if not column.nullable]:
            raise ValidationError(
                f"database: its table {table} has no column {', '.join(foreign)}, so it is not the documented one and "
                "stays as it is; give aiotaskq another database (or schema), or rename that table"
            )
        for column in missing:
            op.add_column(table, column)
